"""Kubeflow components, one per stage of tfslim: each is a typed function with one call into the core."""
