"""Let the version before be served again."""

from components.rollback.component import rollback

__all__ = ["rollback"]
