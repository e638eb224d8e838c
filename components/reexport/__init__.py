"""Write a bundle as a SavedModel that an unmodified server loads."""

from components.reexport.component import reexport

__all__ = ["reexport"]
