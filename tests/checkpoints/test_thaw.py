"""Frozen and slimmed models as variables again: their names, their values, and training that goes on."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.digits import digits
from tests.checkpoints.training import batches, cross_entropy, trained_on, trained_v1
from tests.saved_models import BASIC_PITCH, GUESSLANG, normal, save_v1, served
from tfslim_core import api
from tfslim_core.bundle import read_bundle
from tfslim_core.checkpoints import thaw as thaw_module
from tfslim_core.cli import main
from tfslim_core.errors import ModelError, OutputExistsError, UsageError

tf1 = tf.compat.v1
WEIGHTS = ["conv/kernel", "hidden/bias", "hidden/kernel", "logits/bias", "logits/kernel"]
NORM = ["norm/beta", "norm/gamma", "norm/moving_mean", "norm/moving_variance"]
UNFOLDED = "strip_unused_nodes fold_constants"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return trained_v1(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def slim(classifier):
    out = classifier.parent / "slim"
    api.slim(classifier, out, transforms=UNFOLDED, encoding="int8", minimum_size=0)
    return out


@pytest.fixture(scope="module")
def thawed(slim):
    return api.thaw(slim, slim.parent / "thawed")


def checkpoint_of(folder):
    reader = tf.train.load_checkpoint(str(folder))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def states(report):
    return {variable.name: variable.state for variable in report.done.variables}


def scores_of(model, images):
    return served(model, [("serving_default", {"x": images})])[0]["scores"]


def test_a_slim_model_has_its_variables_again_under_their_names(thawed, slim, classifier):
    values = checkpoint_of(thawed.path)
    assert sorted(values) == sorted(WEIGHTS + NORM)
    before = checkpoint_of(classifier.parent / "run")
    for name, value in values.items():
        assert value.dtype == np.float32
        assert np.linalg.norm(value - before[name]) <= 0.01 * np.linalg.norm(before[name]), name
    assert states(thawed)["hidden/kernel"] == "decoded from int8"
    assert states(thawed)["norm/gamma"] == "as it was"
    np.testing.assert_array_equal(values["norm/gamma"], before["norm/gamma"])
    trained = {variable.name for variable in thawed.done.variables if variable.trainable}
    assert trained == {*WEIGHTS, "norm/beta", "norm/gamma"}
    assert max(thawed.done.errors.values()) <= 1e-6


def test_training_goes_on_from_where_it_was_and_its_export_is_slimmed_again(thawed, slim, tmp_path):
    losses = trained_on(thawed.path, tmp_path / "export")
    images, labels = next(batches(1, 7))
    assert losses[0] == pytest.approx(cross_entropy(scores_of(slim, images), labels), rel=1e-3)
    assert losses[-1] < 0.8 * losses[0]  # of the same batch, ten steps later
    again = api.slim(tmp_path / "export", tmp_path / "again").path
    unseen, right = digits().unseen
    before, after = (scores_of(model, unseen) for model in (tmp_path / "export", again))
    assert np.mean(before.argmax(1) == after.argmax(1)) >= 0.99
    assert np.mean(after.argmax(1) == right) >= 0.85
    assert sorted(checkpoint_of(api.thaw(again, tmp_path / "twice").path)) >= WEIGHTS


def test_what_folding_changed_is_told(classifier, tmp_path):
    api.freeze(classifier, tmp_path / "frozen")
    api.transform(tmp_path / "frozen", tmp_path / "folded")
    report = api.thaw(tmp_path / "folded", tmp_path / "out")
    told = states(report)
    assert told["conv/kernel"] == "changed by fold_batch_norms"
    assert told["hidden/kernel"] == "as it was"
    assert {name for name, why in report.done.gone.items() if "fold_batch_norms" in why} == set(NORM)
    new = set(told) - set(WEIGHTS)
    assert len(new) == 1  # the bias that the norm left
    assert told[new.pop()] == "was no variable"
    losses = trained_on(tmp_path / "out")
    assert losses[-1] < 0.8 * losses[0]
    # A servable says the same.
    api.reexport(tmp_path / "folded", tmp_path / "servable")
    told = states(api.thaw(tmp_path / "servable", tmp_path / "of servable"))
    assert told["conv/kernel"] == "changed by fold_batch_norms"


def test_a_program_that_builds_the_model_itself_restores_by_name(thawed, classifier):
    with tf1.Graph().as_default(), tf1.Session() as session:
        with tf1.variable_scope("hidden"):
            bias = tf1.get_variable("bias", [64])
        tf1.train.init_from_checkpoint(str(thawed.path), {"hidden/": "hidden/"})
        session.run(tf1.global_variables_initializer())
        found = session.run(bias)
    np.testing.assert_array_equal(found, checkpoint_of(classifier.parent / "run")["hidden/bias"])


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A Keras classifier, its SavedModel and a checkpoint of the model and its optimizer."""
    folder = tmp_path_factory.mktemp("keras")
    model = keras_network(seed=3)
    images, labels = digits().training
    model.fit(images[:1000], labels[:1000], epochs=2, batch_size=100, verbose=0)
    model.export(str(folder / "export"), verbose=False)
    tf.train.Checkpoint(model=model).write(str(folder / "ckpt"))
    api.slim(folder / "export", folder / "slim", encoding="int8", minimum_size=0)
    return model, folder


def keras_network(seed):
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input((784,)),
        keras.layers.Dense(64, "relu", name="one"),
        keras.layers.BatchNormalization(name="norm"),
    ]
    model = keras.Sequential([*layers, keras.layers.Dense(10, name="two")], name="digits")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def close(found, wanted):
    return all(np.linalg.norm(a - b) <= 0.01 * np.linalg.norm(b) + 1e-6 for a, b in zip(found, wanted, strict=True))


def test_a_keras_model_gets_its_weights_back_by_name(network, tmp_path):
    model, folder = network
    api.freeze(folder / "export", tmp_path / "frozen")
    api.thaw(tmp_path / "frozen", tmp_path / "out")
    other = keras_network(seed=4)
    reader = tf.train.load_checkpoint(tmp_path / "out")
    for variable in other.weights:
        variable.assign(reader.get_tensor(variable.path))
    assert all((a == b).all() for a, b in zip(other.get_weights(), model.get_weights(), strict=True))


def test_a_checkpoint_of_another_one_s_structure_restores_into_keras(network, tmp_path):
    model, folder = network
    api.quantize(frozen(folder, tmp_path), tmp_path / "int8", minimum_size=0)
    report = api.thaw(tmp_path / "int8", tmp_path / "out", like=folder / "ckpt")
    assert len(report.done.replaced) == 8
    assert all("optimizer" in name or "save_counter" in name for name in report.done.left)
    other = keras_network(seed=4)
    tf.train.Checkpoint(model=other).restore(str(tmp_path / "out/ckpt")).expect_partial()
    assert not close(keras_network(seed=4).get_weights(), model.get_weights())
    assert close(other.get_weights(), model.get_weights())
    images, labels = digits().training
    before = other.evaluate(images, labels, verbose=0)
    assert before == pytest.approx(model.evaluate(images, labels, verbose=0), rel=0.05)
    other.fit(images[:1000], labels[:1000], batch_size=100, verbose=0)
    assert other.evaluate(images, labels, verbose=0) < before


def frozen(folder, tmp_path):
    api.freeze(folder / "export", tmp_path / "frozen")
    return tmp_path / "frozen"


def test_the_slim_model_of_keras_too(network, tmp_path):
    _, folder = network
    report = api.thaw(folder / "slim", tmp_path / "out", like=folder / "export")
    assert report.done.prefix.name == "variables"
    assert len(report.done.replaced) >= 4


@pytest.mark.parametrize("model", [GUESSLANG, BASIC_PITCH], ids=["guesslang", "basic_pitch"])
def test_real_models_have_their_own_names_and_values(model, tmp_path):
    report = api.thaw(model, tmp_path / "out")
    assert max(report.done.errors.values()) <= 1e-5
    names = {variable.name: variable for variable in report.done.variables}
    reader = tf.train.load_checkpoint(str(model / "variables/variables"))
    values = checkpoint_of(tmp_path / "out")
    assert set(values) == set(names)
    for name, value in values.items():
        np.testing.assert_array_equal(value, reader.get_tensor(names[name].origin))
    assert not [note for note in report.done.notes if "gradient" in note]


def part_of_table(shape, dtype, partition_info):
    start = partition_info.var_offset[0]
    return tf.constant(normal(100, 40)[start : start + shape[0]], dtype)


def lookup_model(path, columns=40):
    def build():
        ids = tf1.placeholder(tf.int64, [None, 3], name="ids")
        with tf1.variable_scope("emb", partitioner=tf1.fixed_size_partitioner(3)):
            table = tf1.get_variable("table", [100, columns], initializer=part_of_table)
        ids = tf.math.mod(ids, 50)
        rows = tf1.nn.embedding_lookup(table, ids, partition_strategy="div")
        other = tf1.get_variable("other", initializer=normal(50, columns, seed=1))
        y = tf.reduce_sum(rows, 1) + tf.gather(other, ids[:, 0])
        return {"serving_default": ({"ids": ids}, {"y": y})}

    return save_v1(path, build)


def test_a_partitioned_variable_is_one_again(tmp_path):
    api.thaw(lookup_model(tmp_path / "model"), tmp_path / "out")
    values = checkpoint_of(tmp_path / "out")
    np.testing.assert_array_equal(values["emb/table"], normal(100, 40))
    with tf1.Graph().as_default(), tf1.Session() as session:
        with tf1.variable_scope("emb", partitioner=tf1.fixed_size_partitioner(3)):
            table = tf.convert_to_tensor(tf1.get_variable("table", [100, 40]))
        tf1.train.Saver().restore(session, str(tmp_path / "out/model.ckpt"))
        np.testing.assert_array_equal(session.run(table), normal(100, 40))


@pytest.mark.parametrize(
    ("placement", "encoding"), [("rows", "int8"), ("rows", "int4/block8"), ("graph", "uint8"), ("load", "int8")]
)
def test_weights_are_decoded_wherever_that_was_done(tmp_path, placement, encoding):
    api.freeze(lookup_model(tmp_path / "model"), tmp_path / "frozen")
    api.quantize(tmp_path / "frozen", tmp_path / "small", encoding=encoding, placement=placement, minimum_size=0)
    api.reexport(tmp_path / "small", tmp_path / "servable")
    for name in ("small", "servable"):
        report = api.thaw(tmp_path / name, tmp_path / f"{name} thawed")
        value = checkpoint_of(report.path)["other"]
        assert 0 < np.abs(value - normal(50, 40, seed=1)).max() < 0.5
        assert states(report)["other"] == f"decoded from {encoding}"
        assert not report.done.notes


def test_tables_and_assets_go_with_the_graph(tmp_path):
    (tmp_path / "words.txt").write_text("a\nb\nc\n")

    def build():
        words = tf1.placeholder(tf.string, [None], name="words")
        file = tf.constant(str(tmp_path / "words.txt"))
        table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(file, tf.string, 0, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER), -1
        )
        w = tf1.get_variable("w", initializer=normal(4, 30))
        return {"serving_default": ({"words": words}, {"y": tf.gather(w, table.lookup(words) + 1)})}

    model = save_v1(tmp_path / "model", build, assets=True, init=tf1.tables_initializer)
    (tmp_path / "words.txt").unlink()
    api.thaw(model, tmp_path / "out")
    with tf1.Graph().as_default(), tf1.Session() as session:
        saver = tf1.train.import_meta_graph(str(tmp_path / "out/model.ckpt.meta"))
        saver.restore(session, str(tmp_path / "out/model.ckpt"))
        session.run(tf1.tables_initializer())
        found = session.run(y_of(tmp_path / "out"), {"words:0": [b"c", b"x"]})
    np.testing.assert_array_equal(found, normal(4, 30)[[3, 0]])


def y_of(folder):
    from tensorflow.core.protobuf import meta_graph_pb2

    meta = meta_graph_pb2.MetaGraphDef.FromString((folder / "model.ckpt.meta").read_bytes())
    return meta.signature_def["serving_default"].outputs["y"].name


def test_patterns_choose(classifier, tmp_path):
    api.freeze(classifier, tmp_path / "frozen")
    report = api.thaw(tmp_path / "frozen", tmp_path / "out", exclude=["norm/*"])
    assert sorted(checkpoint_of(report.path)) == WEIGHTS
    with pytest.raises(UsageError, match="no constant has such a name"):
        api.thaw(tmp_path / "frozen", tmp_path / "other", exclude=["nrm/*"])
    with pytest.raises(ModelError, match="no constant becomes a variable"):
        api.thaw(tmp_path / "frozen", tmp_path / "other", exclude=["*"])
    assert not (tmp_path / "other").exists()


def test_without_a_record_what_layers_read_becomes_variables(classifier, tmp_path):
    api.freeze(classifier, tmp_path / "frozen")
    bundle = read_bundle(tmp_path / "frozen")
    manifest = bundle.manifest.model_copy(update={"variables": {}})
    (tmp_path / "frozen/manifest.json").write_text(manifest.model_dump_json(exclude={"variables"}))
    report = api.thaw(tmp_path / "frozen", tmp_path / "out")
    assert sorted(checkpoint_of(report.path)) == sorted(WEIGHTS + NORM)
    trained = {variable.name for variable in report.done.variables if variable.trainable}
    assert trained == {*WEIGHTS, "norm/beta", "norm/gamma"}


def test_a_name_that_the_interface_has_taken(tmp_path):
    def build():
        x = tf1.placeholder(tf.float32, [None, 30], name="x")
        w = tf1.get_variable("w", initializer=normal(30, 30))
        return {"serving_default": ({"x": x}, {"y": tf.matmul(x, w), "w": tf.convert_to_tensor(w)})}

    api.freeze(save_v1(tmp_path / "model", build), tmp_path / "frozen")
    api.thaw(tmp_path / "frozen", tmp_path / "out")
    np.testing.assert_array_equal(checkpoint_of(tmp_path / "out")["w"], normal(30, 30))


def test_answers_that_change_are_refused_and_nothing_is_left(classifier, tmp_path, monkeypatch):
    write = thaw_module._write
    monkeypatch.setattr(
        thaw_module,
        "_write",
        lambda bundle, variables, prefix: write(
            bundle, [dataclasses.replace(v, weight=v.weight.map(lambda a: a * 1.01)) for v in variables], prefix
        ),
    )
    with pytest.raises(ModelError, match="thawing changed the answers"):
        api.thaw(classifier, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_there_stays(classifier, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError):
        api.thaw(classifier, tmp_path / "out")
    with pytest.raises(UsageError, match="holds export itself"):
        api.thaw(classifier, classifier.parent, overwrite=True)
    assert classifier.exists()


def test_the_command_and_the_format_of_reexport(classifier, tmp_path, capfd):
    assert main(["thaw", str(classifier), str(tmp_path / "out")]) == 0
    told = capfd.readouterr().err
    assert "hidden/kernel" in told
    assert "9 variables, 7 of them trained" in told
    api.freeze(classifier, tmp_path / "frozen")
    assert main(["reexport", str(tmp_path / "frozen"), str(tmp_path / "same"), "--format", "checkpoint"]) == 0
    ours, same = checkpoint_of(tmp_path / "out"), checkpoint_of(tmp_path / "same")
    assert all((ours[name] == same[name]).all() for name in ours.keys() | same.keys())
    assert main(["thaw", str(tmp_path / "nothing"), str(tmp_path / "more")]) == 1
    assert capfd.readouterr().err.strip().splitlines()[-1].endswith("no such directory")


def test_a_bundle_of_before_the_record_is_read(classifier, tmp_path):
    api.freeze(classifier, tmp_path / "frozen")
    bundle = read_bundle(tmp_path / "frozen")
    (tmp_path / "frozen/manifest.json").write_text(bundle.manifest.model_dump_json(exclude={"variables"}))
    assert read_bundle(tmp_path / "frozen").manifest.variables == {}


def test_a_damaged_record_is_one_line(slim, tmp_path):
    import shutil

    shutil.copytree(slim, tmp_path / "copy")
    (tmp_path / "copy/assets.extra/tfslim_variables.json").write_text("{")
    with pytest.raises(ModelError, match="is damaged; remove it"):
        api.freeze(tmp_path / "copy", tmp_path / "out")
