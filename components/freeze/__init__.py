"""Open a SavedModel as the server does and make a bundle of it."""

from components.freeze.component import freeze

__all__ = ["freeze"]
