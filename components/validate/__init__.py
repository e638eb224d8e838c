"""Compare an optimized model with its original, on data."""

from components.validate.component import validate

__all__ = ["validate"]
