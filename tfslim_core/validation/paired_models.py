"""Both models on the same batches: a Beam ModelHandler over signatures, one copy of each model in a process."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from apache_beam.metrics import Metrics
from apache_beam.ml.inference import base
from numpy.typing import NDArray

from tfslim_core.errors import TfslimError
from tfslim_core.served import open_served
from tfslim_core.validation.batches import Batch
from tfslim_core.validation.core_shares import CoreShares

Answer = Mapping[str, NDArray[Any]]

# Beam 2.77 sets this to None where a package of its model manager is missing, and then warns at each load of a model
# that the platform has no `resource`.
base.resource = resource


class Model(Protocol):
    """What is asked of a model; ServedModel is one, and LiteModel."""

    def run(self, signature: str, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Output key -> array."""


OpenModel = Callable[[str, tuple[str, ...]], Model]


@dataclass(frozen=True)
class Answers:
    """What both models made of a batch.

    original, optimized: output key -> array; None where the model failed, for the reason in `error`. The optimized
    model is not asked where the original failed.
    """

    batch: Batch
    original: Answer | None
    optimized: Answer | None
    error: str = ""


class ModelPair:
    """The two loaded models. Not a tuple: Beam keeps it by a weak reference."""

    def __init__(self, original: Model, optimized: Model, signature: str) -> None:
        self._original, self._optimized, self._signature = original, optimized, signature
        self._took = {
            name: Metrics.distribution("tfslim", f"{name}_microseconds") for name in ("original", "optimized")
        }

    def answers(self, batch: Batch) -> Iterator[Answers]:
        """The answers to a batch; if a model fails on it, to each of its examples alone, so that only one is lost."""
        original, optimized, error = None, None, ""
        try:
            original = self._timed("original", self._original, batch)
            optimized = self._timed("optimized", self._optimized, batch)
        except TfslimError as raised:
            error = str(raised)
        if error and len(batch) > 1:
            for row in range(len(batch)):
                yield from self.answers(batch.row(row))
        else:
            yield Answers(batch, original, optimized, error)

    def _timed(self, name: str, model: Model, batch: Batch) -> Answer:
        """A model's answer; how long it took goes to the distribution of its name."""
        start = time.perf_counter_ns()
        answer = model.run(self._signature, batch.feeds)
        self._took[name].update((time.perf_counter_ns() - start) // 1000)
        return answer


class NoModels:
    """Stands for models that could not be loaded; `error` says why. Raised in a worker it would end as a traceback."""

    def __init__(self, error: str) -> None:
        self.error = error


@dataclass(frozen=True)
class LoadFailure:
    """A worker could not load the models."""

    dataset: str
    error: str


def open_served_model(path: str, tags: tuple[str, ...]) -> Model:
    """The model as its server opens it."""
    return open_served(path, tags)


class PairHandler(base.ModelHandler[Batch, "Answers | LoadFailure", "ModelPair | NoModels"]):
    """Runs both models on batches that the source has made: RunInference gets one batch as one element.

    open_model: (path, tags) -> a model; a function of a module, since workers unpickle it by name.
    """

    def __init__(
        self,
        original: str,
        optimized: str,
        tags: tuple[str, ...],
        signature: str,
        open_model: OpenModel = open_served_model,
    ) -> None:
        super().__init__()
        self._paths, self._tags, self._signature, self._open = (original, optimized), tags, signature, open_model
        self._cores: CoreShares | None = None

    def share_cores(self, cores: CoreShares | None) -> None:
        """Have each process that loads the models keep to its share of the cores."""
        self._cores = cores

    def load_model(self) -> ModelPair | NoModels:
        """Both models; Beam asks once per process."""
        if self._cores is not None:
            self._cores.take()
        try:
            original, optimized = (self._open(path, self._tags) for path in self._paths)
        except TfslimError as error:
            return NoModels(str(error))
        return ModelPair(original, optimized, self._signature)

    def run_inference(
        self,
        batch: Sequence[Batch],
        model: ModelPair | NoModels,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[Answers | LoadFailure]:
        """The answers to one batch. Beam's name for what it passes is `batch`: here a Batch rather than a list."""
        examples: Any = batch
        if not len(examples):
            return [Answers(examples, {}, {})]
        if isinstance(model, NoModels):
            return [LoadFailure(examples.dataset, model.error)]
        return list(model.answers(examples))

    def should_skip_batching(self) -> bool:
        """The batches come as they are to be run."""
        return True

    def get_num_bytes(self, batch: Any) -> int:
        """Beam would pickle the batch to know."""
        return int(batch.nbytes)

    def get_metrics_namespace(self) -> str:
        """Where Beam's counters of this step are found."""
        return "tfslim"
