"""Choose the smallest model that passed."""

from components.choose.component import choose

__all__ = ["choose"]
