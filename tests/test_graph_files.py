"""Frozen GraphDefs as files: read whole, written whole."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.graphs import building
from tests.validation import tiny_models
from tfslim_core import api
from tfslim_core.errors import GraphError, ModelError, OutputExistsError, TransformError
from tfslim_core.graph_files import read_graph_def, write_graph_def

v1 = tf.compat.v1
W = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)


@pytest.fixture
def graph_def():
    with building() as graph:
        x = v1.placeholder(tf.float32, [None, 40], name="x")
        tf.identity(tf.matmul(x, tf.constant(W, name="w")) * tf.ones([30]), name="y")
        tf.constant(W, name="unused")
    return graph.as_graph_def()


def test_what_is_written_is_read(graph_def, tmp_path):
    write_graph_def(graph_def, tmp_path / "deep/a.pb", overwrite=False)
    assert read_graph_def(tmp_path / "deep/a.pb") == graph_def
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.pb"]


def test_what_is_there_is_overwritten_only_when_told(graph_def, tmp_path):
    file = tmp_path / "a.pb"
    file.write_bytes(b"old")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_graph_def(graph_def, file, overwrite=False)
    assert file.read_bytes() == b"old"
    write_graph_def(graph_def, file, overwrite=True)
    assert read_graph_def(file) == graph_def


def test_what_is_no_graph(tmp_path):
    (tmp_path / "text.pb").write_text("this is no protocol buffer")
    with pytest.raises(ModelError, match=r"text.pb is not a frozen GraphDef") as caught:
        read_graph_def(tmp_path / "text.pb")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match=r"none\.pb: cannot be read: No such file"):
        read_graph_def(tmp_path / "none.pb")
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        read_graph_def(tmp_path)


def test_a_saved_model_parses_as_a_graph_of_nothing(tmp_path):
    model = tiny_models.linear(tmp_path / "model", W)
    with pytest.raises(ModelError, match=r"saved_model\.pb is not a frozen GraphDef"):
        read_graph_def(model / "saved_model.pb")
    (tmp_path / "empty.pb").write_bytes(b"")
    with pytest.raises(ModelError, match=r"empty\.pb is not a frozen GraphDef: it holds no node"):
        read_graph_def(tmp_path / "empty.pb")


def test_as_the_old_tool_did_it(graph_def):
    made = api.transform_graph(graph_def, ["x"], ["y"], ["strip_unused_nodes", "fold_constants"])
    assert {"x", "y"} <= {node.name for node in made.node}
    assert "unused" not in {node.name for node in made.node}
    assert len(made.node) < len(graph_def.node)
    x = np.random.default_rng(1).normal(size=(3, 40)).astype(np.float32)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(made, name="")
        with v1.Session(graph=graph) as session:
            np.testing.assert_allclose(session.run("y:0", {"x:0": x}), x @ W, rtol=1e-4, atol=1e-4)
    assert made == api.transform_graph(graph_def, ["x:0"], ["y:0"], "strip_unused_nodes fold_constants")


def test_names_that_are_not_there(graph_def):
    with pytest.raises(GraphError, match="'z"):
        api.transform_graph(graph_def, ["x"], ["z"], "strip_unused_nodes")
    with pytest.raises(TransformError, match="strip_unused_nodes"):
        api.transform_graph(graph_def, ["x"], ["y"], "strip_unused_node")
