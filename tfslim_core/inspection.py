"""What is in a model, what it costs on disk, and what slimming would save. Nothing is run and no weight is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfslim_core import compatibility, storage
from tfslim_core.bundle import Bundle, is_bundle, read_bundle
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.read import read_saved_model

_LARGEST = 20


@dataclass(frozen=True)
class Tensor:
    """A weight that the signatures read. bytes: as it is stored now; encoding: its dtype where it is not encoded."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    encoding: str


@dataclass(frozen=True)
class SignatureSummary:
    """A signature in words: key -> "dtype [shape]"."""

    name: str
    method: str
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True)
class Needs:
    """The first TensorFlow release that knows all that is in the graph, and what asks for it: an op, attribute or
    value, and its node; empty where the oldest release on record knows all.
    """

    tensorflow: str
    because: str
    node: str


@dataclass(frozen=True)
class Inspection:
    """kind: "SavedModel" or "bundle". live_bytes: of the weights that are served, in their own dtype; int8_bytes: about
    what these would take at one byte an element where they are float32. ops: counts after functions are inlined.
    """

    path: str
    kind: str
    tags: tuple[str, ...]
    bytes: int
    live_parameters: int
    live_bytes: int
    int8_bytes: int
    nodes: int
    signatures: tuple[SignatureSummary, ...]
    largest: tuple[Tensor, ...]
    ops: dict[str, int]
    assets: tuple[str, ...]
    tensorflow_version: str
    needs: Needs

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def inspect(path: Path, tags: Sequence[str]) -> Inspection:
    """Look into a SavedModel or a bundle.

    Raises:
        ModelError: it is neither, or it is damaged.
    """
    if is_bundle(path):
        found = read_bundle(path)
        graph = found.graph
        need = compatibility.needs(graph.nodes.values(), graph.functions, graph.rest.versions.min_consumer)
        return _summary(path, found, "bundle", need)
    model = read_saved_model(path, tags, None)
    return _summary(path, freeze_saved_model(model), "SavedModel", compatibility.needs_of(model.meta_graph.graph_def))


def _summary(path: Path, bundle: Bundle, kind: str, need: compatibility.Need) -> Inspection:
    weights = bundle.graph.weights
    asked = {entry.name: entry.encoding for entry in bundle.manifest.weights}
    largest = sorted(weights, key=lambda name: (-weights[name].stored_bytes, name))[:_LARGEST]
    return Inspection(
        path=str(path),
        kind=kind,
        tags=tuple(bundle.manifest.tags),
        bytes=storage.size(path),
        live_parameters=bundle.manifest.source.live_parameters,
        live_bytes=bundle.stored_bytes,
        int8_bytes=sum(w.nbytes // 4 if w.dtype.name == "float32" else w.stored_bytes for w in weights.values()),
        nodes=len(bundle.graph.nodes),
        signatures=tuple(
            SignatureSummary(
                name,
                signature.method_name,
                {key: _words(info) for key, info in sorted(signature.inputs.items())},
                {key: _words(info) for key, info in sorted(signature.outputs.items())},
            )
            for name, signature in bundle.manifest.signature_defs().items()
        ),
        largest=tuple(
            Tensor(
                name,
                weights[name].dtype.name,
                weights[name].shape,
                weights[name].stored_bytes,
                asked.get(name, encoded.encoding) if (encoded := weights[name].encoded) else weights[name].dtype.name,
            )
            for name in largest
        ),
        ops=dict(Counter(node.op for node in bundle.graph.nodes.values()).most_common()),
        assets=tuple(asset.filename for asset in bundle.manifest.assets),
        tensorflow_version=bundle.manifest.source.tensorflow_version,
        needs=Needs(compatibility.words(need.release), need.what, need.node),
    )


def _words(info: Any) -> str:
    dtype = tf.as_dtype(info.dtype).name if info.dtype else "?"
    if info.tensor_shape.unknown_rank:
        return f"{dtype} [...]"
    return f"{dtype} [{', '.join('?' if d.size < 0 else str(d.size) for d in info.tensor_shape.dim)}]"
