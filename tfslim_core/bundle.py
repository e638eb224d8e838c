"""A bundle: what the stages hand to each other. A frozen graph, its weights, and all that a servable needs beside them.

    graph.pb              the GraphDef, large constants without their values
    weights.safetensors   those values by node name: `NAME`, or `NAME#part` for each part of an encoded weight
                          (`NAME#part#part` where a part is encoded too; strings as `#bytes` and `#lengths`), or
                          `NAME#variable` for the value of what stayed a variable (`NAME#tensor_proto` where
                          safetensors has no such dtype: strings)
    manifest.json         signatures, tags, init op, assets, where it came from, what was done to it
    assets/, assets.extra/

Weights are read when they are asked for, one at a time, so that a model of many GB passes through.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.json_format import ParseError as JsonError
from google.protobuf.message import DecodeError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from tfslim_core import encodings, storage
from tfslim_core.encodings.scheme import Form
from tfslim_core.errors import ModelError
from tfslim_core.graph import Graph
from tfslim_core.one_line import one_line
from tfslim_core.weights import DTYPES, Array, Encoded, Weight, aligned, in_memory

GRAPH_LABEL = "graph, functions and small values"  # in a report of where the bytes went
_SCHEMA: Literal[2] = 2


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AssetEntry(_Part):
    """A file below assets/, and the tensor that the loader feeds with its path."""

    tensor: str
    filename: str


class Source(_Part):
    """The SavedModel that a bundle was frozen from. bytes: its directory's; live_parameters: elements served; runtime:
    the first TensorFlow release that knows all ops and attributes in it.
    """

    path: str
    digest: str
    bytes: int
    live_parameters: int
    tensorflow_version: str
    producer: int
    nodes: int
    runtime: str = ""
    where: dict[str, int] = Field(default_factory=dict)


class Skip(_Part):
    """A place that a step left alone, and why."""

    node: str
    reason: str


class StepEntry(_Part):
    """One thing that was done to the graph. bytes: of the weights as stored. exact: it changes no answer."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    changes: int
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    skipped: list[Skip] = Field(default_factory=list)
    seconds: float = 0.0
    exact: bool = True
    error: str = ""


class WeightEntry(_Part):
    """How a weight is stored, for the report.

    encoding: as a user names it. placement: where it is decoded. harm: the relative L2 error that it makes of the
    answers alone; measured, or expected where a budget was searched.
    """

    name: str
    dtype: str
    shape: list[int]
    bytes_before: int
    bytes_after: int
    encoding: str
    placement: Literal["rows", "load", "graph", "none"]
    reason: str
    harm: float | None = None


class VocabularyEntry(_Part):
    """An embedding that lost rows.

    lookups: of its rows that were counted in the corpus; elsewhere: those of them that now read another row, `to`:
    "oov" (the one for words out of the vocabulary) or "centre" (of a cluster of dropped rows). words: entries of its
    lookup table, where that lost some too; else `reason` says why it did not.
    """

    embedding: str
    rows_before: int
    rows_after: int
    bytes_before: int
    bytes_after: int
    lookups: int
    elsewhere: int
    to: str
    words_before: int | None = None
    words_after: int | None = None
    reason: str = ""


class Stored(_Part):
    """An array that is stored as others: the scheme, and dtype and shape of what it decodes to."""

    encoding: str
    dtype: str
    shape: list[int]


class VariableEntry(_Part):
    """A variable that became a constant, which the record names.

    name: of the variable, where that is another. key: in the checkpoint it came from, where that is not the name. part:
    of a partitioned variable, as RestoreV2 takes it. trainable: None where the model does not tell. changed: the steps
    that gave it other values, or did away with it. encoding: how it was stored, and in rows: what a table that stays
    encoded decodes to; these two are of a SavedModel, a bundle has its weights' own entries.
    """

    name: str = ""
    key: str = ""
    part: str = ""
    trainable: bool | None = None
    changed: list[str] = Field(default_factory=list)
    encoding: str = ""
    rows: Stored | None = None


class Manifest(_Part):
    """manifest.json.

    signatures: SignatureDefs in protobuf's JSON form. encoded: what is stored as other arrays, by its key in the file.
    kept_variables: those that stay variables -> why. variables: those that became constants, by the constant's name.
    dropped: what a slim model lacks on purpose. notes: what else a user should know.
    """

    schema_version: Literal[2] = _SCHEMA
    tags: list[str]
    signatures: dict[str, dict[str, Any]]
    init_op: str | None
    assets: list[AssetEntry] = Field(default_factory=list)
    encoded: dict[str, Stored] = Field(default_factory=dict)
    kept_variables: dict[str, str] = Field(default_factory=dict)
    variables: dict[str, VariableEntry] = Field(default_factory=dict)
    dropped: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    source: Source
    steps: list[StepEntry] = Field(default_factory=list)
    weights: list[WeightEntry] = Field(default_factory=list)
    vocabularies: list[VocabularyEntry] = Field(default_factory=list)

    def signature_defs(self) -> dict[str, Any]:
        """The signatures as SignatureDefs, by name.

        Raises:
            ModelError: one is not valid.
        """
        try:
            return {k: ParseDict(v, meta_graph_pb2.SignatureDef()) for k, v in sorted(self.signatures.items())}
        except (JsonError, ArithmeticError, RecursionError, TypeError, ValueError) as error:
            raise ModelError(f"the bundle's manifest holds a damaged signature: {one_line(error)}") from None


def signature_json(signature: Any) -> dict[str, Any]:
    """A SignatureDef in protobuf's JSON form."""
    found: dict[str, Any] = MessageToDict(signature, preserving_proto_field_name=True)
    return found


def tensor_names(info: Any) -> list[str]:
    """The tensors of a signature's entry: one, or the components of a sparse or composite tensor."""
    match info.WhichOneof("encoding"):
        case "coo_sparse":
            sparse = info.coo_sparse
            return [sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name]
        case "composite_tensor":
            return [name for component in info.composite_tensor.components for name in tensor_names(component)]
    return [info.name]


def roots(signatures: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Input and output tensor names of all signatures, each once."""
    inputs = [n for s in signatures.values() for _, i in sorted(s.inputs.items()) for n in tensor_names(i)]
    outputs = [n for s in signatures.values() for _, i in sorted(s.outputs.items()) for n in tensor_names(i)]
    return list(dict.fromkeys(inputs)), list(dict.fromkeys(outputs))


@dataclass(frozen=True)
class Bundle:
    """A frozen model between two stages.

    variables: values of what stayed a variable, by node name. files: the directory with assets/ and assets.extra/.
    """

    graph: Graph
    manifest: Manifest
    files: Path
    variables: Mapping[str, Weight] = field(default_factory=dict)

    def meta_graph(self) -> Any:
        """A MetaGraphDef with the tags, the signatures and the graph, without the weights."""
        made = meta_graph_pb2.MetaGraphDef(graph_def=self.graph.to_graph_def())
        made.meta_info_def.tags.extend(self.manifest.tags)
        for name, signature in self.manifest.signature_defs().items():
            made.signature_def[name].CopyFrom(signature)
        return made

    @property
    def stored_bytes(self) -> int:
        """Bytes of all weights, as they are stored."""
        return sum(weight.stored_bytes for weight in self.graph.weights.values())

    def write(self, directory: Path) -> None:
        """Write the bundle into an empty directory."""
        encoded = {path: entry for name, w in sorted(self.graph.weights.items()) for path, entry in _schemes(name, w)}
        manifest = self.manifest.model_copy(update={"encoded": encoded})
        graph_def = self.graph.to_graph_def()
        (directory / "graph.pb").write_bytes(graph_def.SerializeToString(deterministic=True))
        write_safetensors(directory / "weights.safetensors", dict(_stored(self.graph.weights, self.variables)))
        (directory / "manifest.json").write_text(manifest.model_dump_json(indent=1) + "\n")
        copy_files(self.files, directory, [asset.filename for asset in manifest.assets])


def copy_files(source: Path, target: Path, assets: Iterable[str]) -> None:
    """Copy the asset files that are named, and all of assets.extra/; what a symlink brings from elsewhere is refused.

    Raises:
        ModelError: a file is missing or lies outside of `source`.
    """
    wanted = [("assets", name) for name in dict.fromkeys(assets)]
    extra = source / "assets.extra"
    wanted += [("assets.extra", p.relative_to(extra).as_posix()) for p in sorted(extra.rglob("*")) if not p.is_dir()]
    for folder, name in wanted:
        file = storage.inside(source / folder, name, source)
        (target / folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / folder / name)


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Whether `path` looks like a bundle."""
    return (Path(path) / "manifest.json").is_file()


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle; weights stay on disk.

    Raises:
        ModelError: it is missing or damaged.
    """
    root = Path(path)
    if not root.exists():
        raise ModelError(f"{root}: no such directory")
    if not is_bundle(root):
        hint = "; it is a SavedModel: run tfslim freeze first" if (root / "saved_model.pb").exists() else ""
        raise ModelError(f"{root} is not a bundle: it holds no manifest.json{hint}")
    try:
        manifest = Manifest.model_validate_json(storage.inside(root, "manifest.json", root).read_bytes())
        graph_def = tf.compat.v1.GraphDef.FromString(storage.inside(root, "graph.pb", root).read_bytes())
    except ValidationError as error:
        version = _version(root / "manifest.json")
        if version != _SCHEMA:
            raise ModelError(f"{root} is a bundle of version {version}; this tfslim reads {_SCHEMA}") from None
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ModelError(f"{root}: manifest.json is damaged: {where}: {one_line(ValueError(first['msg']))}") from None
    except (DecodeError, OSError) as error:
        raise ModelError(f"{root}: graph.pb cannot be read: {one_line(error)}") from None
    for asset in manifest.assets:
        storage.inside(root / "assets", asset.filename, root)
    weights, variables = _opened(storage.inside(root, "weights.safetensors", root), manifest.encoded)
    inputs, outputs = roots(manifest.signature_defs())
    graph = Graph.of(
        graph_def,
        [*inputs, *(asset.tensor for asset in manifest.assets)],
        outputs,
        [manifest.init_op] if manifest.init_op else [],
        weights,
    )
    return Bundle(graph, manifest, root, variables)


def _version(manifest: Path) -> Any:
    """What a manifest that is not valid says its version is: a newer one may have keys that are not known here."""
    try:
        found = json.loads(manifest.read_bytes())
    except (ValueError, RecursionError):
        return _SCHEMA
    return found.get("schema_version", _SCHEMA) if isinstance(found, dict) else _SCHEMA


def write_safetensors(path: Path, tensors: Mapping[str, Weight]) -> None:
    """Write a safetensors file one tensor at a time (the format: an 8-byte length, a JSON header, the bytes).

    The library's own writer wants all of them in memory. Wide dtypes come first, so that each tensor is aligned.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {}
    start = 0
    for name in order:
        weight = tensors[name]
        end = start + weight.nbytes
        header[name] = {"dtype": DTYPES[weight.dtype.name], "shape": list(weight.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            _write_tensor(file, tensors[name])


def _write_tensor(file: BinaryIO, weight: Weight) -> None:
    """Write one tensor's bytes. A function of its own, so that its value is gone before the next is read."""
    value = np.ascontiguousarray(weight.read())
    if value.nbytes:
        file.write(value.reshape(-1).view(np.uint8).data)


def _schemes(path: str, weight: Weight) -> Iterator[tuple[str, Stored]]:
    """How the weight, and each part of it, is stored, where not as it is; keys as in the file: `w`, `w#codes`."""
    if weight.encoded is not None:
        entry = Stored(encoding=weight.encoded.encoding, dtype=weight.dtype.name, shape=list(weight.shape))
        yield path, entry
        for role, part in weight.encoded.parts.items():
            yield from _schemes(f"{path}#{role}", part)


def _stored(weights: Mapping[str, Weight], variables: Mapping[str, Weight]) -> Iterator[tuple[str, Weight]]:
    for name, weight in weights.items():
        yield from _leaves(name, weight)
    for name, weight in variables.items():
        if weight.dtype.name in DTYPES:
            yield f"{name}#variable", weight
        else:
            proto = tf.make_tensor_proto(weight.read()).SerializeToString(deterministic=True)
            yield f"{name}#tensor_proto", in_memory(np.frombuffer(proto, np.uint8))


def _leaves(path: str, weight: Weight) -> Iterator[tuple[str, Weight]]:
    """What is stored of a weight, by key; strings as their bytes and their lengths."""
    if weight.encoded is not None:
        for role, part in weight.encoded.parts.items():
            yield from _leaves(f"{path}#{role}", part)
    elif weight.dtype == object:
        yield f"{path}#lengths", in_memory(np.array(weight.lengths, np.int64))
        yield f"{path}#bytes", Weight(np.dtype(np.uint8), (weight.nbytes,), partial(_joined, weight))
    else:
        yield path, weight


def _joined(strings: Weight) -> Array:
    return np.frombuffer(b"".join(strings.read().reshape(-1).tolist()), np.uint8)


def _opened(file: Path, encoded: Mapping[str, Stored]) -> tuple[dict[str, Weight], dict[str, Weight]]:
    """Weights and variables of a safetensors file, unread."""
    found = {
        key: Weight(dtype, shape, partial(_read_tensor, file, key, dtype, shape, start))
        for key, (dtype, shape, start) in _header(file).items()
    }
    variables: dict[str, Weight] = {}
    for key in [key for key in found if key.endswith(("#variable", "#tensor_proto"))]:
        name, _, kind = key.rpartition("#")
        weight = found.pop(key)
        variables[name] = weight if kind == "variable" else in_memory(_from_proto(weight, name))
    for key in [key for key in found if key.endswith("#lengths")]:
        path = key.removesuffix("#lengths")
        if f"{path}#bytes" in found:
            found[path] = _strings(file, found.pop(key), found.pop(f"{path}#bytes"))
    # The deepest first: what they decode to is a part of others.
    for path, entry in sorted(encoded.items(), key=lambda item: -item[0].count("#")):
        parts = {key.removeprefix(f"{path}#"): key for key in found if key.startswith(f"{path}#")}
        if not parts:
            raise ModelError(f"{file} lacks the encoded weight {path!r}")
        try:
            form = Form(np.dtype(tf.as_dtype(entry.dtype).as_numpy_dtype), tuple(entry.shape))
            found[path] = encodings.decoded(
                Encoded(entry.encoding, {role: found.pop(key) for role, key in parts.items()}), form
            )
        except (ModelError, TypeError) as error:
            raise ModelError(f"{file} is damaged at {path!r}: {error}") from None
    return {key: weight for key, weight in found.items() if "#" not in key}, variables


def _strings(file: Path, lengths: Weight, joined: Weight) -> Weight:
    """The strings whose bytes one array holds, one after the other."""
    counts = tuple(lengths.read().tolist())
    if any(count < 0 for count in counts) or sum(counts) != joined.nbytes:
        raise ModelError(f"{file} is damaged: its strings' lengths do not add up")

    def read() -> Array:
        data, start = joined.read().tobytes(), 0
        cut = np.empty(len(counts), object)
        for number, count in enumerate(counts):
            cut[number] = data[start : start + count]
            start += count
        return cut

    return Weight(np.dtype(object), (len(counts),), read, lengths=counts)


def _from_proto(stored: Weight, name: str) -> Array:
    try:
        value: Array = tf.make_ndarray(tensor_pb2.TensorProto.FromString(stored.read().tobytes()))
    except (DecodeError, TypeError, ValueError) as error:
        raise ModelError(f"the bundle's variable {name!r} is damaged: {one_line(error)}") from None
    return value


def _header(file: Path) -> dict[str, tuple[np.dtype[np.generic], tuple[int, ...], int]]:
    """For each tensor of a safetensors file: dtype, shape, and where in the file its bytes start."""
    numpy_names = {short: name for name, short in DTYPES.items()}
    try:
        with safe_open(str(file), framework="numpy"):
            pass  # the library checks the header against the file: sizes, overlaps, dtypes
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
        return {
            key: (
                np.dtype(tf.as_dtype(numpy_names[entry["dtype"]]).as_numpy_dtype),
                tuple(entry["shape"]),
                8 + length + entry["data_offsets"][0],
            )
            for key, entry in header.items()
            if key != "__metadata__"
        }
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ModelError(f"{file} is damaged: {one_line(error)}") from None


def _read_tensor(file: Path, key: str, dtype: np.dtype[np.generic], shape: tuple[int, ...], start: int) -> Array:
    """One tensor; the library would hold it twice on the way."""
    value = aligned(shape, dtype)
    try:
        with file.open("rb") as opened:
            opened.seek(start)
            count = opened.readinto(value.reshape(-1).view(np.uint8).data)
    except OSError as error:
        raise ModelError(f"{file} cannot be read at {key!r}: {error}") from None
    if count != value.nbytes:
        raise ModelError(f"{file} is cut short at {key!r}")
    return value
