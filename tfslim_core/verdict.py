"""verdict.json: what a validation found, and whether the optimized model may be published.

Other programs read this file; its keys are a contract. A metric that has no meaning somewhere is null.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tfslim_core.errors import ModelError

Outcome = Literal["pass", "fail", "inconclusive"]
# Low and high end of 95 %; null where the examples bound nothing on that side.
Interval = tuple[float | None, float | None]
FILE_NAME = "verdict.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")


class Check(_Part):
    """One gate expression on one dataset. `value` is null where the metric has no meaning; `slice` null is all.

    passed: whether the value is within the bound; a verdict also asks that the interval is. interval: of the value,
    95 %; null for counts and maxima. examples: that the value rests on. undecided: it proves nothing, for a reason that
    the verdict tells.
    """

    expr: str
    value: float | None
    bound: float
    passed: bool
    dataset: str
    slice: str | None = None
    interval: Interval | None = None
    examples: int | None = None
    undecided: bool = False


class ModelCosts(_Part):
    """What one model costs, measured alone in fresh processes.

    bytes: of the whole directory. load_seconds: until the first request could be answered. peak_rss_bytes: the
    process's peak resident memory after load and requests. digest: sha256 hex (see storage.digest). first_request_ms:
    how long the first request of a fresh process takes. throughput_per_second: examples answered in a second by batch
    size, one request after another.
    """

    bytes: int
    load_seconds: float | None
    peak_rss_bytes: int | None
    digest: str
    first_request_ms: float | None = None
    throughput_per_second: dict[str, float] = Field(default_factory=dict)


class CostRatio(_Part):
    """optimized / original of one cost, over rounds that measured both models in turns.

    metric: as a gate names it. batch: where it is measured by batch size. interval: of the value, over the rounds; null
    where there was one round only. dataset: whose requests were timed; null for what takes none.
    """

    metric: str
    batch: str | None
    value: float
    interval: tuple[float, float] | None
    rounds: int
    dataset: str | None = None


class Models(_Part):
    """The two models that were compared."""

    original: ModelCosts
    optimized: ModelCosts
    ratios: list[CostRatio] = Field(default_factory=list)


class PositionMetrics(_Part):
    """How far along the answers agree, for an output with positions: [batch, positions, classes], or [batch, positions]
    of integers or strings.

    agreement: share of examples that agree at every position, by top class or by value. first_difference: the median,
    over the others, of the first position that differs, from 0 on.
    """

    examples: int
    agreement: float
    first_difference: int | None = None


class OutputMetrics(_Part):
    """How one output of the optimized model differs from the original's, over a dataset.

    Errors are in the output's own unit; rel_l2_error = ||optimized - original||_2 / ||original||_2; kl_divergence in
    nats, the mean of KL(original, optimized) where both answer distributions; top1_agreement, top5_agreement and
    exact_match are shares of examples and of elements; flip_rate = 1 - top1_agreement. intervals: by metric.
    """

    max_abs_error: float | None = None
    mean_abs_error: float | None = None
    p50_abs_error: float | None = None
    p99_abs_error: float | None = None
    p999_abs_error: float | None = None
    rel_l2_error: float | None = None
    cosine: float | None = None
    kl_divergence: float | None = None
    top1_agreement: float | None = None
    top5_agreement: float | None = None
    flip_rate: float | None = None
    nan_mismatches: int | None = None
    exact_match: float | None = None
    positions: PositionMetrics | None = None
    intervals: dict[str, Interval] = Field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """The metrics that have a value, by name."""
        named = self.model_dump(exclude={"positions", "intervals"}, exclude_none=True)
        return {name: float(value) for name, value in named.items()}


class Percentiles(_Part):
    """Latency of one request, milliseconds."""

    p50: float
    p95: float
    p99: float


class LatencyPair(_Part):
    """Latency by batch size (a decimal string, as JSON keys are)."""

    original: dict[str, Percentiles] = Field(default_factory=dict)
    optimized: dict[str, Percentiles] = Field(default_factory=dict)


class LabelMetric(_Part):
    """A metric against labels; difference = optimized - original. interval: of the difference."""

    original: float | None
    optimized: float | None
    difference: float | None
    interval: Interval | None = None
    original_interval: Interval | None = None
    optimized_interval: Interval | None = None


class WorstExample(_Part):
    """An example that the two models answer most differently. `input` is shortened for reading."""

    index: int
    output: str
    error: float | None
    input: Any


class SliceResult(_Part):
    """What was found on the examples of one slice."""

    examples: int
    outputs: dict[str, OutputMetrics] = Field(default_factory=dict)
    labels: dict[str, LabelMetric] | None = None


class Confusion(_Part):
    """Top classes of both models: counts[A][B] examples have A with the original and B with the optimized model.

    output: the one that scores the classes. classes: their names, or numbers from 0 on. A count of 0 is left out.
    """

    output: str
    classes: list[str]
    counts: dict[str, dict[str, int]]


class RocCurve(_Part):
    """About 200 points at most, from (0, 0) to (1, 1): where scores from `threshold` on are taken for the class, the
    share of the others that are (fpr) and of its own (tpr). Thresholds are finite and never ascend.
    """

    fpr: list[float]
    tpr: list[float]
    threshold: list[float]


class Roc(_Part):
    """The ROC curves of both models against the labels.

    positive: the class whose score it is, of two; null for the micro average over more classes, each against the rest.
    A threshold is a probability where the models answer such; of two other scores it is the second less the first.
    """

    positive: str | None
    original: RocCurve
    optimized: RocCurve


class DatasetResult(_Part):
    """What was found on one dataset. without_label: examples that have none. slices: by "KEY=VALUE" or "1<=KEY<5"."""

    examples: int
    bad_records: int
    outputs: dict[str, OutputMetrics] = Field(default_factory=dict)
    latency_ms: LatencyPair = Field(default_factory=LatencyPair)
    labels: dict[str, LabelMetric] | None = None
    without_label: int | None = None
    slices: dict[str, SliceResult] = Field(default_factory=dict)
    worst: list[WorstExample] = Field(default_factory=list)
    confusion: Confusion | None = None
    roc: Roc | None = None


class Verdict(_Part):
    """The whole of verdict.json."""

    verdict: Outcome
    reasons: list[str]
    checks: list[Check]
    models: Models
    datasets: dict[str, DatasetResult]

    def write(self, directory: Path) -> Path:
        """Write verdict.json into `directory`; NaN and infinity become null."""
        path = directory / FILE_NAME
        path.write_text(self.model_dump_json(indent=2) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Verdict:
        """Read a verdict.json.

        Raises:
            ModelError: it is missing or is not a verdict.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ModelError(f"{path}: no verdict there ({error.strerror}); run: tfslim validate") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ModelError(f"{path} is not a verdict: {where}: {first['msg']}") from None
