import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import assert_same_model, building, op_counts, op_delta, random_feeds, view
from tests.old_tool import transformed, with_default_attributes
from tfslim_core.graph import Graph
from tfslim_core.transforms import merge_duplicate_nodes as module
from tfslim_core.transforms.merge_duplicate_nodes import merge_duplicate_nodes
from tfslim_core.weights import Weight

v1 = tf.compat.v1


def merged(graph):
    outcome = merge_duplicate_nodes(graph)
    again = merge_duplicate_nodes(outcome.graph)
    assert again.changes == 0
    assert again.graph is outcome.graph
    return outcome


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_computes_the_same_and_leaves_no_duplicate(data):
    with building() as g:
        x = v1.placeholder(tf.float32, [3, 3], "x")
        pool = [x]
        for number in range(data.draw(st.integers(4, 14))):
            a, b = (data.draw(st.sampled_from(pool)) for _ in range(2))
            kind = data.draw(st.sampled_from(["Add", "MatMul", "Abs", "Const", "Split"]))
            before = [data.draw(st.sampled_from(pool)).op] if data.draw(st.integers(0, 4)) == 0 else []
            with g.control_dependencies(before):
                name = f"n{number}"
                pool.append(
                    {
                        "Add": lambda: tf.raw_ops.AddV2(x=a, y=b, name=name),  # noqa: B023
                        "MatMul": lambda: tf.raw_ops.MatMul(a=a, b=b, transpose_b=number % 2 == 0, name=name),  # noqa: B023
                        "Abs": lambda: tf.raw_ops.Abs(x=a, name=name),  # noqa: B023
                        "Const": lambda: tf.constant(np.eye(3, dtype=np.float32) * (number % 2 + 1), name=name),  # noqa: B023
                        "Split": lambda: tf.concat(tf.split(a, 3), 0, name=name),  # noqa: B023
                    }[kind]()
                )
        outputs = [tf.raw_ops.AddV2(x=x, y=pool[-1], name="y")]
        outputs += data.draw(st.lists(st.sampled_from(pool[1:]), max_size=3, unique_by=id))
    graph = view(g, [x], outputs)
    outcome = merged(graph)
    # Products of products grow: what is compared is relative.
    assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=1e-5, atol=1e-5)


def test_chains_of_duplicates_are_merged_in_one_sweep():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        branches = []
        for _ in range(3):
            y = x
            for _ in range(10):
                y = tf.raw_ops.AddV2(x=y, y=tf.constant(1.5))
            branches.append(y)
        y = tf.raw_ops.AddN(inputs=branches, name="y")
    graph = view(g, [x], [y])
    outcome = merged(graph)
    assert op_counts(outcome.graph) == {"Placeholder": 1, "Const": 1, "AddV2": 10, "AddN": 1}
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def two(build, outputs=True, inputs=("x:0",)):
    """How many nodes go when `build` is called twice."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 2], "x")
        pair = [build(x), build(x)]
        total = tf.raw_ops.AddN(inputs=[tf.cast(t, tf.float32) for t in pair], name="total")
    graph = view(g, inputs, [total])
    return -sum(count for op, count in op_delta(graph, merged(graph).graph).items() if op != "Cast")


def test_what_differs_is_not_merged():
    constants = iter([1.0, 2.0])
    assert two(lambda x: tf.constant(next(constants), shape=[2, 2])) == 0
    dtypes = iter([tf.float32, tf.float64])
    assert two(lambda x: tf.constant([1.0, 1.0], next(dtypes))) == 0
    shapes = iter([[1, 2], [2, 1]])
    assert two(lambda x: x + tf.constant([1.0, 1.0], shape=next(shapes))) == 0
    flags = iter([True, False])
    assert two(lambda x: tf.raw_ops.MatMul(a=x, b=x, transpose_a=next(flags))) == 0
    zeros = iter([0.0, -0.0])
    assert two(lambda x: tf.constant(next(zeros))) == 0


def test_equal_constants_are_one_however_they_are_written():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], "x")
        y = x + tf.constant(2.0, shape=[4]) + tf.constant([2.0, 2.0, 2.0, 2.0])
        z = tf.strings.join([tf.constant([b"a\0", b"b"]), tf.constant([b"a\0", b"b"]), tf.constant([b"a", b"b"])])
    graph = view(g, [x], [y, z])
    assert op_delta(graph, merged(graph).graph) == {"Const": -2}


def test_nan_is_equal_to_itself():
    assert two(lambda x: tf.constant([np.nan, 1.0])) == 1


def test_random_numbers_and_tables_are_not_merged():
    assert two(lambda x: tf.random.uniform([2, 2])) == 1  # the shape
    assert (
        two(
            lambda x: tf.raw_ops.LookupTableSizeV2(
                table_handle=tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.float32)
            )
        )
        == 0
    )


def test_placeholders_are_not_merged_whether_listed_or_not():
    assert two(lambda x: v1.placeholder(tf.float32, [2, 2])) == 0
    assert two(lambda x: v1.placeholder(tf.float32, [2, 2]), inputs=("x:0", "Placeholder:0", "Placeholder_1:0")) == 0
    assert two(lambda x: v1.placeholder_with_default(x, [2, 2])) == 0


def test_what_is_fed_is_not_merged():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        a, b = tf.raw_ops.Abs(x=x, name="a"), tf.raw_ops.Abs(x=x, name="b")
        y = tf.raw_ops.Sub(x=a, y=b, name="y")
    graph = view(g, [x, a], [y])
    assert merged(graph).graph is graph


def test_nodes_of_the_interface_keep_their_names_and_others_read_them():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        a, b, c = (tf.raw_ops.Abs(x=x, name=name) for name in "abc")
        y = tf.raw_ops.AddV2(x=a, y=c, name="y")
    graph = view(g, [x], [y, b])
    outcome = merged(graph)
    assert set(outcome.graph.nodes) == {"x", "b", "y"}
    both = view(g, [x], [y, b, c])
    assert set(merged(both).graph.nodes) == {"x", "b", "c", "y"}
    assert_same_model(both, merged(both).graph, random_feeds(both))


def test_control_inputs_and_devices_count():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 99), data=[x], name="assert")
        plain = tf.raw_ops.Abs(x=x, name="plain")
        with g.control_dependencies([check]):
            after, also = tf.raw_ops.Abs(x=x, name="after"), tf.raw_ops.Abs(x=x, name="also")
        with g.device("/cpu:0"):
            placed = tf.raw_ops.Abs(x=x, name="placed")
        y = tf.raw_ops.AddN(inputs=[plain, after, also, placed])
    graph = view(g, [x], [y])
    assert set(graph.nodes) - set(merged(graph).graph.nodes) == {"also"}


def test_calls_of_library_functions_are_looked_up():
    @tf.function
    def f(x):
        return x + 1.0

    assert two(lambda x: f(x)) == 1


def test_large_constants_are_read_only_beside_one_of_their_looks():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 32], "x")
        same = np.random.default_rng(0).normal(size=[32, 32]).astype(np.float32)
        names = {"a": same, "b": same, "c": same + 1, "lone": same[:, :16]}
        y = [tf.matmul(x, tf.constant(value, name=name)) for name, value in names.items()]
    graph = view(g, [x], y)
    reads = []

    def counting(name, weight):
        return Weight(weight.dtype, weight.shape, lambda: reads.append(name) or weight.read())

    graph = graph.replace(weights={name: counting(name, weight) for name, weight in graph.weights.items()})
    slim = merge_duplicate_nodes(graph).graph
    assert reads == ["a", "b", "a", "b", "c"], "each once to tell them apart, and those of one digest to be sure"
    assert sorted(slim.weights) == ["a", "c", "lone"]
    assert_same_model(graph, slim, random_feeds(graph))


@pytest.mark.parametrize("kind", ["loop", "cond"])
def test_v1_control_flow_computes_the_same(kind):
    v1.disable_control_flow_v2()
    try:
        with building() as g:
            x = v1.placeholder(tf.float32, [2], "x")
            if kind == "loop":
                y = v1.while_loop(lambda i, a, b: i < 3, lambda i, a, b: (i + 1, a + 2.0, b + 2.0), [0, x, x])[1:]
            else:
                y = [v1.cond(tf.reduce_sum(x) > 0, lambda: x * 2.0, lambda: x * 3.0) for _ in range(2)]
            y = tf.raw_ops.AddV2(x=y[0], y=y[1], name="y")
    finally:
        v1.enable_control_flow_v2()
    graph = view(g, [x], [y])
    outcome = merged(graph)
    assert outcome.changes > 0
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_equal_digests_are_no_proof(monkeypatch):
    """Two constants of one SHA-256 are not to be found; this is what would happen with them."""
    monkeypatch.setattr(module, "_digest", lambda value: b"the same for all")
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 32], "x")
        one = np.random.default_rng(0).normal(size=[32, 32]).astype(np.float32)
        y = [tf.matmul(x, tf.constant(value, name=name)) for name, value in {"a": one, "b": one + 1, "c": one}.items()]
    graph = view(g, [x], y)
    slim = merged(graph).graph
    assert sorted(slim.weights) == ["a", "b"]
    assert_same_model(graph, slim, random_feeds(graph))


def test_an_attribute_left_out_is_equal_to_its_default():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 2], "x")
        a = tf.raw_ops.MatMul(a=x, b=x, name="a")
        b = tf.raw_ops.MatMul(a=x, b=x, transpose_a=True, name="b")
        c = tf.raw_ops.MatMul(a=x, b=x, name="c")
        y = tf.raw_ops.AddN(inputs=[a, b, c], name="y")
    graph_def = g.as_graph_def()
    for node in graph_def.node:
        if node.name in "ab":
            for key in ("transpose_a", "transpose_b"):
                if not node.attr[key].b:
                    del node.attr[key]
    graph = Graph.of(graph_def, [x.name], [y.name])
    outcome = merged(graph)
    assert set(graph.nodes) - set(outcome.graph.nodes) == {"c"}
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_an_input_is_known_by_any_of_its_spellings():
    """The old tool takes `a:0` for no input, and merges two that are listed so."""
    with building() as g:
        a, b = (v1.placeholder(tf.float32, [2], name) for name in "ab")
        y = tf.raw_ops.Sub(x=a, y=b, name="y")
    graph = view(g, ["a:0", "b:0"], [y])
    full = with_default_attributes(graph.to_graph_def())
    assert len(transformed(full, ["a:0", "b:0"], ["y"], "merge_duplicate_nodes").node) == 2
    assert merged(graph).graph is graph
    spelled = graph.to_graph_def()
    spelled.node[2].input[:] = ["a:0", "b:0"]
    twice = spelled.node.add()
    twice.CopyFrom(spelled.node[2])
    twice.name, twice.input[:] = "z", ["a", "b"]
    both = Graph.of(spelled, ["a:0", "b:0"], ["y:0"])
    assert set(merged(both).graph.nodes) == {"a", "b", "y"}


def test_inputs_of_an_op_that_commutes_may_come_in_either_order():
    with building() as g:
        x, z = (v1.placeholder(tf.float32, [2], name) for name in "xz")
        pairs = [op(x=a, y=b) for op in (tf.raw_ops.Mul, tf.raw_ops.Sub) for a, b in ((x, z), (z, x))]
        sums = [tf.raw_ops.AddN(inputs=list(order)) for order in ((x, z, pairs[0]), (z, x, pairs[0]))]
        y = tf.concat([*pairs, *sums], 0)
    graph = view(g, [x, z], [y])
    outcome = merged(graph)
    assert op_delta(graph, outcome.graph) == {"Mul": -1}
    assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=0, atol=0)


def test_control_inputs_from_duplicates_are_one():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 99), data=[x], name="assert")
        pairs = []
        for _ in range(2):
            with g.control_dependencies([check]):
                gate = tf.raw_ops.Abs(x=x)
            with g.control_dependencies([gate]):
                pairs.append(tf.raw_ops.AddV2(x=x, y=tf.constant([1.0, 2.0])))
        y = tf.raw_ops.AddN(inputs=pairs)
    graph = view(g, [x], [y])
    outcome = merged(graph)
    assert op_delta(graph, outcome.graph) == {"Abs": -1, "AddV2": -1, "Const": -1}
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_in_function_bodies_the_same():
    v1.enable_control_flow_v2()
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        y = tf.cond(tf.reduce_sum(x) > 0, lambda: tf.tanh(x) * 2.0 + tf.tanh(x), lambda: x)
        y = tf.while_loop(lambda i, a, b: i < 3, lambda i, a, b: (i + 1, tf.sin(a) + tf.sin(a), b), [0, y, y])
        y = tf.raw_ops.AddV2(x=y[1], y=y[2], name="y")

    def count(graph, op):
        return sum(node.op == op for function in graph.functions.values() for node in function.node_def)

    graph = view(g, [x], [y])
    outcome = merged(graph)
    assert (count(graph, "Tanh"), count(outcome.graph, "Tanh")) == (2, 1)
    assert (count(graph, "Sin"), count(outcome.graph, "Sin")) == (2, 1)
    for value in ([1, 2, 3], [-1, -2, -3]):
        assert_same_model(graph, outcome.graph, {"x:0": np.array(value, np.float32)})


def test_draws_in_a_body_and_its_arguments_are_not_merged():
    @tf.function
    def noisy(a, b):
        return tf.random.uniform([2]) - tf.random.uniform([2]) + a - b

    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        y = noisy(x, x * 2.0)
    graph = view(g, [x], [y])
    slim = merged(graph).graph
    (function,) = slim.functions.values()
    assert sum(node.op == "RandomUniform" for node in function.node_def) == 2
    assert len(function.signature.input_arg) == 2


def test_the_old_tool_finds_as_many():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 2], "x")
        layers = [tf.tanh(tf.matmul(x, tf.constant([[1.0, 2.0], [3.0, 4.0]])) + tf.constant(1.0)) for _ in range(3)]
        y = tf.add_n(layers, name="y")
    graph = view(g, [x], [y])
    old = transformed(with_default_attributes(graph.to_graph_def()), ["x"], ["y"], "merge_duplicate_nodes")
    slim = merged(graph).graph
    assert len(old.node) == len(slim.nodes)
    assert_same_model(Graph.of(old, graph.inputs, graph.outputs), slim, random_feeds(graph))
