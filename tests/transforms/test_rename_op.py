import pytest
import tensorflow as tf
from hypothesis import given, settings

from tests.edited_graphs import FUNCTIONS_FEEDS, function_nodes, graphs, with_functions
from tests.graphs import assert_same_interface, assert_same_model, building, op_delta, random_feeds, reasons, run, view
from tests.old_tool import transformed
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph
from tfslim_core.transforms.rename_op import rename_op

v1 = tf.compat.v1


def edited(graph, old, new):
    outcome = rename_op(graph, old_op_name=old, new_op_name=new)
    again = rename_op(outcome.graph, old_op_name=old, new_op_name=new)
    assert (again.changes, again.graph) == (0, outcome.graph)
    return outcome


def graph_of(build, shape=(2, 3), dtype=tf.float32):
    with building() as g:
        x = v1.placeholder(dtype, shape, "x")
        y = build(x)
    return view(g, [x], [y])


def reason_for(graph, old, new):
    outcome = edited(graph, old, new)
    assert outcome.graph is graph
    (reason,) = reasons(outcome).values()
    return reason


def test_only_the_op_changes():
    graph = graph_of(lambda x: tf.raw_ops.Relu(features=tf.raw_ops.Relu(features=x, name="r"), name="y"))
    outcome = edited(graph, "Relu", "Tanh")
    assert op_delta(graph, outcome.graph) == {"Relu": -2, "Tanh": 2}
    assert_same_interface(graph, outcome.graph)
    wanted = graph_of(lambda x: tf.tanh(tf.tanh(x)))
    feeds = random_feeds(graph)
    assert run(outcome.graph, feeds)[0] == pytest.approx(run(wanted, feeds)[0])


def test_an_op_that_computes_the_same():
    graph = graph_of(lambda x: tf.raw_ops.BatchMatMul(x=x, y=x, adj_y=True, name="y"), (2, 3, 3))
    outcome = edited(graph, "BatchMatMul", "BatchMatMulV2")
    assert outcome.changes == 1
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_the_old_tool_renames_the_same():
    graph = graph_of(lambda x: tf.raw_ops.Neg(x=tf.raw_ops.Relu(features=x, name="r"), name="y"))
    old = transformed(graph.to_graph_def(), ["x"], ["y"], "rename_op(old_op_name=Relu, new_op_name=Tanh)")
    assert {node.name: node for node in old.node} == dict(edited(graph, "Relu", "Tanh").graph.nodes)


def test_an_unknown_op_is_an_error():
    graph = graph_of(lambda x: tf.raw_ops.Relu(features=x, name="y"))
    with pytest.raises(TransformError, match="this TensorFlow has no op 'Rellu6'; did you mean 'Relu6'"):
        edited(graph, "Relu", "Rellu6")


def test_an_op_that_is_not_there_is_no_change():
    graph = graph_of(lambda x: tf.raw_ops.Relu(features=x, name="y"))
    outcome = edited(graph, "Selu", "Relu")
    assert (outcome.graph, outcome.changes, outcome.skipped) == (graph, 0, ())
    assert edited(graph, "Relu", "Relu").graph is graph


def test_attributes_that_the_new_op_lacks():
    graph = graph_of(lambda x: tf.raw_ops.LeakyRelu(features=x, alpha=0.5, name="y"))
    assert reason_for(graph, "LeakyRelu", "Relu") == "Relu has no attribute 'alpha'"


def test_attributes_that_the_old_op_lacks():
    graph = graph_of(lambda x: tf.raw_ops.Relu(features=x, name="y"))
    assert (
        reason_for(graph, "Relu", "CheckNumerics")
        == "CheckNumerics needs the attribute 'message', which Relu does not have"
    )


def test_notes_do_not_matter():
    graph_def = graph_of(lambda x: tf.raw_ops.Relu(features=x, name="y")).to_graph_def()
    graph_def.node[-1].attr["_note"].i = 1
    assert edited(Graph.of(graph_def, ["x:0"], ["y:0"]), "Relu", "Tanh").graph.nodes["y"].attr["_note"].i == 1


def test_other_types_of_inputs():
    graph = graph_of(lambda x: tf.raw_ops.Relu(features=x, name="y"))
    assert reason_for(graph, "Relu", "AddV2") == "AddV2 has inputs of types [float32, float32], Relu of [float32]"


def test_other_types_of_outputs():
    graph = graph_of(lambda x: tf.raw_ops.AddV2(x=x, y=x, name="y"))
    assert reason_for(graph, "AddV2", "Less") == "Less has outputs of types [bool], AddV2 of [float32]"


def test_a_type_that_the_new_op_does_not_take():
    graph = graph_of(lambda x: tf.raw_ops.Abs(x=x, name="y"), dtype=tf.int32)
    assert reason_for(graph, "Abs", "Tanh") == "the attribute 'T' of Tanh cannot have that value"


def test_an_op_that_is_not_allowed_any_more():
    graph = graph_of(lambda x: tf.raw_ops.MatrixInverse(input=x, name="y"), (3, 3))
    assert "BatchMatrixInverse is not allowed any more in graphs of version" in reason_for(
        graph, "MatrixInverse", "BatchMatrixInverse"
    )


def test_a_value_that_is_stored_apart_stays_with_its_constant():
    graph = graph_of(lambda x: tf.add(x, tf.reduce_sum(tf.constant([[1.0, 2.0, 3.0]] * 200, name="w"), 0), name="y"))
    outcome = edited(graph, "Const", "HostConst")
    assert reasons(outcome) == {"w": "its value is a weight, which HostConst cannot have"}


def test_what_is_fed_stays():
    graph = graph_of(lambda x: tf.raw_ops.Relu(features=x, name="y"))
    assert reason_for(graph, "Placeholder", "PlaceholderV2") == "it is an input"


def test_functions_are_rewritten_too():
    """Readers in a function name the output's argument, which is another for another op."""
    graph = with_functions()
    outcome = edited(graph, "Relu", "Tanh")
    assert outcome.changes == 3
    assert "Relu" not in {node.op for node in function_nodes(outcome.graph)}
    assert "Tanh" in {node.op for node in function_nodes(outcome.graph)}
    with pytest.raises(AssertionError, match="Mismatched"):
        assert_same_model(graph, outcome.graph, FUNCTIONS_FEEDS)
    back = edited(outcome.graph, "Tanh", "Relu")
    assert_same_model(graph, back.graph, FUNCTIONS_FEEDS)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(graphs(shuffled=True))
def test_there_and_back_is_the_same_graph(graph):
    there = edited(graph, "Sin", "Cos")
    assert op_delta(graph, there.graph) == ({"Sin": -there.changes, "Cos": there.changes} if there.changes else {})
    assert edited(there.graph, "Cos", "Sin").graph == graph
    run(there.graph, random_feeds(graph))
