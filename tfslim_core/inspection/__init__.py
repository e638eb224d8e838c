"""What is in a model, what it costs on disk and in memory, and what slimming would save.

Nothing is run, and no weight is read but strings, whose size nothing else tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tfslim_core import storage
from tfslim_core.bundle import Bundle, is_bundle, read_bundle
from tfslim_core.fidelity.facts import tensor_words
from tfslim_core.inspection.stored import Tensor, large_constants, other_tensors, served_keys, served_tensors
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.read import SavedModel, read_saved_model, read_tag_sets
from tfslim_core.staging import shown

_LARGEST = 20


@dataclass(frozen=True)
class SignatureSummary:
    """A signature in words: key -> "dtype [shape]"."""

    name: str
    method: str
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True)
class Dead:
    """What no signature needs. nodes: with those of functions; constants: bytes of large ones in the graph."""

    tensors: int
    bytes: int
    constants: int
    nodes: int
    functions: int


@dataclass(frozen=True)
class Inspection:
    """kind: "SavedModel" or "bundle". live_bytes: of the weights that are served, in their own dtype; int8_bytes: about
    what these would take at one byte an element where they are float32. ops: counts after functions are inlined.

    parts: what the bytes on disk are for, in order; they add up to `bytes`. memory_bytes: of tensors once the model is
    loaded, those that the loader restores for nothing with them. slim_bytes: about what `slim` would make of it;
    graph_bytes: what of it is the graph.
    tensors: all of them, the served ones first, each kind by size. tag_sets: of all MetaGraphs that there are.
    """

    path: str
    kind: str
    tags: tuple[str, ...]
    tag_sets: tuple[tuple[str, ...], ...]
    bytes: int
    memory_bytes: int
    slim_bytes: int
    graph_bytes: int
    live_parameters: int
    live_bytes: int
    int8_bytes: int
    nodes: int
    parts: Mapping[str, int]
    dead: Dead
    signatures: tuple[SignatureSummary, ...]
    tensors: tuple[Tensor, ...]
    ops: dict[str, int]
    assets: tuple[str, ...]
    tensorflow_version: str

    @property
    def largest(self) -> tuple[Tensor, ...]:
        """The largest served tensors."""
        return tuple(tensor for tensor in self.tensors if tensor.role == "served")[:_LARGEST]

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self) | {"largest": [asdict(tensor) for tensor in self.largest]}


def inspect(path: Path, tags: Sequence[str]) -> Inspection:
    """Look into a SavedModel or a bundle.

    Raises:
        ModelError: it is neither, or it is damaged.
    """
    if is_bundle(path):
        return _summary(path, read_bundle(path), None)
    model = read_saved_model(path, tags, None)
    return _summary(path, freeze_saved_model(model, digest=""), model)


def _summary(path: Path, bundle: Bundle, model: SavedModel | None) -> Inspection:
    served = served_tensors(bundle, model)
    others = other_tensors(model, bundle) if model is not None else []
    parts = _parts(path, bundle, model, served, others)
    weights = [tensor for tensor in served if tensor.name in bundle.graph.weights]
    int8_bytes = sum(tensor.int8_bytes for tensor in weights)
    graph_bytes = sum(node.ByteSize() for node in bundle.graph.nodes.values()) + bundle.graph.rest.ByteSize()
    nodes, functions = _given(model) if model is not None else (len(bundle.graph.nodes), len(bundle.graph.functions))
    return Inspection(
        path=shown(path),
        kind="bundle" if model is None else "SavedModel",
        tags=tuple(bundle.manifest.tags),
        tag_sets=tuple(read_tag_sets(path)) if model is not None else (tuple(bundle.manifest.tags),),
        bytes=storage.size(path),
        memory_bytes=sum(tensor.memory for tensor in (*served, *others)),
        slim_bytes=int8_bytes + graph_bytes + parts.get("assets", 0) + parts.get("assets.extra", 0),
        graph_bytes=graph_bytes,
        live_parameters=bundle.manifest.source.live_parameters,
        live_bytes=bundle.stored_bytes,
        int8_bytes=int8_bytes,
        nodes=len(bundle.graph.nodes),
        parts=parts,
        dead=Dead(
            tensors=len(others),
            bytes=sum(tensor.bytes for tensor in others),
            constants=parts.get("constants that nothing serves", 0),
            nodes=max(nodes - len(bundle.graph.nodes), 0),
            functions=functions - len(bundle.graph.functions),
        ),
        signatures=tuple(
            SignatureSummary(
                name,
                signature.method_name,
                {key: tensor_words(info) for key, info in sorted(signature.inputs.items())},
                {key: tensor_words(info) for key, info in sorted(signature.outputs.items())},
            )
            for name, signature in bundle.manifest.signature_defs().items()
        ),
        tensors=(*served, *others),
        ops=dict(Counter(node.op for node in bundle.graph.nodes.values()).most_common()),
        assets=tuple(asset.filename for asset in bundle.manifest.assets),
        tensorflow_version=bundle.manifest.source.tensorflow_version,
    )


def _given(model: SavedModel) -> tuple[int, int]:
    """How many nodes, those of functions too, and functions there are before anything is dropped."""
    graph_def = model.meta_graph.graph_def
    functions = graph_def.library.function
    return len(graph_def.node) + sum(len(function.node_def) for function in functions), len(functions)


def _parts(
    path: Path, bundle: Bundle, model: SavedModel | None, served: Sequence[Tensor], others: Sequence[Tensor]
) -> dict[str, int]:
    """What the bytes on disk are for; what is none of the others is "other files"."""
    found: dict[str, int] = {}
    if model is None:
        found["served weights"] = sum(tensor.bytes for tensor in served)
        found["graph and functions"] = (path / "graph.pb").stat().st_size
    else:
        variables = storage.size(path / "variables") if (path / "variables").is_dir() else 0
        kinds = {role: sum(t.bytes for t in others if t.role == role) for role in ("optimizer", "unread")}
        constants = large_constants(model.meta_graph.graph_def)
        read = sum(tensor.bytes for tensor in served if tensor.name not in bundle.manifest.origins)
        graph = sum(file.stat().st_size for file in path.glob("saved_model.pb*"))
        found["served weights"] = max(variables - sum(kinds.values()), 0) if served_keys(bundle) else 0
        found["optimizer state"] = kinds["optimizer"]
        found["variables that nothing serves"] = kinds["unread"]
        found["constants that are served"] = min(read, constants)
        found["constants that nothing serves"] = constants - found["constants that are served"]
        found["graph and functions"] = max(graph - constants, 0)
    for name in ("assets", "assets.extra"):
        found[name] = storage.size(path / name) if (path / name).is_dir() else 0
    found["other files"] = max(storage.size(path) - sum(found.values()), 0)
    return {name: size for name, size in found.items() if size}
