"""Train a small classifier of images."""

from components.train.component import train

__all__ = ["train"]
