"""Rewrite a bundle's graph."""

from components.transform.component import transform

__all__ = ["transform"]
