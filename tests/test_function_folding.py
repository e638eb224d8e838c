# ruff: noqa: B023 - the branches are traced at once
"""Constants that go into loops, branches and calls, are folded there, and come out when they are large."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import assert_same_model, building, op_counts, random_feeds, reasons, run
from tfslim_core.call_sites import Slots, call_site, changed_call, changed_function
from tfslim_core.function_bodies import body_of
from tfslim_core.graph import Graph, external_constant, renamed
from tfslim_core.transforms.fold_constants import fold_constants
from tfslim_core.weights import Encoded, Weight

v1 = tf.compat.v1


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * np.float32(0.3)


def graph_of(function, *specs):
    """The graph of a Python function, not inlined: its loops and branches call functions."""
    specs = specs or (tf.TensorSpec([3, 20], tf.float32, name="x"),)
    concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    outputs = [tensor.name for tensor in tf.nest.flatten(concrete.outputs)]
    names = [tensor.name for tensor in concrete.inputs]
    return Graph.of(concrete.graph.as_graph_def(), names, outputs)


def folded(graph, **parameters):
    """The graph folded, after saying that it computes the same and that a second run changes nothing."""
    outcome = fold_constants(graph, **parameters)
    feeds = random_feeds(graph)
    assert_same_model(graph, outcome.graph, feeds)
    assert_same_model(graph, outcome.graph, {name: -np.abs(value) for name, value in feeds.items()})
    again = fold_constants(outcome.graph, **parameters)
    assert again.changes == 0
    assert again.graph is outcome.graph
    return outcome


def ops_in_functions(graph):
    return sum((op_counts_of(function) for function in graph.functions.values()), start=type(op_counts(graph))())


def op_counts_of(function):
    from collections import Counter

    return Counter(node.op for node in function.node_def)


def only(graph, *ops):
    (node,) = (node for node in graph.nodes.values() if node.op in ops)
    return node


def function_of(graph, node, key):
    return graph.functions[node.attr[key].func.name]


def largest_inline(graph):
    """Bytes of the largest constant in a function."""
    return max(
        (node.attr["value"].tensor.ByteSize() for f in graph.functions.values() for node in f.node_def), default=0
    )


def loop(x, body, *others, times=3):
    """`body(x, *others)` gives the new x; the others are passed on. Gives x and what the loop returns of the others."""
    found = tf.while_loop(
        lambda i, *_: i < times,
        lambda i, x, *rest: (i + 1, body(x, *rest), *rest),
        [0, x, *others],
    )
    return found[1:]


def test_small_constants_go_into_a_loop_and_their_slots_away():
    def model(x):
        axes, factor = tf.constant([1, 0]), tf.constant(0.5)
        return loop(
            x,
            lambda x, a, f: tf.ensure_shape(tf.tanh(tf.transpose(tf.transpose(x, a), a) * (f * 2.0 + 0.25)), [3, 20]),
            axes,
            factor,
        )[0]

    graph = graph_of(model)
    before, after = (only(g, "StatelessWhile", "While") for g in (graph, folded(graph).graph))
    slim = fold_constants(graph).graph
    # Left are TensorFlow's own counter, ours, and x.
    assert len(before.input) > len(after.input) == 3
    assert len(after.attr["T"].list.type) == len(after.attr["output_shapes"].list.shape) == 3
    assert len(function_of(slim, after, "body").signature.output_arg) == 3
    assert len(function_of(slim, after, "cond").signature.input_arg) == 3
    assert ops_in_functions(slim)["AddV2"] == 2, "f * 2 + 0.25 is a constant, the counters remain"


def test_a_reader_of_what_a_loop_passes_on_reads_what_went_in():
    def model(x):
        y, again, ones = loop(x, lambda x, other, _: tf.tanh(x + other), x * 2.0, tf.constant(1.0))
        return y + again * (ones + 1.0)

    graph = graph_of(model)
    slim = folded(graph).graph
    add = next(
        node for node in slim.nodes.values() if node.op == "Mul" and "while" not in node.input[0] and node.name != "mul"
    )
    assert op_counts(slim)["AddV2"] == op_counts(graph)["AddV2"] - 1
    assert [slim.nodes[name.partition(":")[0]].op for name in add.input] == ["Mul", "Const"]


def test_an_identity_in_between_passes_on_too():
    def model(x):
        found = tf.while_loop(
            lambda i, x, a: i < 3,
            lambda i, x, a: (i + 1, tf.tanh(tf.reduce_sum(x, a, keepdims=True) + x), tf.identity(tf.identity(a))),
            [0, x, tf.constant(0)],
        )
        return found[1]

    slim = folded(graph_of(model)).graph
    assert len(only(slim, "StatelessWhile", "While").input) == 3


def test_a_slot_that_changes_stays():
    def model(x):
        found = tf.while_loop(
            lambda i, x, a: i < 3, lambda i, x, a: (i + 1, tf.tanh(x + a), a * 2.0), [0, x, tf.constant(1.0)]
        )
        return found[1]

    slim = folded(graph_of(model)).graph
    assert len(only(slim, "StatelessWhile", "While").input) == 4


def test_a_loop_of_zero_rounds_gives_what_went_in():
    def model(x):
        y, w = loop(x, lambda x, w: x @ tf.transpose(w), tf.constant(normal(20, 20)), times=0)
        return y @ tf.transpose(w)

    folded(graph_of(model))


@pytest.mark.parametrize("kind", ["transpose", "cast", "concat"])
def test_work_on_weights_is_done_once_and_not_in_each_round(kind):
    work = {
        "transpose": (tf.transpose, [normal(20, 20)]),
        "cast": (lambda w: tf.cast(tf.cast(w, tf.float16), tf.float32), [normal(20, 20)]),
        "concat": (lambda *w: tf.concat(w, 1), [normal(20, 10), normal(20, 10, seed=1)]),
    }[kind]

    def model(x):
        return loop(x, lambda x, *w: tf.tanh(x @ work[0](*w)), *map(tf.constant, work[1]))[0]

    graph = graph_of(model)
    slim = folded(graph).graph
    assert {"Transpose", "Cast", "ConcatV2"}.isdisjoint(ops_in_functions(slim))
    assert [weight.nbytes for weight in slim.weights.values()] == [1600]
    assert len(only(slim, "StatelessWhile", "While").input) == 4


def test_work_on_weights_that_others_read_stays_in_the_loop():
    def model(x):
        w = tf.constant(normal(20, 20))
        return loop(x, lambda x, w: tf.tanh(x @ tf.transpose(w)), w)[0] @ w

    outcome = folded(graph_of(model))
    assert ops_in_functions(outcome.graph)["Transpose"] == 1
    assert "its value of 1,600 bytes would replace 8 bytes of constants" in reasons(outcome).values()


def test_large_constants_of_a_loop_become_weights_of_the_main_graph():
    def model(x):
        return loop(x, lambda x: tf.tanh(x @ tf.constant(normal(20, 20)) + tf.constant(normal(20))))[0]

    graph = graph_of(model)
    slim = folded(graph).graph
    assert not graph.weights
    assert [weight.shape for weight in slim.weights.values()] == [(20, 20)]
    assert largest_inline(graph) > 1600 > 200 > largest_inline(slim)
    node = only(slim, "StatelessWhile", "While")
    assert [d.size for d in node.attr["output_shapes"].list.shape[-1].dim] == [20, 20]
    assert slim.rest.ByteSize() < graph.rest.ByteSize() - 1500


@pytest.mark.parametrize("branches", [2, 3])
def test_constants_of_branches(branches):
    def model(x):
        axis, w = tf.constant(0), tf.constant(normal(20, 20, seed=9))
        first = lambda: tf.reduce_sum(x, axis, keepdims=True) * 2.0 + x  # noqa: E731
        others = [lambda k=k: x @ tf.constant(normal(20, 20, seed=k)) @ w for k in range(1, branches)]
        index = tf.cast(tf.reduce_sum(x) > 0, tf.int32)
        if branches == 2:
            return tf.cond(index > 0, first, others[0])
        return tf.switch_case(index, [first, *others])

    graph = graph_of(model)
    slim = folded(graph).graph
    node = only(slim, "If", "StatelessIf", "Case", "StatelessCase")
    assert len(slim.weights) == branches, "one of each branch, and the one that they share"
    assert largest_inline(slim) < 200
    assert len(node.attr["Tin"].list.type) == branches + 1
    assert "x" in node.input


def test_a_call_takes_its_constants_in():
    inner = tf.function(lambda x, a, w: tf.reduce_sum(x, a, keepdims=True) + tf.matmul(x, tf.transpose(w)))

    def model(x):
        return loop(x, lambda x: tf.tanh(inner(x, tf.constant(0) + 0, tf.constant(normal(20, 20)))))[0]

    graph = graph_of(model)
    assert any("PartitionedCall" in op for op in ops_in_functions(graph))
    slim = folded(graph).graph
    assert "Transpose" not in ops_in_functions(slim)
    assert [weight.nbytes for weight in slim.weights.values()] == [1600]


def test_loops_in_loops_and_branches_in_them():
    """Constants pass through both loops, and come out of both."""

    def model(x):
        w, order, rounds = tf.constant(normal(20, 20)), tf.constant([1, 0]), tf.constant(2)

        def outer(x, w, rounds):
            x, _ = loop(
                x,
                lambda x, w: tf.tanh(x @ tf.transpose(w, order) + x @ tf.constant(normal(20, 20, seed=1))),
                w,
                times=rounds,
            )
            return tf.cond(tf.reduce_sum(x) > 0, lambda: x * 0.5, lambda: x @ tf.constant(normal(20, 20, seed=2)))

        return loop(x, outer, w, rounds, times=rounds)[0]

    graph = graph_of(model)
    slim = folded(graph).graph
    assert "Transpose" not in ops_in_functions(slim)
    assert sorted(weight.nbytes for weight in slim.weights.values()) == [1600, 1600, 1600]
    assert largest_inline(slim) < 200
    assert len(slim.functions) == len(graph.functions), "functions that were changed are there once"


def test_two_calls_of_one_function_share_what_becomes_of_it():
    def step(x, w, factor):
        return loop(x, lambda x, w, f: tf.tanh(x @ w) * f, w, factor)[0]

    def model(x):
        return step(x, tf.constant(normal(20, 20)), tf.constant(0.5))

    graph = graph_of(model)
    node = only(graph, "StatelessWhile", "While")
    twin = renamed(node, "twin", [text if text != "x" else f"{node.name}:3" for text in node.input])
    x = list(node.input).index("x")
    twin.input[x] = f"{node.name}:{x}"
    output = graph.nodes[graph.outputs[0].partition(":")[0]]
    both = graph.replace([twin, renamed(output, output.name, [f"twin:{x}"])])
    slim = folded(both).graph
    bodies = [node.attr["body"].func.name for node in slim.nodes.values() if "While" in node.op]
    assert len(bodies) == 2
    assert len(set(bodies)) == 1
    assert len(slim.functions) == 2
    assert len(slim.weights) == 1


def test_what_waits_for_a_loop_with_effects_still_does():
    def model(x):
        def shout(x, a):
            tf.print("round", output_stream="file:///dev/null")
            return tf.tanh(x + a)

        y, again = loop(x, shout, tf.constant(1.0))
        return y, again + tf.reduce_sum(x)

    graph = graph_of(model)
    slim = folded(graph).graph
    node = only(slim, "While")
    read = {text for other in slim.nodes.values() for text in other.input if text.startswith(f"{node.name}:")}
    assert len(read) == 2
    assert ops_in_functions(slim)["PrintV2"] == 1


def test_outputs_that_a_signature_reads_by_number_keep_it():
    def model(x):
        return loop(x, lambda x, a, b: tf.tanh(x * a + b), tf.constant(0.5), tf.constant(0.25))[0]

    graph = graph_of(model)
    node = only(graph, "StatelessWhile", "While")
    last = len(node.input) - 1
    direct = Graph(
        graph.nodes, graph.inputs, (*graph.outputs, f"{node.name}:{last}"), weights=graph.weights, rest=graph.rest
    )
    slim = folded(direct).graph
    assert len(only(slim, "StatelessWhile", "While").input) == len(node.input)


def test_a_weight_that_is_stored_encoded_stays_so():
    def model(x):
        return loop(x, lambda x, w: tf.tanh(x @ tf.transpose(w)), tf.constant(normal(20, 20)))[0]

    graph = graph_of(model)
    (name,) = graph.weights
    value = graph.weights[name].read()
    node, weights = external_constant(name, Weight(value.dtype, value.shape, lambda: value, Encoded("int8", {})))
    slim = folded(graph.replace([node], weights=weights)).graph
    assert slim.weights[name].encoded
    assert ops_in_functions(slim)["Transpose"] == 1


def test_excluded_constants_stay_where_they_are():
    def model(x):
        w = tf.constant(normal(20, 20), name="outside")
        return loop(x, lambda x, w: tf.tanh(x @ tf.transpose(w) + x @ tf.constant(normal(20, 20, seed=1))), w)[0]

    graph = graph_of(model)
    slim = folded(graph, exclude_op=("Const",)).graph
    assert list(slim.weights) == ["outside"]
    assert largest_inline(slim) > 1600
    assert ops_in_functions(slim)["Transpose"] == 1


def test_a_function_that_is_used_in_another_way_is_folded_where_it_is():
    """What a dataset or a map runs has arguments that nobody here can tell."""

    def model(x):
        return tf.map_fn(lambda row: row * (tf.constant(2.0) * 3.0), x)

    graph = graph_of(model)
    slim = folded(graph).graph
    node = only(graph, "StatelessWhile", "While")
    used = graph.replace([renamed(node, node.name)])
    assert ops_in_functions(slim)["Mul"] < ops_in_functions(used)["Mul"]


def test_beside_tensorflow_1_control_flow_calls_stay_as_they_are():
    def model(x):
        return loop(x, lambda x, a: tf.tanh(x * (a + 1.0)), tf.constant(0.5))[0]

    graph = graph_of(model)
    with building() as g:
        x = v1.placeholder(tf.float32, [], "switched")
        v1.disable_control_flow_v2()
        try:
            y = tf.identity(v1.cond(x > 0, lambda: x * 2, lambda: x), "chosen")
        finally:
            v1.enable_control_flow_v2()
    both = Graph.of(
        v1.GraphDef(
            node=[*graph.to_graph_def().node, *g.as_graph_def().node],
            library=graph.rest.library,
            versions=graph.rest.versions,
        ),
        [*graph.inputs, x.name],
        [*graph.outputs, y.name],
        weights=graph.weights,
    )
    slim = fold_constants(both).graph
    assert only(slim, "StatelessWhile", "While") == only(both, "StatelessWhile", "While")
    feeds = {both.inputs[0]: normal(3, 20), x.name: np.float32(2)}
    for was, now in zip(run(both, feeds), run(slim, feeds), strict=True):
        np.testing.assert_array_equal(was, now)


def test_numbers_of_inputs_and_outputs_in_attributes_follow():
    def model(x):
        return loop(x, lambda x, a, b: tf.tanh(x * a + b), tf.constant(0.5), x * 2.0)[0]

    graph = graph_of(model)
    node = renamed(only(graph, "StatelessWhile", "While"), "while")
    slots = len(node.input)
    node.attr["_read_only_resource_inputs"].list.i.extend([1, 3, slots - 1])
    node.attr["_num_original_outputs"].i = slots - 1
    kept = tuple(i for i in range(slots) if i not in (1, 4))
    new = changed_call(call_site(node), Slots(kept, (1,), ((20, 20),)), ["c", "b"], [call_site(node).sources[0]])
    assert list(new.attr["_read_only_resource_inputs"].list.i) == [2, slots - 3]
    assert new.attr["_num_original_outputs"].i == slots - 3
    assert (new.attr["cond"].func.name, new.attr["body"].func.name) == ("c", "b")
    assert [d.size for d in new.attr["output_shapes"].list.shape[-1].dim] == [20, 20]
    name = node.attr["body"].func.name
    function = graph.functions[name]
    function.arg_attr[0].attr["_user_specified_name"].s = b"first"
    function.arg_attr[1].attr["_user_specified_name"].s = b"second"
    function.resource_arg_unique_id[slots - 1] = 7
    body = body_of(graph, name)
    same = Slots((0, *range(2, slots)))
    trimmed = Graph(
        dict(body.nodes),
        (body.inputs[0], *body.inputs[2:]),
        (body.outputs[0], *body.outputs[2:]),
        body.targets,
        body.weights,
        body.rest,
    )
    trimmed = trimmed.replace(drop=[body.inputs[1].partition(":")[0], body.outputs[1].partition(":")[0]])
    changed = changed_function(function, trimmed, same, is_loop_body=True)
    assert {value.attr["_user_specified_name"].s for value in changed.arg_attr.values()} == {b"first", b""}
    assert dict(changed.resource_arg_unique_id) == {slots - 2: 7}
    assert len(changed.signature.input_arg) == len(changed.signature.output_arg) == len(changed.ret) == slots - 1


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.data())
def test_computes_the_same(data):
    """Loops and branches, nested at most twice, over constants small and large that they get, hold or change."""
    draw = data.draw

    def value(pool, depth):
        kind = draw(st.sampled_from(["old", "small", "large", "sum", "transposed"]))
        if kind == "small":
            return tf.constant(normal(4, 4, seed=draw(st.integers(0, 2))))
        if kind == "large":
            return tf.constant(normal(20, 20, seed=draw(st.integers(0, 2))))[:4, :4]
        one = draw(st.sampled_from(pool))
        if kind == "sum":
            return tf.tanh(one + draw(st.sampled_from(pool)))
        return tf.transpose(one) if kind == "transposed" else one

    def block(pool, depth):
        pool = list(pool)
        for _ in range(draw(st.integers(1, 3))):
            kind = draw(st.sampled_from(["value", "loop", "branch"])) if depth < 2 else "value"
            if kind == "value":
                pool.append(value(pool, depth))
            elif kind == "loop":
                started = [value(pool, depth) for _ in range(draw(st.integers(1, 3)))]
                times = draw(st.integers(0, 2))

                def step(i, *slots):
                    inner = block([*pool, *slots], depth + 1)
                    return i + 1, *(
                        s if draw(st.booleans()) else tf.ensure_shape(tf.tanh(inner + s), [4, 4]) for s in slots
                    )

                pool += tf.while_loop(lambda i, *_: i < times, step, [0, *started])[1:]
            else:
                pool.append(
                    tf.cond(
                        tf.reduce_sum(draw(st.sampled_from(pool))) > 0,
                        lambda: tf.identity(block(pool, depth + 1)),
                        lambda: tf.identity(block(pool, depth + 1)),
                    )
                )
        return pool[-1]

    def model(x):
        return x + block([x], 0), x * 2.0

    folded(graph_of(model, tf.TensorSpec([4, 4], tf.float32, name="x")))
