"""A checkpoint's files, byte by byte: which tensors there are, where their bytes lie, and copies of some of them.

    PREFIX.index                    a sorted table: "" -> header, name -> dtype, shape, file, offset, size, CRC
    PREFIX.data-00000-of-00001      the tensors' bytes

A part of a partitioned variable has an entry of its own, under a key that starts with a zero byte. Bytes are copied as
they are, in chunks, so that no tensor is ever in memory; and the entries of tensors with the same bytes point at one
place, which every reader of TensorFlow's takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import tensor_bundle_pb2

from tfslim_core.errors import ModelError
from tfslim_core.one_line import one_line
from tfslim_core.saved_model.read import open_checkpoint
from tfslim_core.saved_model.slice_keys import slice_key
from tfslim_core.saved_model.sorted_table import masked, read_table, table_bytes
from tfslim_core.saved_model.write import write_checkpoint
from tfslim_core.storage import inside
from tfslim_core.weights import Array, Weight

_MOST_FILES = 1 << 16  # a damaged header may announce billions
CHUNK_BYTES = 8 * 1024 * 1024
SHARED_BYTES = 1024  # fewer are not worth the telling
_HEADER = b""
_WITHOUT_CRC = frozenset({tf.string.as_datatype_enum, tf.variant.as_datatype_enum})  # theirs is not of the bytes alone


@dataclass(frozen=True)
class Piece:
    """Bytes of a tensor, or of a part of it. entry: a BundleEntryProto. key: in the table."""

    key: bytes
    entry: Any
    file: Path

    @property
    def range(self) -> tuple[Path, int, int]:
        """File, offset and size."""
        return self.file, self.entry.offset, self.entry.size


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint.

    entry: a BundleEntryProto; of a partitioned one without bytes. pieces: the tensor itself, or its parts.
    """

    name: str
    entry: Any
    pieces: tuple[Piece, ...]

    @property
    def dtype(self) -> tf.DType:
        """What its elements are."""
        return tf.as_dtype(self.entry.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole."""
        return tuple(dimension.size for dimension in self.entry.shape.dim)

    @property
    def nbytes(self) -> int:
        """Bytes in the data files."""
        return sum(piece.entry.size for piece in self.pieces)


@dataclass(frozen=True)
class TensorBundle:
    """A checkpoint. tensors: by name, in order. header: a BundleHeaderProto."""

    prefix: str
    header: Any
    tensors: Mapping[str, Stored] = field(repr=False)

    @property
    def files(self) -> list[Path]:
        """The index and the data files."""
        return [Path(f"{self.prefix}.index"), *_data_files(self.prefix, self.header.num_shards)]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)


def prefix_of(path: Path) -> str:
    """The prefix that a path means: itself, one of its files, or what is in a directory.

    Raises:
        ModelError: there is no checkpoint, or several.
    """
    if path.is_dir():
        return _prefix_in(path)
    text = re.sub(r"\.(?:index|meta|data-\d{5}-of-\d{5})$", "", str(path))
    if Path(f"{text}.index").is_file() or _is_v1(text):
        return text
    raise ModelError(f"{path}: no checkpoint: neither {Path(text).name}.index is there nor a directory of that name")


def _prefix_in(folder: Path) -> str:
    if (folder / "saved_model.pb").exists() or (folder / "saved_model.pbtxt").exists():
        if (folder / "variables" / "variables.index").is_file():
            for file in (folder / "variables").iterdir():
                inside(folder / "variables", file.name, folder)
            return str(folder / "variables" / "variables")
        raise ModelError(f"{folder} is a SavedModel without variables/variables.index: it has no variables")
    found = sorted(file.name.removesuffix(".index") for file in folder.glob("*.index"))
    if (folder / "checkpoint").is_file():
        try:
            state = tf.train.get_checkpoint_state(str(folder))
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise ModelError(f"{folder / 'checkpoint'} cannot be read: {one_line(error)}") from None
        # A directory that was moved names a place that is no more; what counts is the file beside.
        name = Path(state.model_checkpoint_path).name if state is not None else ""
        if name and ((folder / f"{name}.index").is_file() or _is_v1(str(folder / name))):
            return str(folder / name)
        raise ModelError(f"{folder / 'checkpoint'} names the checkpoint {name!r}, which is not beside it")
    if len(found) == 1:
        return str(folder / found[0])
    known = f"several checkpoints ({', '.join(found[:5])}): name one" if found else "no checkpoint"
    raise ModelError(f"{folder} holds {known}")


def _is_v1(prefix: str) -> bool:
    """Whether there is a checkpoint of TensorFlow's first format, which has no index."""
    return Path(prefix).is_file() or any(Path(prefix).parent.glob(f"{Path(prefix).name}-?????-of-?????"))


def open_bundle(prefix: str, scratch: Path) -> TensorBundle:
    """The checkpoint of that prefix. scratch: where one of an older format is written anew, to be read from there.

    Raises:
        ModelError: it is damaged or incomplete.
    """
    reader = open_checkpoint(prefix)
    index = Path(f"{prefix}.index")
    if not index.is_file():
        return _read(_rewritten(prefix, reader, scratch))
    return _read(prefix)


def _read(prefix: str) -> TensorBundle:
    index = Path(f"{prefix}.index")
    try:
        table = read_table(index.read_bytes())
        header = tensor_bundle_pb2.BundleHeaderProto.FromString(table.pop(_HEADER, b""))
        entries = {key: tensor_bundle_pb2.BundleEntryProto.FromString(value) for key, value in table.items()}
    except (ModelError, DecodeError) as error:
        raise ModelError(f"{index}: {one_line(error)}") from None
    except OSError as error:
        raise ModelError(f"{index} cannot be read: {error.strerror}") from None
    if header.endianness != tensor_bundle_pb2.BundleHeaderProto.LITTLE:
        raise ModelError(f"{index}: its numbers are big-endian, which is not read here")
    if not 0 <= header.num_shards <= _MOST_FILES:
        raise ModelError(f"{index} is damaged: it announces {header.num_shards:,} data files")
    files = _data_files(prefix, header.num_shards)
    sizes = [file.stat().st_size if file.is_file() else -1 for file in files]
    parts: dict[str, list[Piece]] = {}
    whole: dict[str, Any] = {}
    for key, entry in entries.items():
        name = _name(key, index)
        if not key.startswith(b"\0"):
            whole[name] = entry
        if key.startswith(b"\0") or not entry.slices:
            parts.setdefault(name, []).append(_piece(key, entry, name, files, sizes))
    for name, entry in whole.items():
        if len(parts.get(name, ())) != max(len(entry.slices), 1):
            raise ModelError(f"{index} is damaged: {name!r} has parts that are not there")
    return TensorBundle(prefix, header, {name: Stored(name, whole[name], tuple(parts[name])) for name in whole})


def _data_files(prefix: str, count: int) -> list[Path]:
    return [Path(f"{prefix}.data-{number:05}-of-{count:05}") for number in range(count)]


def _name(key: bytes, index: Path) -> str:
    """The tensor that a key belongs to. A part's: a zero byte, the name and its end, where it lies."""
    if key.startswith(b"\0"):
        text, end, _ = key[1:].partition(b"\0\1")
        key = text if end else b"\xff"
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise ModelError(f"{index} is damaged: a tensor's name is not readable") from None


def _piece(key: bytes, entry: Any, name: str, files: list[Path], sizes: list[int]) -> Piece:
    if not 0 <= entry.shard_id < len(files):
        raise ModelError(f"the checkpoint is damaged: {name!r} is in file {entry.shard_id} of {len(files)}")
    file, size = files[entry.shard_id], sizes[entry.shard_id]
    if size < 0:
        raise ModelError(f"{file} is missing; {name!r} is in it")
    if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > size:
        raise ModelError(f"{file} is cut short: {name!r} ends at {entry.offset + entry.size:,}, it has {size:,} bytes")
    return Piece(key, entry, file)


def _rewritten(prefix: str, reader: Any, scratch: Path) -> str:
    """The prefix of the same tensors in the format of today, written by TensorFlow; parts become wholes."""

    def weight(name: str, dtype: tf.DType) -> Weight:
        def read() -> Array:
            try:
                # Unlike the reader, it puts the parts of a partitioned variable together.
                (tensor,) = tf.raw_ops.RestoreV2(
                    prefix=prefix, tensor_names=[name], shape_and_slices=[""], dtypes=[dtype]
                )
            except (tf.errors.OpError, ValueError) as error:
                raise ModelError(f"{prefix} is damaged at {name!r}: {one_line(error)}") from None
            return np.asarray(tensor.numpy(), object if dtype == tf.string else None)

        return Weight(np.dtype(dtype.as_numpy_dtype), tuple(shapes[name]), read)

    shapes = reader.get_variable_to_shape_map()
    made = scratch / Path(prefix).name
    write_checkpoint(made, {name: weight(name, dtype) for name, dtype in reader.get_variable_to_dtype_map().items()})
    return str(made)


@dataclass(frozen=True)
class Copied:
    """What a copy saved. shared: names of tensors whose bytes another has too, and how many bytes that were."""

    shared: tuple[str, ...]
    shared_bytes: int


def write_copy(tensors: Iterable[Stored], prefix: str, producer: Any) -> Copied:
    """Write a checkpoint with these tensors, bytes unchanged; the same bytes once. producer: a header to take over.

    Raises:
        ModelError: a tensor's bytes do not have the checksum that the index says, or the disk is full.
    """
    wanted = list(tensors)
    table: dict[bytes, bytes] = {
        _HEADER: tensor_bundle_pb2.BundleHeaderProto(num_shards=1, version=producer.version).SerializeToString()
    }
    places: dict[tuple[int, int], list[tuple[int, Piece]]] = {}
    owners = {piece.key: stored.name for stored in wanted for piece in stored.pieces}
    shared: dict[str, int] = {}
    data = _data_files(prefix, 1)[0]
    try:
        with data.open("wb") as out:
            for piece in sorted((p for stored in wanted for p in stored.pieces), key=lambda p: (*p.range[:2], p.key)):
                alike = places.setdefault((piece.entry.size, piece.entry.crc32c), [])
                large = piece.entry.size >= SHARED_BYTES
                offset = next((place for place, other in alike if large and _same_bytes(piece, other)), None)
                if offset is None:
                    offset = out.tell()
                    _copy(piece, out, owners[piece.key])
                    alike.append((offset, piece))
                else:
                    name = owners[piece.key]
                    shared[name] = shared.get(name, 0) + piece.entry.size
                moved = _moved(piece.entry, offset)
                table[piece.key] = moved.SerializeToString(deterministic=True)
        for stored in wanted:
            table.setdefault(stored.name.encode(), stored.entry.SerializeToString(deterministic=True))
        Path(f"{prefix}.index").write_bytes(table_bytes(table))
    except OSError as error:
        raise ModelError(f"{data} cannot be written: {error.strerror or error}") from None
    return Copied(tuple(sorted(shared)), sum(shared.values()))


def _moved(entry: Any, offset: int) -> Any:
    copy = tensor_bundle_pb2.BundleEntryProto()
    copy.CopyFrom(entry)
    copy.shard_id, copy.offset = 0, offset
    return copy


def _copy(piece: Piece, out: BinaryIO, name: str) -> None:
    crc = 0
    for chunk in chunks(piece):
        crc = google_crc32c.extend(crc, chunk)
        out.write(chunk)
    if piece.entry.dtype not in _WITHOUT_CRC and masked(crc) != piece.entry.crc32c:
        raise ModelError(f"{piece.file} is damaged at {name!r}: its checksum does not hold")


def chunks(piece: Piece) -> Iterator[bytes]:
    """The bytes, a few MB at a time.

    Raises:
        ModelError: the file ends before they do.
    """
    with piece.file.open("rb") as file:
        file.seek(piece.entry.offset)
        left = piece.entry.size
        while left:
            chunk = file.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise ModelError(f"{piece.file} is cut short")
            left -= len(chunk)
            yield chunk


def _same_bytes(one: Piece, other: Piece) -> bool:
    if one.range == other.range:
        return True
    return all(a == b for a, b in zip(chunks(one), chunks(other), strict=True))


def check_copy(tensors: Iterable[Stored], prefix: str) -> None:
    """Have TensorFlow read each tensor of a copy, and compare it with the bytes that it was copied from.

    Raises:
        ModelError: one differs.
    """
    reader = open_checkpoint(prefix)
    found = reader.get_variable_to_dtype_map()
    shapes = reader.get_variable_to_shape_map()
    tensors = list(tensors)
    if set(found) != {stored.name for stored in tensors}:
        raise ModelError(f"{prefix}: the copy does not hold the tensors that it should")
    copy = _read(prefix)
    for stored in tensors:
        if found[stored.name] != stored.dtype or tuple(shapes[stored.name]) != stored.shape:
            raise ModelError(f"{prefix}: {stored.name!r} came out with another dtype or shape")
        twins = {piece.key: piece for piece in copy.tensors[stored.name].pieces}
        for piece, spec in zip(stored.pieces, _slice_specs(stored), strict=True):
            same = _reads_as(piece, stored, spec, prefix) and _same_bytes(piece, twins[piece.key])
            if not same:
                raise ModelError(f"{prefix}: {stored.name!r} does not read back as it was")


def _reads_as(piece: Piece, stored: Stored, spec: str, prefix: str) -> bool:
    """Whether TensorFlow reads the piece's bytes; of a string or variant, whether it can be read at all."""
    if stored.dtype == tf.variant:
        return True
    try:
        (tensor,) = tf.raw_ops.RestoreV2(
            prefix=prefix, tensor_names=[stored.name], shape_and_slices=[spec], dtypes=[stored.dtype]
        )
    except (tf.errors.OpError, ValueError) as error:
        raise ModelError(f"{prefix}: {stored.name!r} cannot be read back: {one_line(error)}") from None
    if stored.dtype == tf.string:
        return True
    flat = np.asarray(tensor).reshape(-1).view(np.uint8)
    start = 0
    for chunk in chunks(piece):
        if flat[start : start + len(chunk)].tobytes() != chunk:
            return False
        start += len(chunk)
    return start == flat.nbytes


def _slice_specs(stored: Stored) -> list[str]:
    """As RestoreV2 takes them, in the order of the pieces."""
    if not stored.entry.slices:
        return [""]
    sizes = " ".join(map(str, stored.shape))
    specs = {}
    for part in stored.entry.slices:
        extents = [(e.start, e.length if e.HasField("length") else None) for e in part.extent]
        text = ":".join("-" if length is None else f"{start},{length}" for start, length in extents)
        specs[slice_key(stored.name, extents)] = f"{sizes} {text}"
    return [specs.get(piece.key, "") for piece in stored.pieces]
