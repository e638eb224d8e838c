"""Vocabulary pruning: rows of embeddings that a corpus never or rarely looks up go, and their entries with them."""
