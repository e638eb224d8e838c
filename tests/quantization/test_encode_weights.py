from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.graphs import assert_same_interface, building, run, view
from tfslim_core.errors import TransformError
from tfslim_core.quantization.encode_weights import Choice, candidates, encode_weights

v1 = tf.compat.v1


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def graph():
    with building() as built:
        x = v1.placeholder(tf.float32, [None, 100], name="x")
        ids = v1.placeholder(tf.int32, [None], name="ids")
        bad = normal(100, 20)
        bad[3, 3] = np.nan
        values = {
            "dense": normal(100, 300),
            "head": normal(300, 10),
            "table": normal(200, 30),
            "bias": normal(2000),
            "bad": bad,
            "zeros": np.zeros((100, 20), np.float32),
            "double": normal(100, 20).astype(np.float64),
            "out": normal(100, 20),
            "small": normal(100, 4),
            "ints": np.arange(5000, dtype=np.int32),
        }
        w = {name: tf.constant(value, name=name) for name, value in values.items()}
        h = tf.matmul(x, w["dense"])
        outputs = [
            tf.matmul(h, w["head"]),
            tf.gather(w["table"], ids),
            w["bias"] * 2,
            tf.matmul(x, w["bad"]) + tf.matmul(x, w["zeros"]),
            tf.matmul(tf.cast(x, tf.float64), w["double"]),
            w["out"],
            tf.matmul(x, w["small"]),
            w["ints"] + 1,
        ]
    return view(built, [x, ids], outputs)


FEEDS = {"x:0": normal(4, 100, seed=3), "ids:0": np.array([0, 199, 3], np.int32)}


def test_what_is_worth_it_is_encoded_and_the_rest_says_why(graph):
    changed, entries = encode_weights(graph, Choice())
    assert_same_interface(graph, changed)
    found = {entry.name: entry for entry in entries}
    assert "ints" not in found
    assert {name for name, entry in found.items() if entry.placement != "none"} == {"dense", "head", "table", "zeros"}
    reasons = {name: entry.reason for name, entry in found.items() if entry.placement == "none"}
    assert "NaN or infinity" in reasons["bad"]
    assert "float64" in reasons["double"]
    assert reasons["out"] == "it is an output"
    assert "400 elements, fewer than 1,024" in reasons["small"]
    assert "vector" in reasons["bias"]
    for entry in entries:
        assert entry.bytes_before == np.prod(entry.shape) * (8 if entry.name == "double" else 4)
        assert (entry.bytes_after < entry.bytes_before * 0.3) == (entry.placement != "none")
    before, after = run(graph, FEEDS), run(changed, FEEDS)
    for number, (wanted, got) in enumerate(zip(before, after, strict=True)):
        if number != 3:
            assert np.linalg.norm(got - wanted) <= 0.02 * np.linalg.norm(wanted)
    assert np.isnan(after[3]).tolist() == np.isnan(before[3]).tolist()
    np.testing.assert_array_equal(after[4], before[4])


def test_largest_first_and_the_same_every_time(graph):
    assert candidates(graph, Choice())[:2] == ["dense", "table"]
    names = [entry.name for entry in encode_weights(graph, Choice())[1]]
    assert names[0] == "dense"
    first, second = (
        encode_weights(graph, Choice())[0].to_graph_def().SerializeToString(deterministic=True) for _ in "ab"
    )
    assert first == second


def encoded_names(graph, **choice):
    return {entry.name for entry in encode_weights(graph, Choice(**choice))[1] if entry.placement != "none"}


def test_names_are_included_and_excluded_by_pattern(graph):
    assert encoded_names(graph, include=["d*", "tabl?"]) == {"dense", "table"}
    assert encoded_names(graph, exclude=["*ea*", "table"]) == {"dense", "zeros"}
    assert encoded_names(graph, include=["d*"], exclude=["dense"]) == set()
    assert encoded_names(graph, minimum_size=5000) == {"dense", "table"}
    with pytest.raises(TransformError, match="no weight is called 'nobody'"):
        encode_weights(graph, Choice(include=["dense", "nobody"]))
    with pytest.raises(TransformError, match="no encoding"):
        encode_weights(graph, Choice("int9"))


def test_what_harms_is_left(graph):
    _, entries = encode_weights(graph, Choice(), harm={"dense": 0.5}, leave=["dense"])
    (dense,) = (entry for entry in entries if entry.name == "dense")
    assert (dense.placement, dense.harm) == ("none", 0.5)
    assert "50 %" in dense.reason


def test_an_encoded_weight_is_not_encoded_again(graph):
    once, _ = encode_weights(graph, Choice(placement="load"))
    twice, entries = encode_weights(once, Choice())
    assert {entry.reason for entry in entries if entry.name == "dense"} == {"it is stored as int8 already"}
    assert {name: w.encoded for name, w in twice.weights.items()} == {
        name: w.encoded for name, w in once.weights.items()
    }


@pytest.mark.parametrize("placement", ["rows", "load", "graph"])
def test_a_placement_that_is_asked_for_is_taken_where_it_is_possible(graph, placement):
    changed, entries = encode_weights(graph, Choice(placement=placement))
    found = {entry.name: entry.placement for entry in entries if entry.placement != "none"}
    assert found["table"] == placement
    assert found["dense"] == ("load" if placement == "rows" else placement)
    np.testing.assert_allclose(run(changed, FEEDS)[1], normal(200, 30)[FEEDS["ids:0"]], atol=0.02)
