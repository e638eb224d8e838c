"""A bundle reads as what was written, weights only when asked for; a damaged one says so in one line."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from tests.saved_models import normal
from tfslim_core import encodings
from tfslim_core.bundle import AssetEntry, Bundle, Manifest, Source, is_bundle, read_bundle, roots, write_safetensors
from tfslim_core.errors import ModelError, TfslimError
from tfslim_core.graph import Graph, external_constant, make_node
from tfslim_core.weights import DTYPES, in_memory

W = normal(40, 30)
TABLE = normal(300, 8, seed=1)


def source():
    return Source(
        path="/m", digest="0" * 64, bytes=1, live_parameters=2, tensorflow_version="2.21.0", producer=2286, nodes=3
    )


@pytest.fixture
def bundle(tmp_path):
    """y = x @ w, with an encoded w, a variable, an asset and a file in assets.extra."""
    files = tmp_path / "files"
    (files / "assets/deep").mkdir(parents=True)
    (files / "assets/deep/words.txt").write_text("a\nb\n")
    (files / "assets/unused.txt").write_text("not named by the model")
    (files / "assets.extra").mkdir()
    (files / "assets.extra/tf_serving_warmup_requests").write_bytes(b"\0\1")
    x = make_node("Placeholder", "x", [], dtype=tf.float32)
    path = make_node("Const", "path", [], dtype=tf.string)
    path.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(b""))
    w, weights = external_constant("w", encodings.encoded(in_memory(W), "int8", encodings.Sharing((0,))))
    table, more = external_constant("table", in_memory(TABLE))
    y = make_node("MatMul", "y", ["x", "w"], T=tf.float32)
    z = make_node("MatMul", "z", ["table", "x"], T=tf.float32, transpose_b=True)
    variable = make_node("VarHandleOp", "v", [], dtype=tf.int64, shared_name="v")
    variable.attr["shape"].shape.dim.add().size = 2
    init = make_node("NoOp", "init", ["^v"])
    graph_def = tf.compat.v1.GraphDef()
    graph_def.versions.producer = 2286
    graph_def.node.extend([x, path, w, table, y, z, variable, init])
    graph = Graph.of(graph_def, ["x:0", "path:0"], ["y:0", "z:0"], ["init"], weights | more)
    signature = {
        "inputs": {
            "x": {"name": "x:0", "dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "40"}]}}
        },
        "outputs": {
            "y": {"name": "y:0", "dtype": "DT_FLOAT", "tensor_shape": {"unknown_rank": True}},
            "z": {"name": "z:0", "dtype": "DT_FLOAT", "tensor_shape": {}},
        },
        "method_name": "tensorflow/serving/predict",
    }
    manifest = Manifest(
        tags=["serve"],
        signatures={"serving_default": signature},
        init_op="init",
        assets=[AssetEntry(tensor="path:0", filename="deep/words.txt")],
        source=source(),
    )
    return Bundle(graph, manifest, files, {"v": in_memory(np.int64([3, 4]))})


@pytest.fixture
def written(bundle, tmp_path):
    (tmp_path / "bundle").mkdir()
    bundle.write(tmp_path / "bundle")
    return tmp_path / "bundle"


def damaged(path, match):
    """Reading it, weights too, ends in one line."""

    def use():
        found = read_bundle(path)
        for weight in (*found.graph.weights.values(), *found.variables.values()):
            weight.read()
        (path.parent / "copy").mkdir(exist_ok=True)
        found.write(path.parent / "copy")

    with pytest.raises(TfslimError, match=match) as caught:
        use()
    assert "\n" not in str(caught.value)


def test_a_bundle_reads_as_it_was_written(bundle, written):
    found = read_bundle(written)
    assert is_bundle(written)
    assert list(found.graph.nodes.items()) == list(bundle.graph.nodes.items())
    assert found.graph.rest == bundle.graph.rest
    assert (found.graph.inputs, found.graph.outputs, found.graph.targets) == (
        bundle.graph.inputs,
        bundle.graph.outputs,
        bundle.graph.targets,
    )
    assert found.manifest == bundle.manifest.model_copy(update={"encoded": found.manifest.encoded})
    assert found.manifest.signature_defs() == bundle.manifest.signature_defs()
    assert found.graph.weights["table"].read().tolist() == TABLE.tolist()
    w = found.graph.weights["w"]
    assert (w.encoded.encoding, sorted(w.encoded.parts)) == ("int8", ["codes", "scale"])
    assert w.read().tobytes() == bundle.graph.weights["w"].read().tobytes()
    assert found.variables["v"].read().tolist() == [3, 4]
    assert found.stored_bytes == bundle.stored_bytes == TABLE.nbytes + W.size + 30 * 2
    assert found.graph.weights["table"].read().ctypes.data % 64 == 0


def test_only_the_assets_that_are_named_and_all_of_the_extra_ones_are_kept(written):
    files = sorted(path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file())
    assert files == [
        "assets.extra/tf_serving_warmup_requests",
        "assets/deep/words.txt",
        "graph.pb",
        "manifest.json",
        "weights.safetensors",
    ]


def test_the_same_bundle_is_written_in_the_same_bytes(bundle, written, tmp_path):
    (tmp_path / "again").mkdir()
    shuffled = dict(reversed(bundle.graph.weights.items()))
    read_bundle(written).write(tmp_path / "again")
    (tmp_path / "third").mkdir()
    replace(bundle, graph=replace(bundle.graph, weights=shuffled)).write(tmp_path / "third")
    for name in ("graph.pb", "manifest.json", "weights.safetensors"):
        for other in ("again", "third"):
            assert (tmp_path / other / name).read_bytes() == (written / name).read_bytes(), name


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (0, 3), (3, 2), (5,)], ids=str)
def test_the_safetensors_library_reads_every_dtype_as_it_was(dtype, shape, tmp_path):
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    value = (normal(*shape) * 50).astype(kind)
    write_safetensors(tmp_path / "w", {"a/b": in_memory(value), "c": in_memory(np.float64([1]))})
    found = load_file(tmp_path / "w")
    assert (found["a/b"].dtype, found["a/b"].shape) == (kind, shape)
    assert found["a/b"].tobytes() == value.tobytes()


def test_what_is_not_laid_out_in_rows_is_written_as_it_reads(tmp_path):
    write_safetensors(tmp_path / "w", {"t": in_memory(W.T), "s": in_memory(W[::2])})
    found = load_file(tmp_path / "w")
    assert found["t"].tolist() == W.T.tolist()
    assert found["s"].tolist() == W[::2].tolist()


def test_a_weight_is_read_when_it_is_asked_for(written):
    found = read_bundle(written)
    (written / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be read at 'table'"):
        found.graph.weights["table"].read()


def test_what_is_no_bundle_is_told_apart(tmp_path, written):
    damaged(tmp_path / "none", "no such directory")
    damaged(written / "graph.pb", "is not a bundle")
    (tmp_path / "empty").mkdir()
    damaged(tmp_path / "empty", "is not a bundle: it holds no manifest.json$")
    (tmp_path / "empty/saved_model.pb").write_bytes(b"")
    damaged(tmp_path / "empty", "it is a SavedModel: run tfslim freeze first")


def changed(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.pop("signatures"), "manifest.json is damaged: signatures"),
        (lambda m: m.update(schema_version=3), "version 3; this tfslim reads 2"),
        (lambda m: m.update(schema_version=1, unheard_of=3), "version 1; this tfslim reads 2"),
        (lambda m: m.update(unheard_of=3), "unheard_of"),
        (lambda m: m.update(tags=3), "manifest.json is damaged: tags"),
        (lambda m: m["signatures"]["serving_default"].update(inputs=3), "damaged signature"),
        (lambda m: m["signatures"]["serving_default"]["inputs"]["x"].update(name="gone:0"), "gone"),
        (lambda m: m["signatures"]["serving_default"]["inputs"]["x"].update(name="x:7"), "x:7"),
        (lambda m: m["signatures"]["serving_default"]["inputs"]["x"].update(dtype="DT_NONE"), "damaged signature"),
        (lambda m: m.update(init_op="gone"), "gone"),
        (lambda m: m["encoded"]["w"].update(encoding="int88"), "int88"),
        (lambda m: m["encoded"].update(table=m["encoded"]["w"]), "encoded weight 'table'"),
        (lambda m: m["encoded"].clear(), "'w'"),
        (lambda m: m["encoded"]["w"].update(encoding="float16"), "damaged at 'w'"),
        (lambda m: m["encoded"]["w"].update(shape=[2, 3]), "damaged at 'w'"),
        (lambda m: m["encoded"]["w"].update(dtype="float3"), "damaged at 'w'"),
        (lambda m: m["assets"][0].update(filename="../graph.pb"), "leads outside|missing"),
        (lambda m: m["assets"][0].update(filename="../../secret"), "leads outside"),
        (lambda m: m["assets"][0].update(filename="/etc/hostname"), "leads outside"),
        (lambda m: m["assets"][0].update(filename="none.txt"), "missing from assets"),
    ],
)
def test_a_damaged_manifest_is_told(written, change, match):
    (written.parent / "secret").write_text("secret")
    changed(written, change)
    damaged(written, match)


def test_a_manifest_that_is_no_json_is_told(written):
    whole = (written / "manifest.json").read_bytes()
    for text in (b"", whole[: len(whole) // 2], b"\xff\xfe", b"[]", b"[" * 100_000):
        (written / "manifest.json").write_bytes(text)
        damaged(written, "manifest.json is damaged")


@pytest.mark.parametrize("name", ["graph.pb", "weights.safetensors"])
def test_a_missing_file_is_told(written, name):
    (written / name).unlink()
    damaged(written, name)


@pytest.mark.parametrize("name", ["graph.pb", "weights.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 0.3, 0.9, -1])
def test_a_cut_file_is_told(written, name, keep):
    whole = (written / name).read_bytes()
    (written / name).write_bytes(whole[: int(keep * len(whole)) if 0 < keep < 1 else keep])
    damaged(written, "graph.pb|damaged|constant|gone|interface|weights.safetensors")


def rewritten(path, change):
    """The bundle's safetensors file with another header."""
    data = (path / "weights.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    (path / "weights.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h: h.pop("w#scale"), "damaged|'w'"),
        (lambda h: h["table"].update(dtype="F8_E4M3"), "damaged"),
        (lambda h: h["table"].update(shape=[2**40, 2**40]), "damaged"),
        (lambda h: h["table"].update(dtype="I32"), "'table' is float32, its weight int32"),
        (lambda h: h["w#scale"].update(shape=[30, 1]), "scale"),
        (lambda h: h["w#scale"].update(shape=[30]), "scale"),
        (lambda h: h["table"].update(data_offsets=[0, 2**50]), "damaged"),
        (lambda h: h.update({"w#other": h.pop("w#scale")}), "'w'"),
        (lambda h: h.update({"w#tensor_proto": h.pop("w#codes")}), "damaged|'w'"),
        (lambda h: h.update({"w": h.pop("w#codes")}), "'w'"),
        (lambda h: h.update({"tab": h.pop("table")}), "'table'"),
    ],
)
def test_damaged_weights_are_told(written, change, match):
    rewritten(written, change)
    damaged(written, match)


def test_a_symlink_that_leads_out_of_a_bundle_is_refused(written, tmp_path):
    shutil.move(written / "weights.safetensors", tmp_path / "elsewhere")
    (written / "weights.safetensors").symlink_to(tmp_path / "elsewhere")
    damaged(written, "leads outside")


def test_a_symlink_in_the_extra_assets_is_not_followed_out(written, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (written / "assets.extra/link").symlink_to(tmp_path / "secret")
    damaged(written, "leads outside")
    (written / "assets.extra/link").unlink()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/secret").write_text("secret")
    (written / "assets.extra/link").symlink_to(tmp_path / "folder")
    found = read_bundle(written)
    (tmp_path / "copied").mkdir()
    with suppress(ModelError):
        found.write(tmp_path / "copied")
    assert not list((tmp_path / "copied").rglob("secret"))


def test_roots_are_named_once_and_in_order():
    signatures = Manifest(
        tags=[],
        signatures={
            "b": {"inputs": {"x": {"name": "x:0"}}, "outputs": {"y": {"name": "y:0"}}},
            "a": {
                "inputs": {
                    "s": {
                        "coo_sparse": {
                            "values_tensor_name": "v:0",
                            "indices_tensor_name": "i:0",
                            "dense_shape_tensor_name": "d:0",
                        }
                    },
                    "x": {"name": "x:0"},
                },
                "outputs": {"c": {"composite_tensor": {"components": [{"name": "c:0"}, {"name": "c:1"}]}}},
            },
        },
        init_op=None,
        source=source(),
    ).signature_defs()
    assert roots(signatures) == (["v:0", "i:0", "d:0", "x:0"], ["c:0", "c:1", "y:0"])
