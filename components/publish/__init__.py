"""Make a validated model the next version that is served."""

from components.publish.component import publish

__all__ = ["publish"]
