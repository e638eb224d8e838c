"""What reads a variable reads a constant after freezing, wherever it does so; what changes one keeps it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import (
    assert_alike,
    assert_serves_alike,
    in_python,
    in_session,
    meta_graph,
    normal,
    save_v1,
    save_v2,
    served,
    slimmed,
)

tf1 = tf.compat.v1
X = normal(4, 3)
BIG = 6000  # columns; such a matrix is written as a variable
VARIABLES = {"VarHandleOp", "VariableV2"}


def variable(name, *shape, seed=0, resource=True):
    return tf1.get_variable(name, initializer=normal(*shape, seed=seed), use_resource=resource)


def on_x(function):
    return tf.function(function, input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])


def ops_of(path):
    graph_def = meta_graph(path).graph_def
    return {node.op for nodes in (graph_def.node, *(f.node_def for f in graph_def.library.function)) for node in nodes}


def frozen_ops(slim):
    graph = slim.bundle.graph
    return {n.op for nodes in (graph.nodes.values(), *(f.node_def for f in graph.functions.values())) for n in nodes}


@pytest.mark.parametrize("resource", [True, False], ids=["resource", "ref"])
def test_variables_become_constants(tmp_path, resource):
    def build():
        x = tf1.placeholder(tf.float32, [None, 3], name="x")
        w, b = variable("w", 3, BIG, resource=resource), variable("b", BIG, resource=resource)
        small = variable("small", 3, resource=resource)
        return {"serving_default": ({"x": x}, {"y": tf.matmul(x * small, w) + b, "w": tf.identity(w)})}

    original = save_v1(tmp_path / "m", build)
    slim = slimmed(original, tmp_path)
    assert_serves_alike(original, slim.path, [("serving_default", {"x": X})])
    assert slim.bundle.manifest.kept_variables == {}
    assert not VARIABLES & frozen_ops(slim)
    assert sorted(slim.bundle.graph.weights) == ["b", "w"]


def test_a_ref_variable_that_is_an_output_itself_is_served(tmp_path):
    def build():
        x = tf1.placeholder(tf.float32, [None, 3], name="x")
        w = variable("w", 3, BIG, resource=False)
        return {"serving_default": ({"x": x}, {"w": w, "y": tf.matmul(x, w)})}

    original = save_v1(tmp_path / "m", build)
    slim = slimmed(original, tmp_path)
    requests = [("serving_default", {"x": X})]
    assert_alike(in_session(original, requests), in_session(slim.path, requests))


@pytest.mark.parametrize("resource", [True, False], ids=["resource", "ref"])
def test_partitioned_variables_are_read_part_by_part(tmp_path, resource):
    def build():
        ids = tf1.placeholder(tf.int64, [None], name="ids")
        w = tf1.get_variable(
            "w",
            [100, 70],
            initializer=tf1.random_normal_initializer(seed=1),
            partitioner=tf1.fixed_size_partitioner(3),
            use_resource=resource,
        )
        rows = tf1.nn.embedding_lookup(w, ids, partition_strategy="div")
        return {"serving_default": ({"ids": ids}, {"rows": rows, "sum": tf.reduce_sum(tf.convert_to_tensor(w), 0)})}

    original = save_v1(tmp_path / "m", build)
    slim = slimmed(original, tmp_path)
    assert_serves_alike(original, slim.path, [("serving_default", {"ids": np.array([0, 33, 34, 67, 99])})])
    assert sorted(w.shape for w in slim.bundle.graph.weights.values()) == [(33, 70), (33, 70), (34, 70)]


def test_loops_and_branches_of_tensorflow_1_read_constants(tmp_path):
    def build():
        tf1.disable_control_flow_v2()
        try:
            x = tf1.placeholder(tf.float32, [None, 3], name="x")
            w, r = variable("w", 3, 3), variable("r", 3, 3, seed=1, resource=False)
            big = variable("big", 3, BIG)

            def turn(i, y, wide):
                y = tf.tanh(tf.matmul(y, w) + tf.matmul(y, r) * tf.constant(2.0))
                return i + 1, y, wide + tf.reduce_mean(tf.matmul(y, big), 0)

            _, y, wide = tf1.while_loop(lambda i, *_: i < 3, turn, [0, x, tf.zeros([BIG])])
            z = tf1.cond(tf.reduce_sum(x) > 0, lambda: tf.matmul(x, w), lambda: tf.matmul(x, r))
            return {"serving_default": ({"x": x}, {"y": y, "z": z, "wide": wide})}
        finally:
            tf1.enable_control_flow_v2()

    original = save_v1(tmp_path / "m", build)
    assert {"Enter", "Switch"} <= ops_of(original)
    slim = slimmed(original, tmp_path)
    requests = [("serving_default", {"x": sign * np.abs(X)}) for sign in (1, -1)]
    assert_serves_alike(original, slim.path, requests)
    assert not VARIABLES & frozen_ops(slim)
    assert "big" in slim.bundle.graph.weights


class Looping(tf.Module):
    """Loops in loops and branches in loops, which read variables that they capture."""

    def __init__(self):
        super().__init__()
        self.w, self.table, self.big = (tf.Variable(normal(*shape)) for shape in ((3, 3), (50, 3), (3, BIG)))

    @on_x
    def __call__(self, x):
        def inner(j, y):
            return j + 1, tf.tanh(tf.matmul(y, self.w)) + tf.gather(self.table, [j])

        def body(i, y):
            y = tf.while_loop(lambda j, y: j < 2, inner, [0, y])[1]
            y = tf.cond(
                tf.reduce_sum(y) > 0, lambda: tf.matmul(y, self.w), lambda: y + tf.gather_nd(self.table, [i + 7])
            )
            rows = tf.cast(tf.raw_ops.VariableShape(input=self.table.handle)[0], tf.float32)
            return i + 1, y / rows * 50

        y = tf.while_loop(lambda i, y: i < 3, body, [0, x])[1]
        branch = tf.switch_case(
            tf.cast(tf.reduce_sum(x) > 0, tf.int32),
            [lambda: tf.reduce_sum(tf.matmul(x, self.big), 1), lambda: tf.reduce_sum(tf.gather(self.table, [3]), 1)],
        )
        return {"y": y, "wide": tf.matmul(y, self.big), "branch": branch[:1]}


def test_functions_of_loops_and_branches_take_values_instead_of_handles(tmp_path):
    original = save_v2(tmp_path / "m", module := Looping(), serving_default=module.__call__)
    assert {"While", "StatelessWhile"} & ops_of(original) or {"If", "StatelessIf"} & ops_of(original)
    slim = slimmed(original, tmp_path)
    requests = [("serving_default", {"x": sign * np.abs(X)}) for sign in (1, -1)]
    assert_serves_alike(original, slim.path, requests)
    assert slim.bundle.manifest.kept_variables == {}
    assert not {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", *VARIABLES} & frozen_ops(slim)
    again = slimmed(slim.path, tmp_path / "again")
    assert_serves_alike(original, again.path, requests)


class Choosing(tf.Module):
    def __init__(self):
        super().__init__()
        self.v, self.u = tf.Variable(normal(3, 50)), tf.Variable(normal(3, 50, seed=1))

    @on_x
    def __call__(self, x):
        handle = tf.cond(tf.reduce_sum(x) > 0, lambda: self.v.handle, lambda: self.u.handle)
        read = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
        return {"y": tf.matmul(x, tf.ensure_shape(read, [3, 50]))}


def test_variables_that_a_branch_chooses_between_stay_variables(tmp_path):
    original = save_v2(tmp_path / "m", module := Choosing(), serving_default=module.__call__)
    slim = slimmed(original, tmp_path)
    requests = [("serving_default", {"x": sign * np.abs(X)}) for sign in (1, -1)]
    assert_alike(served(original, requests), served(slim.path, requests))
    assert len(slim.bundle.manifest.kept_variables) == 2


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_resource_gathers_become_gathers(tmp_path, batch_dims):
    def build():
        ids = tf1.placeholder(tf.int32, [2, None], name="ids")
        w = variable("w", 2, 50, 4)
        rows = tf.raw_ops.ResourceGather(resource=w.handle, indices=ids, dtype=tf.float32, batch_dims=batch_dims)
        one = tf.raw_ops.ResourceGatherNd(resource=w.handle, indices=tf.transpose(ids), dtype=tf.float32)
        shape = tf.raw_ops.VariableShape(input=w.handle, out_type=tf.int64)
        return {
            "serving_default": (
                {"ids": ids},
                {"rows": rows, "one": one, "shape": shape, "there": tf.raw_ops.VarIsInitializedOp(resource=w.handle)},
            )
        }

    original = save_v1(tmp_path / "m", build)
    slim = slimmed(original, tmp_path)
    requests = [("serving_default", {"ids": np.array([[0, 1, 1], [1, 0, 49 * batch_dims]], np.int32)})]
    assert_serves_alike(original, slim.path, requests)
    assert not VARIABLES & frozen_ops(slim)


class Counting(tf.Module):
    def __init__(self):
        super().__init__()
        self.count, self.w = tf.Variable(5, dtype=tf.int64, name="count"), tf.Variable(normal(3, BIG), name="w")
        self.seen = tf.Variable(normal(50, 3), name="seen")

    @on_x
    def score(self, x):
        self.count.assign_add(1)
        return {"y": tf.matmul(x, self.w) + tf.reduce_sum(self.seen), "count": self.count.read_value()}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64, name="by")])
    def add(self, by):
        def body(i):
            self.seen.assign_add(tf.ones([50, 3]))
            return i + 1

        tf.while_loop(lambda i: i < 2, body, [0])
        return {"count": self.count.assign_add(by), "seen": tf.reduce_sum(self.seen)}


def test_what_a_signature_changes_stays_a_variable_and_goes_on_changing(tmp_path):
    original = save_v2(tmp_path / "m", module := Counting(), serving_default=module.score, add=module.add)
    slim = slimmed(original, tmp_path)
    x, by = ("serving_default", {"x": X}), ("add", {"by": np.int64(10)})
    requests = [x, by, x, by, x]
    wanted = served(original, requests)
    assert [int(answer["count"]) for answer in wanted] == [6, 16, 17, 27, 28]
    for loader in (served, in_session, in_python):
        assert_alike(wanted, loader(slim.path, requests))
    reasons = list(slim.bundle.manifest.kept_variables.values())
    assert len(reasons) == 2
    assert any("AssignAddVariableOp" in reason for reason in reasons)
    assert any("While" in reason or "in the function" in reason for reason in reasons)
    assert "w" not in slim.bundle.manifest.kept_variables
    again = slimmed(slim.path, tmp_path / "again")
    assert_alike(wanted, served(again.path, requests))


@pytest.mark.parametrize("resource", [True, False], ids=["resource", "ref"])
def test_a_variable_of_strings_that_changes_is_kept(tmp_path, resource):
    def build():
        word = tf1.placeholder(tf.string, [], name="word")
        kept = tf1.get_variable("kept", initializer=tf.constant(["a", "b\0", "ä"]), use_resource=resource)
        log = tf1.get_variable("log", initializer=np.complex128(2j), use_resource=resource)
        with tf1.control_dependencies([tf1.assign(kept, [word, word, word]), tf1.assign(log, log + 1)]):
            done = tf1.identity(word)
        return {
            "get": ({"word": word}, {"kept": tf.identity(kept), "log": tf.math.real(log), "word": word}),
            "set": ({"word": word}, {"word": done}),
        }

    original = save_v1(tmp_path / "m", build)
    slim = slimmed(original, tmp_path)
    fed = {"word": np.array(b"new", object)}
    requests = [("get", fed), ("set", fed), ("get", fed)]
    wanted = served(original, requests)
    assert wanted[0]["kept"].tolist() == [b"a", b"b\0", "ä".encode()]
    assert_serves_alike(original, slim.path, requests)


ALL_DTYPES = "bool uint8 int8 uint16 int16 float16 uint32 int32 float32 uint64 int64 float64 complex64 complex128"


def test_weights_of_every_dtype_keep_every_bit(tmp_path):
    dtypes = {name: np.dtype(name) for name in ALL_DTYPES.split()}
    dtypes |= {name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")}
    values = {name: (normal(2, 9000) * 3).astype(dtype) for name, dtype in dtypes.items()}
    values["string"] = np.array([b"a\0", b"", "ä".encode()] * 500, object)
    values["odd"] = np.array([[np.nan, np.inf, -np.inf, -0.0, 1e-45, 7]] * 3000, np.float32)
    values["zeros"] = np.zeros((3, 5000), np.float32)
    values["empty"] = np.zeros((0, 3), np.float32)

    def build():
        i = tf1.placeholder(tf.int32, [], name="i")
        read = {}
        for name, value in values.items():
            v = tf1.get_variable(name, initializer=tf.constant(value), use_resource=True)
            read[name] = tf.cast(v, tf.float32) if name.startswith("float8") else v.read_value()
        return {"serving_default": ({"i": i}, {**read, "i": i})}

    original = save_v1(tmp_path / "m", build)
    slim = slimmed(original, tmp_path)
    for loader in (served, in_session, in_python):
        (answer,) = loader(slim.path, [("serving_default", {"i": np.int32(1)})])
        for name, value in values.items():
            value = value.astype(np.float32) if name.startswith("float8") else value
            found = np.asarray(answer[name])
            assert (found.shape, found.dtype) == (value.shape, value.dtype)
            assert found.tolist() == value.tolist() if name == "string" else found.tobytes() == value.tobytes(), name
