"""Make one verdict of those on several datasets."""

from components.join.component import join

__all__ = ["join"]
