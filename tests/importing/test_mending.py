"""What keeps a model from being loaded, and is mended or refused."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

from tests.saved_models import assert_alike, in_session, normal, save_v1, save_v2, served, slimmed
from tfslim_core import api
from tfslim_core.errors import GraphError, ModelError
from tfslim_core.importing import opened
from tfslim_core.importing.mending import mend

tf1 = tf.compat.v1
REQUESTS = [("serving_default", {"x": normal(3, 4, seed=5)})]


def v1(path):
    def build():
        x = tf1.placeholder(tf.float32, [None, 4], "x")
        y = tf.matmul(x, tf1.get_variable("w", [4, 2], initializer=tf1.random_normal_initializer(seed=1)), name="y")
        return {"serving_default": ({"x": x}, {"y": y})}

    return save_v1(path, build)


def v2(path):
    weights = tf.Variable(normal(4, 2))
    module = tf.Module()
    module.w = weights
    call = tf.function(lambda x: {"y": tf.matmul(x, weights)}, [tf.TensorSpec([None, 4], name="x")])
    return save_v2(path, module, serving_default=call.get_concrete_function())


def changed(path, change):
    """A model with one MatMul changed, wherever it is."""
    file = path / "saved_model.pb"
    proto = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    (meta_graph,) = proto.meta_graphs
    bodies = [node for function in meta_graph.graph_def.library.function for node in function.node_def]
    found = next(node for node in [*meta_graph.graph_def.node, *bodies] if node.op == "MatMul")
    change(found, meta_graph)
    file.write_bytes(proto.SerializeToString())
    return path


def with_flag(value):
    def change(node, meta_graph):
        node.attr["transpose_z"].CopyFrom(value)

    return change


OFF, ON = tf1.AttrValue(b=False), tf1.AttrValue(b=True)


@pytest.mark.parametrize("build", [v1, v2])
def test_an_unknown_attribute_that_says_nothing_goes_and_the_model_loads(tmp_path, build):
    wanted = served(build(tmp_path / "good"), REQUESTS)
    broken = tmp_path / "broken"
    build(broken)
    changed(broken, with_flag(OFF))
    before = (broken / "saved_model.pb").read_bytes()
    assert_alike(served(broken, REQUESTS), served(broken, REQUESTS))  # a server ignores it
    with opened(broken) as found:
        assert found.converted
        assert "mended: attribute 'transpose_z' of 1 MatMul node" in found.notes[1]
        if build is v1:
            assert_alike(wanted, served(found.path, REQUESTS))
        made = slimmed(found.path, tmp_path / "made")
    assert_alike(served(broken, REQUESTS), in_session(made.path, REQUESTS))
    assert (broken / "saved_model.pb").read_bytes() == before
    report = api.freeze(broken, tmp_path / "bundle")
    assert report.notes[:2] == list(found.notes)


def matmul(value):
    with tf.Graph().as_default() as graph:
        tf.matmul(tf1.placeholder(tf.float32, [2, 2]), tf.eye(2), name="y")
    graph_def = graph.as_graph_def()
    graph_def.node[-1].attr["transpose_z"].CopyFrom(value)
    return graph_def


@pytest.mark.parametrize("value", [ON, tf1.AttrValue(i=1), tf1.AttrValue(list=tf1.AttrValue.ListValue(i=[1]))])
def test_an_attribute_that_may_matter_is_refused_in_a_graph_and_ignored_as_a_server_does(tmp_path, value):
    with pytest.raises(GraphError, match=r"node 'y' \(MatMul\) has the attribute 'transpose_z'.*may matter"):
        mend(matmul(value))
    v1(tmp_path / "m")
    changed(tmp_path / "m", with_flag(value))
    with opened(tmp_path / "m") as found:
        assert "'transpose_z' of 1 MatMul node, which said" in found.notes[1]
        assert_alike(served(tmp_path / "m", REQUESTS), in_session(found.path, REQUESTS))


def test_the_writers_own_default_counts_rather_than_nothing():
    known = op_def_pb2.OpDef(name="MatMul")
    known.attr.add(name="transpose_z", type="bool").default_value.b = True
    graph_def = matmul(ON)
    assert "which said nothing" in mend(graph_def, [known])[0]
    assert "transpose_z" not in graph_def.node[-1].attr
    with pytest.raises(GraphError, match="may matter"):
        mend(matmul(OFF), [known])
    assert mend(matmul(OFF))


def test_colocation_with_a_node_that_is_gone(tmp_path):
    def change(node, meta_graph):
        node.attr["_class"].list.s.append(b"loc:@gone")

    wanted = served(v1(tmp_path / "good"), REQUESTS)
    v1(tmp_path / "m")
    changed(tmp_path / "m", change)
    with pytest.raises(ModelError, match="gone"):
        served(tmp_path / "m", REQUESTS)
    with opened(tmp_path / "m") as found:
        assert any("mended: 1 node sat with nodes that are not in the graph" in note for note in found.notes)
        assert np.ptp(served(found.path, REQUESTS)[0]["y"]) > 0
    assert wanted


def test_stale_shapes_and_notes_do_not_matter(tmp_path):
    """A server does not read them; what freeze writes does not have them."""

    def change(node, meta_graph):
        node.attr["_output_shapes"].list.shape.add().dim.add(size=7)
        node.attr["_somebody"].s = b"was here"

    v1(tmp_path / "m")
    changed(tmp_path / "m", change)
    with opened(tmp_path / "m") as found:
        assert not found.converted
        made = slimmed(found.path, tmp_path / "made")
    assert_alike(served(tmp_path / "m", REQUESTS), served(made.path, REQUESTS))


def test_a_file_of_the_model_that_lies_elsewhere_is_not_copied(tmp_path):
    v1(tmp_path / "m")
    changed(tmp_path / "m", with_flag(OFF))
    (tmp_path / "secret").write_text("x")
    (tmp_path / "m/variables/more").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="leads outside the model"), opened(tmp_path / "m"):
        pass


def test_a_graph_without_anything_to_mend_stays_as_it_is():
    with tf.Graph().as_default() as graph:
        tf.matmul(tf1.placeholder(tf.float32, [2, 2]), tf.eye(2))
    graph_def = graph.as_graph_def(add_shapes=True)
    before = graph_def.SerializeToString(deterministic=True)
    assert mend(graph_def) == []
    assert graph_def.SerializeToString(deterministic=True) == before
