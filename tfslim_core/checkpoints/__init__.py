"""Checkpoints: what goes out of one for inference, and models that become trainable again."""
