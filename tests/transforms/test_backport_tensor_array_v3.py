"""TensorArrays of the second version: the same values, in loops too."""

from contextlib import contextmanager

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import assert_same_model, building, op_counts, reasons, run, view
from tests.old_tool import transformed, with_default_attributes
from tfslim_core import transforms
from tfslim_core.graph import Graph, control_inputs, make_node
from tfslim_core.transforms.backport_tensor_array_v3 import backport_tensor_array_v3

v1 = tf.compat.v1
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
FEEDS = {"x:0": X}
raw = tf.raw_ops


@contextmanager
def v1_building():
    v1.disable_control_flow_v2()
    try:
        with building() as g:
            yield g
    finally:
        v1.enable_control_flow_v2()


def graph_of(build):
    with v1_building() as g:
        x = v1.placeholder(tf.float32, [3, 4], "x")
        y = tf.identity(build(x), "y")
    return view(g, [x], [y])


def second_version(graph):
    """The graph after the transform, which leaves no third version."""
    outcome = backport_tensor_array_v3(graph)
    assert outcome.skipped == ()
    assert outcome.changes == sum(n.op in ("TensorArrayV3", "TensorArrayGradV3") for n in graph.nodes.values())
    assert not [op for op in op_counts(outcome.graph) if op.startswith("TensorArray") and op.endswith("V3")]
    assert outcome.graph.nodes.keys() >= graph.nodes.keys()
    return outcome.graph


def doubled(x):
    """x * 2, row by row, in a loop."""
    rows = tf.TensorArray(tf.float32, 3, element_shape=[4]).unstack(x)
    out = tf.TensorArray(tf.float32, 3)
    return v1.while_loop(lambda i, o: i < 3, lambda i, o: (i + 1, o.write(i, rows.read(i) * 2.0)), [0, out])[1].stack()


def straight(x):
    return tf.TensorArray(tf.float32, 4).scatter([2, 0, 3], x).write(1, x[0] * 3.0).gather([3, 1, 2])


def test_without_a_loop():
    graph = graph_of(straight)
    slim = second_version(graph)
    assert "identical_element_shapes" not in slim.nodes["TensorArray"].attr
    assert_same_model(graph, slim, FEEDS)


def test_a_handle_through_a_v1_loop():
    """Its type has to change where it enters the loop; the old tool leaves that, and the graph cannot be loaded."""
    graph = graph_of(doubled)
    slim = second_version(graph)
    carried = [n for n in slim.nodes.values() if n.op == "Enter" and n.attr["T"].type == tf.string.as_datatype_enum]
    assert len(carried) == 2
    assert_same_model(graph, slim, FEEDS)
    with tf.Graph().as_default() as g:
        tf.import_graph_def(whole(graph), name="")
    old = transformed(with_default_attributes(g.as_graph_def()), ["x"], ["y"], "backport_tensor_array_v3")
    with tf.Graph().as_default(), pytest.raises(ValueError, match="string from TensorArray:0"):
        tf.import_graph_def(old, name="")


def whole(graph):
    graph_def = v1.GraphDef()
    graph_def.CopyFrom(graph.to_graph_def())
    return graph_def


def test_as_the_old_tool_does_it():
    """Without a loop."""
    graph = graph_of(straight)
    with tf.Graph().as_default() as g:
        tf.import_graph_def(whole(graph), name="")
    old = transformed(with_default_attributes(g.as_graph_def()), ["x"], ["y"], "backport_tensor_array_v3")
    slim = second_version(graph)
    assert op_counts(slim) == {op: sum(n.op == op for n in old.node) for op in {n.op for n in old.node}}
    with tf.Graph().as_default():
        for node in old.node:
            node.attr.pop("identical_element_shapes", None)
        tf.import_graph_def(old, name="")
        with v1.Session() as session:
            np.testing.assert_array_equal(session.run("y:0", FEEDS), run(slim, FEEDS)[0])


def test_loops_within_loops_and_branches():
    def build(x):
        def outer(i, o):
            inner = tf.TensorArray(tf.float32, 4, clear_after_read=False)
            inner = v1.while_loop(lambda j, a: j < 4, lambda j, a: (j + 1, a.write(j, x[i, j] * 2.0)), [0, inner])[1]
            row = inner.stack()
            row = v1.cond(row[0] > 0, lambda: inner.gather([3, 2, 1, 0]), lambda: row)
            return i + 1, o.write(i, row)

        return v1.while_loop(lambda i, o: i < 3, outer, [0, tf.TensorArray(tf.float32, 3)])[1].concat()

    graph = graph_of(build)
    assert_same_model(graph, second_version(graph), FEEDS)


def test_a_handle_that_is_a_loop_variable():
    """It goes through Merge, Switch, Exit and NextIteration."""

    def build(x):
        handle, flow = raw.TensorArrayV3(size=3, dtype=tf.float32)

        def body(i, handle, flow):
            written = raw.TensorArrayWriteV3(handle=handle, index=i, value=x[i] + 1.0, flow_in=flow)
            return i + 1, tf.identity(handle), written

        _, handle, flow = v1.while_loop(lambda i, h, f: i < 3, body, [0, handle, flow])
        return raw.TensorArrayGatherV3(handle=handle, indices=[2, 0, 1], flow_in=flow, dtype=tf.float32)

    graph = graph_of(build)
    slim = second_version(graph)
    string = tf.string.as_datatype_enum
    changed = {n.op for n in slim.nodes.values() if n.op != "Placeholder" and n.attr["T"].type == string}
    assert changed == {"Enter", "Merge", "Switch", "Exit", "NextIteration", "Identity"}
    assert_same_model(graph, slim, FEEDS)


def test_gradients():
    def build(x):
        return v1.gradients(tf.reduce_sum(tf.square(doubled(x))), x)[0]

    graph = graph_of(build)
    assert op_counts(graph)["TensorArrayGradV3"] > 0
    outcome = backport_tensor_array_v3(graph)
    assert op_counts(outcome.graph)["TensorArrayGradV3"] == 0
    assert_same_model(graph, outcome.graph, FEEDS)


def test_every_op_of_a_tensor_array():
    def build(x):
        handle, flow = raw.TensorArrayV3(size=3, dtype=tf.float32, dynamic_size=True)
        flow = raw.TensorArrayScatterV3(handle=handle, indices=[2, 1, 0], value=x, flow_in=flow)
        flow = raw.TensorArrayWriteV3(handle=handle, index=3, value=x[0], flow_in=flow)
        size = raw.TensorArraySizeV3(handle=handle, flow_in=flow)
        row = raw.TensorArrayReadV3(handle=handle, index=1, flow_in=flow, dtype=tf.float32)
        rows = raw.TensorArrayGatherV3(handle=handle, indices=[0, 3], flow_in=flow, dtype=tf.float32)
        other, begun = raw.TensorArrayV3(size=2, dtype=tf.float32)
        split = raw.TensorArraySplitV3(handle=other, value=x, lengths=tf.constant([1, 2], tf.int64), flow_in=begun)
        parts = raw.TensorArrayConcatV3(handle=other, flow_in=split, dtype=tf.float32)
        result = tf.concat([rows, [row], parts.value, [tf.cast(parts.lengths[0] * [1, 1, 1, 1], tf.float32)]], 0)
        with tf.control_dependencies([result, size]):
            closed = raw.TensorArrayCloseV3(handle=handle)
        with tf.control_dependencies([closed]):
            return result * tf.cast(size, tf.float32)

    graph = graph_of(build)
    slim = second_version(graph)
    assert op_counts(slim)["TensorArrayCloseV2"] == 1
    assert_same_model(graph, slim, FEEDS)


def test_elements_that_were_not_written():
    for shape in ([4], [None], None):
        graph = graph_of(
            lambda x, shape=shape: tf.TensorArray(tf.float32, 3, element_shape=shape).write(1, x[0]).stack()
        )
        assert_same_model(graph, second_version(graph), FEEDS)


def test_the_graph_is_of_a_version_that_has_them():
    graph = graph_of(straight)
    slim = second_version(graph)
    assert (graph.rest.versions.producer > 25, slim.rest.versions.producer) == (True, 25)
    assert second_version(slim) is slim
    assert (slim.functions.keys(), slim.rest.versions.min_consumer) == ({}.keys(), graph.rest.versions.min_consumer)


def test_the_flow_begins_after_the_array_and_names_are_free():
    graph = graph_of(straight)
    graph = graph.replace([make_node("NoOp", "TensorArray/flow", [])])
    slim = second_version(graph)
    assert control_inputs(slim.nodes["TensorArray/flow_1"]) == ["TensorArray"]
    assert_same_model(graph, slim, FEEDS)


def test_stale_output_shapes_go_and_other_attributes_stay():
    graph = graph_of(straight)
    node = v1.NodeDef()
    node.CopyFrom(graph.nodes["TensorArray"])
    node.attr["_output_shapes"].list.shape.add()
    node.attr["_output_shapes"].list.shape.add()
    node.attr["_mark"].s = b"kept"
    slim = second_version(graph.replace([node]))
    assert "_output_shapes" not in slim.nodes["TensorArray"].attr
    assert slim.nodes["TensorArray"].attr["_mark"].s == b"kept"
    assert_same_model(graph, slim, FEEDS)


def test_a_handle_that_goes_elsewhere_is_left():
    """And every other array with it that meets it; those apart are rewritten."""

    def build(x):
        handle, flow = raw.TensorArrayV3(size=3, dtype=tf.float32, name="left")

        @tf.function(autograph=False)
        def write(handle, flow, x):
            return raw.TensorArrayScatterV3(handle=handle, indices=[0, 1, 2], value=x, flow_in=flow)

        flow = write(handle, flow, x)
        rows = raw.TensorArrayGatherV3(handle=handle, indices=[2, 1, 0], flow_in=flow, dtype=tf.float32)
        return rows + straight(x)

    graph = graph_of(build)
    outcome = backport_tensor_array_v3(graph)
    assert outcome.changes == 1
    (reason,) = reasons(outcome).values()
    assert reasons(outcome).keys() == {"left"}
    assert "takes its handle and cannot take another type" in reason
    counts = op_counts(outcome.graph)
    assert (counts["TensorArrayV3"], counts["TensorArrayV2"]) == (1, 1)
    assert_same_model(graph, outcome.graph, FEEDS)


def merged(x):
    """One of two arrays, of which `second` is also handed to an op of another kind."""
    first, flow = raw.TensorArrayV3(size=3, dtype=tf.float32, name="first")
    second, flow_2 = raw.TensorArrayV3(size=3, dtype=tf.float32, name="second")
    (off, on), (off_2, _) = (raw.Switch(data=h, pred=x[0, 0] > 0) for h in (first, second))
    handle = raw.Merge(inputs=[off_2, on]).output
    flow = raw.TensorArrayScatterV3(handle=handle, indices=[0, 1, 2], value=x, flow_in=flow + flow_2)
    del off
    return second, raw.TensorArrayGatherV3(handle=handle, indices=[2, 1, 0], flow_in=flow, dtype=tf.float32)


def test_handles_that_meet_in_a_merge_change_together():
    graph = graph_of(lambda x: merged(x)[1])
    for x in (np.abs(X), -np.abs(X)):
        assert_same_model(graph, second_version(graph), {"x:0": x})

    def build(x):
        second, y = merged(x)
        with tf.control_dependencies([tf.raw_ops.IdentityN(input=[second])[0]]):
            return tf.identity(y)

    graph = graph_of(build)
    outcome = backport_tensor_array_v3(graph)
    assert outcome.graph is graph
    assert len(set(reasons(outcome).values())) == 1
    assert reasons(outcome).keys() == {"first", "second"}
    assert "(IdentityN) takes its handle" in reasons(outcome)["first"]


def test_handles_and_flows_of_the_interface_are_left():
    graph = graph_of(straight)
    flow = Graph.of(graph.to_graph_def(), graph.inputs, [*graph.outputs, "TensorArray:1"])
    assert reasons(backport_tensor_array_v3(flow)) == {"TensorArray": "its flow is part of the interface"}
    for inputs, outputs in ((["TensorArray:0"], []), ([], ["TensorArray:0"])):
        handle = Graph.of(graph.to_graph_def(), [*graph.inputs, *inputs], [*graph.outputs, *outputs])
        reason = "the handle that 'TensorArray' gives is part of the interface"
        assert reasons(backport_tensor_array_v3(handle)) == {"TensorArray": reason}
        assert backport_tensor_array_v3(handle).graph is handle


def test_a_handle_that_comes_from_elsewhere():
    with building() as g:
        x = v1.placeholder(tf.resource, [], "x")
        handle, flow = raw.TensorArrayV3(size=3, dtype=tf.float32, name="array")
        made = raw.Merge(inputs=[x, handle]).output
        y = raw.TensorArraySizeV3(handle=made, flow_in=flow)
    outcome = backport_tensor_array_v3(view(g, [x], [y]))
    assert reasons(outcome) == {"array": "'Merge' takes its handle from 'x'"}


def test_function_bodies_and_graphs_without_arrays_stay():
    @tf.function(autograph=False)
    def inner(x):
        handle, flow = raw.TensorArrayV3(size=3, dtype=tf.float32)
        flow = raw.TensorArrayScatterV3(handle=handle, indices=[0, 1, 2], value=x, flow_in=flow)
        return raw.TensorArrayGatherV3(handle=handle, indices=[2, 1, 0], flow_in=flow, dtype=tf.float32)

    graph = graph_of(inner)
    assert backport_tensor_array_v3(graph).graph is graph
    slim, _ = transforms.apply(graph, "inline_partitionedcall backport_tensor_array_v3")
    assert op_counts(slim)["TensorArrayV2"] == 1
    assert_same_model(graph, slim, FEEDS)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(["float32", "float64", "int32", "int64"]),
    steps=st.integers(1, 4),
    arrays=st.integers(1, 3),
    dynamic=st.booleans(),
    shared=st.booleans(),
    branch=st.booleans(),
    device=st.sampled_from(["", "/cpu:0"]),
)
def test_any_loop(dtype, steps, arrays, dynamic, shared, branch, device):
    values = np.arange(steps * 2).reshape(steps, 2).astype(dtype)
    with v1_building() as g, g.device(device):
        x = v1.placeholder(dtype, [steps, 2], "x")
        source = tf.TensorArray(dtype, steps, clear_after_read=False).unstack(x)
        made = [tf.TensorArray(dtype, 0 if dynamic else steps, dynamic_size=dynamic) for _ in range(arrays)]

        def body(i, *made):
            new = []
            for number, array in enumerate(made):
                row = source.read(steps - 1 - i if shared else i) * (number + 1)
                row = v1.cond(row[0] > 2, lambda row=row: row, lambda row=row: source.read(0) - row) if branch else row
                new.append(array.write(i, row))
            return (i + 1, *new)

        done = v1.while_loop(lambda i, *_: i < steps, body, [0, *made])[1:]
        outputs = [array.stack() for array in done] + ([source.concat()] if arrays > 1 else [])
    graph = view(g, [x], outputs)
    slim = second_version(graph)
    for wanted, found in zip(run(graph, {"x:0": values}), run(slim, {"x:0": values}), strict=True):
        assert wanted.dtype == found.dtype
        np.testing.assert_array_equal(wanted, found)
