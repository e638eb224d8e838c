"""Make one outcome of two."""

from components.decide.component import decide

__all__ = ["decide"]
