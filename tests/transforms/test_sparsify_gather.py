"""A table's few values by key: the same rows, without the zeros."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.graphs import building, op_counts, op_delta, reasons, view, whole_graph_def
from tests.old_tool import transformed, with_default_attributes
from tests.saved_models import assert_serves_alike, interface, save_v1, slimmed
from tfslim_core import api, ops, stages, transforms
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph, control_inputs
from tfslim_core.saved_model.write import with_values
from tfslim_core.transforms.sparsify_gather import sparsify_gather

v1 = tf.compat.v1
IDS = np.array([[0, 7, 499], [3, 3, 250]])


def sparse(rows=500, every=10, dtype=np.float32):
    """A few values that are not zero, among them those of rows 0, 250 and 3; that of row 20 hardly."""
    value = np.zeros((rows, 1), dtype)
    value[::every, 0] = np.arange(1, len(value[::every]) + 1) / 7
    value[3], value[20] = -2.5, 9e-6
    return value


TABLE = sparse()


def gathering(table=TABLE, kind="GatherV2", ids_type=tf.int64, identity=True, targets=(), axis=0):
    with building() as g:
        ids = v1.placeholder(ids_type, [None, 3], "ids")
        w = tf.constant(table, name="w")
        w = tf.identity(w, "w/read") if identity else w
        if kind == "Gather":
            y = tf.raw_ops.Gather(params=w, indices=ids, name="gather")
        else:
            y = tf.raw_ops.GatherV2(params=w, indices=ids, axis=axis, name="gather")
        y = tf.identity(y, "y")
        for target in targets:
            tf.no_op(target)
    return view(g, [ids], [y], [g.get_operation_by_name(target) for target in targets])


def filled(graph, feeds, fetches=None):
    """The outputs, after the graph's targets were run as an init op is."""
    with tf.Graph().as_default():
        tf.import_graph_def(whole_graph_def(graph), name="")
        with v1.Session() as session:
            for target in graph.targets:
                session.run(target)
            return session.run(list(fetches or graph.outputs), feeds)


def assert_same_rows(before, after, feeds, targets=None):
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert after.targets == (before.targets if targets is None else targets)
    for wanted, found in zip(filled(before, feeds), filled(after, feeds), strict=True):
        assert (wanted.dtype, wanted.shape) == (found.dtype, found.shape)
        assert wanted.size == 1 or np.ptp(wanted) > 0
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1.01e-5)


@pytest.mark.parametrize("kind", ["Gather", "GatherV2"])
@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("ids_type", [tf.int32, tf.int64])
def test_a_gather_becomes_a_lookup(kind, identity, ids_type):
    """Without an Identity between too, and with ids of int32: the old tool does not match the one, the other breaks."""
    graph = gathering(kind=kind, identity=identity, ids_type=ids_type)
    outcome = sparsify_gather(graph)
    assert (outcome.changes, outcome.skipped) == (1, ())
    delta = {kind: -1, "HashTableV2": 1, "InitializeTableV2": 1, "LookupTableFindV2": 1, "ExpandDims": 1, "NoOp": 1}
    delta |= {"Const": 3 if kind == "Gather" else 2} | ({"Identity": -1} if identity else {})
    delta |= {"Cast": 1} if ids_type == tf.int32 else {}
    assert op_delta(graph, outcome.graph) == delta
    assert {"w", "w/read"}.isdisjoint(outcome.graph.nodes)
    assert transforms.stored_bytes(outcome.graph) < transforms.stored_bytes(graph)
    assert_same_rows(graph, outcome.graph, {"ids:0": IDS}, targets=("group_deps",))


def test_values_below_a_hundred_thousandth_are_dropped():
    slim = sparsify_gather(gathering()).graph
    assert slim.value("w/values").size == 50
    assert 20 not in slim.value("w/indices")
    assert filled(slim, {"ids:0": [[20, 3, 0]]})[0].ravel().tolist() == [0, -2.5, np.float32(1 / 7)]


def test_an_id_out_of_range_gives_zero():
    graph = gathering()
    with pytest.raises(tf.errors.InvalidArgumentError, match="500"):
        filled(graph, {"ids:0": [[500, 0, 0]]})
    assert filled(sparsify_gather(graph).graph, {"ids:0": [[500, -1, 0]]})[0].ravel()[:2].tolist() == [0, 0]


def test_nothing_is_added_when_nothing_matches():
    with building() as g:
        x = v1.placeholder(tf.float32, [2, 3], "x")
        y = tf.abs(x)
    graph = view(g, [x], [y])
    outcome = sparsify_gather(graph)
    assert (outcome.graph, outcome.changes, outcome.skipped) == (graph, 0, ())
    wide = gathering(np.zeros((50, 2), np.float32))
    assert sparsify_gather(wide).graph is wide


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (np.zeros((50, 4), np.float32), "the table has shape (50, 4), not one value per row"),
        (np.zeros((50,), np.float32), "the table has shape (50,), not one value per row"),
        (np.zeros((50, 1), np.float16), "the table is of type float16, not float32 or float64"),
        (np.zeros((50, 1), np.int32), "the table is of type int32, not float32 or float64"),
        (np.ones((50, 1), np.float32), "50 of its 50 values are not zero: 600 bytes for 200"),
        (sparse(300, every=3), "100 of its 300 values are not zero: 1,200 bytes for 1,200"),
    ],
)
def test_other_tables_are_left(table, reason):
    graph = gathering(table)
    outcome = sparsify_gather(graph)
    assert outcome.graph is graph
    assert reasons(outcome) == {"gather": reason}


def test_a_table_of_zeros():
    slim = sparsify_gather(gathering(np.zeros((50, 1), np.float32))).graph
    assert filled(slim, {"ids:0": [[0, 1, 49]]})[0].ravel().tolist() == [0, 0, 0]


def test_float64_and_nan():
    table = sparse(dtype=np.float64)
    table[7] = np.nan
    graph = gathering(table)
    wanted, found = filled(graph, {"ids:0": IDS})[0], filled(sparsify_gather(graph).graph, {"ids:0": IDS})[0]
    assert found.dtype == np.float64
    np.testing.assert_array_equal(wanted, found)


def test_other_axes_and_batch_dimensions_are_left():
    with building() as g:
        ids = v1.placeholder(tf.int64, [1], "ids")
        axis = v1.placeholder(tf.int32, [], "axis")
        w = tf.constant(TABLE, name="w")
        tables = [tf.constant(TABLE, name=f"w{i}") for i in range(3)]
        outputs = [
            tf.raw_ops.GatherV2(params=tables[0], indices=ids, axis=1, name="a"),
            tf.raw_ops.GatherV2(params=tables[1], indices=ids, axis=axis, name="b"),
            tf.raw_ops.GatherV2(params=tables[2], indices=tf.zeros([500, 1], tf.int32), axis=1, batch_dims=1, name="c"),
            tf.raw_ops.GatherV2(params=ids, indices=tf.cast(w, tf.int32), axis=0, name="d"),
        ]
    outcome = sparsify_gather(view(g, [ids, axis], outputs))
    assert reasons(outcome) == {
        "a": "'a' gathers along axis 1",
        "b": "the axis of 'b' is not a constant",
        "c": "'c' has batch dimensions",
    }


def test_a_table_that_something_else_reads_stays():
    with building() as g:
        ids = v1.placeholder(tf.int64, [None], "ids")
        w = tf.constant(TABLE, name="w")
        read = tf.identity(w, "read")
        y = tf.gather(read, ids, name="y")
        z = tf.reduce_sum(w, name="z")
    assert reasons(sparsify_gather(view(g, [ids], [y, z]))) == {"y": "'z' (Sum) reads 'w' too"}
    with g.as_default(), tf.control_dependencies([w]):
        late = tf.abs(ids, "late")
    g = _without(g, "z")
    assert reasons(sparsify_gather(view(g, [ids], [y, late]))) == {"y": "'late' (Abs) reads 'w' too"}
    g = _without(g, "late")
    for name in ("w", "read"):
        assert reasons(sparsify_gather(view(g, [ids], [y, f"{name}:0"]))) == {"y": f"{name!r} is part of the interface"}
        assert reasons(sparsify_gather(view(g, [ids, f"{name}:0"], [y]))) == {"y": f"{name!r} is part of the interface"}
    assert reasons(sparsify_gather(view(g, [ids, y], [y]))) == {"y": "'y' is fed"}
    assert sparsify_gather(view(g, [ids], [y])).changes == 1


def _without(graph, name):
    """The TensorFlow graph without the node `name`."""
    graph_def = graph.as_graph_def()
    kept = [node for node in graph_def.node if node.name != name]
    del graph_def.node[:]
    graph_def.node.extend(kept)
    with tf.Graph().as_default() as made:
        tf.import_graph_def(graph_def, name="")
    return made


def test_tables_inside_a_v1_loop_are_left():
    with building() as g:
        v1.disable_control_flow_v2()
        try:
            ids = v1.placeholder(tf.int64, [2], "ids")

            def body(i, total):
                return i + 1, total + tf.gather(tf.constant(TABLE, name="w"), ids, name="inner")

            y = v1.while_loop(lambda i, total: i < 3, body, [0, tf.zeros([2, 1])])[1]
        finally:
            v1.enable_control_flow_v2()
    outcome = sparsify_gather(view(g, [ids], [y]))
    assert reasons(outcome) == {"while/inner": "'while/w' waits for other nodes"}


def test_one_table_for_all_who_gather_from_it():
    with building() as g:
        ids = v1.placeholder(tf.int64, [3], "ids")
        short = v1.placeholder(tf.int32, [], "short")
        w = tf.constant(TABLE, name="w")
        with tf.control_dependencies([tf.no_op("first")]):
            y = tf.raw_ops.Gather(params=w, indices=ids, name="y")
        z = tf.gather(tf.identity(w), short, name="z")
    graph = view(g, [ids, short], [y, z])
    outcome = sparsify_gather(graph)
    assert outcome.changes == 2
    assert op_counts(outcome.graph)["HashTableV2"] == 1
    assert control_inputs(outcome.graph.nodes["y/LookupTableFind"]) == ["first"]
    assert_same_rows(graph, outcome.graph, {"ids:0": IDS[0], "short:0": 250}, targets=("group_deps",))


def test_names_that_are_taken():
    graph = gathering()
    with tf.Graph().as_default() as g:
        tf.import_graph_def(whole_graph_def(graph), name="")
        for name in ("w/HashTable", "w/indices", "w/values", "gather/LookupTableFind"):
            v1.placeholder(tf.float32, [], name)
    graph = view(g, graph.inputs, graph.outputs)
    slim = sparsify_gather(graph).graph
    assert op_counts(slim)["Placeholder"] == 5
    assert_same_rows(graph, slim, {"ids:0": IDS}, targets=("group_deps",))


def test_the_init_op_fills_the_tables_where_there_is_one():
    graph = gathering(targets=["init", "other"])
    slim = sparsify_gather(graph).graph
    assert control_inputs(slim.nodes["init"]) == ["w/InitializeTable"]
    assert "group_deps" not in slim.nodes
    assert_same_rows(graph, slim, {"ids:0": IDS})
    slim = sparsify_gather(graph, group_init_node="other").graph
    assert control_inputs(slim.nodes["other"]) == ["w/InitializeTable"]


def test_a_node_of_the_name_that_is_there_is_used():
    with tf.Graph().as_default() as g:
        tf.import_graph_def(whole_graph_def(gathering()), name="")
        tf.group(tf.no_op("first"), name="mine")
    slim = sparsify_gather(view(g, ["ids:0"], ["y:0"]), group_init_node="mine").graph
    assert control_inputs(slim.nodes["mine"]) == ["first", "w/InitializeTable"]
    assert slim.targets == ("mine",)
    with pytest.raises(TransformError, match="group_init_node=y is a Identity, not a NoOp"):
        sparsify_gather(view(g, ["ids:0"], ["y:0"]), group_init_node="y")


def test_what_comes_after_keeps_the_tables():
    calls = "sparsify_gather(group_init_node=fill) strip_unused_nodes fold_constants merge_duplicate_nodes"
    slim = api.transform_graph(with_values(gathering()), ["ids"], ["y"], [calls, "sparsify_gather strip_unused_nodes"])
    assert {"HashTableV2", "InitializeTableV2"} <= {node.op for node in slim.node}
    with tf.Graph().as_default():
        tf.import_graph_def(slim, name="")
        with v1.Session() as session:
            session.run("fill")
            session.run("fill")
            np.testing.assert_allclose(session.run("y:0", {"ids:0": IDS}), TABLE[IDS], atol=1e-5)


def variables(tmp_path, resource, partly=False):
    """A graph whose table is a variable, and the prefix of a checkpoint that holds it."""
    with building() as g:
        ids = v1.placeholder(tf.int64, [None, 3], "ids")
        w = v1.get_variable("w", initializer=TABLE, use_resource=resource)
        y = tf.identity(v1.nn.embedding_lookup(w, ids), "y")
        if resource:
            tf.gather(w.read_value(), ids)
        prefix = str(tmp_path / "model.ckpt")
        saved = {"other" if partly else "w": w}
        with v1.Session() as session:
            session.run(w.initializer)
            v1.train.Saver(saved).save(session, prefix, write_meta_graph=False)
    return view(g, [ids], [y]), prefix


@pytest.mark.parametrize("resource", [False, True])
def test_a_variable_is_read_from_a_checkpoint(tmp_path, resource):
    graph, prefix = variables(tmp_path, resource)
    outcome = sparsify_gather(graph, input_checkpoint=prefix)
    assert outcome.changes == 1
    assert_rows = filled(outcome.graph, {"ids:0": IDS})[0]
    np.testing.assert_allclose(assert_rows, TABLE[IDS], atol=1e-5)
    stripped, _ = transforms.apply(graph, ["strip_unused_nodes", f'sparsify_gather(input_checkpoint="{prefix}")'])
    assert not {"VarHandleOp", "VariableV2", "ReadVariableOp"} & op_counts(stripped).keys()
    np.testing.assert_allclose(filled(stripped, {"ids:0": IDS})[0], TABLE[IDS], atol=1e-5)


def test_a_variable_without_a_checkpoint_or_not_in_it_or_written(tmp_path):
    graph, prefix = variables(tmp_path, True, partly=True)
    outcome = sparsify_gather(graph)
    assert set(reasons(outcome).values()) == {"the table is a variable, and no input_checkpoint is given"}
    outcome = sparsify_gather(graph, input_checkpoint=prefix)
    assert set(reasons(outcome).values()) == {"the checkpoint holds no variable 'w'"}
    assign = next(name for name, node in graph.nodes.items() if node.op == "AssignVariableOp")
    written = Graph.of(whole_graph_def(graph), graph.inputs, graph.outputs, [assign])
    outcome = sparsify_gather(written, input_checkpoint=prefix)
    assert set(reasons(outcome).values()) == {f"{assign!r} (AssignVariableOp) reads 'w' too"}


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(TransformError, match="input_checkpoint=/nowhere/model cannot be read") as caught:
        sparsify_gather(gathering(), input_checkpoint="/nowhere/model")
    assert "\n" not in str(caught.value)
    (tmp_path / "broken.index").write_bytes(b"no checkpoint")
    with pytest.raises(TransformError, match="cannot be read"):
        sparsify_gather(gathering(), input_checkpoint=str(tmp_path / "broken"))


@pytest.mark.parametrize("with_init", [False, True])
def test_a_servable_fills_its_tables_at_load(tmp_path, with_init):
    large = sparse(20_000, every=20)

    def build():
        ids = v1.placeholder(tf.int64, [None, 3], name="ids")
        w = v1.get_variable("w", initializer=large)
        outputs = {"rows": v1.nn.embedding_lookup(w, ids)}
        if with_init:
            keys = tf.lookup.KeyValueTensorInitializer(tf.constant([0, 7], tf.int64), tf.constant([5.0, 6.0]))
            outputs["found"] = tf.lookup.StaticHashTable(keys, -1.0).lookup(ids)
        return {"serving_default": ({"ids": ids}, outputs)}

    original = save_v1(tmp_path / "m", build, init=v1.tables_initializer if with_init else None)
    slim = slimmed(original, tmp_path, lambda bundle: stages.transformed(bundle, "sparsify_gather", lambda *_: None))
    assert slim.bundle.manifest.steps[-1].changes == 1
    assert interface(slim.path) == interface(original)
    for _ in range(2):
        assert_serves_alike(original, slim.path, [("serving_default", {"ids": IDS})])
    assert sum(f.stat().st_size for f in slim.path.rglob("*") if f.is_file()) < 0.5 * large.nbytes


def test_models_of_one_name_in_one_process_have_tables_of_their_own(tmp_path):
    def saved(name, factor):
        def build():
            ids = v1.placeholder(tf.int64, [None, 3], name="ids")
            return {"serving_default": ({"ids": ids}, {"rows": tf.gather(tf.constant(TABLE * factor, name="w"), ids)})}

        original = save_v1(tmp_path / name / "m", build)
        folder = tmp_path / name
        change = lambda bundle: stages.transformed(bundle, "sparsify_gather", lambda *_: None)  # noqa: E731
        return tf.saved_model.load(str(slimmed(original, folder, change).path))

    models = [saved("a", np.float32(1)), saved("b", np.float32(3))]
    found = [model.signatures["serving_default"](ids=tf.constant(IDS))["rows"].numpy() for model in models]
    np.testing.assert_allclose(found[1], found[0] * 3, atol=1e-5)
    assert np.ptp(found[0]) > 0


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 600),
    density=st.floats(0, 0.5),
    magnitude=st.integers(-8, 3),
    dtype=st.sampled_from([np.float32, np.float64]),
    ids_type=st.sampled_from([tf.int32, tf.int64]),
    kind=st.sampled_from(["Gather", "GatherV2"]),
    rank=st.integers(0, 3),
    identities=st.integers(0, 2),
    seed=st.integers(0, 5),
)
def test_any_table(rows, density, magnitude, dtype, ids_type, kind, rank, identities, seed):
    random = np.random.default_rng(seed)
    table = (random.normal(size=(rows, 1)) * 10.0**magnitude * (random.uniform(size=(rows, 1)) < density)).astype(dtype)
    with building() as g:
        ids = v1.placeholder(ids_type, None, "ids")
        w = tf.constant(table, name="w")
        for _ in range(identities):
            w = tf.identity(w)
        more = {"axis": 0} if kind == "GatherV2" else {}
        y = getattr(tf.raw_ops, kind)(params=w, indices=ids, name="y", **more)
    graph = view(g, [ids], [y])
    outcome = sparsify_gather(graph)
    kept = (np.abs(table) >= 1e-5).sum()
    assert outcome.changes == (kept * (8 + table.itemsize) < table.nbytes)
    feeds = {"ids:0": random.integers(0, rows, size=[2] * rank)}
    (wanted,), (found,) = filled(graph, feeds), filled(outcome.graph, feeds)
    assert (wanted.shape, wanted.dtype) == (found.shape, found.dtype)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1.01e-5)


def test_as_the_old_tool_does_it():
    """On an Identity of a constant and ids of int64."""
    graph = gathering()
    with tf.Graph().as_default() as g:
        tf.import_graph_def(whole_graph_def(graph), name="")
    old = transformed(with_default_attributes(g.as_graph_def()), ["ids"], ["y"], "sparsify_gather")
    old = Graph.of(old, graph.inputs, graph.outputs, ["group_deps"])
    slim = sparsify_gather(graph).graph
    for one in ("w/indices", "w/values"):
        np.testing.assert_array_equal(old.value(one), slim.value(one))
    assert {op.removesuffix("V2") for op in op_counts(slim)} == {op.removesuffix("V2") for op in op_counts(old)}
    assert sum(op_counts(slim).values()) == sum(op_counts(old).values())
    feeds = {"ids:0": IDS}
    np.testing.assert_array_equal(filled(old, feeds)[0], filled(slim, feeds)[0])
    assert ops.has_effect(slim.nodes["w/InitializeTable"], {})
