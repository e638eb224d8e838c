import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import assert_same_model, building, op_counts, random_feeds, reasons, run, values, view
from tests.old_tool import transformed, with_default_attributes
from tfslim_core.graph import Graph, external_constant
from tfslim_core.transforms.fold_constants import fold_constants
from tfslim_core.weights import Encoded, Weight

v1 = tf.compat.v1


def const(shape, seed=0, name=None, dtype=np.float32):
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype(dtype), name=name)


def placeholder(shape, name="x"):
    return v1.placeholder(tf.float32, shape, name)


def folded(g, inputs, outputs, **parameters):
    """The graph folded, after saying that it computes the same and that a second run changes nothing."""
    graph = view(g, inputs, outputs)
    outcome = fold_constants(graph, **parameters)
    assert_same_model(graph, outcome.graph, random_feeds(graph))
    again = fold_constants(outcome.graph, **parameters)
    assert again.changes == 0
    assert again.graph is outcome.graph
    return outcome


def test_a_weight_may_be_read_by_tensorflow():
    """As freezing reads a checkpoint: eagerly, which a default graph or session would forbid."""

    def read():
        return np.asarray(tf.raw_ops.Add(x=tf.ones([400, 300]), y=1.0))

    node, weights = external_constant("w", Weight(np.dtype(np.float32), (400, 300), read))
    with building() as g:
        v1.placeholder(tf.float32, [2, 400], "x")
        v1.placeholder(tf.float32, [400, 300], "w")
        tf.matmul(g.get_tensor_by_name("x:0"), g.get_tensor_by_name("w:0") * 2, name="y")
    graph_def = g.as_graph_def()
    graph_def.node.remove(next(n for n in graph_def.node if n.name == "w"))
    graph_def.node.append(node)
    outcome = fold_constants(Graph.of(graph_def, ["x:0"], ["y:0"], weights=weights))
    assert outcome.changes == 1
    (weight,) = outcome.graph.weights.values()
    assert weight.read()[0, 0] == 4


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_computes_the_same(data):
    """Graphs of elementwise ops, transposes, reshapes and splits over constants and an input."""
    with building() as g:
        x = placeholder([2, 4])
        pool = [x, *(const([2, 4], seed, f"c{seed}") for seed in range(3))]
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 99), data=[x])
        for number in range(data.draw(st.integers(2, 9))):
            kind = data.draw(st.sampled_from(["Add", "Mul", "Abs", "Transpose", "Split", "Shape", "Tile", "Control"]))
            a, b = (data.draw(st.sampled_from(pool)) for _ in range(2))
            name = f"n{number}"
            if kind == "Add":
                pool.append(tf.raw_ops.AddV2(x=a, y=b, name=name))
            elif kind == "Mul":
                pool.append(tf.raw_ops.Mul(x=a, y=b, name=name))
            elif kind == "Abs":
                pool.append(tf.raw_ops.Abs(x=a, name=name))
            elif kind == "Transpose":
                pool.append(tf.reshape(tf.transpose(a), [2, 4], name=name))
            elif kind == "Split":
                pool.append(tf.concat(tf.split(a, 2)[::-1], 0, name=name))
            elif kind == "Shape":
                pool.append(tf.raw_ops.Mul(x=b, y=tf.cast(tf.raw_ops.Shape(input=a)[1], tf.float32), name=name))
            elif kind == "Tile":
                pool.append(tf.tile(a, [20, 10], name=name)[:2, :4])
            else:
                with g.control_dependencies([check]):
                    pool.append(tf.raw_ops.Neg(x=a, name=name))
        outputs = [tf.raw_ops.AddV2(x=x, y=pool[-1], name="y")]
        outputs += data.draw(st.lists(st.sampled_from(pool[1:]), max_size=2, unique_by=id))
    outcome = folded(g, [x], outputs)
    asserts = {"Assert"} if any(n.op == "Neg" for n in outcome.graph.nodes.values()) else set()
    assert asserts <= set(op_counts(outcome.graph))


def test_a_transposed_matrix_is_folded_and_its_source_goes():
    with building() as g:
        x = placeholder([3, 40])
        y = tf.matmul(x, tf.transpose(const([50, 40], name="w")))
    outcome = folded(g, [x], [y])
    assert op_counts(outcome.graph) == {"Placeholder": 1, "Const": 1, "MatMul": 1}
    assert outcome.skipped == ()


def test_large_results_are_computed_when_they_are_read():
    with building() as g:
        x = placeholder([3, 600])
        y = tf.matmul(x, tf.transpose(const([500, 600], name="w")) * 2.0)
    graph = view(g, [x], [y])
    reads = []
    known = graph.weights["w"]
    counting = Weight(known.dtype, known.shape, lambda: reads.append(1) or known.read())
    outcome = fold_constants(graph.replace(weights={"w": counting}))
    assert op_counts(outcome.graph) == {"Placeholder": 1, "Const": 1, "MatMul": 1}
    assert len(reads) == 1
    assert_same_model(graph, outcome.graph, random_feeds(graph))
    assert len(reads) == 2


@pytest.mark.parametrize("kind", ["fill", "tile", "broadcast", "cast"])
def test_what_would_grow_is_left_to_the_server_and_what_it_reads_is_folded(kind):
    with building() as g:
        x = placeholder([64, 64])
        small = const([64], name="small")

        def size(last):
            return tf.stack([tf.constant(32) * 2, tf.constant(last)])

        y = {
            "fill": lambda: tf.fill(size(64), 3.0, name="big"),
            "tile": lambda: tf.tile(small[None], size(1), name="big"),
            "broadcast": lambda: tf.broadcast_to(small, size(64), name="big"),
            "cast": lambda: tf.cast(tf.constant(np.ones([64, 64], np.int8)), tf.float32, name="big"),
        }[kind]()
        z = x * y
    outcome = folded(g, [x], [z])
    assert "big" in outcome.graph.nodes
    assert "its value of 16,384 bytes would replace" in reasons(outcome)["big"]
    assert op_counts(outcome.graph)["Pack"] == 0
    assert op_counts(outcome.graph)["Mul"] == 1


def test_a_result_of_unknown_size_is_judged_when_it_is_known():
    with building() as g:
        x = placeholder([1])
        counts = tf.constant([500, 900])
        y = x + tf.cast(tf.repeat(tf.constant([1, 2]), counts), tf.float32)[:, None]
        few = x + tf.cast(tf.where(tf.constant([True, False, True])), tf.float32)
    outcome = folded(g, [x], [y, few])
    assert op_counts(outcome.graph)["Where"] == 1  # the one that is a part of the repeat
    assert any("would replace" in reason for reason in reasons(outcome).values())
    assert sum(value.nbytes for value in values(outcome.graph).values()) < 4096


def test_a_matrix_that_is_read_twice_is_not_stored_twice():
    with building() as g:
        x = placeholder([3, 40])
        w = const([40, 40], name="w")
        y = tf.matmul(x, tf.transpose(w, name="t")) + tf.matmul(x, w)
    outcome = folded(g, [x], [y])
    assert reasons(outcome) == {"t": "its value of 6,400 bytes would replace 8 bytes of constants"}


def test_the_limit_holds_for_what_does_not_replace_as_much():
    with building() as g:
        x = placeholder([40])
        shared = const([40], 2)
        y = x * shared + tf.cumsum(const([40], name="w"), name="sum")
        z = tf.concat([const([40], 1), shared], 0, name="longer")
    outcome = folded(g, [x], [y, z], max_constant_size_in_bytes=100)
    assert "sum" not in reasons(outcome)
    assert "larger than max_constant_size_in_bytes" in reasons(outcome)["longer"]


def test_shapes_that_are_known_are_folded():
    with building() as g:
        x = placeholder([None, 4, 5])
        flat = tf.reshape(x, [-1, 20])
        outputs = [
            tf.raw_ops.Shape(input=x, name="unknown"),
            tf.raw_ops.Rank(input=x, name="rank"),
            tf.raw_ops.Shape(input=flat[:3], name="also_unknown"),
            tf.raw_ops.Shape(input=tf.zeros([2, 3]) * x[0, 0, 0], name="known"),
            tf.raw_ops.Size(input=x[0], out_type=tf.int64, name="size"),
            tf.add_n(tf.raw_ops.ShapeN(input=[x[0], x[1]], name="both"), name="sum"),
        ]
    outcome = folded(g, [x], outputs)
    ops = {t.op.name: outcome.graph.nodes[t.op.name].op for t in outputs}
    assert ops == {
        "unknown": "Shape",
        "also_unknown": "Shape",
        "rank": "Const",
        "known": "Const",
        "size": "Const",
        "sum": "Const",
    }


def test_the_shape_of_a_tensor_that_is_fed_is_not_known():
    with building() as g:
        x = placeholder([2])
        y = tf.raw_ops.Abs(x=x, name="y")
        z = tf.raw_ops.Shape(input=y, name="z")
    graph = view(g, [x, y], [z, y])
    slim = fold_constants(graph).graph
    assert slim.nodes["z"].op == "Shape"


def test_noted_shapes_take_part_only_when_asked_and_stale_ones_do_no_harm():
    with building() as g:
        x = placeholder(None)
        y = tf.raw_ops.Abs(x=x, name="y")
        z = tf.raw_ops.Shape(input=y, name="z")
    graph_def = g.as_graph_def()
    noted = next(node for node in graph_def.node if node.name == "y")
    noted.attr["_output_shapes"].list.shape.add().CopyFrom(tf.TensorShape([2, 3]).as_proto())
    graph = Graph.of(graph_def, [x.name], [z.name])
    ignored = fold_constants(graph).graph
    assert ignored.nodes["z"].op == "Shape"
    assert "_output_shapes" not in ignored.nodes["y"].attr
    used = fold_constants(graph, clear_output_shapes=False).graph
    assert values(used)["z"].tolist() == [2, 3]


def test_a_placeholder_with_default_stays():
    with building() as g:
        x = placeholder([2])
        y = x * v1.placeholder_with_default(tf.constant([1.0, 2.0]), [2], "default")
    outcome = folded(g, [x], [y])
    assert outcome.changes == 0
    assert "PlaceholderWithDefault" in op_counts(outcome.graph)


@pytest.mark.parametrize("read", ["c", "sum"])
def test_what_is_fed_is_not_constant(read):
    with building() as g:
        x = placeholder([2])
        total = tf.raw_ops.AddV2(x=tf.constant([1.0, 2.0], name="c"), y=tf.constant([5.0, 6.0]), name="sum")
        y = tf.raw_ops.Mul(x=x, y=total, name="y")
    graph = view(g, [x, f"{read}:0"], [y])
    slim = fold_constants(graph).graph
    feeds = {"x:0": [1.0, 1.0], f"{read}:0": [7.0, 8.0]}
    np.testing.assert_array_equal(run(slim, feeds)[0], run(graph, feeds)[0])


def test_random_numbers_and_tables_are_not_folded():
    with building() as g:
        x = placeholder([2])
        y = x + tf.random.uniform([2])
        table = tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.float32)
        size = tf.raw_ops.LookupTableSizeV2(table_handle=table)
    graph = view(g, [x], [y, size])
    assert op_counts(fold_constants(graph).graph)["RandomUniform"] == 1
    assert op_counts(fold_constants(graph).graph)["LookupTableSizeV2"] == 1


def test_what_runs_after_an_assert_stays_after_it():
    with building() as g:
        x = placeholder([2])
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 99), data=[x], name="assert")
        a, b = tf.constant([1.0, 2.0]), tf.constant([3.0, 5.0])
        idle = tf.raw_ops.Abs(x=x, name="idle")
        with g.control_dependencies([check]):
            y = tf.raw_ops.AddV2(x=a, y=b, name="after")
            shape = tf.raw_ops.Shape(input=tf.identity(x, name="checked"), name="shape")
        with g.control_dependencies([idle]):
            z = tf.raw_ops.Mul(x=a, y=b, name="free")
    outcome = folded(g, [x], [y, z, shape])
    assert outcome.graph.nodes["free"].op == "Const"
    assert reasons(outcome) == {
        "after": "it runs after 'assert', which has an effect",
        "shape": "it runs after an effect, which would be lost",
    }


def test_encoded_weights_stay_encoded():
    with building() as g:
        x = placeholder([3, 40])
        y = tf.matmul(x, tf.transpose(const([50, 40], name="w"), name="t"))
    graph = view(g, [x], [y])
    value = values(graph)["w"]
    node, weights = external_constant("w", Weight(value.dtype, value.shape, lambda: value, Encoded("int8", {})))
    outcome = fold_constants(graph.replace([node], weights=weights))
    assert reasons(outcome) == {"t": "'w' is stored encoded"}


def test_a_node_that_cannot_be_computed_is_left_alone_and_the_others_are_folded():
    with building() as g:
        x = placeholder([2])
        good = tf.constant([1.0, 2.0]) + 1.0
        bad = tf.raw_ops.DecodeRaw(bytes=tf.constant([b"abc"]), out_type=tf.float32, name="bad")
        y = x + good
    graph = view(g, [x], [y, bad])
    outcome = fold_constants(graph)
    assert list(reasons(outcome)) == ["bad"]
    assert reasons(outcome)["bad"].startswith("TensorFlow cannot compute it: ")
    assert op_counts(outcome.graph)["AddV2"] == 1


def test_a_node_whose_shapes_contradict_is_left_alone_and_the_others_are_folded():
    with building() as g:
        x = placeholder([2])
        y = x + (tf.constant([1.0, 2.0]) + 1.0)
        z = tf.raw_ops.MatMul(a=const([2, 3]), b=tf.transpose(const([4, 3], name="w")), name="bad")
    graph_def = g.as_graph_def()
    next(node for node in graph_def.node if node.name == "bad").attr["transpose_b"].b = True
    graph = Graph.of(graph_def, [x.name], [y.name, z.name])
    outcome = fold_constants(graph)
    assert reasons(outcome)["bad"].startswith("TensorFlow refuses it: ")
    assert op_counts(outcome.graph)["AddV2"] == 1


def test_what_no_constant_can_hold_is_left_alone():
    with building() as g:
        x = placeholder([2])
        q = tf.raw_ops.Bitcast(input=tf.constant(np.ones(2, np.uint8)), type=tf.quint8, name="q")
        y = x + tf.cast(tf.raw_ops.Bitcast(input=q, type=tf.uint8), tf.float32)
    assert reasons(folded(g, [x], [y])) == {"q": "no constant can hold its result, a quint8"}


@pytest.mark.parametrize("parameters", [{"exclude_op": ("Abs",)}, {"exclude_node": ("a",)}, {"exclude_node": ("a:0",)}])
def test_excluded_ops_and_nodes_are_left_alone(parameters):
    with building() as g:
        x = placeholder([2])
        y = x + tf.raw_ops.Abs(x=tf.constant([1.0, -2.0]), name="a")
    assert folded(g, [x], [y], **parameters).changes == 0
    assert folded(g, [x], [y]).changes == 1


def test_every_output_of_a_node_is_folded_that_is_read():
    with building() as g:
        x = placeholder([2])
        parts = tf.split(const([6]), 3, name="parts")
        y = x * parts[2] + parts[1]
    outcome = folded(g, [x], [y])
    assert op_counts(outcome.graph) == {"Placeholder": 1, "Const": 2, "Mul": 1, "AddV2": 1}


def test_a_later_output_that_a_signature_reads_keeps_its_node():
    with building() as g:
        x = placeholder([2])
        parts = tf.split(const([6]), 3, name="parts")
        y = x * parts[0]
    outcome = folded(g, [x], [y, parts[1]])
    assert reasons(outcome) == {"parts": "a signature reads another of its outputs than the first"}


def test_strings_and_other_types_are_folded():
    with building() as g:
        x = placeholder([2])
        text = tf.strings.join([tf.constant([b"a\0", b"b"]), tf.constant(b"\xff\0")], name="text")
        lone = tf.strings.join([tf.constant(b"a\0"), tf.constant(b"\0")], name="lone")
        half = tf.raw_ops.Neg(x=tf.constant([1, 2], tf.bfloat16), name="half")
        z = tf.raw_ops.Neg(x=tf.constant([1j, 2]), name="complex")
        flag = tf.raw_ops.LogicalNot(x=tf.constant([True, False]), name="flag")
        y = tf.abs(x)
    outcome = folded(g, [x], [y, text, lone, z, flag, tf_cast(half, g)])
    assert all(outcome.graph.nodes[name].op == "Const" for name in ("text", "lone", "complex", "flag"))


def tf_cast(tensor, g):
    with g.as_default():
        return tf.cast(tensor, tf.float32)


def test_an_output_that_is_run_for_its_effect_alone_is_kept():
    with building() as g:
        x = placeholder([2])
        y = x * (tf.constant([1.0, 2.0]) + 1.0)
        with g.control_dependencies([y]):
            done = tf.raw_ops.NoOp(name="done")
    graph = view(g, [x], [y], [done])
    outcome = fold_constants(graph)
    assert outcome.changes == 1
    assert outcome.graph.nodes["done"] == graph.nodes["done"]


def test_quantized_weights_stay_quantized():
    from tfslim_core.transforms.quantize_weights import quantize_weights

    with building() as g:
        x = placeholder([3, 64])
        y = tf.matmul(x, const([64, 64], name="w"))
    quantized = quantize_weights(view(g, [x], [y]), minimum_size=1024).graph
    outcome = fold_constants(quantized)
    assert outcome.graph.weights["w/codes"].stored_bytes == 64 * 64
    assert sum(value.nbytes for value in values(outcome.graph).values()) < 64 * 64 * 2


def test_a_node_keeps_its_name_and_the_old_tool_finds_the_same():
    with building() as g:
        x = placeholder([3, 40])
        w = tf.transpose(const([50, 40], name="w") * 2.0, name="turned")
        y = tf.add(tf.matmul(x, w), tf.exp(const([50], 1, "b"), name="bias"), name="y")
    outcome = folded(g, [x], [y])
    assert {"turned", "bias", "y"} <= outcome.graph.nodes.keys()
    old = transformed(with_default_attributes(g.as_graph_def()), ["x"], ["y"], "fold_constants")
    theirs = Graph.of(old, ["x:0"], ["y:0"])
    assert op_counts(theirs) == op_counts(outcome.graph)
    feeds = random_feeds(outcome.graph)
    np.testing.assert_allclose(run(theirs, feeds)[0], run(outcome.graph, feeds)[0], rtol=1e-5, atol=1e-5)


def test_nothing_is_folded_across_a_v1_branch():
    with building() as g:
        v1.disable_control_flow_v2()
        try:
            x = placeholder([2])
            y = v1.cond(
                tf.reduce_sum(x) > 0,
                lambda: tf.cast(tf.raw_ops.Shape(input=x * 2.0), tf.float32) + tf.constant([1.0]),
                lambda: tf.constant([5.0]) * tf.constant([7.0]),
            )
            z = x + (tf.constant([3.0, 4.0]) + 1.0)
        finally:
            v1.enable_control_flow_v2()
    graph = view(g, [x], [y, z])
    outcome = fold_constants(graph)
    for value in ([1.0, 2.0], [-1.0, -2.0]):
        for was, now in zip(run(graph, {"x:0": value}), run(outcome.graph, {"x:0": value}), strict=True):
            np.testing.assert_array_equal(was, now)
    assert outcome.changes >= 1
    assert "it runs on a branch of TensorFlow 1 control flow" in reasons(outcome).values()
