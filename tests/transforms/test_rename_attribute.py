import pytest
import tensorflow as tf
from hypothesis import given, settings

from tests.edited_graphs import FUNCTIONS_FEEDS, function_nodes, graphs, with_functions
from tests.graphs import assert_same_model, building, random_feeds, reasons, view
from tests.old_tool import transformed
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph
from tfslim_core.transforms.rename_attribute import rename_attribute

v1 = tf.compat.v1


def edited(graph, old, new, **parameters):
    parameters |= {"old_attribute_name": old, "new_attribute_name": new}
    outcome = rename_attribute(graph, **parameters)
    again = rename_attribute(outcome.graph, **parameters)
    assert (again.changes, again.graph) == (0, outcome.graph)
    return outcome


def graph_with(**notes):
    """A MatMul `y` over a Relu `r`, each with the notes given."""
    with building() as g:
        x = v1.placeholder(tf.float32, [3, 3], "x")
        y = tf.raw_ops.MatMul(a=x, b=tf.nn.relu(x, name="r"), transpose_b=True, name="y")
    graph_def = g.as_graph_def()
    for node in graph_def.node:
        for name, value in notes.items():
            if node.name in ("y", "r"):
                node.attr[name].i = value
    return Graph.of(graph_def, [x.name], [y.name])


def test_a_note_is_renamed_and_keeps_its_value():
    graph = graph_with(_trace=7)
    outcome = edited(graph, "_trace", "_layer")
    assert outcome.changes == 2
    for name in ("y", "r"):
        assert "_trace" not in outcome.graph.nodes[name].attr
        assert outcome.graph.nodes[name].attr["_layer"].i == 7
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_op_name_is_the_type_of_the_nodes():
    outcome = edited(graph_with(_trace=7), "_trace", "_layer", op_name="Relu")
    assert [name for name, node in outcome.graph.nodes.items() if "_layer" in node.attr] == ["r"]
    assert edited(graph_with(_trace=7), "_trace", "_layer", op_name="*").changes == 2


def test_the_old_tool_renames_the_same():
    graph = graph_with(_trace=7)
    call = "rename_attribute(old_attribute_name=_trace, new_attribute_name=_layer, op_name=Relu)"
    old = transformed(graph.to_graph_def(), ["x"], ["y"], call)
    assert {n.name: n for n in old.node} == dict(edited(graph, "_trace", "_layer", op_name="Relu").graph.nodes)


def test_an_attribute_may_become_another_that_the_op_declares():
    graph = graph_with()
    outcome = edited(edited(graph, "transpose_b", "_kept").graph, "_kept", "transpose_b")
    assert outcome.changes == 1
    assert_same_model(graph, outcome.graph, random_feeds(graph))
    assert reasons(edited(graph, "transpose_b", "transpose_a")) == {"y": "it has an attribute 'transpose_a' already"}


def test_no_attribute_is_overwritten():
    graph = graph_with(_trace=7, _layer=8)
    outcome = edited(graph, "_trace", "_layer")
    assert outcome.graph is graph
    assert reasons(outcome) == dict.fromkeys(["y", "r"], "it has an attribute '_layer' already")


def test_a_required_attribute_stays():
    assert reasons(edited(graph_with(), "dtype", "_dtype")) == {
        "x": "Placeholder needs the attribute 'dtype', which has no default"
    }


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ("transpose_c", "MatMul has no attribute 'transpose_c'"),
        ("T", "it has an attribute 'T' already"),
        ("grad_a", "the attribute 'grad_a' of MatMul is of type bool, not int"),
    ],
)
def test_a_name_that_the_op_does_not_declare_for_it_is_refused(new, reason):
    """TensorFlow refuses such a graph."""
    graph_def = graph_with(_trace=7).to_graph_def()
    for node in graph_def.node:
        node.attr.pop("grad_a", None)
    graph = Graph.of(graph_def, ["x:0"], ["y:0"])
    outcome = edited(graph, "_trace", new, op_name="MatMul")
    assert outcome.graph is graph
    assert reasons(outcome) == {"y": reason}


def test_a_value_that_the_op_does_not_allow_is_refused():
    with building() as g:
        x = v1.placeholder(tf.float32, [1, 2, 2, 1], "x")
        y = tf.raw_ops.BiasAdd(value=x, bias=[1.0], name="y")
    graph_def = g.as_graph_def()
    node = next(node for node in graph_def.node if node.name == "y")
    node.attr.pop("data_format", None)
    node.attr["_was"].s = b"NCDHWX"
    outcome = edited(Graph.of(graph_def, [x.name], [y.name]), "_was", "data_format")
    assert reasons(outcome) == {"y": "the attribute 'data_format' of BiasAdd cannot have that value"}


def test_types_stay():
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        y = tf.raw_ops.ArgMax(input=x, dimension=0, output_type=tf.int32, name="y")
    assert reasons(edited(view(g, [x], [y]), "output_type", "_type")) == {"y": "its types would be others"}


def test_an_empty_name_is_an_error():
    with pytest.raises(TransformError, match="new_attribute_name is empty"):
        rename_attribute(graph_with(), old_attribute_name="T", new_attribute_name="")


def test_nodes_of_functions_are_edited_too():
    graph = with_functions()
    graph_def = graph.to_graph_def()
    for node in (node for function in graph_def.library.function for node in function.node_def):
        node.attr["_note"].i = 1
    graph = Graph.of(graph_def, graph.inputs, graph.outputs, weights=graph.weights)
    outcome = edited(graph, "_note", "_remark")
    assert outcome.changes == len(function_nodes(graph)) > 0
    assert all(node.attr["_remark"].i == 1 for node in function_nodes(outcome.graph))
    assert_same_model(graph, outcome.graph, FUNCTIONS_FEEDS)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(graphs())
def test_there_and_back_is_the_same_graph(graph):
    there = edited(graph, "_class", "_was_class")
    back = edited(there.graph, "_was_class", "_class")
    assert there.changes == back.changes == sum("_class" in node.attr for node in graph.nodes.values())
    assert back.graph == graph
    assert_same_model(graph, there.graph, random_feeds(graph), rtol=0, atol=0)
