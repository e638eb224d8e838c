"""Checkpoints of TensorFlow 1 with their graph: what the session that wrote them answered, the slim model answers."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.importing.training import IMAGES, adam
from tests.saved_models import assert_alike, interface, meta_graph, served, slimmed
from tfslim_core.errors import ModelError, TfslimError, UsageError
from tfslim_core.importing import opened

tf1 = tf.compat.v1
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One with Adam's slots and a .meta, for tests that do not change it."""
    return adam(tmp_path_factory.mktemp("trained"))


def check(trained, folder: Path, named=None, key="images", output="probabilities", **given):
    """Open, slim and ask; the notes and the slim model."""
    with opened(named or trained.prefix, **given) as found:
        made = slimmed(found.path, folder / "made")
        assert interface(made.path) == interface(found.path)
        assert np.ptp(trained.answer) > 0.01
        for path in (found.path, made.path):
            answer = served(path, [("serving_default", {key: IMAGES})])[0]
            np.testing.assert_allclose(answer[output], trained.answer, atol=TOLERANCE)
        return found, made


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({}, "images"),
        ({"resource": True}, "images"),
        ({"source": "iterator"}, "IteratorGetNext"),
        ({"source": "queue"}, "shuffle_batch"),
        ({"version": tf1.train.SaverDef.V1}, "images"),
    ],
    ids=["ref variables", "resource variables", "iterator", "shuffle_batch", "format before 0.12"],
)
def test_a_checkpoint_with_its_meta_answers_as_its_session(tmp_path, given, key):
    found, made = check(adam(tmp_path / "in", **given), tmp_path, key=key)
    notes = "\n".join(found.notes)
    assert found.notes[0].startswith("checkpoint: the graph of model.ckpt-2.meta")
    assert f"--inputs {key} was guessed" in notes
    assert "--outputs probabilities,ArgMax was guessed" in notes
    assert "labels or weights, and left out" in notes
    assert not any("Adam" in node.name or "beta1" in node.name for node in meta_graph(made.path).graph_def.node)


@pytest.mark.parametrize("named", ["model.ckpt-2", "model.ckpt-2.meta", "model.ckpt-2.index", "checkpoint", ""])
def test_a_checkpoint_has_many_names(trained, tmp_path, named):
    with opened(trained.prefix.parent / named) as found:
        assert found.kind == "checkpoint"
        assert {file.name for file in found.files} == {"model.ckpt-2.index", "model.ckpt-2.data-00000-of-00001"}


def test_the_checkpoint_is_linked_rather_than_written_again(trained):
    with opened(trained.prefix) as found:
        data = found.path / "variables/variables.data-00000-of-00001"
        assert data.read_bytes() == Path(f"{trained.prefix}.data-00000-of-00001").read_bytes()


def test_the_signatures_of_a_meta_count_and_named_tensors_come_before_them(tmp_path):
    made = adam(tmp_path / "in", signature=True)
    found, _ = check(made, tmp_path / "a", key="pictures", output="scores")
    assert "signatures of the MetaGraph: serving_default" in found.notes
    check(made, tmp_path / "b", key="x", output="probabilities", inputs=["x=images:0"], outputs=["probabilities"])


def test_what_is_in_training_mode_is_said(tmp_path):
    found, _ = check(adam(tmp_path / "in", training=True), tmp_path)
    assert any("1 batch norm is in training mode" in note for note in found.notes)
    assert any("left at its default: rate" in note for note in found.notes)


def test_a_graph_in_a_file_of_its_own_is_found_or_named(trained, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(trained.prefix.parent, alone)
    (alone / "model.ckpt-2.meta").rename(tmp_path / "elsewhere.meta")
    found, _ = check(trained, tmp_path / "a", named=alone / "model.ckpt-2")
    assert "the graph of graph.pbtxt" in found.notes[0]
    (alone / "graph.pbtxt").rename(tmp_path / "elsewhere.pbtxt")
    check(trained, tmp_path / "b", named=alone, graph=tmp_path / "elsewhere.pbtxt")
    check(trained, tmp_path / "c", named=alone, graph=tmp_path / "elsewhere.meta")
    with pytest.raises(ModelError, match=r"no model.ckpt-2.meta beside it: give one with --graph"), opened(alone):
        pass
    for name in ("a.pbtxt", "b.pbtxt"):
        shutil.copy(tmp_path / "elsewhere.pbtxt", alone / name)
    with (
        pytest.raises(ModelError, match=r"several graphs beside it, choose with --graph: a.pbtxt, b.pbtxt"),
        opened(alone),
    ):
        pass


def test_slots_are_not_needed(trained, tmp_path):
    """A checkpoint of the weights alone, with the .meta of the training that knows of Adam's slots."""
    reader = tf.train.load_checkpoint(str(trained.prefix))
    weights = {
        key: reader.get_tensor(key)
        for key in reader.get_variable_to_shape_map()
        if "Adam" not in key and "beta" not in key
    }
    prefix = tmp_path / "in/model.ckpt-2"
    prefix.parent.mkdir()
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(weights),
        shape_and_slices=[""] * len(weights),
        tensors=list(weights.values()),
    )
    shutil.copy(f"{trained.prefix}.meta", f"{prefix}.meta")
    check(trained, tmp_path, named=prefix)


def test_a_saver_that_renames_and_a_partitioned_variable(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    with tf1.Graph().as_default(), tf1.Session() as session:
        ids = tf1.placeholder(tf.int32, [None], "ids")
        parts = tf1.fixed_size_partitioner(2)
        table = tf1.get_variable("table", [6, 2], partitioner=parts)
        scale = tf1.get_variable("scale", initializer=np.float32(3), use_resource=True)
        tf.multiply(tf.gather(tf.convert_to_tensor(table), ids), scale, name="out")
        session.run(tf1.global_variables_initializer())
        assert len(list(table)) == 2
        for part, value in zip(table, np.split(values, 2), strict=True):
            part.load(value, session)
        tf1.train.Saver({"table": table, "scale/ExponentialMovingAverage": scale}).save(session, str(tmp_path / "m"))
    with opened(tmp_path / "m") as found:
        made = slimmed(found.path, tmp_path / "made")
        assert_alike(
            [{"out": values[[5, 0]] * 3}], served(made.path, [("serving_default", {"ids": np.array([5, 0], np.int32)})])
        )


def test_a_vocabulary_file_beside_the_checkpoint_goes_along_and_no_other_file_does(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "words.txt").write_text("no\nroad\nleads\n")
    with tf1.Graph().as_default(), tf1.Session() as session:
        words = tf1.placeholder(tf.string, [None], "words")
        initializer = tf.lookup.TextFileInitializer(
            str(folder / "words.txt"),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        ids = tf.lookup.StaticHashTable(initializer, 3).lookup(words)
        vectors = tf1.get_variable("vectors", [4, 2])
        out = tf.gather(vectors, ids, name="out")
        session.run([tf1.global_variables_initializer(), tf1.tables_initializer()])
        tf1.train.Saver().save(session, str(folder / "m"))
        asked = np.array([b"road", b"what", b"no"], object)
        wanted = session.run(out, {words: asked})
    with opened(folder) as found:
        made = slimmed(found.path, tmp_path / "made")
        assert_alike([{"out": wanted}], served(made.path, [("serving_default", {"words": asked})]))
        assert (made.path / "assets/words.txt").read_text() == "no\nroad\nleads\n"
    (folder / "words.txt").rename(tmp_path / "words.txt")
    with (
        pytest.raises(ModelError, match=r"fills a table from the file 'words.txt', which is not beside the model"),
        opened(folder),
    ):
        pass
    (folder / "words.txt").symlink_to(tmp_path / "words.txt")
    with pytest.raises(ModelError, match="leads outside"), opened(folder):
        pass


def refusal(path: Path, **given) -> str:
    with pytest.raises(TfslimError) as caught, opened(path, **given):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_is_one_line(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained.prefix.parent, copy)
    prefix = copy / trained.prefix.name
    assert "no node for the output 'probabilitis'; did you mean 'probabilities'?" in refusal(
        prefix, outputs=["probabilitis"]
    )
    assert "need the placeholder 'images' too" in refusal(prefix, inputs=["labels"], outputs=["probabilities"])
    assert "no such directory, file or checkpoint; did you mean 'model.ckpt-2'?" in refusal(copy / "model.ckpt-3")
    assert "is no graph" in refusal(prefix, graph=Path(f"{prefix}.index"))
    Path(f"{prefix}.data-00000-of-00001").unlink()
    assert "data-00000-of-00001 is missing" in refusal(prefix)
    Path(f"{prefix}.index").unlink()
    assert "is not frozen: it needs" in refusal(Path(f"{prefix}.meta"))
    assert "names the checkpoint 'model.ckpt-2', which is not beside it" in refusal(copy)
    with pytest.raises(UsageError, match="--graph is for a checkpoint"), opened(copy / "graph.pbtxt", graph=prefix):
        pass


def test_damaged_files_are_one_line(trained, tmp_path):
    for name, change in {
        "model.ckpt-2.index": lambda b: b[: len(b) // 2],
        "model.ckpt-2.meta": lambda b: b[: len(b) // 2],
        "graph.pbtxt": lambda b: b"node { name: 'a' op: ???",
    }.items():
        folder = tmp_path / name
        shutil.copytree(trained.prefix.parent, folder)
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        graph = folder / name if name == "graph.pbtxt" else None
        refusal(folder / "model.ckpt-2", graph=graph)


def test_a_graph_of_another_model_is_refused(trained, tmp_path):
    other = tmp_path / "other"
    with tf1.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None, 2], "x")
        with tf1.variable_scope("net"):
            tf.matmul(x, tf1.get_variable("dense/kernel", [2, 3]), name="out")
            tf.matmul(x, tf1.get_variable("dense/kernal", [2, 3]), name="more")
        tf1.train.write_graph(session.graph, str(other), "other.pbtxt")
    file = other / "other.pbtxt"
    told = refusal(trained.prefix, graph=file, outputs=["net/out"])
    assert "has the shape [2, 3], the checkpoint's 'net/dense/kernel' [144, 3]: they are of different models" in told
    told = refusal(trained.prefix, graph=file, outputs=["net/more"])
    assert "no tensor 'net/dense/kernal' for 'net/dense/kernal', which the outputs need; did you mean" in told


def test_a_checkpoint_of_objects_has_no_graph(tmp_path):
    tf.train.Checkpoint(v=tf.Variable([1.0, 2.0])).write(str(tmp_path / "objects"))
    told = refusal(tmp_path / "objects")
    assert "a checkpoint of objects" in told
    assert "save it as .keras or with tf.saved_model.save" in told
