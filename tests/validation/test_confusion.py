"""Which class each model puts first, against counting by hand; merging in any order gives the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfslim_core.validation.confusion import MOST_CLASSES, ConfusionStats


def scores(rows, classes, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, classes)).astype(np.float32)


def counted(*batches, main=None):
    stats = ConfusionStats()
    for original, optimized in batches:
        stats.add(original, optimized, main)
    return stats


def test_counts_are_those_of_a_loop():
    old, new = scores(300, 5), scores(300, 5, 1)
    found = counted(({"y": old}, {"y": new})).summary()
    expected: dict[str, dict[str, int]] = {}
    for first, second in zip(old.argmax(1), new.argmax(1), strict=True):
        row = expected.setdefault(str(first), {})
        row[str(second)] = row.get(str(second), 0) + 1
    assert found.counts == expected
    assert (found.output, found.classes) == ("y", ["0", "1", "2", "3", "4"])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 40), max_size=6), st.integers(0, 5), st.integers(2, 7))
def test_any_split_merged_in_any_order_is_the_whole(cuts, seed, classes):
    old, new = scores(40, classes, seed), scores(40, classes, seed + 100)
    whole = counted(({"y": old}, {"y": new})).summary()
    places = [0, *sorted(cuts), 40]
    parts = [counted(({"y": old[a:b]}, {"y": new[a:b]})) for a, b in itertools.pairwise(places) if b > a]
    total = ConfusionStats()
    for part in np.random.default_rng(seed).permutation(len(parts)):
        total.merge(parts[part])
    assert total.summary() == whole


def test_classes_have_the_names_that_the_model_answers():
    names = np.array([[b"c", b"java", b"perl"]] * 4, object)
    old = {"scores": np.eye(3, dtype=np.float32)[[0, 1, 2, 2]], "classes": names}
    new = {"scores": np.eye(3, dtype=np.float32)[[0, 1, 2, 1]], "classes": names}
    assert counted((old, new)).summary().counts == {"c": {"c": 1}, "java": {"java": 1}, "perl": {"java": 1, "perl": 1}}
    other = {**old, "classes": names[:, ::-1]}
    assert counted((old, new), (other, new)).summary().classes == ["0", "1", "2"]
    alike = {**old, "classes": np.array([[b"a"] * 3] * 4, object)}
    assert counted((alike, new)).summary().classes == ["0", "1", "2"]


def test_an_example_without_a_top_class_is_not_counted():
    old = scores(4, 3)
    new = old.copy()
    new[2, 1] = np.nan
    assert sum(n for row in counted(({"y": old}, {"y": new})).summary().counts.values() for n in row.values()) == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (scores(4, MOST_CLASSES + 1), scores(4, MOST_CLASSES + 1)),
        (scores(4, 1), scores(4, 1)),
        (scores(4, 3), scores(4, 2)),
        (scores(8, 3).reshape(2, 4, 3), scores(8, 3).reshape(2, 4, 3)),
        (np.arange(4), np.arange(4)),
        (np.array([b"a", b"b"], object), np.array([b"a", b"b"], object)),
    ],
    ids=["many classes", "a regression", "another shape", "positions", "integers", "strings"],
)
def test_what_has_no_table_of_classes_has_none(old, new):
    assert counted(({"y": old}, {"y": new})).summary() is None


def test_the_named_output_counts():
    old = {"a": scores(9, 3), "b": scores(9, 4, 1)}
    assert counted((old, old), main="b").summary().output == "b"
    assert counted((old, old), main="c").summary() is None
