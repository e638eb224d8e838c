"""Say that a step was not needed."""

from components.skip.component import skip

__all__ = ["skip"]
