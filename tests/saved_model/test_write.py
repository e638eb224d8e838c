"""What is written loads everywhere, decodes to the bits that NumPy decodes to, and shares nothing with other models."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import (
    assert_alike,
    assert_serves_alike,
    in_python,
    in_session,
    interface,
    meta_graph,
    normal,
    save_v1,
    served,
    slimmed,
)
from tfslim_core import encodings
from tfslim_core.bundle import read_bundle
from tfslim_core.errors import ModelError
from tfslim_core.ops import op_def
from tfslim_core.quantization.encode_weights import Choice, encode_weights
from tfslim_core.saved_model import write as module
from tfslim_core.saved_model.write import with_values, write_checkpoint, write_graph_def, write_saved_model
from tfslim_core.weights import in_memory

tf1 = tf.compat.v1
X = normal(4, 300)
IDS = np.array([[0, 7, 499], [3, 3, 250]])
REQUEST = [("serving_default", {"x": X, "ids": IDS})]


def build(scale=1.0):
    """A dense layer whose weight is an output too, a table that is only gathered from, a convolution."""

    def made():
        x = tf1.placeholder(tf.float32, [None, 300], name="x")
        ids = tf1.placeholder(tf.int64, [None, 3], name="ids")
        dense, table, kernel = (
            tf1.get_variable(name, initializer=normal(*shape, seed=seed) * np.float32(scale), use_resource=True)
            for seed, (name, shape) in enumerate({"dense": (300, 200), "table": (500, 40), "conv": (3, 1, 8)}.items())
        )
        rows = tf1.nn.embedding_lookup(table, ids)
        image = tf.reshape(x, [-1, 300, 1])
        return {
            "serving_default": (
                {"x": x, "ids": ids},
                {"y": tf.matmul(x, dense), "w": dense * 1.0, "rows": rows, "c": tf.nn.conv1d(image, kernel, 1, "SAME")},
            )
        }

    return made


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return save_v1(tmp_path_factory.mktemp("write") / "m", build())


def quantized(encoding="int8", placement=None, minimum_size=1024):
    def change(bundle):
        graph, entries = encode_weights(bundle.graph, Choice(encoding, minimum_size=minimum_size, placement=placement))
        return replace(bundle, graph=graph, manifest=bundle.manifest.model_copy(update={"weights": entries}))

    return change


def bytes_of(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_model_as_it_was_frozen(original, tmp_path):
    slim = slimmed(original, tmp_path)
    assert_serves_alike(original, slim.path, REQUEST)
    graph = meta_graph(slim.path).graph_def
    assert sum(node.op == "VarHandleOp" for node in graph.node) == 2  # conv is small
    assert sorted(tf.train.load_checkpoint(str(slim.path / "variables/variables")).get_variable_to_shape_map()) == [
        "dense",
        "table",
    ]


@pytest.mark.parametrize("placement", [None, "load", "graph", "rows"])
@pytest.mark.parametrize("encoding", ["int8", "float16"])
def test_every_loader_decodes_the_bits_that_numpy_decodes(original, tmp_path, encoding, placement):
    slim = slimmed(original, tmp_path, quantized(encoding, placement))
    assert interface(slim.path) == interface(original)
    stored = {
        "dense": encodings.encoded(in_memory(normal(300, 200)), encoding, encodings.Sharing((0,))).read(),
        "table": encodings.encoded(in_memory(normal(500, 40, seed=1)), encoding, encodings.Sharing((1,))).read(),
    }
    wanted = served(original, REQUEST)[0]
    for loader in (served, in_session, in_python):
        (answer,) = loader(slim.path, REQUEST)
        assert answer["w"].tobytes() == stored["dense"].tobytes()
        assert answer["rows"].tobytes() == stored["table"][IDS].tobytes()
        assert answer["c"].tobytes() == wanted["c"].tobytes()
        assert np.linalg.norm(answer["y"] - wanted["y"]) < 0.01 * np.linalg.norm(wanted["y"])
    sizes = [sum(map(len, bytes_of(path).values())) for path in (original, slim.path)]
    assert sizes[1] < sizes[0] * (0.3 if encoding == "int8" else 0.55)
    assert bytes_of(slimmed(original, tmp_path / "again", quantized(encoding, placement)).path) == bytes_of(slim.path)


@pytest.mark.parametrize(
    ("encoding", "placement"),
    [("int8", None), ("int8", "load"), ("int8", "graph"), ("palette8/group16", "rows"), ("palette8", "graph")],
)
def test_a_slim_model_is_slimmed_again(original, tmp_path, encoding, placement):
    slim = slimmed(original, tmp_path, quantized(encoding, placement))
    again = slimmed(slim.path, tmp_path / "again")
    assert_alike(served(slim.path, REQUEST), served(again.path, REQUEST), rtol=0, atol=0)
    assert_serves_alike(slim.path, again.path, REQUEST)
    third = slimmed(again.path, tmp_path / "third", quantized())
    assert interface(third.path) == interface(original)
    (answer,), (wanted,) = (served(path, REQUEST) for path in (third.path, original))
    for key in answer:
        assert np.linalg.norm(answer[key] - wanted[key]) < 0.02 * np.linalg.norm(wanted[key])


def test_models_in_one_process_share_nothing(original, tmp_path):
    other = save_v1(tmp_path / "other", build(scale=3.0))
    slims = [
        slimmed(path, tmp_path / name, change).path
        for path, name, change in ((original, "a", None), (other, "b", None), (original, "c", quantized()))
    ]
    wanted = [served(path, REQUEST)[0] for path in slims]
    assert np.ptp(wanted[0]["y"] - wanted[1]["y"]) > 1
    models = [tf.saved_model.load(str(path)) for path in slims]
    feeds = {key: tf.constant(value) for key, value in REQUEST[0][1].items()}
    for _ in range(2):
        for model, answer in zip(models, wanted, strict=True):
            found = {key: value.numpy() for key, value in model.signatures["serving_default"](**feeds).items()}
            assert_alike([answer], [found])


def test_default_attributes_are_stripped_and_none_is_new(original, tmp_path):
    slim = slimmed(original, tmp_path, quantized())
    found = meta_graph(slim.path)
    assert found.meta_info_def.stripped_default_attrs
    assert list(found.meta_info_def.tags) == ["serve"]
    assert found.meta_info_def.tensorflow_version == meta_graph(original).meta_info_def.tensorflow_version
    assert found.graph_def.versions == meta_graph(original).graph_def.versions
    for node in found.graph_def.node:
        for attribute in op_def(node.op, {}).attr:
            if attribute.HasField("default_value") and attribute.name in node.attr:
                assert node.attr[attribute.name] != attribute.default_value, (node.name, attribute.name)
        assert not {name for name in node.attr if name.startswith("_")}, node.name
    known = set(
        "Placeholder Const VarHandleOp ReadVariableOp RestoreV2 AssignVariableOp NoOp Cast Mul Identity Reshape "
        "DecodeRaw DecodeCompressed".split()
    )
    added = Counter(node.op for node in found.graph_def.node) - Counter(
        node.op for node in meta_graph(original).graph_def.node
    )
    assert set(added) <= known | {"GatherV2"}


def test_much_is_written_and_restored_piece_by_piece(original, tmp_path, monkeypatch):
    whole = slimmed(original, tmp_path)
    monkeypatch.setattr(module, "SHARD_BYTES", 100_000)
    monkeypatch.setattr(module, "RESTORE_BYTES", 100_000)
    pieces = slimmed(original, tmp_path / "pieces", quantized("int8", "load"))
    assert sum(node.op == "RestoreV2" for node in meta_graph(pieces.path).graph_def.node) == 1
    monkeypatch.setattr(module, "SHARD_BYTES", 1)
    monkeypatch.setattr(module, "RESTORE_BYTES", 1)
    pieces = slimmed(original, tmp_path / "small")
    assert sum(node.op == "RestoreV2" for node in meta_graph(pieces.path).graph_def.node) == 2
    assert_serves_alike(whole.path, pieces.path, REQUEST)
    assert not [path.name for path in (pieces.path / "variables").iterdir() if path.name.startswith("shards")]


def test_a_checkpoint_holds_every_dtype(tmp_path):
    values = {name: (normal(7, 5) * 9).astype(name) for name in "float64 int8 uint32 bool complex64 int64".split()}
    values |= {
        "words": np.array([b"a", b"b\0"], object),
        "empty": np.zeros((0, 4), np.float32),
        "rows": normal(9, 4)[::2],
    }
    values["fixed"] = normal(4, 4)
    values["fixed"].flags.writeable = False
    write_checkpoint(tmp_path / "c", {key: in_memory(value) for key, value in values.items()})
    reader = tf.train.load_checkpoint(str(tmp_path / "c"))
    for key, value in values.items():
        found = reader.get_tensor(key)
        assert found.shape == value.shape
        assert found.tolist() == value.tolist()


def test_a_checkpoint_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    def full(**arguments):
        raise tf.errors.ResourceExhaustedError(None, None, "no space\nleft on device")

    monkeypatch.setattr(tf.raw_ops, "SaveV2", full)
    with pytest.raises(ModelError, match="cannot be written: no space left") as caught:
        write_checkpoint(tmp_path / "c", {"w": in_memory(normal(3))})
    assert "\n" not in str(caught.value)


def test_a_plain_frozen_graph_computes_the_same(original, tmp_path):
    slim = slimmed(original, tmp_path, quantized())
    write_graph_def(slim.bundle, tmp_path / "frozen.pb")
    graph_def = tf1.GraphDef.FromString((tmp_path / "frozen.pb").read_bytes())
    signature = slim.bundle.manifest.signature_defs()["serving_default"]
    with tf1.Session(graph=tf.Graph()) as session:
        tf1.import_graph_def(graph_def, name="")
        found = session.run({k: i.name for k, i in signature.outputs.items()}, {"x:0": X, "ids:0": IDS})
    assert_alike(served(slim.path, REQUEST), [found])


@pytest.mark.parametrize("encoding", ["int8", "float16"])
def test_a_plain_frozen_graph_holds_codes_and_decodes_the_bits_that_numpy_decodes(original, tmp_path, encoding):
    plain, slim = slimmed(original, tmp_path / "plain"), slimmed(original, tmp_path, quantized(encoding, "load"))
    whole, graph_def = with_values(plain.bundle.graph), with_values(slim.bundle.graph)
    assert graph_def.ByteSize() < whole.ByteSize() * (0.3 if encoding == "int8" else 0.55)
    encoded = {name for name, weight in slim.bundle.graph.weights.items() if weight.encoded is not None}
    assert len(encoded) == 2
    by_name = {node.name: node.op for node in graph_def.node}
    assert {by_name[name] for name in encoded} == {"Mul" if encoding == "int8" else "Cast"}
    with tf1.Session(graph=tf.Graph()) as session:
        tf1.import_graph_def(graph_def, name="")
        for name in encoded:
            assert session.run(f"{name}:0").tobytes() == slim.bundle.graph.value(name).tobytes()


def test_rows_of_a_table_are_decoded_where_a_session_would_not_fold_it(original, tmp_path, monkeypatch):
    slim = slimmed(original, tmp_path, quantized("int8", "load"))
    monkeypatch.setattr(module, "FOLDED_BYTES", 10_000)
    graph_def = with_values(slim.bundle.graph)
    gathers = [node for node in graph_def.node if node.op == "GatherV2"]
    assert {node.attr["Tparams"].type for node in gathers} == {tf.int8.as_datatype_enum, tf.float16.as_datatype_enum}
    signature = slim.bundle.manifest.signature_defs()["serving_default"]
    with tf1.Session(graph=tf.Graph()) as session:
        tf1.import_graph_def(graph_def, name="")
        found = session.run({k: i.name for k, i in signature.outputs.items()}, {"x:0": X, "ids:0": IDS})
    assert_alike(served(slim.path, REQUEST), [found])


def test_what_counts_for_the_limit_are_the_bytes_that_are_stored(original, tmp_path, monkeypatch):
    slim = slimmed(original, tmp_path, quantized())
    assert sum(weight.nbytes for weight in slim.bundle.graph.weights.values()) > 200_000
    monkeypatch.setattr(module, "_PROTOBUF_LIMIT", 100_000)
    assert with_values(slim.bundle.graph).ByteSize() < 100_000


def test_a_frozen_graph_beyond_what_protobuf_holds_is_refused(original, tmp_path, monkeypatch):
    slim = slimmed(original, tmp_path)
    monkeypatch.setattr(module, "_PROTOBUF_LIMIT", 100_000)
    with pytest.raises(ModelError, match="at most 2 GiB: keep the bundle"):
        with_values(slim.bundle.graph)


def test_weights_of_a_bundle_that_cannot_be_read_are_told(original, tmp_path):
    slim = slimmed(original, tmp_path)
    whole = (tmp_path / "bundle/weights.safetensors").read_bytes()
    bundle = read_bundle(tmp_path / "bundle")
    (tmp_path / "bundle/weights.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="cut short"):
        write_saved_model(bundle, tmp_path / "out")
    assert not (tmp_path / "out/saved_model.pb").exists()
    assert slim.path.exists()


def few_numbers():
    """A weight for each way of storing one without loss, and one of each kind that palettes and masks are for."""
    random = np.random.default_rng(7)
    pruned = np.where(random.random((300, 200)) < 0.9, 0, random.normal(size=(300, 200))).astype(np.float32)
    pruned[0, :3] = -0.0, np.nan, np.inf
    return {
        "filled": np.full((300, 200), np.nan, np.float32),
        "counted": np.arange(20_000, dtype=np.int64).reshape(100, 200) * 3 - 7,
        "few": random.choice(normal(9), (300, 200)),
        "flags": random.random((300, 200)) < 0.3,
        "pruned": pruned,
        "ids": random.integers(0, 40_000, (200, 100)),
        "plain": normal(300, 200),
        "double": normal(300, 200).astype(np.float64),
        "repeated": np.tile(normal(1, 300), (200, 1)),
        "masked": np.where(random.random((300, 200)) < 0.8, 0, normal(300, 200)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def of_few_numbers(tmp_path_factory):
    def made():
        x = tf1.placeholder(tf.float32, [], name="x")
        outputs = {}
        for name, value in few_numbers().items():
            weight = tf1.get_variable(name, initializer=value, use_resource=True)
            outputs[name] = tf.where(x > 0, weight, tf.zeros_like(weight))
        return {"serving_default": ({"x": x}, outputs)}

    return save_v1(tmp_path_factory.mktemp("few") / "m", made)


@pytest.mark.parametrize("placement", ["load", "graph"])
def test_every_loader_decodes_what_was_stored_without_loss(of_few_numbers, tmp_path, placement):
    slim = slimmed(of_few_numbers, tmp_path, quantized("lossless", placement))
    assert interface(slim.path) == interface(of_few_numbers)
    assert {entry.name: entry.encoding for entry in slim.bundle.manifest.weights} == {
        "filled": "fill",
        "counted": "range",
        "few": "lookup",
        "flags": "lookup",
        "pruned": "sparse",
        "ids": "bytes8",
        "plain": "bytes4",
        "double": "bytes8",
        "repeated": "zlib",
        "masked": "sparse",
    }
    for loader in (served, in_session, in_python):
        (answer,) = loader(slim.path, [("serving_default", {"x": np.float32(1)})])
        for name, value in few_numbers().items():
            assert answer[name].tobytes() == value.tobytes(), name
    sizes = [sum(map(len, bytes_of(path).values())) for path in (of_few_numbers, slim.path)]
    assert sizes[1] < 0.42 * sizes[0]


@pytest.mark.parametrize("encoding", ["palette4", "palette8/group16", "palette3/tensor", "sparse8", "sparse16"])
def test_every_loader_decodes_palettes_and_masks(of_few_numbers, tmp_path, encoding):
    slim = slimmed(of_few_numbers, tmp_path, quantized(encoding))
    entries = {entry.name: entry.encoding for entry in slim.bundle.manifest.weights}
    taken = [name for name, kind in entries.items() if kind == encoding]
    assert taken
    assert entries["filled"] == "fill"
    for loader in (served, in_session, in_python):
        (answer,) = loader(slim.path, [("serving_default", {"x": np.float32(1)})])
        for name, value in few_numbers().items():
            wanted = slim.bundle.graph.value(name) if name in taken else value
            assert answer[name].tobytes() == wanted.tobytes(), name


@pytest.mark.parametrize("encoding", ["palette4", "palette3/group10"])
def test_rows_of_a_table_of_palettes_are_decoded(original, tmp_path, encoding):
    slim = slimmed(original, tmp_path, quantized(encoding, "rows"))
    table = encodings.encoded(in_memory(normal(500, 40, seed=1)), encoding, encodings.Sharing((1,))).read()
    assert "table" not in slim.bundle.graph.weights
    for loader in (served, in_session, in_python):
        (answer,) = loader(slim.path, REQUEST)
        assert answer["rows"].tobytes() == table[IDS].tobytes()


def weight(seed=0):
    """As it is made where this is called, so that it waits for what decides whether that runs."""
    return tf.constant(normal(300, 300, seed=seed) / 10, name="w")


def times(count, step, x):
    return tf1.while_loop(lambda i, _: i < count, lambda i, y: (i + 1, step(y)), [tf.constant(0), x])[1]


def chosen(x):
    """A weight that only the branch that runs may hand on: what merges them reads nothing else of it."""
    return tf1.cond(tf.reduce_sum(x) > 0, weight, lambda: weight(1))


WAITS = {
    "after another": lambda x: after(x),
    "in a loop": lambda x: times(3, lambda y: tf.matmul(y, weight()), x),
    "in a loop in a loop": lambda x: times(2, lambda y: times(2, lambda z: tf.matmul(z, weight()), y) - y, x),
    "in a branch": lambda x: tf.matmul(x, chosen(x)),
    "in a branch in a loop": lambda x: times(3, lambda y: tf.matmul(y, chosen(y)), x),
    "in a loop in a branch": lambda x: tf1.cond(
        tf.reduce_sum(x) > 0, lambda: times(2, lambda y: tf.matmul(y, weight()), x), lambda: -x
    ),
    "after a loop in a loop": lambda x: times(
        2, lambda y: tf.matmul(times(2, lambda z: z * 1.5, y), with_wait(times(2, lambda z: z * 1.5, y))), x
    ),
}


def after(x):
    with tf.control_dependencies([tf.identity(x, "first")]):
        return tf.matmul(x, weight())


def with_wait(value):
    with tf.control_dependencies([value]):
        return weight()


@pytest.mark.parametrize("encoding", ["int8", "int3/block50", None])
@pytest.mark.parametrize("answer", WAITS.values(), ids=WAITS)
def test_a_weight_in_loops_and_branches_is_stored_once_and_decoded_at_load(answer, encoding, tmp_path):
    def build():
        x = tf1.placeholder(tf.float32, [None, 300], name="x")
        return {"serving_default": ({"x": x}, {"y": answer(x)})}

    tf1.disable_control_flow_v2()
    try:
        model = save_v1(tmp_path / "m", build)
    finally:
        tf1.enable_control_flow_v2()
    slim = slimmed(model, tmp_path, quantized(encoding) if encoding else None)
    assert {(entry.encoding, entry.placement) for entry in slim.bundle.manifest.weights} <= {(encoding, "load")}
    weights = slim.bundle.graph.weights
    assert len(weights) == len(slim.bundle.manifest.weights) or not encoding
    written = meta_graph(slim.path).graph_def
    assert max(node.ByteSize() for node in written.node) < 2000
    assert sum(node.op == "VarHandleOp" for node in written.node) == len(weights)
    requests = [("serving_default", {"x": X}), ("serving_default", {"x": -X})]
    decoded = slim.bundle.graph.replace(weights={name: in_memory(w.read()) for name, w in weights.items()})
    session = in_graph(with_values(decoded), slim.bundle, requests)
    assert np.ptp(session[0]["y"]) > 0
    for loader in (served, in_session, in_python):
        for wanted, found in zip(session, loader(slim.path, requests), strict=True):
            assert found["y"].tobytes() == wanted["y"].tobytes()


def in_graph(graph_def, bundle, requests):
    """What a frozen graph answers."""
    signatures = bundle.manifest.signature_defs()
    with tf1.Session(graph=tf1.Graph()) as session:
        tf1.import_graph_def(graph_def, name="")
        return [
            session.run(
                {key: info.name for key, info in signatures[name].outputs.items()},
                {signatures[name].inputs[key].name: value for key, value in feeds.items()},
            )
            for name, feeds in requests
        ]
