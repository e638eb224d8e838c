"""Kubeflow pipelines of tfslim, and `python -m pipelines` to compile and run them."""
