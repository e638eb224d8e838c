import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import assert_same_model, building, op_counts, random_feeds, reasons, run, view
from tests.old_tool import OldToolError, transformed, with_default_attributes
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph, control_inputs, make_node
from tfslim_core.transforms.strip_unused_nodes import strip_unused_nodes

v1 = tf.compat.v1


def chain():
    """x -> a -> b -> y, and z beside it."""
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        v1.placeholder(tf.float32, [], "unused_input")
        a = tf.raw_ops.Neg(x=x, name="a")
        b = tf.raw_ops.Abs(x=a, name="b")
        y = tf.raw_ops.Sqrt(x=b, name="y")
        z = tf.raw_ops.Exp(x=a, name="z")
    return g, x, y, z


def stripped(graph, **parameters):
    outcome = strip_unused_nodes(graph, **parameters)
    again = strip_unused_nodes(outcome.graph, **parameters)
    assert (again.changes, again.graph) == (0, outcome.graph)
    return outcome


def test_what_no_output_needs_goes_and_inputs_stay():
    g, x, y, _ = chain()
    graph = view(g, [x, "unused_input:0"], [y])
    outcome = stripped(graph)
    assert set(graph.nodes) - set(outcome.graph.nodes) == {"z"}
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_the_init_op_and_what_it_runs_after_stay():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        table = tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.float32, name="table")
        fill = tf.raw_ops.LookupTableImportV2(table_handle=table, keys=tf.constant([1], tf.int64), values=[2.0])
        with g.control_dependencies([fill]):
            init = tf.no_op("init")
        y = tf.raw_ops.Neg(x=x)
    graph = view(g, [x], [y], [init.name])
    assert stripped(graph).graph is graph


def test_functions_that_nobody_calls_go():
    @tf.function
    def called(x):
        return x + 1.0

    @tf.function
    def uncalled(x):
        return x - 1.0

    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        y, z = called(x), uncalled(x)
    graph = view(g, [x], [y])
    assert len(graph.functions) == 2
    outcome = stripped(graph)
    assert len(outcome.graph.functions) == 1
    assert z.op.name not in outcome.graph.nodes
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_control_inputs_with_nothing_to_wait_for_go():
    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        check = tf.raw_ops.Assert(condition=tf.reduce_all(x < 99), data=[x], name="assert")
        idle = tf.raw_ops.Neg(x=x, name="idle")
        with g.control_dependencies([idle, tf.constant(1.0, name="c"), check]):
            y = tf.raw_ops.Abs(x=x, name="y")
    graph = view(g, [x], [y])
    outcome = stripped(graph)
    assert control_inputs(outcome.graph.nodes["y"]) == ["assert"]
    assert not {"idle", "c"} & set(outcome.graph.nodes)


def test_control_inputs_stay_in_v1_control_flow():
    with building() as g:
        v1.disable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, [2], "x")
            y = v1.cond(tf.reduce_sum(x) > 0, lambda: tf.constant(1.0), lambda: tf.constant(2.0))
        finally:
            v1.enable_control_flow_v2()
    graph = view(g, [x], [y])
    slim = stripped(graph).graph
    assert [run(slim, {"x:0": [value, value]})[0] for value in (1, -1)] == [1.0, 2.0]


def test_colocation_with_a_node_that_goes_is_forgotten():
    g, x, y, _ = chain()
    graph_def = g.as_graph_def()
    next(node for node in graph_def.node if node.name == "b").attr["_class"].list.s.extend([b"loc:@z", b"loc:@a"])
    graph = Graph.of(graph_def, [x.name], [y.name])
    slim = stripped(graph).graph
    assert list(slim.nodes["b"].attr["_class"].list.s) == [b"loc:@a"]
    assert_same_model(graph, slim, random_feeds(graph))


@pytest.mark.parametrize(
    ("parameters", "dtype", "shape"),
    [
        ({"shape": "2,-1"}, tf.float32, [2, None]),
        ({"type": "float"}, tf.float32, None),
        ({"name": ("b",), "type_for_name": ("float",), "shape_for_name": ("2,3",)}, tf.float32, [2, 3]),
        ({"type": "int32", "name": ("b:0",), "type_for_name": ("float",), "shape_for_name": ("",)}, tf.float32, []),
    ],
)
def test_an_input_becomes_a_placeholder_where_a_type_or_shape_is_given(parameters, dtype, shape):
    g, _, y, _ = chain()
    graph = view(g, ["b:0"], [y])
    slim = stripped(graph, **parameters).graph
    assert op_counts(slim) == {"Placeholder": 1, "Sqrt": 1}
    node = slim.nodes["b"]
    assert tf.as_dtype(node.attr["dtype"].type) == dtype
    assert tf.TensorShape(node.attr["shape"].shape) == tf.TensorShape(shape)


def test_an_input_that_is_no_placeholder_stays_unless_told():
    g, _, y, _ = chain()
    graph = view(g, ["b:0"], [y])
    assert op_counts(stripped(graph).graph) == {"Placeholder": 1, "Neg": 1, "Abs": 1, "Sqrt": 1}


def test_a_placeholder_keeps_its_type_shape_and_default():
    with building() as g:
        x = v1.placeholder_with_default(tf.constant([1.0, 2.0]), [2], "x")
        y = tf.raw_ops.Neg(x=x)
    graph = view(g, [x], [y])
    assert stripped(graph, type="float", shape="7").graph is graph


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"type": "int64"}, "int64 was asked for, but in the graph 'b' is float32; leave out"),
        ({"type": "float", "shape": "2,4"}, "float32 [2, 4] was asked for, but in the graph 'b' is float32 [2, 3]"),
        (
            {"name": ("b",), "type_for_name": ("int64",), "shape_for_name": ("",)},
            "'b' is float32, its readers cannot take int64",
        ),
        ({"type": "flaot"}, "no type 'flaot'"),
        ({"shape": "2,a"}, "no shape '2,a'"),
        ({"name": ("b",), "type_for_name": ("float",)}, "1 times name, but 0 times shape_for_name"),
        (
            {"name": ("bb",), "type_for_name": ("float",), "shape_for_name": ("",)},
            "'bb' is not an input; did you mean 'b'?",
        ),
    ],
)
def test_what_is_wrong_is_said(parameters, message):
    g, _, y, _ = chain()
    with pytest.raises(TransformError) as error:
        strip_unused_nodes(view(g, ["b:0"], [y]), **parameters)
    assert message in str(error.value)


def several(*kinds):
    """Nodes cut0, cut1, … of these types and shapes, made of a text, and an output that reads each."""
    with building() as g:
        text = v1.placeholder(tf.string, [], "text")
        cuts = []
        for i, (dtype, shape) in enumerate(kinds):
            decoded = tf.raw_ops.DecodeRaw(bytes=text, out_type=dtype)
            cuts.append(tf.identity(decoded if shape is None else tf.reshape(decoded, shape), f"cut{i}"))
        outputs = [tf.raw_ops.Abs(x=cut, name=f"y{i}") for i, cut in enumerate(cuts)]
    return view(g, cuts, outputs)


def kinds(graph):
    """Type and shape of each placeholder."""
    return {
        name: (tf.as_dtype(node.attr["dtype"].type), tf.TensorShape(node.attr["shape"].shape))
        for name, node in graph.nodes.items()
        if node.op == "Placeholder" and name != "text"
    }


def test_a_list_for_images_leaves_other_inputs_their_type_and_shape():
    """The old tool makes float images of all of them."""
    graph = several((tf.float32, [1, 5, 5, 3]), (tf.int32, [2]), (tf.int32, None), (tf.float32, []))
    call = 'strip_unused_nodes(type=float, shape="1,5,5,3")'
    cuts, ends = ([f"{kind}{i}" for i in range(4)] for kind in ("cut", "y"))
    old = transformed(with_default_attributes(graph.to_graph_def()), cuts, ends, call)
    with pytest.raises(ValueError, match="float"), tf.Graph().as_default():
        tf.import_graph_def(old, name="")
    outcome = stripped(graph, type="float", shape="1,5,5,3")
    assert kinds(outcome.graph) == {
        "cut0": (tf.float32, tf.TensorShape([1, 5, 5, 3])),
        "cut1": (tf.int32, tf.TensorShape([2])),
        "cut2": (tf.int32, tf.TensorShape([None])),
        "cut3": (tf.float32, tf.TensorShape([])),
    }
    told = "float32 [1, 5, 5, 3] was asked for, but in the graph it is {}: a placeholder of that"
    assert reasons(outcome) == {
        "cut1": told.format("int32 [2]"),
        "cut2": told.format("int32 [-1]"),
        "cut3": told.format("float32 []"),
    }


def test_a_type_that_fits_one_input_leaves_the_others_theirs():
    outcome = stripped(several((tf.float32, [2]), (tf.int32, [3])), type="float")
    assert {name: kind for name, (kind, _) in kinds(outcome.graph).items()} == {"cut0": tf.float32, "cut1": tf.int32}
    assert reasons(outcome) == {
        "cut1": "float32 was asked for, but in the graph it is int32: a placeholder of that",
    }


def test_a_type_that_fits_no_input_is_an_error():
    with pytest.raises(TransformError, match="float64 was asked for, but in the graph 'cut0' is float32, 'cut1' is in"):
        strip_unused_nodes(several((tf.float32, [2]), (tf.int32, [3])), type="double")


def test_the_shape_of_an_input_behind_another_is_known_too():
    g, _, y, z = chain()
    graph = view(g, ["a:0", "b:0"], [y, z])
    with pytest.raises(TransformError, match=r"'a' is float32 \[2, 3\], 'b' is float32 \[2, 3\]"):
        strip_unused_nodes(graph, shape="3,2")
    assert stripped(graph, shape="2,-1").skipped == ()


def test_a_shape_by_name_counts_whatever_the_graph_says():
    g, _, y, _ = chain()
    slim = stripped(view(g, ["b:0"], [y]), name=("b",), type_for_name=("float",), shape_for_name=("5",)).graph
    assert kinds(slim) == {"b": (tf.float32, tf.TensorShape([5]))}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from([tf.float32, tf.int32, tf.int64]), st.sampled_from([None, [], [4], [2, 2]])),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([None, "float", "int32"]),
    st.sampled_from([None, "", "4", "-1", "-1,2"]),
)
def test_every_input_keeps_its_type_and_what_is_known_of_its_shape(found, dtype, shape):
    graph = several(*found)
    sizes = None if shape is None else [None if size == "-1" else int(size) for size in shape.split(",") if size]
    fit = [
        dtype in (None, kind.name, kind.name.removesuffix("32"))
        and (sizes is None or tf.TensorShape(sizes).is_compatible_with([None] if known is None else known))
        for kind, known in found
    ]
    if not any(fit):
        with pytest.raises(TransformError, match="was asked for, but in the graph"):
            strip_unused_nodes(graph, type=dtype, shape=shape)
        return
    outcome = stripped(graph, type=dtype, shape=shape)
    assert set(reasons(outcome)) == {f"cut{i}" for i, does in enumerate(fit) if not does}
    if dtype is None and shape is None:
        assert kinds(outcome.graph) == {}
        return
    made = kinds(outcome.graph)
    assert [made[f"cut{i}"][0] for i in range(len(found))] == [kind for kind, _ in found]
    for i, (_, known) in enumerate(found):
        assert made[f"cut{i}"][1].is_compatible_with([None] if known is None else known)
    feeds = {
        f"cut{i}:0": np.ones([4] if known is None else known, kind.as_numpy_dtype)
        for i, (kind, known) in enumerate(found)
    }
    for value, fed in zip(run(outcome.graph, feeds), feeds.values(), strict=True):
        np.testing.assert_array_equal(value, fed)


def test_a_node_of_several_outputs_cannot_become_a_placeholder():
    with building() as g:
        x = v1.placeholder(tf.float32, [4], "x")
        y = tf.raw_ops.Neg(x=tf.raw_ops.TopKV2(input=x, k=2, name="top").values)
    with pytest.raises(TransformError, match="has 2 outputs"):
        strip_unused_nodes(view(g, ["top:0"], [y]), shape="2")


def test_a_graph_without_outputs_is_an_error():
    g, x, _, _ = chain()
    with pytest.raises(TransformError, match="no outputs"):
        strip_unused_nodes(view(g, [x]))


# What the old tool does not get right, each with the right answer.


def test_the_type_of_an_input_is_inferred():
    """The old tool makes a float placeholder of it, which its reader cannot take."""
    with building() as g:
        x = v1.placeholder(tf.float32, [4], "x")
        top = tf.raw_ops.TopKV2(input=x, k=2, name="top").indices
        index = tf.raw_ops.Neg(x=top, name="index")
        y = tf.raw_ops.Abs(x=index, name="y")
    graph = view(g, ["index:0"], [y])
    old = transformed(with_default_attributes(graph.to_graph_def()), ["index"], ["y"], "strip_unused_nodes")
    with pytest.raises(ValueError, match="float"), tf.Graph().as_default():
        tf.import_graph_def(old, name="")
    slim = stripped(graph, shape="-1").graph
    assert tf.as_dtype(slim.nodes["index"].attr["dtype"].type) == tf.int32
    assert run(slim, {"index:0": [-3, 4]})[0].tolist() == [3, 4]


def test_an_unknown_dimension_may_be_asked_for():
    """The old tool aborts on -1 in a shape."""
    g, _, y, _ = chain()
    graph = view(g, ["b:0"], [y])
    with pytest.raises(OldToolError):
        transformed(with_default_attributes(graph.to_graph_def()), ["b"], ["y"], 'strip_unused_nodes(shape="-1,3")')
    assert run(stripped(graph, shape="-1,3").graph, {"b:0": [[1, 4, 9]]})[0].tolist() == [[1, 2, 3]]


def test_a_placeholder_keeps_its_default():
    """The old tool makes a plain placeholder of it."""
    with building() as g:
        x = v1.placeholder_with_default(tf.constant([1.0, 2.0]), [2], "x")
        y = tf.raw_ops.Neg(x=x, name="y")
        tf.raw_ops.Abs(x=x)
    graph = view(g, [x], [y])
    slim = stripped(graph).graph
    assert op_counts(slim) == {"Const": 1, "PlaceholderWithDefault": 1, "Neg": 1}
    assert run(slim, {})[0].tolist() == [-1.0, -2.0]


def test_the_old_tool_agrees_on_what_the_outputs_need():
    g, x, y, _ = chain()
    graph = view(g, [x], [y])
    old = transformed(with_default_attributes(graph.to_graph_def()), ["x"], ["y"], "strip_unused_nodes")
    assert {node.name for node in old.node} == set(stripped(graph).graph.nodes)


# Function bodies


def bodies(graph):
    return {
        node.op
        for function in graph.functions.values()
        for node in function.node_def
        if node.op not in ("Const", "Identity")
    }


def test_in_a_body_what_nothing_needs_goes():
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")

        def positive():
            tf.exp(x)
            return tf.tanh(x)

        v1.enable_control_flow_v2()
        y = tf.identity(tf.cond(tf.reduce_sum(x) > 0, positive, lambda: tf.sin(x)), "y")
    graph = view(g, [x], [y])
    assert "Exp" in bodies(graph)
    outcome = stripped(graph)
    assert bodies(outcome.graph) == {"Tanh", "Sin"}
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_in_a_body_arguments_that_nothing_reads_stay():
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        v1.enable_control_flow_v2()
        y = tf.while_loop(lambda i, a, b: i < 3, lambda i, a, b: (i + 1, tf.tanh(a), b), [0, x, x])
        y = tf.identity(y[1], "y")
    graph = view(g, [x], [y])
    assert_same_model(graph, stripped(graph).graph, random_feeds(graph))


def test_in_a_body_effects_stay_and_what_no_longer_does_anything_goes():
    @tf.function(input_signature=[tf.TensorSpec([2], tf.float32)])
    def guarded(x):
        tf.debugging.Assert(tf.reduce_all(x < 9), [x])
        return tf.tanh(x)

    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        y = tf.identity(guarded(x), "y")
    graph = view(g, [x], [y])
    slim = stripped(graph).graph
    assert {"If", "Assert", "Tanh"} <= bodies(slim)
    assert_same_model(graph, slim, random_feeds(graph))
    with pytest.raises(tf.errors.InvalidArgumentError, match="assertion failed"):
        run(slim, {"x:0": [1, 10]})
    # Without the assert in it, the branch has nothing to promise.
    graph_def = graph.to_graph_def()
    for function in graph_def.library.function:
        for node in function.node_def:
            if node.op == "Assert":
                node.CopyFrom(make_node("NoOp", node.name, []))
    idle = Graph.of(graph_def, graph.inputs, graph.outputs)
    slim = stripped(idle).graph
    assert bodies(slim) == {"Tanh"}
    assert len(slim.functions) == 1
    assert not any(function.control_ret for function in slim.functions.values())
    assert_same_model(idle, slim, random_feeds(idle))


def test_a_body_that_is_run_for_nothing_but_its_effect_stays():
    @tf.function(input_signature=[tf.TensorSpec([2], tf.float32)])
    def shouts(x):
        tf.print("x is", x)

    with building() as g:
        x = v1.placeholder(tf.float32, [2], "x")
        shouts(x)
        call = next(node for node in g.get_operations() if "Call" in node.type)
        with g.control_dependencies([call]):
            y = tf.raw_ops.Neg(x=x, name="y")
    graph = view(g, [x], [y])
    assert "PrintV2" in bodies(stripped(graph).graph)
