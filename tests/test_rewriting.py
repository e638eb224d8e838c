import re

import numpy as np
import pytest
import tensorflow as tf

from tests.graphs import assert_same_model, building, op_delta, random_feeds, reasons, view
from tfslim_core import graph as graphs
from tfslim_core.errors import TransformError
from tfslim_core.graph import control_inputs, make_node, renamed
from tfslim_core.rewriting import Edit, Skip, anything, constant, either, op, replace_matches

DOUBLE_NEGATION = op("Neg", op("Neg", anything("x")))


def drop_both(match):
    return Edit([make_node("Identity", match.root, [match.ref("x")], T=tf.float32)])


def negated(times, *, name="n"):
    x = tf.compat.v1.placeholder(tf.float32, [2, None], "x")
    y = x
    for number in range(times):
        y = tf.raw_ops.Neg(x=y, name=f"{name}{number}")
    return x, y


def test_a_match_is_replaced_under_the_roots_name():
    with building() as g:
        x, y = negated(2)
    graph = view(g, [x], [y])
    outcome = replace_matches(graph, DOUBLE_NEGATION, drop_both)
    assert (outcome.changes, outcome.skipped) == (1, ())
    assert op_delta(graph, outcome.graph) == {"Neg": -2, "Identity": 1}
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_matches_in_a_row_do_not_overlap():
    with building() as g:
        x, y = negated(5)
    graph = view(g, [x], [y])
    outcome = replace_matches(graph, DOUBLE_NEGATION, drop_both)
    assert op_delta(graph, outcome.graph) == {"Neg": -4, "Identity": 2}
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_what_a_rewrite_makes_is_matched_in_turn():
    with building() as g:
        x = tf.compat.v1.placeholder(tf.float32, [2, 3], "x")
        y = x
        for number in range(6):
            y = tf.raw_ops.AddV2(x=y, y=tf.constant(float(number), name=f"c{number}"), name=f"a{number}")
    graph = view(g, [x], [y])
    pattern = op("AddV2", op("AddV2", anything("x"), constant("a")), constant("b"))

    def join(match):
        total, weights = graphs.constant(match.fresh("sum"), match.value("a") + match.value("b"))
        return Edit([total, renamed(match.root_node, match.root, [match.ref("x"), total.name])], weights)

    outcome = replace_matches(graph, pattern, join)
    assert op_delta(graph, outcome.graph) == {"AddV2": -5, "Const": -5}
    assert_same_model(graph, outcome.graph, random_feeds(graph))
    assert replace_matches(outcome.graph, pattern, join).changes == 0


@pytest.mark.parametrize("reader", ["node", "control", "output", "target"])
def test_an_inner_node_that_is_wanted_elsewhere_stays(reader):
    with building() as g:
        x, y = negated(2)
        inner = g.get_operation_by_name("n0")
        outputs = [y]
        if reader == "node":
            outputs.append(tf.raw_ops.Abs(x=inner.outputs[0], name="other"))
        if reader == "control":
            with tf.control_dependencies([inner]):
                outputs.append(tf.identity(x, name="other"))
        if reader == "output":
            outputs.append(inner.outputs[0])
    graph = view(g, [x], outputs, [inner] if reader == "target" else [])
    outcome = replace_matches(graph, DOUBLE_NEGATION, drop_both)
    assert outcome.graph is graph
    assert outcome.changes == 0
    why = "read by 'other' too" if reader in ("node", "control") else "part of the interface"
    assert reasons(outcome) == {"n1": f"'n0' below it is {why}"}


def test_control_inputs_of_all_matched_nodes_are_kept():
    with building() as g:
        x = tf.compat.v1.placeholder(tf.float32, [2, 3], "x")
        first, second = (tf.raw_ops.Assert(condition=tf.reduce_all(x < 9), data=[x], name=n) for n in ("a", "b"))
        with tf.control_dependencies([first]):
            y = tf.raw_ops.Neg(x=x, name="n0")
        with tf.control_dependencies([second]):
            y = tf.raw_ops.Neg(x=y, name="n1")
    graph = view(g, [x], [y])
    outcome = replace_matches(graph, DOUBLE_NEGATION, drop_both)
    assert sorted(control_inputs(outcome.graph.nodes["n1"])) == ["a", "b"]
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_a_node_that_is_fed_is_not_matched():
    with building() as g:
        x, y = negated(2)
    graph = view(g, [x, "n0:0"], [y])
    assert replace_matches(graph, DOUBLE_NEGATION, drop_both).changes == 0


def test_only_the_port_that_the_pattern_names_matches():
    with building() as g:
        x = tf.compat.v1.placeholder(tf.float32, [4], "x")
        y = tf.raw_ops.Neg(x=tf.raw_ops.TopKV2(input=x, k=2).values, name="y")
        z = tf.raw_ops.Neg(x=tf.raw_ops.TopKV2(input=x, k=1).indices, name="z")
    graph = view(g, [x], [y, z])
    seen = []

    def look(match):
        seen.append(match.root)
        raise Skip("only looking")

    replace_matches(graph, op("Neg", op("TopKV2")), look)
    replace_matches(graph, op("Neg", op("TopKV2", port=1)), look)
    assert seen == ["y", "z"]


@pytest.mark.parametrize("swapped", [False, True])
def test_commuting_inputs_match_either_way_round(swapped):
    with building() as g:
        x = tf.compat.v1.placeholder(tf.float32, [3], "x")
        c = tf.constant([1.0, 2.0, 3.0], name="c")
        y = tf.raw_ops.Mul(x=c, y=x, name="y") if swapped else tf.raw_ops.Mul(x=x, y=c, name="y")
    graph = view(g, [x], [y])
    found = []

    def look(match):
        found.append((str(match.ref("x")), match.value("c").tolist()))
        raise Skip("only looking")

    replace_matches(graph, op("Mul", anything("x"), constant("c"), commutes=True), look)
    assert found == [("x", [1.0, 2.0, 3.0])]
    found.clear()
    replace_matches(graph, op("Mul", anything("x"), constant("c")), look)
    assert len(found) == (0 if swapped else 1)


def test_one_name_means_one_tensor():
    with building() as g:
        x = tf.compat.v1.placeholder(tf.float32, [3], "x")
        y = tf.raw_ops.Sub(x=x, y=x, name="same")
        z = tf.raw_ops.Sub(x=x, y=y, name="other")
    graph = view(g, [x], [y, z])

    def zero(match):
        return Edit([make_node("ZerosLike", match.root, [match.ref("x")], T=tf.float32)])

    outcome = replace_matches(graph, op("Sub", anything("x"), anything("x")), zero)
    assert [outcome.graph.nodes[name].op for name in ("same", "other")] == ["ZerosLike", "Sub"]


def test_alternatives_are_tried_in_order_and_each_reason_is_told_once():
    with building() as g:
        x, y = negated(2)
    graph = view(g, [x], [y])
    pattern = op("Neg", either(op("Neg", anything("x"), name="inner"), anything("x")))

    def refuse(match):
        raise Skip("inner" if "inner" in match else "outer")

    outcome = replace_matches(graph, pattern, refuse)
    assert [(s.node, s.reason) for s in outcome.skipped] == [("n0", "outer"), ("n1", "inner")]


def test_shared_constants_go_with_their_last_reader():
    with building() as g:
        x = tf.compat.v1.placeholder(tf.float32, [3], "x")
        c = tf.constant([1.0, 2.0, 3.0], name="c")
        y, z = tf.raw_ops.Mul(x=x, y=c, name="y"), tf.raw_ops.Mul(x=x, y=c, name="z")
    graph = view(g, [x], [y, z])

    def without(match):
        if match.root in keep:
            raise Skip("asked to")
        return Edit([make_node("Neg", match.root, [match.ref("x")], T=tf.float32)])

    pattern = op("Mul", anything("x"), constant("c"))
    keep = {"z"}
    assert "c" in replace_matches(graph, pattern, without).graph.nodes
    keep = set()
    assert "c" not in replace_matches(graph, pattern, without).graph.nodes


def test_a_rule_that_never_comes_to_rest_is_an_error():
    with building() as g:
        x, y = negated(1)
    graph = view(g, [x], [y])

    def again(match):
        return Edit([renamed(match.root_node, match.root)])

    with pytest.raises(TransformError, match=re.escape("never comes to rest")):
        replace_matches(graph, op("Neg", anything("x")), again)


def test_new_nodes_of_a_v1_loop_run_in_it():
    """A constant in a loop's body has a control input that puts it there; what replaces it needs one too."""
    with building() as g:
        tf.compat.v1.disable_control_flow_v2()
        try:
            x = tf.compat.v1.placeholder(tf.float32, [3], "x")
            y = tf.compat.v1.while_loop(
                lambda i, v: i < 3,
                lambda i, v: (i + 1, tf.raw_ops.Mul(x=v, y=tf.constant([1.0, 2.0, 3.0], name="c"), name="m")),
                [0, x],
            )[1]
        finally:
            tf.compat.v1.enable_control_flow_v2()
    graph = view(g, [x], [y])

    def half(match):
        if match.ref("c").node != "while/c":
            raise Skip("done")
        factor, weights = graphs.constant(match.fresh("half"), match.value("c") / np.float32(2))
        product = renamed(match.root_node, match.fresh("p"), [match.ref("x"), factor.name])
        total = make_node("AddV2", match.root, [product.name, product.name], T=tf.float32)
        return Edit([factor, product, total], weights)

    assert control_inputs(graph.nodes["while/c"])
    outcome = replace_matches(graph, op("Mul", anything("x"), constant("c")), half)
    assert control_inputs(outcome.graph.nodes["half"]) == control_inputs(graph.nodes["while/c"])
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_a_shared_node_stays_for_its_other_readers():
    pattern = op("Square", op("Neg", anything("x"), name="negated", shared=True))

    def rewrite(m):
        return Edit([make_node("Square", m.root, [m.ref("x")], T=tf.float32)])

    with building() as tf_graph:
        x = tf.compat.v1.placeholder(tf.float32, [3], name="x")
        negated = tf.negative(x)
        y, z = tf.square(negated, name="y"), tf.square(negated, name="z")
        w = tf.tanh(negated, name="w")
    with_reader, without = view(tf_graph, [x], [y, z, w]), view(tf_graph, [x], [y, z])
    done = replace_matches(with_reader, pattern, rewrite)
    assert (done.changes, done.skipped) == (2, ())
    assert op_delta(with_reader, done.graph) == {}
    assert_same_model(with_reader, done.graph, random_feeds(with_reader))
    gone = replace_matches(without.replace(drop=["w"]), pattern, rewrite)
    assert op_delta(without, gone.graph) == {"Neg": -1, "Tanh": -1}
    named = replace_matches(view(tf_graph, [x], [y, z, negated]).replace(drop=["w"]), pattern, rewrite)
    assert "Neg" in {node.op for node in named.graph.nodes.values()}
