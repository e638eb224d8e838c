from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfslim_core import costs
from tfslim_core.costs import measure_pair
from tfslim_core.errors import DataError, ModelError
from tfslim_core.saved_model.fresh_process import ModelProcess

tf1 = tf.compat.v1
SIZE = 1000


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[str, str]:
    """Two models with the same signature: one holds 40 MB more and does 30 times the work of the other."""
    return tuple(_save(tmp_path_factory.mktemp("model") / name, work) for name, work in (("big", 30), ("small", 1)))


def _save(path: Path, work: int) -> str:
    with tf1.Graph().as_default(), tf1.Session() as session:
        x = y = tf1.placeholder(tf.float32, [None, SIZE], name="x")
        for i in range(10 if work > 1 else 1):
            w = tf1.get_variable(f"w{i}", [SIZE, SIZE], initializer=tf1.zeros_initializer())
            for _ in range(work // 10 or 1):
                y = tf.tanh(tf.matmul(y, w) + 1)
        session.run(tf1.global_variables_initializer())
        signature = tf1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder = tf1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    return str(path)


def feeds(*batches: int) -> Mapping[int, Mapping[str, np.ndarray]]:
    return {batch: {"x": np.ones((batch, SIZE), np.float32)} for batch in batches}


def test_the_model_that_costs_more_is_measured_to_cost_more(models):
    told: list[tuple[int, int]] = []
    start = time.perf_counter()
    big, small = measure_pair(
        *models, feeds(16, 1), "serving_default", seconds=0.5, progress=lambda done, total: told.append((done, total))
    )
    assert time.perf_counter() - start < 30
    assert big.bytes - small.bytes > 35e6
    assert big.load_seconds > 0
    assert small.load_seconds > 0
    assert big.peak_rss_bytes - small.peak_rss_bytes > 25e6
    assert list(big.latency_ms) == list(small.latency_ms) == [1, 16]
    for batch in (1, 16):
        assert big.latency_ms[batch].p50 > 3 * small.latency_ms[batch].p50
        assert small.latency_ms[batch].p50 <= small.latency_ms[batch].p95 <= small.latency_ms[batch].p99
    assert big.first_request_ms is not None
    assert big.first_request_ms > 0
    assert told == [(done, 12) for done in range(1, 13)]


def test_without_requests_there_are_no_latencies(models):
    _, small = measure_pair(*models, {}, "serving_default")
    assert small.latency_ms == {}
    assert small.first_request_ms is None
    assert small.peak_rss_bytes > 0


def test_errors_of_either_model_are_told(models, tmp_path):
    with pytest.raises(ModelError, match="no such directory"):
        measure_pair(models[0], tmp_path / "missing", feeds(1), "serving_default")
    with pytest.raises(DataError, match="it was fed: nothing"):
        measure_pair(*models, {1: {}}, "serving_default")


class Fake(ModelProcess):
    """Takes `ms` for each request, twice that for the first of each turn, and writes down whose turn it was."""

    def __init__(self, name: str, ms: float, log: list[tuple[str, int]]) -> None:
        self.name, self.ms, self.log = name, ms, log

    def time(self, request: object, repeats: int) -> list[float]:
        self.log.append((self.name, repeats))
        return [2 * self.ms] + [self.ms] * (repeats - 1)


def turns(
    ms_a: float, ms_b: float, budget: float
) -> tuple[list[tuple[str, int]], list[list[float]], list[list[float]]]:
    log: list[tuple[str, int]] = []
    a, b = costs._time_pair((Fake("a", ms_a, log), Fake("b", ms_b, log)), 0, 4, budget)
    return log, a, b


def test_models_take_turns_and_the_first_request_of_a_turn_is_not_counted():
    log, a, b = turns(1, 2, budget=600)
    assert [name for name, _ in log] == ["a", "b", "a", "b", "b", "a", "a", "b", "b", "a"]
    assert {repeats for _, repeats in log[2:]} == {50}
    assert a == [[1.0] * 49] * 4
    assert b == [[2.0] * 49] * 4


@pytest.mark.parametrize(("ms", "requests"), [(1e6, 6), (60, 6), (1e-3, 4 * 501)])
def test_slow_and_fast_models_are_bounded(ms, requests):
    log, a, _ = turns(ms, ms, budget=500)
    assert sum(repeats for name, repeats in log[2:] if name == "a") == requests
    assert {one for each in a for one in each} == {ms}
