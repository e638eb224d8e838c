import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import assert_same_model, building, op_counts, op_delta, random_feeds, reasons, run, values, view
from tfslim_core.graph import Graph, control_inputs
from tfslim_core.transforms.fuse_transposes_and_reshapes import fuse_transposes_and_reshapes

v1 = tf.compat.v1
TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


def fused(graph):
    outcome = fuse_transposes_and_reshapes(graph)
    again = fuse_transposes_and_reshapes(outcome.graph)
    assert (again.changes, again.graph) == (0, outcome.graph)
    return outcome


def transpose(x, axes, name=None, dtype=tf.int32):
    return tf.raw_ops.Transpose(x=x, perm=tf.constant(axes, dtype), name=name)


def reshape(x, shape, name=None):
    return tf.raw_ops.Reshape(tensor=x, shape=tf.constant(shape, tf.int32), name=name)


def after(build, shape=(2, 3, 4, 5), dtype=tf.float32, unknown=3):
    """The ops between x and y once what `build` makes of x is fused, and the outcome; both compute the same."""
    with building() as g:
        x = v1.placeholder(dtype, shape, "x")
        y = tf.raw_ops.Identity(input=build(x), name="y")
    graph = view(g, [x], [y])
    outcome = fused(graph)
    assert_same_model(graph, outcome.graph, random_feeds(graph, unknown=unknown), rtol=0, atol=0)
    counts = op_counts(outcome.graph)
    for name in ("Placeholder", "Identity"):
        counts[name] -= 1
    return {op: count for op, count in counts.items() if count}, outcome


# Transposes


def test_two_transposes_become_one():
    left, outcome = after(lambda x: transpose(transpose(x, [1, 0, 3, 2]), [3, 0, 1, 2]))
    assert left == {"Transpose": 1, "Const": 1}
    assert [value.tolist() for value in values(outcome.graph).values()] == [[2, 1, 0, 3]]


def test_transposes_that_cancel_go():
    assert after(lambda x: transpose(transpose(x, TO_NCHW), TO_NHWC))[0] == {}
    assert after(lambda x: transpose(transpose(x, TO_NCHW), TO_NHWC, dtype=tf.int64))[0] == {}


def test_a_transpose_that_moves_nothing_goes():
    assert after(lambda x: transpose(x, [0, 1, 2, 3]))[0] == {}
    assert after(lambda x: transpose(x, []), shape=())[0] == {}


def test_a_chain_of_transposes_becomes_one():
    def chain(x):
        for _ in range(31):
            x = transpose(x, [1, 2, 3, 0])
        return x

    left, outcome = after(chain)
    assert left == {"Transpose": 1, "Const": 1}
    assert [value.tolist() for value in values(outcome.graph).values()] == [[3, 0, 1, 2]]


def test_the_type_of_the_permutation_is_kept():
    left, outcome = after(lambda x: transpose(transpose(x, [1, 0, 3, 2]), [3, 0, 1, 2], dtype=tf.int64))
    assert left == {"Transpose": 1, "Const": 1}
    assert [value.dtype for value in values(outcome.graph).values()] == [np.int64]


def test_an_inner_transpose_that_others_read_stays_for_them():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3, 4, 5], "x")
        inner = transpose(x, TO_NCHW, "inner")
        y, z = tf.nn.relu(transpose(inner, TO_NHWC, "outer"), name="y"), tf.nn.tanh(inner, name="z")
    graph = view(g, [x], [y, z])
    outcome = fused(graph)
    assert op_delta(graph, outcome.graph) == {"Transpose": -1, "Const": -1}
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_an_output_keeps_its_name_and_a_fed_one_its_meaning():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3, 4, 5], "x")
        y = transpose(transpose(x, TO_NCHW, "inner"), TO_NHWC, "y")
    graph = view(g, [x], [y])
    outcome = fused(graph)
    assert op_counts(outcome.graph) == {"Placeholder": 1, "Identity": 1}
    assert_same_model(graph, outcome.graph, random_feeds(graph))
    fed = view(g, ["inner:0"], [y])
    assert fused(fed).graph is fed
    constant = view(g, [x, next(n.name for n in g.get_operations() if n.type == "Const") + ":0"], [y])
    assert "not both permutations are constants" in reasons(fused(constant))["y"]


def test_a_permutation_that_is_computed_is_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        axes = v1.placeholder(tf.int32, [2], "axes")
        y = transpose(tf.raw_ops.Transpose(x=x, perm=axes), [1, 0], "y")
    outcome = fused(view(g, [x, axes], [y]))
    assert reasons(outcome) == {"y": "of it and the Transpose below it, not both permutations are constants"}


# Layouts around elementwise ops


def test_transposes_around_elementwise_ops_go():
    def build(x):
        y = tf.nn.relu(transpose(x, TO_NCHW)) * 2.0
        return transpose(1.0 - tf.tanh(y), TO_NHWC)

    assert after(build)[0] == {"Relu": 1, "Mul": 1, "Sub": 1, "Tanh": 1, "Const": 2}


def test_a_residual_between_transposes_changes_layout():
    def build(x):
        a, b = transpose(tf.sin(x), TO_NCHW), transpose(tf.cos(x), TO_NCHW)
        return transpose(tf.add_n([tf.nn.relu(a) + b, a]), TO_NHWC)

    assert after(build)[0] == {"Sin": 1, "Cos": 1, "Relu": 1, "AddV2": 1, "AddN": 1}


def test_broadcasting_works_in_either_layout():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3, 4, 5], "x")
        bias = v1.placeholder(tf.float32, [1, 1, 1, 5], "bias")
        y = tf.nn.relu(transpose(transpose(x, TO_NCHW) + transpose(bias, TO_NCHW), TO_NHWC), name="y")
    graph = view(g, [x, bias], [y])
    outcome = fused(graph)
    assert op_counts(outcome.graph) == {"Placeholder": 2, "AddV2": 1, "Relu": 1}
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_many_layers_each_between_transposes_lose_them_all():
    def build(x):
        for _ in range(20):
            x = transpose(tf.nn.tanh(transpose(x, TO_NCHW)), TO_NHWC)
        return x

    assert after(build)[0] == {"Tanh": 20}


@pytest.mark.parametrize("kind", ["vector", "matrix of another rank", "other axes", "matmul"])
def test_what_depends_on_the_layout_is_left_alone(kind):
    def build(x):
        y = transpose(x, [0, 1, 3, 2])
        match kind:
            case "vector":
                y = y + np.arange(4, dtype=np.float32)
            case "matrix of another rank":
                y = y * tf.exp(transpose(x[0, 0, :4, :4], [1, 0]))
            case "other axes":
                y = y + transpose(x[:, :, :4, :4], [1, 0, 3, 2])
            case "matmul":
                y = tf.matmul(y, y)
        return transpose(y, [0, 1, 3, 2])

    left, outcome = after(build, shape=(3, 3, 4, 4))
    assert outcome.changes == 0
    assert left["Transpose"] >= 2


@pytest.mark.parametrize("role", ["reader", "output"])
def test_an_op_between_transposes_that_is_wanted_in_that_layout_keeps_it(role):
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3, 4, 5], "x")
        middle = tf.nn.relu(transpose(x, TO_NCHW), name="middle")
        y = tf.nn.tanh(transpose(middle, TO_NHWC, "back"), name="y")
        other = None
        if role == "reader":
            other = tf.nn.bias_add(middle, [1.0, 2.0, 3.0, 4.0, 5.0], data_format="NCHW", name="other")
    graph = view(g, [x], [y, middle] if role == "output" else [y, other])
    outcome = fused(graph)
    assert outcome.graph is graph
    why = "is part of the interface" if role == "output" else "is read by 'other' too"
    assert reasons(outcome) == {"back": f"'middle', between it and a Transpose that it undoes, {why}"}


# Reshapes


def test_the_outer_of_two_reshapes_is_enough():
    assert after(lambda x: reshape(reshape(x, [-1, 4]), [5, -1]))[0] == {"Reshape": 1, "Const": 1}
    assert after(lambda x: reshape(tf.expand_dims(x, 1), [5, -1]))[0] == {"Reshape": 1, "Const": 1}
    assert after(lambda x: reshape(tf.squeeze(x, [1, 2]), [5, -1]), (5, 1, 1, 2))[0] == {"Reshape": 1, "Const": 1}


def test_a_reshape_to_the_shape_it_has_goes():
    assert after(lambda x: reshape(x, [2, 3, 4, 5]))[0] == {}
    assert after(lambda x: reshape(x, [-1, 3, 4, 5]), shape=(None, 3, 4, 5))[0] == {}
    assert after(lambda x: reshape(reshape(x, [-1, 60]), [-1, 3, 4, 5]), shape=(None, 3, 4, 5))[0] == {}


def test_a_reshape_whose_shape_is_not_known_to_be_the_same_stays():
    assert after(lambda x: reshape(x, [-1, 4]), shape=(None, None), unknown=4)[0] == {"Reshape": 1, "Const": 1}


def test_a_tensor_without_elements_keeps_its_shape():
    """(None, 0) reshaped to [5, 0] may be of another number of rows."""
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 0], "x")
        y = tf.raw_ops.Neg(x=reshape(reshape(x, [7, -1, 3]), [5, 0]), name="y")
    graph = view(g, [x], [y])
    slim = fused(graph).graph
    assert [run(one, {"x:0": np.zeros([2, 0])})[0].shape for one in (graph, slim)] == [(5, 0)] * 2
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 0], "x")
        y = tf.raw_ops.Neg(x=tf.raw_ops.Reshape(tensor=x, shape=[tf.shape(x)[0] * 2, 0]), name="y")
    graph = view(g, [x], [y])
    assert op_counts(fused(graph).graph)["Reshape"] == 1


def test_a_shape_that_hangs_on_the_inner_reshape_keeps_it():
    def build(x):
        inner = reshape(x, [-1, 4])
        return tf.raw_ops.Reshape(tensor=inner, shape=tf.reverse(tf.shape(inner), [0]))

    assert after(build, shape=(None, 3, 4, 5))[0]["Reshape"] == 2


def test_expand_dims_and_squeeze_of_one_axis_cancel():
    assert after(lambda x: tf.squeeze(tf.expand_dims(x, 1), [1]))[0] == {}
    assert after(lambda x: tf.squeeze(tf.expand_dims(x, -1), [4]))[0] == {}
    assert after(lambda x: tf.expand_dims(tf.squeeze(x, [1]), 1), (4, 1, 5))[0] == {}
    assert after(lambda x: tf.expand_dims(tf.squeeze(x, [-1]), 2), (4, 5, 1))[0] == {}


def test_expand_dims_and_squeeze_of_different_axes_stay():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 1, 3], "x")
        y = tf.raw_ops.Neg(x=tf.squeeze(tf.expand_dims(x, 0), [2]), name="y")
        z = tf.raw_ops.Neg(x=tf.squeeze(tf.expand_dims(x, 0)), name="z")
    graph = view(g, [x], [y, z])
    assert fused(graph).graph is graph


def test_axes_counted_from_different_ends_need_a_known_rank():
    with building() as g:
        x = v1.placeholder(tf.float32, None, "x")
        y = tf.raw_ops.Neg(x=tf.squeeze(tf.expand_dims(x, 1), [-1]), name="y")
    graph = view(g, [x], [y])
    assert fused(graph).graph is graph


def test_casts_to_the_same_type_go():
    assert after(lambda x: tf.raw_ops.Cast(x=x, DstT=tf.float32))[0] == {}
    assert after(lambda x: tf.cast(tf.cast(x, tf.float64), tf.float32))[0] == {"Cast": 2}


# What is around


def test_control_inputs_are_kept():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3, 4, 5], "x")
        checks = [
            tf.raw_ops.Assert(condition=tf.reduce_all(x < number), data=[x], name=f"assert_{number}")
            for number in range(9, 13)
        ]
        with g.control_dependencies(checks[:1]):
            inner = transpose(x, TO_NCHW)
        with g.control_dependencies(checks[1:2]):
            outer = transpose(tf.nn.relu(inner), TO_NHWC)
        with g.control_dependencies(checks[2:3]):
            outer = reshape(reshape(outer, [-1]), [2, -1])
        with g.control_dependencies([outer]):
            y = tf.raw_ops.Neg(x=outer, name="y")
    graph = view(g, [x], [y])
    slim = fused(graph).graph
    waits = {name for node in slim.nodes.values() for name in control_inputs(node)}
    assert waits == {"assert_9", "assert_10", "assert_11"}
    assert op_counts(slim)["Transpose"] == 0
    assert_same_model(graph, slim, random_feeds(graph))


def test_in_bodies_too():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3, 4, 5], "x")
        v1.enable_control_flow_v2()
        y = tf.while_loop(
            lambda i, a: i < 3, lambda i, a: (i + 1, transpose(tf.sin(transpose(a, TO_NCHW)), TO_NHWC)), [0, x]
        )[1]
        y = tf.identity(y, "y")
    graph = view(g, [x], [y])
    slim = fused(graph).graph
    assert not any(node.op == "Transpose" for function in slim.functions.values() for node in function.node_def)
    assert_same_model(graph, slim, random_feeds(graph))


@pytest.mark.parametrize("kind", ["loop", "cond"])
def test_v1_control_flow_computes_the_same(kind):
    def around(a):
        return transpose(tf.sin(transpose(transpose(a, [1, 0, 2, 3]), [2, 0, 1, 3])), [1, 2, 0, 3])

    v1.disable_control_flow_v2()
    try:
        with building() as g:
            x = v1.placeholder(tf.float32, [3, 3, 3, 3], "x")
            if kind == "loop":
                y = v1.while_loop(lambda i, a: i < 3, lambda i, a: (i + 1, around(a)), [0, x])[1]
            else:
                y = v1.cond(tf.reduce_sum(x) > 0, lambda: around(x), lambda: reshape(reshape(x, [9, 9]), [3, 3, 3, 3]))
            y = tf.identity(y, "y")
    finally:
        v1.enable_control_flow_v2()
    graph = view(g, [x], [y])
    outcome = fused(graph)
    assert outcome.changes > 0
    for sign in (1, -1):
        feeds = {name: sign * np.abs(value) for name, value in random_feeds(graph).items()}
        assert_same_model(graph, outcome.graph, feeds)


def test_stale_shapes_and_colocation_do_no_harm():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3, 4, 5], "x")
        y = tf.nn.tanh(transpose(tf.nn.relu(transpose(x, TO_NCHW, "in"), name="relu"), TO_NHWC, "out"), name="y")
    graph_def = g.as_graph_def(add_shapes=True)
    next(node for node in graph_def.node if node.name == "y").attr["_class"].list.s.append(b"loc:@in")
    graph = Graph.of(graph_def, [x.name], [y.name])
    slim = fused(graph).graph
    assert op_counts(slim) == {"Placeholder": 1, "Relu": 1, "Tanh": 1}
    assert_same_model(graph, slim, random_feeds(graph))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_computes_the_same(data):
    with building() as g:
        dtype = data.draw(st.sampled_from([tf.float32, tf.float64, tf.float16]))
        x = v1.placeholder(dtype, [2, 3, 4], "x")
        pool = [x, tf.raw_ops.Sin(x=x)]
        for number in range(data.draw(st.integers(3, 12))):
            a = data.draw(st.sampled_from(pool[-4:]))
            rank = a.shape.rank
            kinds = [
                "Transpose",
                "Transpose",
                "Transpose",
                "Reshape",
                "Expand",
                "Squeeze",
                "Tanh",
                "Add",
                "Scale",
                "Cast",
            ]
            match data.draw(st.sampled_from(kinds)):
                case "Transpose":
                    a = transpose(a, data.draw(st.permutations(range(rank))), f"n{number}")
                case "Reshape":
                    a = reshape(a, data.draw(st.sampled_from([[2, 3, 4], [-1], [4, -1], [3, 2, -1]])), f"n{number}")
                case "Expand":
                    a = tf.expand_dims(a, data.draw(st.integers(-rank - 1, rank)), name=f"n{number}")
                case "Squeeze":
                    ones = [axis for axis, size in enumerate(a.shape) if size == 1]
                    if ones:
                        axis = data.draw(st.sampled_from(ones))
                        a = tf.squeeze(a, [data.draw(st.sampled_from([axis, axis - rank]))], name=f"n{number}")
                case "Tanh":
                    a = tf.raw_ops.Tanh(x=a, name=f"n{number}")
                case "Add":
                    same = [b for b in pool if b.shape == a.shape]
                    a = tf.raw_ops.AddV2(x=a, y=data.draw(st.sampled_from(same)), name=f"n{number}")
                case "Scale":
                    a = tf.raw_ops.Mul(x=tf.constant(1.5, dtype), y=a, name=f"n{number}")
                case "Cast":
                    a = tf.raw_ops.Cast(x=a, DstT=dtype, name=f"n{number}")
            pool.append(a)
        outputs = list({t.name: t for t in [pool[-1], data.draw(st.sampled_from(pool[1:]))]}.values())
        v1.placeholder(dtype, [], "n0/axes")
    graph = view(g, [x], outputs)
    outcome = fused(graph)
    assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=0, atol=0)
    for op in ("Transpose", "Reshape", "ExpandDims", "Squeeze", "Cast"):
        assert op_delta(graph, outcome.graph).get(op, 0) <= 0
