import tensorflow as tf

from tests.graphs import assert_same_model, building, random_feeds, view
from tests.old_tool import transformed, with_default_attributes
from tfslim_core.graph import Graph
from tfslim_core.transforms.remove_unused_functions import remove_unused_functions

v1 = tf.compat.v1
F32 = tf.float32.as_datatype_enum


def function(name, calls=None, op="Neg"):
    """y = op(x), or what another function makes of x."""
    made = v1.GraphDef().library.function.add()
    made.signature.name = name
    made.signature.input_arg.add(name="x", type=F32)
    made.signature.output_arg.add(name="y", type=F32)
    node = made.node_def.add(name="n", op=op, input=["x"])
    if calls:
        node.op = "PartitionedCall"
        node.attr["f"].func.name = calls
        node.attr["Tin"].list.type.append(F32)
        node.attr["Tout"].list.type.append(F32)
        made.ret["y"] = "n:output:0"
    else:
        node.attr["T"].type = F32
        made.ret["y"] = "n:y:0"
    return made


def calling(name, *functions, gradients=(), registered=(), op="PartitionedCall"):
    """A graph that calls the function `name`."""
    graph_def = v1.GraphDef()
    graph_def.library.function.extend(functions)
    for of, by in gradients:
        graph_def.library.gradient.add(function_name=of, gradient_func=by)
    for of, by in registered:
        graph_def.library.registered_gradients.add(registered_op_type=of, gradient_func=by)
    placeholder = graph_def.node.add(name="x", op="Placeholder")
    placeholder.attr["dtype"].type = F32
    placeholder.attr["shape"].shape.CopyFrom(tf.TensorShape([3]).as_proto())
    node = graph_def.node.add(name="y", op=op, input=["x"] if op != "SymbolicGradient" else ["x", "x"])
    node.attr["f"].func.name = name
    node.attr["Tin"].list.type.extend([F32] * len(node.input))
    node.attr["Tout"].list.type.append(F32)
    return Graph.of(graph_def, ["x:0"], ["y:0"])


def slim(graph):
    outcome = remove_unused_functions(graph)
    again = remove_unused_functions(outcome.graph)
    assert (again.changes, again.graph) == (0, outcome.graph)
    return outcome


def test_what_is_called_stays_also_from_within_functions():
    graph = calling("f", function("f", calls="g"), function("g", op="Abs"), function("h"))
    outcome = slim(graph)
    assert outcome.changes == 1
    assert set(outcome.graph.functions) == {"f", "g"}
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_functions_that_only_call_each_other_go():
    graph = calling("f", function("f"), function("ping", calls="pong"), function("pong", calls="ping"))
    assert set(slim(graph).graph.functions) == {"f"}


def test_notes_on_gradients_go_with_their_functions():
    functions = [function(name) for name in ("f", "f_grad", "h", "h_grad", "op_grad")]
    graph = calling(
        "f", *functions, gradients=[("f", "f_grad"), ("h", "h_grad")], registered=[("CustomGradient-1", "op_grad")]
    )
    outcome = slim(graph)
    library = outcome.graph.rest.library
    assert [f.signature.name for f in library.function] == ["f"]
    assert (len(library.gradient), len(library.registered_gradients), outcome.changes) == (0, 0, 7)
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_a_gradient_that_is_asked_for_stays():
    gradient = function("f_grad")
    gradient.signature.input_arg.add(name="dy", type=F32)
    helper = function("helper", op="Abs")
    graph = calling(
        "f",
        function("f"),
        gradient,
        helper,
        gradients=[("f", "f_grad"), ("helper", "f_grad")],
        op="SymbolicGradient",
    )
    library = slim(graph).graph.rest.library
    assert {f.signature.name for f in library.function} == {"f", "f_grad"}
    assert [g.function_name for g in library.gradient] == ["f"]


def test_branches_and_loops_keep_their_functions():
    v1.enable_control_flow_v2()

    @tf.function
    def unused(x):
        return x - 1.0

    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        y = tf.cond(tf.reduce_sum(x) > 0, lambda: x * 2.0, lambda: x * 3.0)
        y = tf.while_loop(lambda i, a: i < 3, lambda i, a: (i + 1, tf.tanh(a)), [0, y])[1]
        y = tf.identity(y, "y")
        unused(x)
    graph_def = g.as_graph_def()
    del graph_def.node[[node.name for node in graph_def.node].index("PartitionedCall")]
    graph = Graph.of(graph_def, [x.name], [y.name])
    outcome = slim(graph)
    assert (len(graph.functions), len(outcome.graph.functions)) == (5, 4)
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_the_versions_and_the_nodes_are_untouched():
    graph = calling("f", function("f"), function("h"))
    graph.rest.versions.producer = 987
    after = slim(graph).graph
    assert after.rest.versions == graph.rest.versions
    assert dict(after.nodes) == dict(graph.nodes)


def test_a_graph_without_unused_functions_is_left_as_it_is():
    graph = calling("f", function("f"))
    assert slim(graph).graph is graph
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
    graph = view(g, [x], [x])
    assert slim(graph).graph is graph


def test_the_old_tool_keeps_every_function():
    graph = calling("f", function("f"), function("h"))
    kept = transformed(with_default_attributes(graph.to_graph_def()), ["x"], ["y"], "strip_unused_nodes")
    assert len(kept.library.function) == 2
