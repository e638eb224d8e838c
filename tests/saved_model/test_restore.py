"""The restore op is read, not run: which variable gets which tensor, and what else happens."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.saved_models import normal, save_v1
from tfslim_core.errors import ModelError
from tfslim_core.graph import Graph
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.saved_model.restore import restored

tf1 = tf.compat.v1


def build():
    x = tf1.placeholder(tf.float32, [None, 3], name="x")
    ref = tf1.get_variable("ref", initializer=normal(3, 40), use_resource=False)
    resource = tf1.get_variable("resource", initializer=normal(40), use_resource=True)
    parts = tf1.get_variable(
        "parts",
        [40, 10],
        initializer=tf1.random_normal_initializer(seed=1),
        partitioner=tf1.variable_axis_size_partitioner(300, axis=1),
        use_resource=True,
    )
    whole = tf.concat(list(parts), 1)
    return {"serving_default": ({"x": x}, {"y": tf.matmul(tf.matmul(x, ref) + resource, whole), "whole": whole})}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return save_v1(tmp_path_factory.mktemp("restore") / "m", build)


def values(path):
    model = read_saved_model(path, ["serve"], None)
    saver = model.meta_graph.saver_def
    graph = Graph.of(model.meta_graph.graph_def, targets=[saver.restore_op_name])
    return restored(model, graph, saver.restore_op_name, saver.filename_tensor_name)


def test_every_variable_has_its_value_and_parts_of_one_their_part(original):
    state = values(original)
    assert state.effects == []
    assert state.variables["ref"].read().tolist() == normal(3, 40).tolist()
    assert state.variables["resource"].read().tolist() == normal(40).tolist()
    parts = [state.variables[name] for name in sorted(state.variables) if name.startswith("parts/")]
    assert len(parts) > 1
    for part in parts:
        assert part.read().shape == part.shape
        assert part.read().dtype == part.dtype
    whole = tf.train.load_checkpoint(str(original / "variables/variables")).get_tensor("parts")
    np.testing.assert_array_equal(np.concatenate([part.read() for part in parts], 1), whole)


def test_a_tensor_that_the_checkpoint_lacks_is_told(original, tmp_path):
    path = shutil.copytree(original, tmp_path / "m")
    proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    for node in proto.meta_graphs[0].graph_def.node:
        if node.name.endswith("RestoreV2/tensor_names"):
            node.attr["value"].tensor.string_val[0] = b"gone"
    (path / "saved_model.pb").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="the variables files lack 'gone', which the model restores"):
        values(path)


def test_damaged_data_is_told_when_it_is_read(original, tmp_path):
    path = shutil.copytree(original, tmp_path / "m")
    data = path / "variables/variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0xFF
    data.write_bytes(content)
    state = values(path)
    with pytest.raises(ModelError, match="the variables files are damaged at") as caught:
        [weight.read() for weight in state.variables.values()]
    data.write_bytes(content[:10])
    with pytest.raises(ModelError, match="lie beyond the end of its data file"):
        values(path)
    assert "\n" not in str(caught.value)


def test_what_is_computed_on_the_way_is_computed(tmp_path):
    path = save_v1(tmp_path / "m", build)
    proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    graph_def = proto.meta_graphs[0].graph_def
    (assign,) = (
        n for n in graph_def.node if n.op == "AssignVariableOp" and n.input[0] == "resource" and "save" in n.name
    )
    twice = graph_def.node.add(name="twice", op="Add", input=[assign.input[1], assign.input[1]])
    twice.attr["T"].type = 1
    assign.input[1] = "twice"
    (path / "saved_model.pb").write_bytes(proto.SerializeToString())
    weight = values(path).variables["resource"]
    assert (weight.shape, weight.dtype) == ((40,), np.float32)
    np.testing.assert_array_equal(weight.read(), normal(40) * 2)
