"""The readers that are fuzzed: valid files to start from, and how each is read to its end."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2

from tests.fuzz.mutations import encoded
from tests.saved_models import save_v1, save_v2
from tfslim_core.bundle import read_bundle
from tfslim_core.checkpoints.tensor_bundle import chunks, open_bundle
from tfslim_core.configuration import settings
from tfslim_core.drop_in import plain_graph
from tfslim_core.graph import constant_value
from tfslim_core.graph_files import read_graph_def
from tfslim_core.importing import opened
from tfslim_core.origins import read_origins
from tfslim_core.quantization.encode_weights import Choice, encode_weights
from tfslim_core.safety import audit
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.saved_model.served_signatures import Signature, TensorSpec, proto_module, read_signatures
from tfslim_core.saved_model.write import with_values
from tfslim_core.tflite.signatures import read_lite_signatures, served_signature_defs
from tfslim_core.validation.feeding import feeding
from tfslim_core.validation.records import Letter
from tfslim_core.validation.sources import first_records, open_dataset, read_shard, shards
from tfslim_core.validation.tfrecord import frame, masked_crc
from tfslim_core.verdict import Verdict

_ROWS = 4


@dataclass(frozen=True)
class Reader:
    """name: the file as it is called in `folder`. read: reads the folder; True when all of it was accepted.

    mend: puts right the checksums that would hide what is behind them. share: of the inputs, relative to others.
    """

    name: str
    seeds: list[bytes]
    read: Callable[[Path], bool]
    folder: Path
    mend: Callable[[bytes], bytes] = field(default=lambda data: data)
    share: float = 1.0


_SERVED = Signature(
    "serving_default",
    "predict",
    {
        "x": TensorSpec("x:0", np.dtype(np.float32), (None, 2)),
        "n": TensorSpec("n:0", np.dtype(np.int64), (None,), True),
        "t": TensorSpec("t:0", np.dtype(object), (None,), True),
    },
    {},
)
_SCALARS = Signature("serving_default", "predict", {key: _SERVED.inputs[key] for key in ("n", "t")}, {})


def readers(folder: Path) -> list[Reader]:
    """All of them, each with a folder of its own below `folder`."""
    v1, v2 = _v1_model(folder / "seeds/v1"), _v2_model(folder / "seeds/v2")
    bundle = folder / "seeds/bundle"
    bundle.mkdir()
    freeze_saved_model(read_saved_model(v1, ["serve"], None)).write(bundle)
    encoded_bundle = folder / "seeds/encoded"
    encoded_bundle.mkdir()
    frozen = freeze_saved_model(read_saved_model(v1, ["serve"], None))
    graph, _ = encode_weights(frozen.graph, Choice("int8", minimum_size=16, placement="load"))
    replace(frozen, graph=graph).write(encoded_bundle)
    protos = [(path / "saved_model.pb").read_bytes() for path in (v1, v2)]
    graph_defs = [saved_model_pb2.SavedModel.FromString(one).meta_graphs[0].graph_def for one in protos]
    known = _model_readers(folder, (v1, v2), (bundle, encoded_bundle), protos, graph_defs)
    return [*known, *_data_readers(folder)]


def _model_readers(
    folder: Path, models: tuple[Path, Path], bundles: tuple[Path, Path], protos: list[bytes], graph_defs: list[object]
) -> list[Reader]:
    (v1, v2), (bundle, other) = models, bundles

    def copied(name: str, source: Path) -> Path:
        return Path(shutil.copytree(source, folder / name))

    def one(name: str) -> Path:
        (folder / name).mkdir()
        return folder / name

    texts = [text_format.MessageToString(saved_model_pb2.SavedModel.FromString(proto)).encode() for proto in protos]
    textual = copied("pbtxt", v1)
    plain = with_values(read_bundle(bundle).graph)
    (textual / "saved_model.pb").unlink()
    index, data = (v1 / "variables/variables.index").read_bytes(), _only(v1 / "variables", "*.data-*").read_bytes()
    values = [
        tf.make_tensor_proto(value).SerializeToString()
        for value in (np.arange(6, dtype=np.float32).reshape(2, 3), [b"a", b"bc"], np.zeros((3, 5), np.int64), 7, True)
    ]
    return [
        Reader("saved_model.pb", protos, _saved_model, copied("pb", v1), share=2),
        Reader("saved_model.pbtxt", texts, _saved_model, textual, share=0.3),
        Reader("graph.pb of a bundle", [_bytes(bundle, "graph.pb")], _bundle, copied("graph", bundle)),
        Reader("manifest.json", [_bytes(bundle, "manifest.json")], _bundle, copied("manifest", bundle)),
        Reader("weights.safetensors", [_bytes(bundle, "weights.safetensors")], _bundle, copied("weights", bundle)),
        Reader(
            "manifest.json of an int8 bundle", [_bytes(other, "manifest.json")], _bundle, copied("manifest8", other)
        ),
        Reader(
            "weights.safetensors of an int8 bundle",
            [_bytes(other, "weights.safetensors")],
            _bundle,
            copied("weights8", other),
        ),
        Reader("saved_model.pb, frozen", protos[:1], _frozen_model, copied("freeze", v1), share=0.5),
        Reader("saved_model.pb of functions, frozen", protos[1:], _frozen_model, copied("freeze2", v2), share=0.5),
        Reader("frozen.pb", [one.SerializeToString() for one in graph_defs], _frozen, one("frozen")),
        Reader("variables.index", [index], _frozen_model, copied("index", v1), _mended_index, share=0.3),
        Reader("variables.data-00000-of-00001", [data], _frozen_model, copied("data", v1), share=0.15),
        Reader("variables.index, copied", [index], _copied_checkpoint, copied("copied", v1), _mended_index, share=0.3),
        Reader("graph.pb as it comes", [plain.SerializeToString()], _opened, one("any"), share=0.2),
        Reader(
            "graph.pbtxt as it comes",
            [text_format.MessageToString(plain).encode()],
            _opened,
            one("any_text"),
            share=0.1,
        ),
        Reader("tfslim_variables.json", [_VARIABLES], _variables, one("record")),
        Reader("model.tflite", [_lite()], _lite_signatures, one("lite")),
        Reader("tensor.pb", values, _tensor, one("tensor")),
        Reader("verdict.json", [_VERDICT], _verdict, one("verdict")),
        Reader("slim.yaml", [_YAML], _configuration, one("yaml"), share=0.3),
    ]


def _data_readers(folder: Path) -> list[Reader]:
    def data(name: str, *seeds: bytes, mend: Callable[[bytes], bytes] = lambda data: data, share: float = 1) -> Reader:
        place = folder / name.replace("/", "_").replace(" ", "_")
        place.mkdir()
        return Reader(name, list(seeds), _data, place, mend, share)

    rows = [{"x": [1.5, 2.0], "n": 3, "t": "word"}, {"x": [0.0, -1.0], "n": 9, "t": {"b64": "aGk="}}]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    arrays = {"x": np.ones((_ROWS, 2), np.float32), "n": np.arange(_ROWS), "t": np.array([b"a"] * _ROWS)}
    table = pa.table({"x": [[1.0, 2.0]] * _ROWS, "n": list(range(_ROWS)), "t": ["a"] * _ROWS})
    parquet = io.BytesIO()
    pa.parquet.write_table(table, parquet)
    return [
        data("data.jsonl", lines, b"[1.0, 2.0]\n" * 3),
        data("data.jsonl.gz", gzip.compress(lines), share=0.5),
        data("data.csv", b'x,n,t\n1,2,a\n3,4,"b,c"\n'),
        data("data.npz", _npz(np.savez, arrays), _npz(np.savez_compressed, arrays), mend=_mended_zip),
        data("data.parquet", parquet.getvalue(), share=0.5),
        data("tf_serving_warmup_requests", frame(_request()) * 2, mend=_mended_frames, share=0.5),
        data("data.tfrecord", frame(_example()) * 2, frame(_request()), share=1),
        data("mended/data.tfrecord", frame(_example()) * 2, frame(_request()), mend=_mended_frames, share=2),
    ]


def _saved_model(folder: Path) -> bool:
    audit(folder)
    read_saved_model(folder, ["serve"], None)
    read_signatures(folder)
    return True


def _frozen_model(folder: Path) -> bool:
    found = freeze_saved_model(read_saved_model(folder, ["serve"], None))
    for weight in (*found.graph.weights.values(), *found.variables.values()):
        weight.read()
    return True


def _copied_checkpoint(folder: Path) -> bool:
    found = open_bundle(str(folder / "variables/variables"), folder)
    for stored in found.tensors.values():
        for piece in stored.pieces:
            for _ in chunks(piece):
                pass
    return True


def _opened(folder: Path) -> bool:
    (file,) = folder.iterdir()
    with opened(file):
        return True


def _variables(folder: Path) -> bool:
    (folder / "assets.extra").mkdir(exist_ok=True)
    shutil.copyfile(folder / "tfslim_variables.json", folder / "assets.extra/tfslim_variables.json")
    return bool(read_origins(folder))


def _lite_signatures(folder: Path) -> bool:
    served_signature_defs(folder / "model.tflite")
    return bool(read_lite_signatures(folder / "model.tflite"))


def _lite() -> bytes:
    """A TFLite model with signatures, as TensorFlow's converter writes it."""
    module = tf.Module()
    module.w = tf.Variable(np.ones((4, 8), np.float32))
    function = tf.function(lambda x: {"y": tf.matmul(x, module.w)}, [tf.TensorSpec([None, 4], tf.float32, "x")])
    concrete = function.get_concrete_function()
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert())


def _bundle(folder: Path) -> bool:
    found = read_bundle(folder)
    for weight in (*found.graph.weights.values(), *found.variables.values()):
        weight.read()
    return True


def _frozen(folder: Path) -> bool:
    graph_def = read_graph_def(folder / "frozen.pb")
    outputs = [node.name for node in graph_def.node if node.op == "MatMul"][:1]
    graph = plain_graph(graph_def, [], outputs)
    for name in (*graph.by_op.get("Const", ()),):
        graph.value(name)
    return True


def _tensor(folder: Path) -> bool:
    node = tf.compat.v1.NodeDef(name="c", op="Const")
    try:
        tensor = tensor_pb2.TensorProto.FromString((folder / "tensor.pb").read_bytes())
    except DecodeError:
        return False  # tensors come inside of messages that have been parsed
    node.attr["value"].tensor.CopyFrom(tensor)
    constant_value(node)
    return True


def _verdict(folder: Path) -> bool:
    Verdict.read(folder / "verdict.json")
    return True


def _configuration(folder: Path) -> bool:
    settings(folder / "slim.yaml", {})
    return True


def _data(folder: Path) -> bool:
    path = next(str(file) for file in folder.iterdir())
    dataset = open_dataset("d", path, 1 << 16)
    fed = feeding(_SCALARS if path.endswith(".csv") else _SERVED, first_records(dataset), None, path)
    items = (item for shard in shards(dataset) for item in read_shard("d", shard, fed, 2))
    letters = sum(isinstance(item, Letter) for item in islice(items, 100_000))
    return not letters


def _only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def _bytes(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def _v1_model(path: Path) -> Path:
    tf1 = tf.compat.v1

    def build():
        x = tf1.placeholder(tf.float32, [None, 4], name="x")
        weights = tf1.get_variable("w", initializer=np.ones((4, 80), np.float32), use_resource=True)
        words = tf1.get_variable("words", initializer=np.array([b"a", b"bc"]), use_resource=True)
        return {"serving_default": ({"x": x}, {"y": tf.matmul(x, weights), "words": tf.identity(words)})}

    return save_v1(path, build)


def _v2_model(path: Path) -> Path:
    module = tf.Module()
    module.w = tf.Variable(np.ones((4, 3), np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def call(x):
        return {"y": tf.matmul(x, module.w)}

    module.call = call
    return save_v2(path, module, serving_default=call)


def _npz(save: Callable[..., None], arrays: dict[str, np.ndarray]) -> bytes:
    packed = io.BytesIO()
    save(packed, **arrays)
    return packed.getvalue()


def _example() -> bytes:
    proto = proto_module("example.example_pb2").Example()
    proto.features.feature["x"].float_list.value.extend([1.0, 2.0])
    proto.features.feature["n"].int64_list.value.append(4)
    proto.features.feature["t"].bytes_list.value.append(b"word")
    return proto.SerializeToString()


def _request() -> bytes:
    """A PredictionLog: predict_log.request.inputs["x"]."""
    tensor = tf.make_tensor_proto(np.ones((2, 2), np.float32)).SerializeToString()
    entry = encoded([(1, 2, b"x"), (2, 2, tensor)])
    request = encoded([(1, 2, encoded([(3, 2, b"serving_default")])), (2, 2, entry)])
    return encoded([(6, 2, encoded([(1, 2, request)]))])


def _mended_frames(data: bytes) -> bytes:
    """Right checksums for lengths and, where the frame is whole, for its data."""
    made, at = bytearray(), 0
    while at + 12 <= len(data):
        length = struct.unpack_from("<Q", data, at)[0]
        made += data[at : at + 8] + struct.pack("<I", masked_crc(data[at : at + 8]))
        body = data[at + 12 : at + 12 + length]
        made += body
        at += 12 + length + 4
        if at <= len(data):
            made += struct.pack("<I", masked_crc(body))
    return bytes(made) + data[at:]


def _mended_index(data: bytes) -> bytes:
    """Right checksums at the end of each block of a LevelDB table, as far as its footer still names the blocks."""
    made = bytearray(data)
    for start, size in _blocks(data):
        if start + size + 5 <= len(data):
            crc = google_crc32c.value(bytes(made[start : start + size + 1]))
            masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
            made[start + size + 1 : start + size + 5] = struct.pack("<I", masked)
    return bytes(made)


def _blocks(data: bytes) -> list[tuple[int, int]]:
    """Offset and size of the blocks: those of the footer, and before them the rest as one."""
    footer, found, at = data[-48:], [], 0
    for _ in range(2):
        pair = []
        for _ in range(2):
            value, shift = 0, 0
            while at < len(footer) and shift < 64:
                byte = footer[at]
                value |= (byte & 0x7F) << shift
                at, shift = at + 1, shift + 7
                if byte < 0x80:
                    break
            pair.append(value)
        found.append((pair[0], pair[1]))
    first = min((start for start, _ in found), default=0)
    return [(0, max(0, first - 5)), *found]


def _mended_zip(data: bytes) -> bytes:
    """Each member's checksum as zipfile will compute it, where its name and size still fit."""
    import zipfile
    import zlib

    made = bytearray(data)
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or not member.filename:
                continue
            start = member.header_offset + 30 + sum(struct.unpack_from("<HH", data, member.header_offset + 26))
            crc = struct.pack("<I", zlib.crc32(data[start : start + member.file_size]))
            at = data.rfind(member.filename.encode())
            if at >= 46 and data[at - 46 : at - 42] == b"PK\x01\x02":
                made[at - 30 : at - 26] = crc
    except Exception:  # not a zip file any more; that is an input too
        return data
    return bytes(made)


_VERDICT = json.dumps(
    {
        "verdict": "pass",
        "reasons": [],
        "checks": [{"expr": "top1_agreement>=0.9", "value": 1, "bound": 0.9, "passed": True, "dataset": "d"}],
        "models": {
            name: {"bytes": 10, "load_seconds": 0.5, "peak_rss_bytes": 1000, "digest": "ab"}
            for name in ("original", "optimized")
        },
        "datasets": {"d": {"examples": 1, "bad_records": 0, "outputs": {"y": {"cosine": 1.0}}}},
    }
).encode()
_VARIABLES = json.dumps(
    {
        "variables": {
            "w": {"key": "layer/w/.ATTRIBUTES/VARIABLE_VALUE", "trainable": True, "encoding": "int8"},
            "rows": {
                "name": "table",
                "part": "10 4 0,5:-",
                "rows": {"encoding": "int8", "dtype": "float32", "shape": [5, 4]},
            },
            "b": {"changed": ["fold_batch_norms"]},
        }
    }
).encode()
_YAML = b"""encoding: int8
transforms: fold_constants
data: {test: a.jsonl}
gates: ["top1_agreement>=0.99"]
minimum_size: 1024
search_minutes: 1.5
seed: 3
"""
