import re

import numpy as np
import pytest
import tensorflow as tf

from tests.graphs import assert_same_model, building, op_counts, random_feeds, view
from tfslim_core import registry, transforms
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph, renamed
from tfslim_core.registry import Outcome


@pytest.fixture
def graph():
    with building() as g:
        x = tf.compat.v1.placeholder(tf.float32, [2, 3], "x")
        w = tf.constant(np.arange(12, dtype=np.float32).reshape(4, 3), name="w")
        y = tf.matmul(x, tf.transpose(tf.identity(w)), name="y") * tf.constant([1.0, 2.0, 3.0, 4.0])
        tf.abs(y, name="dead")
    return view(g, [x], [y])


@pytest.fixture
def broken(monkeypatch):
    """Two transforms that do what none should."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))

    @registry.transform("break_graph")
    def break_graph(graph: Graph) -> Outcome:
        """Leave an input that does not resolve."""
        return Outcome(graph.replace([renamed(graph.nodes["y"], "y", ["nowhere", "x"])]))

    @registry.transform("break_interface")
    def break_interface(graph: Graph) -> Outcome:
        """Forget the outputs."""
        return Outcome(Graph(graph.nodes, graph.inputs, (), weights=graph.weights))


def test_the_default_order_slims_and_tells_each_step(graph):
    slim, steps = transforms.apply(graph)
    assert op_counts(slim) == {"Placeholder": 1, "Const": 1, "MatMul": 1}
    assert_same_model(graph, slim, random_feeds(graph))
    assert [step.name for step in steps] == [text.partition("(")[0] for text in transforms.DEFAULT]
    assert steps[0].nodes_before == len(graph.nodes)
    assert steps[-1].nodes_after == len(slim.nodes)
    assert steps[-1].bytes_after == transforms.stored_bytes(slim) < steps[0].bytes_before
    assert all(step.seconds >= 0 and not step.error for step in steps)


def test_the_old_lists_work_word_for_word(graph):
    old = [
        "remove_nodes(op=Identity)",
        "merge_duplicate_nodes",
        "strip_unused_nodes",
        "fold_constants(ignore_errors=true)",
        "fold_batch_norms",
    ]
    slim, steps = transforms.apply(graph, old)
    assert steps[0].name == "remove_nodes"
    assert steps[0].parameters == {"op": ("Identity",)}
    assert_same_model(graph, slim, random_feeds(graph))
    assert transforms.apply(graph, "\n".join(old))[0].nodes.keys() == slim.nodes.keys()


def test_an_empty_list_changes_nothing(graph):
    assert transforms.apply(graph, "") == (graph, [])
    assert transforms.apply(graph, []) == (graph, [])


def test_progress_is_told_before_each(graph):
    told = []
    transforms.apply(graph, "strip_unused_nodes fold_batch_norms", progress=lambda *now: told.append(now))
    assert told == [(0, 2, "strip_unused_nodes"), (1, 2, "fold_batch_norms")]


@pytest.mark.usefixtures("broken")
def test_an_error_names_the_transform_and_those_before_it(graph):
    with pytest.raises(TransformError) as error:
        transforms.apply(graph, "strip_unused_nodes fold_batch_norms break_graph")
    assert str(error.value) == (
        "break_graph: node 'y' reads 'nowhere', which does not exist"
        " (before it ran: strip_unused_nodes, fold_batch_norms)"
    )


@pytest.mark.usefixtures("broken")
def test_an_ignored_error_keeps_the_graph_before(graph):
    slim, steps = transforms.apply(graph, "strip_unused_nodes break_graph(ignore_errors=true) fold_batch_norms")
    assert steps[1].error == "node 'y' reads 'nowhere', which does not exist"
    assert (steps[1].changes, steps[1].nodes_before) == (0, steps[1].nodes_after)
    assert_same_model(graph, slim, random_feeds(graph))


@pytest.mark.usefixtures("broken")
def test_a_changed_interface_is_an_error(graph):
    with pytest.raises(TransformError, match="break_interface: it changed the interface"):
        transforms.apply(graph, "break_interface")


def test_every_transform_has_a_summary_and_is_in_a_file_of_its_name():
    for transform in registry.known():
        assert transform.summary.endswith(".")
        assert transform.function.__module__ == f"tfslim_core.transforms.{transform.name}"
        assert "\nSource: " in transform.documentation
        assert transform.documentation.startswith(transform.summary + "\n"), transform.name
        assert re.search(r"^    (Before|After): ", transform.documentation, flags=re.MULTILINE)
