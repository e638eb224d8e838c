"""Look at what is asked for before anything costs time."""

from components.prepare.component import prepare

__all__ = ["prepare"]
