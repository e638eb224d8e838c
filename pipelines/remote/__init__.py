"""Send the pipelines to Kubeflow Pipelines or to Vertex AI Pipelines, put them on a schedule, and ask how they went."""
