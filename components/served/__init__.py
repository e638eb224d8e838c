"""Find the version that is served now."""

from components.served.component import served

__all__ = ["served"]
