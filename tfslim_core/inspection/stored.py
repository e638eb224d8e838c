"""The tensors that a model's files hold, one by one: which of them requests read, and which only take room."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfslim_core.bundle import Bundle
from tfslim_core.errors import ModelError
from tfslim_core.graph import CONTROL, EXTERNAL_BYTES, Graph
from tfslim_core.one_line import one_line
from tfslim_core.saved_model.read import SavedModel, open_checkpoint
from tfslim_core.weights import Weight

_BOOKKEEPING = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_HANDS_ON = frozenset({"Identity", "ReadVariableOp", "Cast", "Enter", "StopGradient"})

Role = Literal["served", "optimizer", "unread"]


@dataclass(frozen=True)
class Tensor:
    """A tensor of the model's files.

    name: of the graph's node for a served one, else the checkpoint's key. bytes: as it is stored now; memory: once it
    is loaded. int8_bytes: about what it would take slimmed, 0 where nothing serves it. encoding: its dtype where it is
    not encoded. role: "optimizer" for what looks like a slot or a step counter; "unread" for whatever else no signature
    reads. readers: the ops that read it, with how many of each.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    memory: int
    int8_bytes: int
    encoding: str
    role: Role
    readers: Mapping[str, int]


def served_tensors(bundle: Bundle, model: SavedModel | None) -> list[Tensor]:
    """Those that the signatures read, the largest first. model: the one that the bundle was frozen from just now."""
    asked = {entry.name: entry.encoding for entry in bundle.manifest.weights}
    reader = open_checkpoint(model.checkpoint) if model is not None and model.checkpoint is not None else None
    found = []
    for name, weight in {**bundle.graph.weights, **bundle.variables}.items():
        stored, encoding = weight.stored_bytes, _dtype(weight.dtype)
        if weight.encoded is not None:
            encoding = asked.get(name, weight.encoded.encoding)
        elif reader is not None and len(weight.origins) > 1:
            stored, encoding = _stored_as(reader, weight.origins)
        found.append(
            Tensor(
                name=name,
                dtype=_dtype(weight.dtype),
                shape=weight.shape,
                bytes=stored,
                memory=weight.nbytes,
                int8_bytes=min(at_int8(weight), stored),
                encoding=encoding,
                role="served",
                readers=_readers(bundle.graph, name),
            )
        )
    return sorted(found, key=lambda tensor: (-tensor.bytes, tensor.name))


def _stored_as(reader: Any, keys: Sequence[str]) -> tuple[int, str]:
    """Bytes and dtypes of the checkpoint's tensors that a weight is decoded from."""
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    parts = {key: np.dtype(dtypes[key].as_numpy_dtype) for key in keys}
    sizes = {key: _size(reader, key, shapes[key], dtype) for key, dtype in parts.items()}
    largest_first = sorted(keys, key=lambda key: -sizes[key])
    return sum(sizes.values()), " + ".join(dict.fromkeys(_dtype(parts[key]) for key in largest_first))


def other_tensors(model: SavedModel, bundle: Bundle) -> list[Tensor]:
    """Those of the checkpoint that no signature reads, the largest first."""
    if model.checkpoint is None:
        return []
    reader = open_checkpoint(model.checkpoint)
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    served = served_keys(bundle)
    restored = _restored_keys(model.meta_graph.graph_def)
    found = []
    for key in shapes.keys() - served - {_BOOKKEEPING}:
        dtype = np.dtype(dtypes[key].as_numpy_dtype)
        size = _size(reader, key, shapes[key], dtype)
        found.append(
            Tensor(
                name=key.removesuffix(_VALUE),
                dtype=_dtype(dtype),
                shape=tuple(shapes[key]),
                bytes=size,
                # The loader restores what the restore op names, whether a signature reads it or not.
                memory=size if key in restored else 0,
                int8_bytes=0,
                encoding=_dtype(dtype),
                role="optimizer" if _of_optimizer(key, shapes) else "unread",
                readers={},
            )
        )
    return sorted(found, key=lambda tensor: (-tensor.bytes, tensor.name))


def served_keys(bundle: Bundle) -> set[str]:
    """The checkpoint's keys that some served constant or variable is read from."""
    found = {entry.key or name for name, entry in bundle.manifest.variables.items()}
    for weight in (*bundle.graph.weights.values(), *bundle.variables.values()):
        found.update(weight.origins)
    return found


def _restored_keys(graph_def: Any) -> set[str]:
    """The keys that restore ops of the graph and its functions name."""
    found: set[str] = set()
    for nodes in (graph_def.node, *(function.node_def for function in graph_def.library.function)):
        by_name = {node.name: node for node in nodes}
        for node in nodes:
            if node.op == "RestoreV2" and (names := by_name.get(node.input[1].partition(":")[0])) is not None:
                found.update(key.decode(errors="replace") for key in names.attr["value"].tensor.string_val)
    return found


def large_constants(graph_def: Any) -> int:
    """Bytes of the constants of 1 KiB and more that are stored in a graph and its functions."""

    def sizes(nodes: Iterable[Any]) -> int:
        tensors = (node.attr["value"].tensor.ByteSize() for node in nodes if node.op == "Const")
        return sum(size for size in tensors if size >= EXTERNAL_BYTES)

    return sizes(graph_def.node) + sum(sizes(function.node_def) for function in graph_def.library.function)


def at_int8(weight: Weight) -> int:
    """About what a weight takes slimmed: one byte an element where it is float32, else what it takes now."""
    return weight.nbytes // 4 if weight.dtype.name == "float32" else weight.stored_bytes


def _of_optimizer(key: str, known: Iterable[str]) -> bool:
    """Slots that TensorFlow 2 names as such, or that lie under the name of another tensor; counters of steps."""
    if "/.OPTIMIZER_SLOT/" in key or key.startswith(("optimizer/", "_optimizer/", "keras_api/metrics/")):
        return True
    base, _, last = key.rpartition("/")
    return base in known or last in ("global_step", "beta1_power", "beta2_power") or key == "save_counter" + _VALUE


def _readers(graph: Graph, name: str) -> dict[str, int]:
    found: dict[str, int] = {}
    todo, seen = [name], {name}
    while todo:
        for reader in graph.readers_of(todo.pop()):
            op = graph.nodes[reader.node].op
            if reader.port == CONTROL or reader.node in seen:
                continue
            seen.add(reader.node)
            if op in _HANDS_ON:
                todo.append(reader.node)
            else:
                found[op] = found.get(op, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _size(reader: Any, key: str, shape: Sequence[int], dtype: np.dtype[np.generic]) -> int:
    """Bytes of a checkpoint's tensor. Strings have to be read for that."""
    if not dtype.hasobject:
        return math.prod(shape) * dtype.itemsize
    try:
        return sum(map(len, np.ravel(reader.get_tensor(key)).tolist()))
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise ModelError(f"the variables files are damaged at {key!r}: {one_line(error)}") from None


def _dtype(dtype: np.dtype[np.generic]) -> str:
    return "string" if dtype.hasobject else dtype.name
