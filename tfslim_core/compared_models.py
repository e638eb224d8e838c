"""What a verdict says of the two models: size, digest, and what was measured."""

from __future__ import annotations

from pathlib import Path

from tfslim_core import storage
from tfslim_core.cost_ratios import cost_ratios
from tfslim_core.costs import Costs
from tfslim_core.verdict import ModelCosts, Models


def compared_models(original: Path, optimized: Path, costs: tuple[Costs, Costs] | None) -> Models:
    """Both models. costs: of original and optimized; None where they were not measured."""
    before, after = costs or (None, None)
    return Models(
        original=_model(original, before),
        optimized=_model(optimized, after),
        ratios=cost_ratios(*costs) if costs else [],
    )


def _model(path: Path, costs: Costs | None) -> ModelCosts:
    known = ModelCosts(bytes=storage.size(path), load_seconds=None, peak_rss_bytes=None, digest=storage.digest(path))
    if costs is None:
        return known
    return known.model_copy(
        update={
            "load_seconds": costs.load_seconds,
            "peak_rss_bytes": costs.peak_rss_bytes,
            "first_request_ms": costs.first_request_ms,
            "throughput_per_second": {str(batch): pace for batch, pace in costs.throughput_per_second.items()},
        }
    )
