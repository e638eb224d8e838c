"""freeze then reexport: every loader gives the original's answers, and nothing that a model must keep is lost."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.saved_models import (
    BASIC_PITCH,
    GUESSLANG,
    assert_alike,
    assert_serves_alike,
    in_python,
    in_session,
    interface,
    meta_graph,
    normal,
    save_v1,
    save_v2,
    served,
    slimmed,
)
from tfslim_core.errors import GraphError, ModelError, TfslimError
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.read import read_saved_model

tf1 = tf.compat.v1
X = normal(4, 3)
WORDS = np.array([b"a", b"c", b"?", b"b"], object)


def weight(*shape, seed=0):
    return tf1.get_variable(f"w{seed}", initializer=normal(*shape, seed=seed), use_resource=True)


@pytest.fixture
def words(tmp_path):
    (tmp_path / "words.txt").write_text("a\nb\nc\n")
    return str(tmp_path / "words.txt")


def vocabulary(lookup, words):
    index = lookup.TextFileIndex
    return lookup.TextFileInitializer(words, tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)


def files_of(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def add_extra(path):
    (path / "assets.extra/more").mkdir(parents=True)
    (path / "assets.extra/tf_serving_warmup_requests").write_bytes(b"\0warm\xff")
    (path / "assets.extra/more/notes.txt").write_text("notes")


def test_tables_and_assets_of_tensorflow_1(tmp_path, words):
    def build():
        s = tf1.placeholder(tf.string, [None], name="s")
        table = tf1.lookup.StaticHashTable(vocabulary(tf1.lookup, words), -1)
        back = tf1.lookup.StaticHashTable(
            tf1.lookup.KeyValueTensorInitializer(tf.constant([0, 1], tf.int64), ["zero", "one"]), "many"
        )
        ids = table.lookup(s)
        rows = tf1.nn.embedding_lookup(weight(5, 4000), ids + 1)
        return {"serving_default": ({"s": s}, {"i": ids, "name": back.lookup(ids), "rows": rows})}

    original = save_v1(tmp_path / "m", build, init=tf1.tables_initializer, assets=True)
    add_extra(original)
    assert not meta_graph(original).asset_file_def
    slim = slimmed(original, tmp_path)
    (tmp_path / "words.txt").unlink()  # the servable's own file is what counts
    slim_path = (tmp_path / "moved").resolve()
    shutil.move(slim.path, slim_path)
    assert_serves_alike(original, slim_path, [("serving_default", {"s": WORDS})])
    files = files_of(slim_path)
    assert files["assets/words.txt"] == b"a\nb\nc\n"
    assert files["assets.extra/tf_serving_warmup_requests"] == b"\0warm\xff"
    assert files["assets.extra/more/notes.txt"] == b"notes"
    found = meta_graph(slim_path)
    assert [asset.filename for asset in found.asset_file_def] == ["words.txt"]
    assert len(found.collection_def["saved_model_assets"].any_list.value) == 1


class Tables(tf.Module):
    def __init__(self, words):
        super().__init__()
        self.file = tf.lookup.StaticVocabularyTable(vocabulary(tf.lookup, words), 2)
        self.pairs = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], [7.0, 8.0]), -1.0)
        self.changing = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -5)
        self.changing.insert(["a", "c"], [11, 12])
        self.dense = tf.lookup.experimental.DenseHashTable(tf.int64, tf.float32, 0.5, -1, -2)
        self.dense.insert([0, 1], [2.5, 3.5])
        self.w = tf.Variable(normal(5, 4000))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="s")])
    def look(self, s):
        ids = self.file.lookup(s)
        return {
            "file": ids,
            "pairs": self.pairs.lookup(s),
            "changing": self.changing.lookup(s),
            "dense": self.dense.lookup(ids),
            "rows": tf.gather(self.w, ids),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="s")])
    def learn(self, s):
        self.changing.insert(s, tf.fill(tf.shape(s), tf.constant(99, tf.int64)))
        return {"size": self.changing.size()}


def test_tables_and_assets_of_tensorflow_2(tmp_path, words):
    model = Tables(words)
    original = save_v2(tmp_path / "m", model, serving_default=model.look, learn=model.learn)
    add_extra(original)
    slim = slimmed(original, tmp_path)
    (tmp_path / "words.txt").unlink()
    look, learn = ("serving_default", {"s": WORDS}), ("learn", {"s": np.array([b"?", b"new"], object)})
    requests = [look, learn, look, learn]
    assert_serves_alike(original, slim.path, requests)
    answers = served(slim.path, requests)
    assert answers[0]["changing"].tolist() == [11, 12, -5, -5]
    assert answers[2]["changing"].tolist() == [11, 12, 99, -5]
    assert {name for name in files_of(slim.path) if name.startswith("assets")} == {
        "assets/words.txt",
        "assets.extra/tf_serving_warmup_requests",
        "assets.extra/more/notes.txt",
        "assets.extra/tfslim_variables.json",
    }
    again = slimmed(slim.path, tmp_path / "again")
    assert_serves_alike(original, again.path, requests)


class Everything(tf.Module):
    """Signatures of every odd kind."""

    def __init__(self):
        super().__init__()
        self.w, self.unused = tf.Variable(normal(3, 6000)), tf.Variable(normal(50, 50), name="unused")

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def score(self, x):
        values, places = tf.math.top_k(tf.matmul(x, self.w), 2)
        return {"values": values, "places": places, "x": x}

    @tf.function(input_signature=[])
    def nothing(self):
        return {"words": tf.constant(["a", "b"]), "numbers": tf.constant([1.5, 2.5]), "w": self.w}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.int32, name="a"), tf.TensorSpec([2, None], tf.bool, name="b")])
    def shapes(self, a, b):
        return {"rank": tf.rank(a), "flat": tf.reshape(a, [-1]), "b": b, "unread": tf.zeros([])}


def test_signatures_of_every_kind(tmp_path):
    model = Everything()
    original = save_v2(tmp_path / "m", model, serving_default=model.score, nothing=model.nothing, shapes=model.shapes)
    slim = slimmed(original, tmp_path)
    requests = [
        ("serving_default", {"x": X}),
        ("nothing", {}),
        ("shapes", {"a": np.arange(6, dtype=np.int32).reshape(1, 2, 3), "b": np.ones((2, 5), bool)}),
        ("shapes", {"a": np.int32(3), "b": np.zeros((2, 0), bool)}),
    ]
    assert_serves_alike(original, slim.path, requests)
    assert slim.bundle.manifest.signatures.keys() == {"serving_default", "nothing", "shapes"}
    assert slim.bundle.manifest.source.live_parameters == 18000
    assert any("object graph" in line for line in slim.bundle.manifest.dropped)


def test_only_the_asked_signatures_and_what_they_need_are_kept(tmp_path):
    model = Everything()
    original = save_v2(tmp_path / "m", model, serving_default=model.score, nothing=model.nothing, shapes=model.shapes)
    slim = slimmed(original, tmp_path, signatures=["shapes"])
    assert interface(slim.path) == {"shapes": interface(original)["shapes"]}
    assert not slim.bundle.graph.weights
    request = [("shapes", {"a": np.arange(6, dtype=np.int32), "b": np.ones((2, 5), bool)})]
    for loader in (served, in_session, in_python):
        assert_alike(served(original, request), loader(slim.path, request))
    assert not (slim.path / "variables").exists()


def test_methods_defaults_and_sparse_entries(tmp_path):
    def build():
        x = tf1.placeholder_with_default(normal(2, 3), [None, 3], name="x")
        s = tf1.sparse_placeholder(tf.float32, [None, 4], name="s")
        examples = tf1.placeholder(tf.string, [None], name="examples")
        dense = tf1.sparse_tensor_to_dense(s)
        y = tf.matmul(x, weight(3, 6000))
        doubled = tf.SparseTensor(s.indices, s.values * 2, s.dense_shape)
        scores = tf.cast(tf.strings.length(examples), tf.float32)[:, None] * [[1.0, 0.5]]
        labels = tf.tile([["yes", "no"]], [tf.shape(examples)[0], 1])
        return {
            "serving_default": ({"x": x}, {"y": y, "x": x}),
            "sparse": ({"s": s, "x": x}, {"dense": dense, "doubled": doubled, "s": s}),
            "classify": ({"inputs": examples}, {"classes": labels, "scores": scores}),
            "regress": ({"inputs": examples}, {"outputs": scores[:, :1]}),
        }

    methods = {"classify": "tensorflow/serving/classify", "regress": "tensorflow/serving/regress"}
    original = save_v1(tmp_path / "m", build, methods=methods)
    slim = slimmed(original, tmp_path)
    assert interface(slim.path)["classify"][0] == "tensorflow/serving/classify"
    sparse = {
        "s/indices": np.array([[0, 1], [1, 3]]),
        "s/values": np.array([5, 6], np.float32),
        "s/dense_shape": np.array([2, 4]),
    }
    requests = [("serving_default", {}), ("serving_default", {"x": X}), ("sparse", sparse)]
    requests += [(name, {"inputs": np.array([b"abc", b"z"], object)}) for name in methods]
    assert_serves_alike(original, slim.path, requests, loaders=(served,))
    assert_serves_alike(original, slim.path, requests[1:2] + requests[3:])
    proto = saved_model_pb2.SavedModel.FromString((original / "saved_model.pb").read_bytes())
    signature = proto.meta_graphs[0].signature_def["classify"]
    signature.defaults["inputs"].CopyFrom(tf.make_tensor_proto([b"four"]))
    (original / "saved_model.pb").write_bytes(proto.SerializeToString())
    with_defaults = slimmed(original, tmp_path / "defaults")
    assert_alike(served(original, [("classify", {})]), served(with_defaults.path, [("classify", {})]))


def test_one_tag_set_of_several(tmp_path):
    builder = tf1.saved_model.Builder(str(tmp_path / "m"))
    for number, tags in enumerate((["serve"], ["serve", "gpu"])):
        with tf1.Graph().as_default(), tf1.Session() as session:
            x = tf1.placeholder(tf.float32, [None, 3], name="x")
            y = tf.matmul(x, weight(3, 6000)) + number
            signature = tf1.saved_model.predict_signature_def({"x": x}, {f"y{number}": y})
            session.run(tf1.global_variables_initializer())
            if number:
                builder.add_meta_graph(tags, {"serving_default": signature})
            else:
                builder.add_meta_graph_and_variables(session, tags, {"serving_default": signature})
    builder.save()
    for tags in (("serve",), ("gpu", "serve")):
        slim = slimmed(tmp_path / "m", tmp_path / "-".join(tags), tags=tags)
        request = [("serving_default", {"x": X})]
        wanted = served(tmp_path / "m", request, tags)
        for loader in (served, in_session, in_python):
            assert_alike(wanted, loader(slim.path, request, tags))


def test_a_keras_model(tmp_path):
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            layers.Input([8, 8, 3]),
            layers.Conv2D(16, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(64, activation="relu"),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile("adam", "categorical_crossentropy")
    model.fit(normal(8, 8, 8, 3), np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 2], verbose=0)
    model.export(str(tmp_path / "m"), verbose=False)
    original = tmp_path / "m"
    slim = slimmed(original, tmp_path)
    (key,) = meta_graph(original).signature_def["serving_default"].inputs
    requests = [(name, {key: normal(5, 8, 8, 3)}) for name in ("serving_default", "serve")]
    assert_serves_alike(original, slim.path, requests)
    sizes = [sum(map(len, files_of(path).values())) for path in (original, slim.path)]
    assert sizes[1] < sizes[0] / 2  # each weight once, no object graph
    assert slim.bundle.manifest.kept_variables == {}


@pytest.mark.parametrize(
    ("original", "requests"),
    [
        (
            GUESSLANG,
            [
                (
                    name,
                    {"inputs": np.array([b"import os\nprint(os.getcwd())\n" * 9, b"#include <stdio.h>", b""], object)},
                )
                for name in ("serving_default", "classification", "predict")
            ],
        ),
        (BASIC_PITCH, [("serving_default", {"input_2": normal(2, 43844, 1)})]),
    ],
    ids=["guesslang", "basic_pitch"],
)
def test_real_models(original, requests, tmp_path):
    inputs = {name: list(signature.inputs) for name, signature in meta_graph(original).signature_def.items()}
    requests = [
        (name, dict(zip(inputs[name], feeds.values(), strict=True))) for name, feeds in requests if name in inputs
    ]
    slim = slimmed(original, tmp_path)
    assert_serves_alike(original, slim.path, requests, loaders=(served, in_python))
    again = slimmed(slim.path, tmp_path / "again")
    assert_serves_alike(original, again.path, requests, loaders=(served,))
    assert sorted(w.shape for w in again.bundle.graph.weights.values()) == sorted(
        w.shape for w in slim.bundle.graph.weights.values()
    )
    assert sum(map(len, files_of(again.path).values())) < sum(map(len, files_of(slim.path).values())) * 1.01
    assert files_of(slimmed(original, tmp_path / "same").path) == files_of(slim.path)
    assert meta_graph(slim.path).graph_def.versions == meta_graph(original).graph_def.versions


def test_no_stale_attributes_are_left(tmp_path):
    slim = slimmed(BASIC_PITCH, tmp_path)
    for graph_def in (slim.bundle.graph.to_graph_def(), meta_graph(slim.path).graph_def):
        nodes = [*graph_def.node, *(node for function in graph_def.library.function for node in function.node_def)]
        assert not [node.name for node in nodes if {"_class", "_output_shapes"} & set(node.attr)]


def test_devices_of_the_training_machine_go(tmp_path):
    def build():
        x = tf1.placeholder(tf.float32, [None, 3], name="x")
        y = tf.matmul(x, weight(3, 6000))
        return {"serving_default": ({"x": x}, {"y": tf.cond(y[0, 0] > 0, lambda: y * 2, lambda: y)})}

    original = save_v1(tmp_path / "m", build)
    request = [("serving_default", {"x": X})]
    wanted = served(original, request)

    def place(meta):
        functions = (function.node_def for function in meta.graph_def.library.function)
        for node in itertools.chain(meta.graph_def.node, *functions):
            node.device = "/device:GPU:3"

    on_gpu = altered(original, tmp_path, place)
    slim = slimmed(on_gpu, tmp_path)
    for loader in (served, in_session, in_python):
        assert_alike(wanted, loader(slim.path, request))
    assert "GPU" not in str(meta_graph(slim.path))


def test_training_state_goes(tmp_path):
    class Trained(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = tf.Variable(normal(3, 6000))
            self.slots = [tf.Variable(normal(3, 6000, seed=n)) for n in range(2)]

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def __call__(self, x):
            return {"y": tf.matmul(x, self.w)}

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
        def train(self, x):
            for slot in self.slots:
                slot.assign_add(tf.ones_like(slot))
            self.w.assign_add(self.slots[0])
            return tf.reduce_sum(x)

    model = Trained()
    original = save_v2(tmp_path / "m", model, serving_default=model.__call__)
    slim = slimmed(original, tmp_path)
    assert_serves_alike(original, slim.path, [("serving_default", {"x": X})])
    sizes = [sum(map(len, files_of(path).values())) for path in (original, slim.path)]
    assert sizes[1] < 75_000 < 200_000 < sizes[0]


def altered(path, tmp_path, change):
    copy = shutil.copytree(path, tmp_path / "altered")
    proto = saved_model_pb2.SavedModel.FromString((copy / "saved_model.pb").read_bytes())
    change(proto.meta_graphs[0])
    (copy / "saved_model.pb").write_bytes(proto.SerializeToString())
    return copy


def drop_node(meta, name):
    kept = [node for node in meta.graph_def.node if node.name != name]
    del meta.graph_def.node[:]
    meta.graph_def.node.extend(kept)


def unknown_op(meta):
    next(node for node in meta.graph_def.node if node.op == "MatMul").op = "NoSuchOp"


def cyclic(meta):
    next(node for node in meta.graph_def.node if node.op == "MatMul").input[0] = "MatMul"


def twice(meta):
    meta.graph_def.node.add().CopyFrom(meta.graph_def.node[0])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (unknown_op, "op 'NoSuchOp' is not known"),
        (cyclic, "cycle|wait"),
        (twice, "twice"),
        (lambda m: drop_node(m, "x"), "does not exist"),
        (lambda m: drop_node(m, "w0"), "does not exist"),
        (lambda m: drop_node(m, "save/RestoreV2"), "does not exist"),
        (lambda m: setattr(m.saver_def, "restore_op_name", "gone"), "does not exist"),
        (lambda m: setattr(m.signature_def["serving_default"].outputs["y"], "name", "gone:0"), "does not exist"),
        (lambda m: setattr(m.signature_def["serving_default"].outputs["y"], "name", "MatMul:4"), "does not exist"),
        (lambda m: setattr(m.signature_def["serving_default"].outputs["y"], "name", ""), "does not exist"),
        (lambda m: m.collection_def["saved_model_main_op"].node_list.value.append("gone"), "does not exist"),
    ],
)
def test_a_damaged_graph_is_told_in_one_line(tmp_path, change, match):
    def build():
        x = tf1.placeholder(tf.float32, [None, 3], name="x")
        return {"serving_default": ({"x": x}, {"y": tf.matmul(x, weight(3, 6000))})}

    path = altered(save_v1(tmp_path / "m", build), tmp_path, change)
    with pytest.raises(TfslimError, match=match) as caught:
        freeze_saved_model(read_saved_model(path, ["serve"], None))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, GraphError | ModelError)
