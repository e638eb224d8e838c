"""What layers are fed: y = x W summed up as squares is tr(Wᵀ H W), whatever the layer, if H is right."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import normal, save_v1
from tfslim_core.quantization import input_moments as looking
from tfslim_core.quantization.encode_weights import Choice, candidates
from tfslim_core.quantization.input_moments import input_moments
from tfslim_core.quantization.live_model import LiveModel
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.read import read_saved_model

tf1 = tf.compat.v1


def variable(name, *shape, seed=0):
    return tf1.get_variable(name, initializer=normal(*shape, seed=seed), use_resource=True)


def found_in(path, build, batches, signature="serving_default"):
    """The bundle's graph, the moments of its weights by the name of their variable, and the answers."""
    bundle = freeze_saved_model(read_saved_model(save_v1(path / "model", build), ["serve"], None))
    names = candidates(bundle.graph, Choice(minimum_size=1))
    with LiveModel(bundle, names) as live:
        moments = input_moments(live, bundle.graph, names, signature, batches)
        answers = [live.run(signature, batch) for batch in batches]
    return bundle.graph, {name.partition("/")[0]: (name, moments.of(name)) for name in names}, answers


def conv(shape, **options):
    return lambda x: tf.nn.conv2d(x, variable("w", *shape), **options)


def depthwise(shape, stride, padding, dilation=1):
    def build(x):
        strides, dilations = [1, stride, stride, 1], [1, dilation, dilation, 1]
        return tf.raw_ops.DepthwiseConv2dNative(
            input=x, filter=variable("w", *shape), strides=strides, padding=padding, dilations=dilations
        )

    return build


def product(equation, *shape):
    return lambda x: tf.raw_ops.Einsum(inputs=[x, variable("w", *shape)], equation=equation)


@pytest.fixture(autouse=True)
def as_found(request, monkeypatch):
    """Nothing is taken for chance, except in tests of that."""
    if "chance" not in request.node.name:
        monkeypatch.setattr(looking._Sums, "more_than_chance", lambda self, *_: np.ones(len(self.squares), np.float32))


LAYERS = {
    "matmul": ((6, 20), lambda x: tf.matmul(x, variable("w", 20, 30))),
    "matmul transposed": ((6, 20), lambda x: tf.matmul(x, variable("w", 30, 20), transpose_b=True)),
    "matmul both transposed": ((20, 6), lambda x: tf.matmul(x, variable("w", 30, 20), True, True)),
    "matmul on the left": ((20, 6), lambda x: tf.matmul(variable("w", 30, 20), x)),
    "matmul on the left, transposed": ((6, 20), lambda x: tf.matmul(variable("w", 20, 30), x, True, True)),
    "batch matmul": ((2, 6, 20), lambda x: tf.raw_ops.BatchMatMulV2(x=x, y=variable("w", 20, 30))),
    "batch matmul of rank 4": ((2, 3, 6, 20), lambda x: tf.raw_ops.BatchMatMulV2(x=x, y=variable("w", 1, 20, 30))),
    "batch matmul adjoint": (
        (2, 20, 6),
        lambda x: tf.raw_ops.BatchMatMulV2(x=x, y=variable("w", 30, 20), adj_x=True, adj_y=True),
    ),
    "einsum": ((2, 6, 20), product("abc,cd->abd", 20, 30)),
    "einsum of heads": ((2, 6, 20), product("abc,cde->abde", 20, 3, 10)),
    "einsum of heads together": ((2, 6, 3, 10), product("abcd,cde->abe", 3, 10, 20)),
    "einsum out of order": ((2, 10, 6, 3), product("adbc,cde->abe", 3, 10, 20)),
    "einsum apart": ((2, 6, 20), product("abc,bcd->abd", 6, 20, 7)),
    "einsum of more": ((2, 4, 6, 20), product("...c,cd->...d", 20, 30)),
    "conv": ((2, 9, 8, 8), conv((3, 2, 8, 12), strides=1, padding="SAME")),
    "conv valid": ((2, 9, 8, 8), conv((3, 2, 8, 12), strides=1, padding="VALID")),
    "conv strided": ((2, 9, 8, 8), conv((3, 3, 8, 5), strides=[1, 2, 3, 1], padding="SAME")),
    "conv strided valid": ((2, 9, 8, 8), conv((3, 3, 8, 5), strides=[1, 2, 3, 1], padding="VALID")),
    "conv of stride above its size": ((2, 9, 8, 16), conv((1, 1, 16, 20), strides=2, padding="SAME")),
    "conv dilated": ((2, 9, 8, 8), conv((3, 3, 8, 5), strides=1, padding="SAME", dilations=[1, 2, 3, 1])),
    "conv dilated valid": ((2, 9, 8, 8), conv((3, 3, 8, 5), strides=1, padding="VALID", dilations=2)),
    "conv explicit": (
        (2, 9, 8, 8),
        conv((3, 3, 8, 5), strides=[1, 2, 1, 1], padding=[[0, 0], [1, 3], [2, 0], [0, 0]]),
    ),
    "depthwise": ((2, 9, 8, 40), depthwise((3, 2, 40, 4), 1, "SAME")),
    "depthwise strided": ((2, 9, 8, 40), depthwise((3, 3, 40, 1), 2, "SAME")),
    "depthwise dilated": ((2, 9, 8, 40), depthwise((3, 3, 40, 2), 1, "VALID", 2)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_the_moments_of_each_kind_of_layer(kind, tmp_path):
    shape, layer = LAYERS[kind]

    def build():
        x = tf1.placeholder(tf.float32, [None, *shape[1:]], name="x")
        return {"serving_default": ({"x": x}, {"y": layer(x) * 1.0})}

    batches = [{"x": normal(*shape, seed=seed)} for seed in (5, 6)]
    graph, found, answers = found_in(tmp_path, build, batches)
    name, moments = found["w"]
    rows = moments.as_columns(graph.weights[name].read()).astype(np.float64)
    assert moments.matrices.shape == (rows.shape[0], rows.shape[1], rows.shape[1])
    wanted = sum(np.square(answer["y"], dtype=np.float64).sum() for answer in answers)
    found = sum(np.trace(w.T @ matrix @ w) for matrix, w in zip(moments.matrices, rows, strict=True))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_by_hand(tmp_path):
    def build():
        x = tf1.placeholder(tf.float32, [None, 20], name="x")
        return {"serving_default": ({"x": x}, {"y": tf.matmul(tf.nn.relu(x), variable("w", 20, 30))})}

    batches = [{"x": normal(7, 20, seed=1)}, {"x": normal(3, 20, seed=2)}]
    _, found, _ = found_in(tmp_path, build, batches)
    x = np.maximum(np.concatenate([batch["x"] for batch in batches]), 0)
    np.testing.assert_allclose(found["w"][1].matrices, (x.T @ x)[None], rtol=1e-5, atol=1e-5)
    assert (found["w"][1].summed, found["w"][1].apart) == ((0,), ())


def test_what_is_chance_is_taken_away(tmp_path):
    """Of noise nearly nothing is left to go together, of inputs that do nearly all; more rows leave more."""

    def build():
        x = tf1.placeholder(tf.float32, [None, 100], name="x")
        return {"serving_default": ({"x": x}, {"y": tf.matmul(x, variable("w", 100, 30))})}

    def kept(x, name):
        """The ratio of covariances to those of the rows; variances and means are those of the rows."""
        _, found, _ = found_in(tmp_path / name, build, [{"x": part} for part in np.split(x, 4)])
        mean = x.mean(axis=0, dtype=np.float64)
        wanted = x.T.astype(np.float64) @ x - len(x) * np.outer(mean, mean)
        centred = found["w"][1].matrices[0] - len(x) * np.outer(mean, mean)
        np.testing.assert_allclose(np.diag(centred), np.diag(wanted), rtol=1e-3)
        off = ~np.eye(100, dtype=bool)
        ratio = float((centred[off] * wanted[off]).sum() / np.square(wanted[off]).sum())
        np.testing.assert_allclose(centred[off], ratio * wanted[off], atol=1e-3 * np.abs(wanted).max())
        return ratio

    mixed = normal(100, 100, seed=3) / 10 + 1
    assert kept(normal(80, 100, seed=1) + 3, "noise") < 0.1
    assert kept(normal(80, 100, seed=1) @ mixed + 3, "together") > 0.95
    few, many = (kept(normal(rows, 100, seed=1) @ mixed, str(rows)) for rows in (8, 400))
    assert 0.5 < few < many < 1


def test_a_weight_of_several_layers_has_the_sum_and_of_unlike_ones_none(tmp_path):
    def build():
        x = tf1.placeholder(tf.float32, [None, 20], name="x")
        shared, turned, other = (variable(name, 20, 20) for name in ("shared", "turned", "other"))
        y = tf.matmul(x, shared) + tf.matmul(3 * x, shared)
        z = tf.matmul(x, turned) + tf.matmul(x, turned, transpose_b=True)
        return {"serving_default": ({"x": x}, {"y": y, "z": z, "v": tf.matmul(x, other) + tf.reduce_sum(other)})}

    x = normal(9, 20)
    _, found, _ = found_in(tmp_path, build, [{"x": x}])
    np.testing.assert_allclose(found["shared"][1].matrices, 10 * (x.T @ x)[None], rtol=1e-4, atol=1e-4)
    assert found["turned"][1] is None
    assert found["other"][1] is None


def test_rows_that_are_read_are_counted(tmp_path):
    def build():
        ids = tf1.placeholder(tf.int64, [None, 4], name="ids")
        table, pooled, square = variable("table", 50, 8), variable("pooled", 50, 8), variable("square", 50, 50)
        different, which = tf.unique(tf.reshape(ids, [-1]))
        rows = tf.raw_ops.SparseSegmentSum(
            data=tf.gather(pooled, different), indices=which, segment_ids=tf.zeros_like(which)
        )
        outputs = {"y": tf.gather(table, ids), "z": rows, "v": tf.gather(square, ids, axis=1)}
        return {"serving_default": ({"ids": ids}, outputs)}

    batches = [{"ids": np.random.default_rng(seed).integers(0, 50, (600, 4))} for seed in range(2)]
    _, found, _ = found_in(tmp_path, build, batches)
    counts = np.bincount(np.concatenate([batch["ids"].ravel() for batch in batches]), minlength=50)
    for name in ("table", "pooled"):
        assert found[name][1].matrices.tolist() == [counts.tolist()]
        assert found[name][1].summed == (0,)
    assert found["square"][1] is None


def test_loops_and_branches_and_what_is_not_asked(tmp_path):
    """In a loop's frame no input can be fetched; a branch is seen when it is taken."""

    def build():
        x = tf1.placeholder(tf.float32, [None, 20], name="x")
        inside, before, left, right, other = (
            variable(name, 20, 20, seed=seed)
            for seed, name in enumerate(("inside", "before", "left", "right", "other"))
        )
        start = tf.matmul(x, before)
        with tf1.variable_scope("loop"):
            _, y = tf1.while_loop(lambda i, _: i < 3, lambda i, h: (i + 1, tf.matmul(h, inside)), (0, start))
        z = tf1.cond(x[0, 0] > 0, lambda: tf.matmul(x, left), lambda: tf.matmul(x, right))
        return {"serving_default": ({"x": x}, {"y": y, "z": z}), "more": ({"x": x}, {"v": tf.matmul(x, other)})}

    tf1.disable_control_flow_v2()
    try:
        x = normal(9, 20)
        x[0, 0] = 1
        _, found, _ = found_in(tmp_path, build, [{"x": x}])
    finally:
        tf1.enable_control_flow_v2()
    matrix = (x.T @ x)[None]
    np.testing.assert_allclose(found["before"][1].matrices, matrix, rtol=1e-4, atol=1e-4)
    assert found.get("inside", ("", None))[1] is None
    assert found["other"][1] is None
    for name in ("left", "right"):
        known = found.get(name, ("", None))[1]
        assert known is None or np.allclose(known.matrices, matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e30])
def test_inputs_that_tell_nothing(value, tmp_path):
    def build():
        x = tf1.placeholder(tf.float32, [None, 20], name="x")
        return {"serving_default": ({"x": x}, {"y": tf.matmul(x, variable("w", 20, 30))})}

    _, found, _ = found_in(tmp_path, build, [{"x": np.full((3, 20), value, np.float32)}])
    assert found["w"][1] is None


def test_a_convolution_in_groups_has_none(tmp_path):
    def build():
        x = tf1.placeholder(tf.float32, [None, 8, 8, 8], name="x")
        return {"serving_default": ({"x": x}, {"y": conv((3, 3, 4, 32), strides=1, padding="SAME")(x)})}

    _, found, _ = found_in(tmp_path, build, [{"x": normal(2, 8, 8, 8)}])
    assert found["w"][1] is None


def test_of_very_many_inputs_the_diagonal_and_of_very_many_windows_some(tmp_path, monkeypatch):
    def build():
        x = tf1.placeholder(tf.float32, [None, 16, 16, 3], name="x")
        wide = tf.matmul(tf.reshape(x, [-1, 768]), variable("wide", 768, 4))
        narrow = conv((2, 2, 3, 60), strides=1, padding="SAME")(x)
        return {"serving_default": ({"x": x}, {"y": wide, "z": narrow})}

    x = np.abs(normal(64, 16, 16, 3))
    batches = [{"x": x[:32]}, {"x": x[32:]}]
    _, all_of_it, _ = found_in(tmp_path / "all", build, batches)
    monkeypatch.setattr(looking, "MOST_INPUTS", 500)
    monkeypatch.setattr(looking, "_ROWS", 4000)
    monkeypatch.setattr(looking, "_AT_ONCE", 1000)
    _, found, _ = found_in(tmp_path / "some", build, batches)
    np.testing.assert_allclose(found["wide"][1].matrices[0], np.diag(all_of_it["wide"][1].matrices[0]), rtol=1e-4)
    some, whole = (one["w"][1].matrices for one in (found, all_of_it))
    assert not np.array_equal(some, whole)
    np.testing.assert_allclose(some, whole, rtol=0.15)
    # The same windows each time.
    _, again, _ = found_in(tmp_path / "again", build, batches)
    assert np.array_equal(again["w"][1].matrices, some)
