"""Store a bundle's weights encoded."""

from components.quantize.component import quantize

__all__ = ["quantize"]
