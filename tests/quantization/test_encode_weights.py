from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.graphs import assert_same_interface, building, run, view
from tfslim_core.errors import TransformError
from tfslim_core.quantization import placements
from tfslim_core.quantization.encode_weights import Choice, candidates, encode_weights
from tfslim_core.weights import in_memory

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
    changed, entries = encode_weights(graph, Choice(lossless=False))
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
    entries = encode_weights(graph, Choice(lossless=False, **choice))[1]
    return {entry.name for entry in entries if entry.placement != "none"}


def test_names_are_included_and_excluded_by_pattern(graph):
    assert encoded_names(graph, include=["d*", "tabl?"]) == {"dense", "table"}
    assert encoded_names(graph, exclude=["*ea*", "table"]) == {"dense", "zeros"}
    assert encoded_names(graph, include=["d*"], exclude=["dense"]) == set()
    assert encoded_names(graph, minimum_size=5000) == {"dense", "table"}
    with pytest.raises(TransformError, match="no weight is called 'nobody'"):
        encode_weights(graph, Choice(include=["dense", "nobody"]))
    with pytest.raises(TransformError, match="no encoding"):
        encode_weights(graph, Choice("int88"))


def test_what_harms_is_left(graph):
    _, entries = encode_weights(graph, Choice(lossless=False), harm={"dense": 0.5}, instead={"dense": ""})
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


@pytest.mark.parametrize("encoding", ["int4/block10", "int10/tensor", "palette3/group10", "int8", "uint4/channel"])
def test_an_entry_names_the_encoding_as_it_was_asked_for(graph, encoding):
    _, entries = encode_weights(graph, Choice(encoding, include=["dense"]))
    assert by_name(entries)["dense"].encoding == encoding
    _, entries = encode_weights(graph, Choice(plan={"dense": encoding}))
    assert by_name(entries)["dense"].encoding == encoding
    assert by_name(entries)["table"].encoding == "int8"
    _, entries = encode_weights(graph, Choice(plan={"dense": ""}))
    assert by_name(entries)["dense"].encoding == "bytes4"


def by_name(entries):
    return {entry.name: entry for entry in entries}


def test_what_is_left_alone_is_stored_smaller_where_nothing_is_lost(graph):
    changed, entries = encode_weights(graph, Choice(), instead={"dense": ""})
    assert_same_interface(graph, changed)
    found = by_name(entries)
    kinds = {name: entry.encoding for name, entry in found.items() if entry.encoding not in ("int8", "float32")}
    assert kinds == {"ints": "range", "double": "bytes8", "dense": "bytes4"}
    assert found["ints"].reason == "it is int32, not float32; nothing is lost as it is stored"
    assert "move the answers" in found["dense"].reason
    for name in kinds:
        entry = found[name]
        assert entry.bytes_after <= min(0.95 * entry.bytes_before, entry.bytes_before - 1024)
        assert entry.placement in ("graph", "load")
    before, after = run(graph, FEEDS), run(_decoded(changed), FEEDS)
    for number in (4, 7):  # double and ints
        assert after[number].tobytes() == before[number].tobytes()


def test_nan_is_stored_once_too():
    with building() as built:
        x = v1.placeholder(tf.float32, [None, 100], name="x")
        outputs = [tf.matmul(x, tf.constant(np.full((100, 200), np.nan, np.float32), name="w"))]
    changed, (entry,) = encode_weights(view(built, [x], outputs), Choice())
    assert (entry.encoding, entry.bytes_after) == ("fill", 4)
    assert entry.reason == "it holds NaN or infinity; nothing is lost as it is stored"
    assert np.isnan(changed.value("w")).all()


def _decoded(graph):
    """The graph with weights that are decoded at load as constants again."""
    return graph.replace(weights={name: in_memory(weight.read()) for name, weight in graph.weights.items()})


def test_with_no_loss_asked_for_every_answer_is_the_same(graph):
    changed, entries = encode_weights(graph, Choice("lossless"))
    assert_same_interface(graph, changed)
    found = by_name(entries)
    assert found["zeros"].encoding == "fill"
    assert found["zeros"].bytes_after == 4
    assert found["dense"].encoding == "bytes4"
    assert found["ints"].encoding == "range"
    assert "smaller without loss" in found["small"].reason
    stored = sum(weight.stored_bytes for weight in changed.weights.values())
    assert stored < 0.87 * sum(weight.nbytes for weight in graph.weights.values())
    for wanted, got in zip(run(graph, FEEDS), run(_decoded(changed), FEEDS), strict=True):
        assert got.tobytes() == wanted.tobytes()


def test_what_a_pattern_leaves_out_is_left_as_it_is(graph):
    for choice in (Choice(exclude=["i*", "double"]), Choice("lossless", exclude=["i*", "double"])):
        changed, entries = encode_weights(graph, choice)
        assert by_name(entries)["double"].reason == "excluded by 'double'"
        assert changed.weights["ints"] is graph.weights["ints"]
        assert changed.weights["double"] is graph.weights["double"]
    changed, _ = encode_weights(graph, Choice(include=["dense"]))
    assert changed.weights["ints"] is graph.weights["ints"]


def test_sparse_weights_are_never_decoded_by_the_row():
    with building() as built:
        ids = v1.placeholder(tf.int32, [None], name="ids")
        value = np.where(np.arange(8000).reshape(800, 10) % 9, 0, normal(800, 10)).astype(np.float32)
        outputs = [tf.gather(tf.constant(value, name="table"), ids)]
    graph = view(built, [ids], outputs)
    for encoding in ("sparse", "sparse8", "lossless"):
        changed, (entry,) = encode_weights(graph, Choice(encoding, placement="rows"))
        assert (entry.placement, entry.encoding) == ("graph", encoding.replace("lossless", "sparse"))
        (found,) = run(_decoded(changed), {"ids:0": np.array([0, 9, 3], np.int32)})
        np.testing.assert_allclose(found, value[[0, 9, 3]], atol=0 if encoding != "sparse8" else 0.02)


def test_a_large_table_of_few_values_stays_codes(monkeypatch):
    monkeypatch.setattr(placements, "ROWS_BYTES", 16_000)
    with building() as built:
        ids = v1.placeholder(tf.int32, [None], name="ids")
        value = np.random.default_rng(0).integers(1, 9, (800, 10))
        outputs = [tf.gather(tf.constant(value, name="table"), ids)]
    graph = view(built, [ids], outputs)
    changed, (entry,) = encode_weights(graph, Choice())
    assert (entry.placement, entry.encoding) == ("rows", "lookup")
    (found,) = run(_decoded(changed), {"ids:0": np.array([0, 799, 3], np.int32)})
    assert found.tolist() == value[[0, 799, 3]].tolist()
