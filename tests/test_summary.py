"""From what the stages noted down to what a report tells."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta

import numpy as np
import pytest
import tensorflow as tf

import tfslim_core
from tests.saved_models import normal, save_v1
from tfslim_core import api, storage, summary
from tfslim_core.bundle import read_bundle

tf1 = tf.compat.v1


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model through all stages: a large weight that is encoded, one that is left, a batch norm that is folded."""
    folder = tmp_path_factory.mktemp("made")

    def build():
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        kernel = tf1.get_variable("kernel", initializer=normal(3, 3, 3, 64), use_resource=True)
        y = tf.nn.conv2d(x, kernel, 1, "SAME")
        constants = [tf.constant(np.abs(normal(64, seed=seed)) + 0.5) for seed in range(4)]
        y = tf1.nn.fused_batch_norm(y, *constants, is_training=False)[0]
        head = tf1.get_variable("head", initializer=normal(4096, 60), use_resource=True)
        return {"serving_default": ({"x": x}, {"y": tf.matmul(tf.reshape(y, [-1, 4096]), head)})}

    save_v1(folder / "model", build)
    api.freeze(folder / "model", folder / "frozen")
    api.transform(folder / "frozen", folder / "folded")
    api.quantize(folder / "folded", folder / "int8", exclude=["kernel*"])
    api.reexport(folder / "int8", folder / "slim")
    return folder


@pytest.fixture
def context(made):
    bundle = read_bundle(made / "int8")
    stages = summary.stages_of(bundle.manifest, made / "slim")
    return summary.context_of(bundle, made / "slim", stages, None)


def test_stages_from_the_manifest(made, context):
    assert [stage.name for stage in context.stages] == ["original", "freeze", "transform", "quantize", "reexport"]
    original, freeze, _transform, quantize, reexport = context.stages
    assert original.bytes_after == storage.size(made / "model")
    assert reexport.bytes_after == storage.size(made / "slim")
    assert original.bytes_after > freeze.bytes_after > quantize.bytes_after
    assert (
        original.nodes_after > freeze.nodes_after >= reexport.nodes_after == len(read_bundle(made / "int8").graph.nodes)
    )
    frozen = read_bundle(made / "frozen")
    untouched = summary.stages_of(frozen.manifest, made / "slim")
    assert [stage.name for stage in untouched] == ["original", "reexport"]


def test_every_byte_is_told_once(made, context):
    after = dict(context.bytes_after)
    assert sum(after.values()) == storage.size(made / "slim")
    assert sum(size for _, size in context.bytes_before) == pytest.approx(storage.size(made / "model"), rel=0.01)
    head = next(weight for weight in context.weights if weight.name.startswith("head"))
    assert after[head.name] == head.bytes_after < 0.26 * head.bytes_before
    assert not [name for name in after if name.endswith(("/codes", "/scale"))]
    sizes = [size for _, size in context.bytes_after]
    assert sizes == sorted(sizes, reverse=True)


def test_weights_and_why(context):
    found = {weight.name.partition("/")[0]: weight for weight in context.weights if weight.bytes_before > 5000}
    assert (found["head"].encoding, found["head"].placement) == ("int8", "load")
    assert found["head"].spec == "float32 4096 × 60"
    left = next(weight for weight in context.weights if weight.spec == "float32 3 × 3 × 3 × 64")
    assert (left.encoding, left.placement) == ("float32", "")
    assert "excluded by 'kernel*'" in left.reason or left.name != "kernel"


def test_changes_and_what_was_left_alone(context):
    changes = {change.name: change for change in context.changes}
    assert changes["fold_batch_norms"].matches == 1
    assert changes["quantize"].matches == 1
    assert context.live_parameters == 3 * 3 * 3 * 64 + 4096 * 60


def test_a_comparison_alone_claims_nothing(made):
    class Nothing:
        histograms = {"test": {"y": ([0.0, 1.0], [3])}}  # noqa: RUF012
        worst = {}  # noqa: RUF012
        bad_records = ()
        main_output = None

    context = summary.plain_context(made / "model", made / "slim", Nothing())
    assert (context.title, context.stages, context.weights) == ("slim", (), ())
    assert context.error_histograms == Nothing.histograms


def test_when_with_what_and_how_it_was_called(context, monkeypatch):
    assert context.versions["TensorFlow"] == tf.__version__
    assert context.versions["tfslim"] == tfslim_core.__version__
    assert set(context.versions) == {"tfslim", "Python", "TensorFlow", "Apache Beam"}
    created = datetime.fromisoformat(context.created)
    assert created.utcoffset() == timedelta(0)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/tfslim", "slim", "my model", "out"])
    assert summary.command_line() == "tfslim slim 'my model' out"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest", "--secret=1"])
    assert summary.command_line() == ""
