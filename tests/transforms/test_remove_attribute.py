import pytest
import tensorflow as tf
from hypothesis import given, settings

from tests.edited_graphs import (
    FUNCTIONS_FEEDS,
    function_nodes,
    graphs,
    with_functions,
    with_generic_function,
)
from tests.graphs import assert_same_model, building, random_feeds, reasons, view
from tests.old_tool import transformed
from tfslim_core import registry, transforms
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph
from tfslim_core.transforms.remove_attribute import remove_attribute

v1 = tf.compat.v1


def removed(graph, name, **parameters):
    outcome = remove_attribute(graph, attribute_name=name, **parameters)
    again = remove_attribute(outcome.graph, attribute_name=name, **parameters)
    assert (again.changes, again.graph) == (0, outcome.graph)
    return outcome


def product():
    with building() as g:
        x = v1.placeholder(tf.float32, [3, 3], "x")
        y = tf.raw_ops.MatMul(a=x, b=tf.nn.relu(x, name="r"), transpose_b=True, name="y")
    graph_def = g.as_graph_def(add_shapes=True)
    next(node for node in graph_def.node if node.name == "y").attr["_class"].list.s.append(b"loc:@r")
    return Graph.of(graph_def, [x.name], [y.name])


@pytest.mark.parametrize("name", ["_output_shapes", "_class"])
def test_a_note_goes(name):
    graph = product()
    outcome = removed(graph, name)
    assert outcome.changes == (3 if name == "_output_shapes" else 1)
    assert not outcome.skipped
    assert all(name not in node.attr for node in outcome.graph.nodes.values())
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_op_name_is_the_type_of_the_nodes():
    outcome = removed(product(), "_output_shapes", op_name="Relu")
    assert [name for name, node in outcome.graph.nodes.items() if "_output_shapes" not in node.attr] == ["r"]
    assert removed(product(), "_output_shapes", op_name="r").changes == 0
    assert removed(product(), "_output_shapes", op_name="*").changes == 3


@pytest.mark.parametrize(("name", "ops"), [("T", {"y": "MatMul", "r": "Relu"}), ("dtype", {"x": "Placeholder"})])
def test_a_required_attribute_stays(name, ops):
    """Without it TensorFlow could not load the graph."""
    graph = product()
    outcome = removed(graph, name)
    assert outcome.graph is graph
    assert reasons(outcome) == {node: f"{op} needs the attribute, which has no default" for node, op in ops.items()}


def test_an_attribute_that_the_types_hang_on_stays():
    with building() as g:
        x = v1.placeholder(tf.float32, [3], "x")
        y = tf.raw_ops.ArgMax(input=x, dimension=0, output_type=tf.int32, name="y")
        z = tf.raw_ops.ArgMax(input=x, dimension=0, output_type=tf.int64, name="z")
    graph = view(g, [x], [y, z])
    outcome = removed(graph, "output_type")
    assert reasons(outcome) == {"y": "its types hang on the attribute, whose default is another"}
    assert "output_type" not in outcome.graph.nodes["z"].attr
    assert_same_model(graph, outcome.graph, random_feeds(graph))


def test_a_declared_attribute_has_its_default_from_then_on():
    slim = removed(product(), "transpose_b").graph
    assert "transpose_b" not in slim.nodes["y"].attr
    with building() as g:
        x = v1.placeholder(tf.float32, [3, 3], "x")
        y = tf.raw_ops.MatMul(a=x, b=tf.nn.relu(x), name="y")
    plain = view(g, [x], [y])
    assert_same_model(plain, slim, random_feeds(plain))


def test_the_nodes_of_functions_lose_it_too():
    graph = with_functions()
    graph_def = graph.to_graph_def()
    for function in graph_def.library.function:
        for node in function.node_def:
            node.attr["_note"].i = 1
    graph = Graph.of(graph_def, graph.inputs, graph.outputs, weights=graph.weights)
    outcome = removed(graph, "_note")
    assert outcome.changes == len(function_nodes(graph)) > 0
    assert all("_note" not in node.attr for node in function_nodes(outcome.graph))
    assert_same_model(graph, outcome.graph, FUNCTIONS_FEEDS)
    required = removed(graph, "num_split")
    assert required.changes == 0
    assert [name.rpartition("/")[2] for name in reasons(required)] == ["split"]


def test_functions_whose_type_the_caller_decides_lose_it_too():
    outcome = removed(with_generic_function(), "_note")
    assert [list(node.attr) for node in function_nodes(outcome.graph)] == [["T"]]
    assert reasons(removed(outcome.graph, "T")) == {
        "call": "negated needs the attribute, which has no default",
        "negated/neg": "Neg needs the attribute, which has no default",
    }


def test_the_attribute_has_to_be_named():
    with pytest.raises(TransformError, match="remove_attribute needs the parameter 'attribute_name'"):
        registry.parse("remove_attribute(op_name=Relu)")
    graph = product()
    slim, _ = transforms.apply(graph, "remove_attribute(attribute_name=_class, op_name=MatMul)")
    assert "_class" not in slim.nodes["y"].attr


def test_the_old_tool_removes_the_same():
    graph = product()
    slim = removed(graph, "_output_shapes", op_name="Relu").graph
    old = transformed(
        graph.to_graph_def(), ["x"], ["y"], "remove_attribute(attribute_name=_output_shapes, op_name=Relu)"
    )
    assert {node.name: node for node in old.node} == dict(slim.nodes)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(graphs())
def test_any_note_goes_and_the_numbers_stay(graph):
    outcome = removed(graph, "_class")
    assert outcome.changes == sum("_class" in node.attr for node in graph.nodes.values())
    assert_same_model(graph, outcome.graph, random_feeds(graph), rtol=0, atol=0)
