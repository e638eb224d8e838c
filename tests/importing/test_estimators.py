"""An estimator's export, made as tf.estimator made it: requests are serialized tf.Examples, and it has two heads."""

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import assert_alike, in_session, interface, meta_graph, save_v1, served, slimmed
from tfslim_core import api
from tfslim_core.errors import ModelError
from tfslim_core.importing import opened

tf1 = tf.compat.v1
WORDS = ["road", "leads", "nowhere", "night"]


def _info(tensor):
    return tf1.saved_model.build_tensor_info(tensor)


def estimator(folder, resource: bool, parser: str):
    """Two heads (a classifier with a vocabulary of labels, a regressor) over a parsing receiver, with Adam's slots."""
    path = folder / "export"
    (folder / "labels.txt").write_text("no\nmaybe\nyes\n")
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n")

    def tables():
        return tf1.tables_initializer(name="init_all_tables")

    def build():
        tf1.set_random_seed(4)
        tf1.train.create_global_step()
        receiver = tf1.placeholder(tf.string, [None], "input_example_tensor")
        if parser == "ParseExample":
            parsed = tf.raw_ops.ParseExample(
                serialized=receiver,
                names=tf.constant([], tf.string),
                sparse_keys=["words"],
                dense_keys=["age"],
                dense_defaults=[tf.constant([0.5])],
                sparse_types=[tf.string],
                dense_shapes=[[1]],
            )
            words = tf.SparseTensor(parsed.sparse_indices[0], parsed.sparse_values[0], parsed.sparse_shapes[0])
            age = parsed.dense_values[0]
        else:
            features = {"age": tf.io.FixedLenFeature([1], tf.float32, 0.5), "words": tf.io.VarLenFeature(tf.string)}
            found = tf1.parse_example(receiver, features)
            words, age = found["words"], found["age"]
        known = _table(folder / "words.txt", tf.string, tf.int64)
        ids = tf.SparseTensor(words.indices, known.lookup(words.values), words.dense_shape)
        with tf1.variable_scope("dnn", use_resource=resource):
            vectors = tf1.get_variable("embedding", [len(WORDS) + 1, 4])
            mean = tf1.nn.safe_embedding_lookup_sparse([vectors], ids, combiner="mean")
            hidden = tf.concat([mean, age], 1)
            logits = tf.matmul(hidden, tf1.get_variable("classes/kernel", [5, 3]), name="logits")
            amount = tf.matmul(hidden, tf1.get_variable("amount/kernel", [5, 1]), name="amount")
        loss = tf.reduce_sum(logits**2) + tf.reduce_sum(amount**2)
        tf1.train.AdamOptimizer().minimize(loss, global_step=tf1.train.get_global_step())
        names = _table(folder / "labels.txt", tf.int64, tf.string)
        scores = tf.nn.softmax(logits, name="probabilities")
        every = tf.tile(names.lookup(tf.range(3, dtype=tf.int64))[tf.newaxis], [tf.shape(scores)[0], 1])
        best = tf.argmax(scores, 1)
        predicted = {"probabilities": scores, "classes": names.lookup(best)[:, tf.newaxis], "class_ids": best}
        return {
            "serving_default": ({"inputs": receiver}, {"classes": every, "scores": scores}),
            "classes/classification": ({"inputs": receiver}, {"classes": every, "scores": scores}),
            "amount/regression": ({"inputs": receiver}, {"outputs": amount}),
            "predict": ({"examples": receiver}, predicted),
            "amount": ({"examples": receiver}, {"predictions": amount}),
        }

    methods = {
        "serving_default": "tensorflow/serving/classify",
        "classes/classification": "tensorflow/serving/classify",
        "amount/regression": "tensorflow/serving/regress",
    }
    return save_v1(path, build, init=tables, assets=True, methods=methods)


def _table(file, key, value):
    row, line = tf.lookup.TextFileIndex.LINE_NUMBER, tf.lookup.TextFileIndex.WHOLE_LINE
    keys = {"key_index": line, "value_index": row} if key == tf.string else {"key_index": row, "value_index": line}
    initializer = tf.lookup.TextFileInitializer(str(file), key, keys["key_index"], value, keys["value_index"])
    return tf.lookup.StaticHashTable(initializer, 4 if value == tf.int64 else "?")


def example(age, *words):
    feature = {"words": tf.train.Feature(bytes_list=tf.train.BytesList(value=[word.encode() for word in words]))}
    if age is not None:
        feature["age"] = tf.train.Feature(float_list=tf.train.FloatList(value=[age]))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


EXAMPLES = np.array(
    [example(1, "road", "night"), example(None, "what"), example(-2), example(3, "leads", "leads")], object
)


@pytest.mark.parametrize(
    ("resource", "parser"), [(False, "ParseExample"), (True, "ParseExampleV2")], ids=["TensorFlow 1", "TensorFlow 2"]
)
def test_parsing_receivers_heads_tables_and_methods_come_through(tmp_path, resource, parser):
    original = estimator(tmp_path, resource, parser)
    assert parser in {node.op for node in meta_graph(original).graph_def.node}
    with opened(original) as found:
        assert not found.converted
        assert found.path == original
        assert "an estimator (requests are serialized tf.Examples)" in found.notes[0]
        made = slimmed(found.path, tmp_path / "made")
    assert interface(made.path) == interface(original)
    requests = [
        (name, {next(iter(signature.inputs)): EXAMPLES})
        for name, signature in meta_graph(original).signature_def.items()
        if not name.startswith("__")
    ]
    assert len(requests) == 5
    wanted = in_session(original, requests)
    assert_alike(wanted, served(made.path, requests))
    assert not any("Adam" in node.name for node in meta_graph(made.path).graph_def.node)


def test_freeze_says_what_it_saw(tmp_path):
    original = estimator(tmp_path, False, "ParseExample")
    report = api.freeze(original, tmp_path / "bundle")
    assert report.notes[0].startswith("SavedModel of an estimator (requests are serialized tf.Examples) (TensorFlow ")
    assert "amount/regression" in report.notes[0]
    assert set(report.errors) >= {"predict/probabilities", "amount/regression/outputs"}
    assert max(report.errors.values()) == 0


def test_a_model_of_several_metagraphs_is_chosen_from_by_tags(tmp_path):
    with tf1.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None, 2], "x")
        y = tf.matmul(x, tf1.get_variable("w", [2, 2]), name="y")
        session.run(tf1.global_variables_initializer())
        builder = tf1.saved_model.Builder(str(tmp_path / "m"))
        signature = {
            "serving_default": tf1.saved_model.build_signature_def({"x": _info(x)}, {"y": _info(y)}, "predict")
        }
        builder.add_meta_graph_and_variables(session, ["train"], signature)
        builder.add_meta_graph(["serve", "gpu"], signature)
        builder.save()
    with pytest.raises(ModelError, match=r"with the tags serve, choose with --tags; it has: train; gpu,serve"):
        api.freeze(tmp_path / "m", tmp_path / "b")
    report = api.freeze(tmp_path / "m", tmp_path / "b", tags=["gpu", "serve"])
    assert "tags gpu,serve, beside 1 more MetaGraph;" in report.notes[0]
