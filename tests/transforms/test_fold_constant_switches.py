"""What never runs goes, what runs stays, and what is not known is left alone."""

from contextlib import contextmanager

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import assert_same_interface, assert_same_model, building, op_counts, reasons, run, view
from tfslim_core.function_bodies import body_of
from tfslim_core.graph import Graph, constant, renamed
from tfslim_core.transforms.fold_constant_switches import fold_constant_switches
from tfslim_core.transforms.strip_unused_nodes import strip_unused_nodes

v1 = tf.compat.v1
X = {"x:0": np.float32([-2, -0.5, 0.1, 3])}


def v1_cond(predicate, *, more=()):
    """A TensorFlow 1 cond on a constant, with constants of their own on each side."""
    with building() as g:
        v1.disable_control_flow_v2()
        x = v1.placeholder(tf.float32, [4], name="x")
        y = v1.cond(tf.constant(predicate), lambda: tf.nn.relu(x) + 1.0, lambda: tf.tanh(x) * tf.constant([2.0]))
        tf.identity(y, name="y")
    return view(g, ["x:0"], ["y:0", *more])


@pytest.mark.parametrize("predicate", [True, False])
def test_a_switch_on_a_constant(predicate):
    graph = v1_cond(predicate)
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    counts = op_counts(done.graph)
    assert counts["Switch"] == counts["Merge"] == 0
    assert (counts["Relu"], counts["Tanh"]) == ((1, 0) if predicate else (0, 1))
    assert done.skipped == ()
    assert fold_constant_switches(done.graph).graph is done.graph


def test_which_side_came_is_a_constant():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        low, high = tf.raw_ops.Switch(data=x, pred=tf.constant(True))
        y, index = tf.raw_ops.Merge(inputs=[tf.tanh(low), tf.nn.relu(high)])
        tf.add(y, tf.cast(index, tf.float32), name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    assert op_counts(done.graph)["Merge"] == 0


def test_an_output_on_the_side_that_never_runs_keeps_the_switch():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        low, high = tf.raw_ops.Switch(data=x, pred=tf.constant(True))
        tf.tanh(low, name="never")
        tf.nn.relu(high, name="y")
    graph = view(g, ["x:0"], ["y:0", "never:0"])
    done = fold_constant_switches(graph)
    assert done.graph is graph
    assert "'never' of the interface" in next(iter(reasons(done).values()))


def test_a_fed_predicate_is_left_alone():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        low, high = tf.raw_ops.Switch(data=x, pred=tf.constant(True, name="p"))
        tf.raw_ops.Merge(inputs=[tf.tanh(low), tf.nn.relu(high)], name="y")
    graph = view(g, ["x:0", "p:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert done.graph is graph
    assert list(reasons(done).values()) == ["its predicate is fed"]


def test_a_switch_in_a_loop_is_left_alone():
    with building() as g:
        v1.disable_control_flow_v2()
        x = v1.placeholder(tf.float32, [4], name="x")
        _, y = v1.while_loop(
            lambda i, y: i < 3,
            lambda i, y: (i + 1, v1.cond(tf.constant(True), lambda: tf.tanh(y) + 1, lambda: tf.nn.relu(y))),
            [0, x],
        )
        tf.identity(y, name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    assert done.changes == 0


def functional(predicate):
    with building() as g:
        v1.enable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, [4], name="x")
            with tf.control_dependencies([tf.identity(x)]):
                y = tf.cond(tf.constant(True), lambda: tf.nn.relu(x) + 1.0, lambda: tf.tanh(x))
            tf.identity(y, name="y")
        finally:
            v1.disable_control_flow_v2()
    graph = view(g, ["x:0"], ["y:0"])
    node = next(node for node in graph.nodes.values() if node.op in ("If", "StatelessIf"))
    value, _ = constant("predicate", np.asarray(predicate))
    copy = renamed(node, node.name, ["predicate", *list(node.input)[1:]])
    copy.attr["Tcond"].CopyFrom(value.attr["dtype"])
    copy.attr["_lower_using_switch_merge"].b = False  # a Switch takes nothing but a bool
    return graph.replace([value, copy])


@pytest.mark.parametrize("predicate", [True, False, np.int32(3), np.float32(0), b"text", b""])
def test_the_branch_of_an_if_on_a_constant_is_in_its_place(predicate):
    graph = functional(predicate)
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    counts = op_counts(done.graph)
    assert not {"If", "StatelessIf", "PartitionedCall", "StatefulPartitionedCall"} & set(counts)


@pytest.mark.parametrize("index", [-1, 0, 1, 2, 7])
def test_a_case_takes_the_last_branch_when_out_of_range(index):
    with building() as g:
        v1.enable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, [4], name="x")
            branches = [lambda: x + 1, lambda: tf.tanh(x), lambda: x * 3]
            tf.identity(tf.switch_case(tf.constant(index), branches), name="y")
        finally:
            v1.disable_control_flow_v2()
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    counts = op_counts(done.graph)
    assert counts["Case"] + counts["StatelessCase"] == 0


@pytest.mark.parametrize("condition", [True, False])
def test_a_select_on_a_scalar(condition):
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        tf.raw_ops.Select(condition=tf.constant(condition), x=tf.tanh(x), y=tf.nn.relu(x), name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    assert op_counts(done.graph)["Select"] == 0
    wanted = np.tanh(X["x:0"]) if condition else np.maximum(X["x:0"], 0)
    np.testing.assert_allclose(run(done.graph, X)[0], wanted, rtol=1e-5)


def test_select_v2_may_take_the_shape_of_the_other_side():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        tf.raw_ops.SelectV2(condition=tf.constant(True), t=tf.constant(1.0), e=x, name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert done.graph is graph
    assert reasons(done) == {"y": "its result may have the shape of the side that is not taken"}


# One Switch at a time


def test_a_switch_that_decides_about_an_output_keeps_no_other():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        low, high = tf.raw_ops.Switch(data=x, pred=tf.constant(True), name="stays")
        tf.tanh(low, name="never")
        low, high = tf.raw_ops.Switch(data=tf.nn.relu(high), pred=tf.constant(False), name="goes")
        tf.raw_ops.Merge(inputs=[tf.sin(low), tf.cos(high)], name="y")
    graph = view(g, ["x:0"], ["y:0", "never:0"])
    done = fold_constant_switches(graph)
    assert (done.changes, reasons(done)) == (
        1,
        {"stays": "'never' of the interface is on the side that never runs"},
    )
    assert not {"Cos", "Merge"} & set(op_counts(done.graph))
    assert values_or_dead(done.graph, X) == values_or_dead(graph, X)


def test_a_switch_that_is_an_output_stays():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        tf.raw_ops.Switch(data=x, pred=tf.constant(True), name="y")
    graph = view(g, ["x:0"], ["y:1"])
    done = fold_constant_switches(graph)
    assert done.graph is graph
    assert reasons(done) == {"y": "it is part of the interface"}


def test_a_merge_that_says_which_of_several_sides_came_keeps_its_switch():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        p = v1.placeholder(tf.bool, [], name="p")
        never, high = tf.raw_ops.Switch(data=x, pred=tf.constant(True), name="stays")
        low, high = tf.raw_ops.Switch(data=high, pred=p)
        y, index = tf.raw_ops.Merge(inputs=[tf.exp(never), tf.sin(low), tf.cos(high)])
        tf.add(y, tf.cast(index, tf.float32), name="y")
    graph = view(g, ["x:0", "p:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert done.graph is graph
    assert reasons(done) == {"stays": "'Merge' says which of its sides came"}


def test_a_merge_runs_whatever_it_waits_for():
    """A control input from a side that never ran does not keep a Merge from running."""
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        low, high = tf.raw_ops.Switch(data=x, pred=tf.constant(True))
        sides = [tf.sin(low), tf.cos(high)]
        with g.control_dependencies([tf.exp(low)]):
            y, _ = tf.raw_ops.Merge(inputs=sides)
        tf.add(y, 1.0, name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    assert not {"Switch", "Merge", "Exp"} & set(op_counts(done.graph))


def test_a_merge_of_sides_that_never_ran_does_not_run_whatever_it_waits_for():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        low, high = tf.raw_ops.Switch(data=x, pred=tf.constant(True))
        sides = [tf.sin(low), tf.cos(low)]
        with g.control_dependencies([tf.exp(high)]):
            never, _ = tf.raw_ops.Merge(inputs=sides)
        tf.raw_ops.Merge(inputs=[tf.tanh(never), tf.exp(high)], name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    assert not {"Switch", "Merge", "Tanh"} & set(op_counts(done.graph))


@contextmanager
def v1_control_flow():
    v1.disable_control_flow_v2()
    try:
        yield
    finally:
        v1.enable_control_flow_v2()


@pytest.mark.parametrize("predicate", [True, False])
def test_a_loop_on_either_side(predicate):
    with building() as g, v1_control_flow():
        x = v1.placeholder(tf.float32, [4], name="x")

        def loop():
            return v1.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, tf.tanh(y) + x), [0, x])[1]

        tf.identity(v1.cond(tf.constant(predicate), loop, lambda: tf.nn.relu(x)), name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    counts = op_counts(done.graph)
    # What is left of the Switches is that of the loop, if it is there.
    assert (counts["Switch"], counts["Merge"], counts["NextIteration"]) == ((2, 2, 2) if predicate else (0, 0, 0))


def test_a_switch_after_a_loop_is_in_none():
    with building() as g, v1_control_flow():
        x = v1.placeholder(tf.float32, [4], name="x")
        y = v1.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, tf.tanh(y) + x), [0, x])[1]
        tf.identity(v1.cond(tf.constant(True), lambda: y * 2, lambda: tf.nn.relu(y)), name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    assert done.skipped == ()
    assert op_counts(done.graph)["Relu"] == 0


# What is waited for


@pytest.mark.parametrize("kind", ["Switch", "If", "Select"])
def test_what_a_predicate_waits_for_still_happens(kind):
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 9), data=[x], name="assert")
        with g.control_dependencies([check]):
            predicate = tf.constant(True)
        predicate = tf.identity(predicate)
        if kind == "Switch":
            low, high = tf.raw_ops.Switch(data=x, pred=predicate)
            y, _ = tf.raw_ops.Merge(inputs=[tf.sin(low), tf.cos(high)])
        elif kind == "If":
            v1.enable_control_flow_v2()
            y = v1.cond(predicate, lambda: tf.sin(x), lambda: tf.cos(x))
        else:
            y = tf.raw_ops.Select(condition=predicate, x=tf.sin(x), y=tf.cos(x))
        tf.identity(y, name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert done.changes == 1
    slim = strip_unused_nodes(done.graph).graph
    assert_same_model(graph, slim, X)
    with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
        run(slim, {"x:0": [1, 2, 3, 10]})


@pytest.mark.parametrize("kind", ["If", "Select"])
def test_what_is_not_taken_and_has_an_effect_still_happens(kind):
    """Arguments of an If and both sides of a Select are computed, whichever is taken."""
    with building() as g:
        v1.enable_control_flow_v2()
        x = v1.placeholder(tf.float32, [4], name="x")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 9), data=[x], name="assert")
        with g.control_dependencies([check]):
            other = tf.exp(x)
        if kind == "If":
            y = v1.cond(tf.constant(True), lambda: tf.sin(x), lambda: other * 2)
        else:
            y = tf.raw_ops.Select(condition=tf.constant(True), x=tf.sin(x), y=other)
        tf.identity(y, name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    slim = strip_unused_nodes(done.graph).graph
    assert not {"If", "StatelessIf", "Select", "PartitionedCall"} & set(op_counts(slim))
    assert_same_model(graph, slim, X)
    with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
        run(slim, {"x:0": [1, 2, 3, 10]})


def test_a_select_of_a_side_that_may_not_run_stays():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], name="x")
        p = v1.placeholder(tf.bool, [], name="p")
        low, _ = tf.raw_ops.Switch(data=x, pred=p)
        tf.raw_ops.Select(condition=tf.constant(True), x=x, y=low, name="y")
    graph = view(g, ["x:0", "p:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert done.graph is graph
    assert reasons(done) == {"y": "its other side may be one that does not run"}


# Branches in their place


def test_branches_within_branches_and_within_bodies():
    with building() as g:
        v1.enable_control_flow_v2()
        x = v1.placeholder(tf.float32, [4], name="x")

        def outer(a):
            return v1.cond(
                tf.constant(True), lambda: v1.cond(tf.constant(False), lambda: a * 9, lambda: a * 2), lambda: a
            )

        y = v1.cond(tf.constant(False), lambda: tf.exp(x), lambda: outer(x) + 1)
        y = tf.while_loop(lambda i, a: i < 2, lambda i, a: (i + 1, outer(a)), [0, y])[1]
        tf.identity(y, name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    slim = strip_unused_nodes(done.graph).graph
    assert not {"If", "StatelessIf", "PartitionedCall"} & ops_everywhere(slim)
    np.testing.assert_allclose(run(slim, X)[0], (X["x:0"] * 2 + 1) * 4)


def ops_everywhere(graph):
    return {*op_counts(graph), *(node.op for function in graph.functions.values() for node in function.node_def)}


def test_a_call_that_is_none_of_its_branches_stays():
    with building() as g:
        v1.enable_control_flow_v2()
        x = v1.placeholder(tf.float32, [4], name="x")
        y = tf.function(lambda a: tf.sin(a))(x)
        tf.identity(v1.cond(tf.constant(True), lambda: tf.cos(y), lambda: y), name="y")
    graph = view(g, ["x:0"], ["y:0"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    assert done.changes == 1
    counts = op_counts(done.graph)
    assert (counts["PartitionedCall"] + counts["StatefulPartitionedCall"], counts["Cos"]) == (1, 1)


def test_an_if_that_is_an_output_keeps_its_name():
    with building() as g:
        v1.enable_control_flow_v2()
        x = v1.placeholder(tf.float32, [4], name="x")
        v1.cond(tf.constant(True), lambda: (tf.cos(x), tf.sin(x)), lambda: (x, x), name="y")
    graph = view(g, ["x:0"], ["y:0", "y:1"])
    done = fold_constant_switches(graph)
    assert_same_model(graph, done.graph, X)
    assert done.graph.nodes["y"].op == "IdentityN"


def test_in_v1_control_flow_a_branch_stays_a_call():
    with building() as g:
        v1.enable_control_flow_v2()
        x = v1.placeholder(tf.float32, [4], name="x")
        p = v1.placeholder(tf.bool, [], name="p")
        low, high = tf.raw_ops.Switch(data=x, pred=p)
        y = v1.cond(tf.constant(True), lambda: tf.cos(low), lambda: tf.sin(low))
        tf.raw_ops.Merge(inputs=[y, tf.exp(high)], name="y")
    graph = view(g, ["x:0", "p:0"], ["y:0"])
    done = fold_constant_switches(graph)
    for side in (True, False):
        assert_same_model(graph, done.graph, {**X, "p:0": side})
    counts = op_counts(done.graph)
    assert (counts["If"] + counts["StatelessIf"], counts["PartitionedCall"] + counts["StatefulPartitionedCall"]) == (
        0,
        1,
    )


def test_a_branch_that_calls_itself_stays_a_call():
    """What never ends when it is run must not keep the transform from ending."""
    with building() as g:
        v1.enable_control_flow_v2()
        x = v1.placeholder(tf.float32, [4], name="x")
        p = v1.placeholder(tf.bool, [], name="p")
        y = v1.cond(p, lambda: v1.cond(tf.constant(True), lambda: tf.cos(x), lambda: tf.sin(x)), lambda: tf.exp(x))
        tf.identity(y, name="y")
    graph_def = view(g, ["x:0", "p:0"], ["y:0"]).to_graph_def()
    inner = next(f for f in graph_def.library.function if any("If" in n.op for n in f.node_def))
    branch = next(node for node in inner.node_def if "If" in node.op)
    branch.attr["then_branch"].func.name = inner.signature.name
    graph = Graph.of(graph_def, ["x:0", "p:0"], ["y:0"])
    done = fold_constant_switches(graph)
    (call,) = (node for f in done.graph.functions.values() for node in f.node_def if "Call" in node.op)
    assert call.attr["f"].func.name == inner.signature.name
    assert (done.changes, "Cos" in op_counts(done.graph)) == (1, False)


# Generated graphs. What each tensor is when the predicate that is fed is false, and when it is true, is worked out
# beside them: an array, or None where it is on a side that does not run.


def values_or_dead(graph, feeds):
    """Each output's value, or None where it is on a side that does not run."""
    found = []
    for output in graph.outputs:
        try:
            found.append(np.asarray(run(graph, feeds, [output])[0]).tolist())
        except tf.errors.InvalidArgumentError as error:
            assert "does not have value" in str(error)  # noqa: PT017
            found.append(None)
    return found


FED = (False, True)


class V1:
    """A TensorFlow 1 graph in the making. found: tensors with what they are for each of FED."""

    def __init__(self, draw):
        self.draw = draw
        x = v1.placeholder(tf.float32, [2], name="x")
        self.found = [(x, (np.float32([0.5, -1.5]),) * 2)]
        p = v1.placeholder_with_default(False, [], name="p")
        with tf.control_dependencies([x] if draw(st.booleans()) else []):
            yes = tf.constant(True)
        known = [(tf.identity(yes), (True, True)), (tf.constant(False), (False, False)), (p, FED)]
        self.predicates = [*known, *known[:2]]

    def pick(self, among=None):
        return self.draw(st.sampled_from(self.found if among is None else among))

    def add(self, tensor, wanted):
        self.found.append((tensor, tuple(wanted)))

    @contextmanager
    def waiting(self):
        """Perhaps behind a control input; yields whether the node in there runs, for each of FED."""
        if self.draw(st.integers(0, 3)):
            yield (True, True)
            return
        first, alive = self.pick([one for one in self.found if one[0].op.type not in ("Switch", "Merge")])
        with tf.control_dependencies([first.op]):
            yield tuple(value is not None for value in alive)

    def unary(self):
        (a, values), scale = self.pick(), np.float32(self.draw(st.sampled_from([0.5, 2, -1])))
        with self.waiting() as runs:
            self.add(
                tf.multiply(a, scale),
                [v * scale if v is not None and r else None for v, r in zip(values, runs, strict=True)],
            )

    def constant(self):
        with self.waiting() as runs:
            value = np.float32([3, self.draw(st.integers(0, 5))])
            self.add(tf.constant(value), [value if r else None for r in runs])

    def binary(self):
        (a, left), (b, right) = self.pick(), self.pick()
        self.add(a - b, [None if v is None or w is None else v - w for v, w in zip(left, right, strict=True)])

    def switch(self):
        (a, values), (p, sides) = self.pick(), self.pick(self.predicates)
        with self.waiting() as runs:
            outputs = tf.raw_ops.Switch(data=a, pred=p)
        for side, output in zip(FED, outputs, strict=True):
            kept = zip(values, sides, runs, strict=True)
            self.add(output, [v if taken == side and r else None for v, taken, r in kept])

    def merge(self):
        """Of tensors of which at most one comes: which of two would be first is up to chance."""
        among, chosen = list(self.found), []
        for _ in range(self.draw(st.integers(2, 3))):
            fits = [
                one
                for one in among
                if all(v is None or all(w[i] is None for _, w in chosen) for i, v in enumerate(one[1]))
            ]
            if fits:
                chosen.append(self.pick(fits))
        if len(chosen) < 2:
            return
        with self.waiting():  # whether that runs is nothing to a Merge
            y, index = tf.raw_ops.Merge(inputs=[tensor for tensor, _ in chosen])
        came = [next((n for n, (_, w) in enumerate(chosen) if w[i] is not None), None) for i in range(2)]
        self.add(y, [None if n is None else chosen[n][1][i] for i, n in enumerate(came)])
        if self.draw(st.booleans()):
            which = [None if n is None else np.float32([n, -n]) for n in came]
            self.add(tf.cast(index, tf.float32) * np.float32([1, -1]), which)


@st.composite
def v1_graphs(draw):
    with building() as g:
        made = V1(draw)
        steps = [made.switch, made.switch, made.switch, made.merge, made.merge, made.unary, made.binary, made.constant]
        for step in draw(st.lists(st.sampled_from(steps), min_size=2, max_size=14)):
            step()
        chosen = draw(st.lists(st.sampled_from(made.found[1:] or made.found), min_size=1, max_size=4))
        outputs = [tensor if draw(st.booleans()) else tf.identity(tensor) for tensor, _ in chosen]
    return view(g, ["x:0", "p:0"], outputs), [wanted for _, wanted in chosen]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(v1_graphs())
def test_generated_v1_control_flow(drawn):
    graph, wanted = drawn
    done = fold_constant_switches(graph)
    assert_same_interface(graph, done.graph)
    again = fold_constant_switches(done.graph)
    assert (again.changes, again.graph) == (0, done.graph)
    for i, side in enumerate(FED):
        feeds = {"x:0": np.float32([0.5, -1.5]), "p:0": side}
        expected = [None if w[i] is None else w[i].tolist() for w in wanted]
        assert values_or_dead(graph, feeds) == expected
        assert values_or_dead(done.graph, feeds) == expected


class V2:
    """An expression of If, Case and calls in the making, and its value for each of FED."""

    def __init__(self, draw):
        self.draw = draw
        self.x = v1.placeholder(tf.float32, [2], name="x")
        self.p = v1.placeholder(tf.bool, [], name="p")

    def expression(self, argument, values, depth):
        """Something of a tensor that is `values` for each of FED: a function that makes it, and its values."""
        draw = self.draw
        kind = draw(st.sampled_from(["add", "if", "if", "case", "call"] if depth else ["add"]))
        if kind == "add":
            number = np.float32(draw(st.integers(-3, 3)))
            return (lambda a: a * 2 + number), [v * 2 + number for v in values]
        if kind == "call":
            inner, made = self.expression(argument, values, depth - 1)
            return (lambda a: tf.function(inner, autograph=False)(a) - 1), [v - 1 for v in made]
        sides = [self.expression(argument, values, depth - 1) for _ in range(2 if kind == "if" else 3)]
        makers = [maker for maker, _ in sides]
        if kind == "if":
            taken = draw(st.sampled_from([(True, True), (False, False), FED]))
            chosen = [sides[0 if yes else 1][1][i] for i, yes in enumerate(taken)]

            def branch(a):
                predicate = self.p if taken == FED else tf.constant(taken[0])
                return v1.cond(predicate, lambda: makers[0](a), lambda: makers[1](a))

            return branch, chosen
        index = draw(st.integers(-2, 4))
        last = sides[index if 0 <= index < 3 else 2][1]
        return (lambda a: tf.switch_case(tf.constant(index), [lambda m=m: m(a) for m in makers])), last


@st.composite
def v2_graphs(draw):
    with building() as g:
        v1.enable_control_flow_v2()
        made = V2(draw)
        maker, wanted = made.expression(made.x, (np.float32([0.5, -1.5]),) * 2, draw(st.integers(1, 3)))
        tf.identity(maker(made.x), name="y")
    return view(g, ["x:0", "p:0"], ["y:0"]), wanted


@settings(max_examples=40, deadline=None, derandomize=True)
@given(v2_graphs())
def test_generated_branches(drawn):
    graph, wanted = drawn
    done = fold_constant_switches(graph)
    assert_same_interface(graph, done.graph)
    for i, side in enumerate(FED):
        feeds = {"x:0": np.float32([0.5, -1.5]), "p:0": side}
        for one in (graph, done.graph):
            np.testing.assert_allclose(run(one, feeds)[0], wanted[i])
    slim = strip_unused_nodes(done.graph).graph
    assert not {"Case", "StatelessCase"} & ops_everywhere(slim)
    for body in (slim, *(body_of(slim, name) for name in slim.functions)):
        for node in body.nodes.values():
            assert node.op not in ("If", "StatelessIf") or body.nodes[node.input[0]].op == "Placeholder"
    again = fold_constant_switches(done.graph)
    assert (again.changes, again.graph) == (0, done.graph)
