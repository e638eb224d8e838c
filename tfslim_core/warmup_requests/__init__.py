"""Warm-up requests: what TensorFlow Serving sends to a model before it serves it.

They lie in a model's `assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLogs. A server refuses to
load a model when one of them fails, or when there are more than 1,000.
"""

from tfslim_core.warmup_requests.making import Wanted, made_requests, wanted_requests
from tfslim_core.warmup_requests.requests_file import write_records
from tfslim_core.warmup_requests.servable import warmed

__all__ = ["Wanted", "made_requests", "wanted_requests", "warmed", "write_records"]
