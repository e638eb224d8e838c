"""Drop the words that nobody uses."""

from components.prune_vocabulary.component import prune_vocabulary

__all__ = ["prune_vocabulary"]
