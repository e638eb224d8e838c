"""Checkpoints without their training state: what goes, what stays, and that what stays is restored bit for bit."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoints.training import exported, trained_v1
from tests.saved_models import BASIC_PITCH, GUESSLANG, normal
from tfslim_core import api
from tfslim_core.checkpoints import smaller, tensor_bundle
from tfslim_core.checkpoints.tensor_bundle import open_bundle
from tfslim_core.cli import main
from tfslim_core.errors import ModelError, OutputExistsError, UsageError
from tfslim_core.saved_model.sorted_table import read_table, table_bytes

tf1 = tf.compat.v1
PARTS = 3


def values(path):
    reader = tf.train.load_checkpoint(str(path))
    return {name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}


def same(one, other):
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and (one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes())


def gone(report):
    return {tensor.name: tensor.kind for tensor in report.done.tensors if not tensor.kept}


def doubts(report):
    return {tensor.name: tensor.reason for tensor in report.done.tensors if tensor.reason and tensor.kept}


def write_v1_graph(folder, version=tf1.train.SaverDef.V2, scope=""):
    """A partitioned table, a dense layer with Adam, an average, twins, strings, 16-bit floats, and a false slot."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, [None, 200])
        # 100 rows each: offsets of parts of more than 64 are written in more bytes.
        table = tf1.get_variable("table", [300, 40], partitioner=tf1.fixed_size_partitioner(PARTS))
        rows = tf.matmul(x, tf.convert_to_tensor(table)[:200])
        kernel = tf1.get_variable("dense/kernel", [40, 30])
        tf1.get_variable("one", initializer=normal(50, 50))
        tf1.get_variable("twin", initializer=normal(50, 50))
        tf1.get_variable("odd/Adam", [3])
        if version == tf1.train.SaverDef.V2:
            tf1.get_variable("bf16", initializer=tf.cast(normal(300), tf.bfloat16))
            tf1.get_variable("words", initializer=np.array([b"a", b"", b"\xff" * 300], object), use_resource=False)
        tf1.get_variable("half", initializer=normal(7, dtype=np.float16))
        step = tf1.train.get_or_create_global_step()
        with tf1.variable_scope(scope) if scope else contextlib.nullcontext():
            train = tf1.train.AdamOptimizer().minimize(tf.reduce_sum(tf.matmul(rows, kernel)), global_step=step)
        average = tf1.train.ExponentialMovingAverage(0.9).apply([kernel])
        session.run(tf1.global_variables_initializer())
        session.run([train, average], {x: np.ones((2, 200))})
        folder.mkdir()
        tf1.train.Saver(write_version=version).save(session, str(folder / "model.ckpt"), global_step=7)
    return folder


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    return write_v1_graph(tmp_path_factory.mktemp("named") / "run")


def slots_of(path):
    return {name for name in values(path) if name.endswith(("/Adam", "/Adam_1")) and name != "odd/Adam"}


def test_slots_and_counters_go_and_the_rest_is_the_same(named, tmp_path):
    report = api.checkpoint(named, tmp_path / "out")
    before, after = values(named), values(tmp_path / "out")
    slots = slots_of(named)
    assert len(slots) == 4
    assert slots < set(gone(report))
    others = set(gone(report)) - slots
    assert {name.rpartition("/")[2] for name in others} == {"beta1_power", "beta2_power", "global_step"}
    assert set(after) == set(before) - set(gone(report))
    assert all(same(after[name], before[name]) for name in after)
    assert doubts(report) == {"odd/Adam": "named as a slot, but no variable of its shape is there"}
    assert report.bytes == sum(f.stat().st_size for f in (tmp_path / "out").iterdir() if f.name != "checkpoint")
    assert tf.train.latest_checkpoint(tmp_path / "out") == str(tmp_path / "out/model.ckpt-7")


@pytest.mark.parametrize("scope", ["OptimizeLoss", "a", "a_long_scope/of_two"])
def test_slots_below_a_scope(tmp_path, scope):
    folder = write_v1_graph(tmp_path / "run", scope=scope)
    report = api.checkpoint(folder, tmp_path / "out")
    found = gone(report)
    # A slot of a partitioned variable is a tensor of its own for each part.
    assert sum(kind == "optimizer slots" for kind in found.values()) == 2 * (PARTS + 1)
    assert set(found.values()) == {"optimizer slots", "optimizer settings", "step counters"}
    assert {name for name, kind in found.items() if kind == "optimizer settings"} == {
        f"{scope}/beta{number}_power" for number in (1, 2)
    }
    assert "dense/kernel" in values(tmp_path / "out")


def test_parts_stay_parts(named, tmp_path):
    api.checkpoint(named, tmp_path / "out")
    bundle = open_bundle(str(tmp_path / "out/model.ckpt-7"), tmp_path)
    assert len(bundle.tensors["table"].pieces) == PARTS
    assert len(bundle.tensors["table"].entry.slices) == PARTS
    with tf1.Graph().as_default(), tf1.Session() as session:
        table = tf1.get_variable("table", [300, 40], partitioner=tf1.fixed_size_partitioner(PARTS))
        tf1.train.Saver().restore(session, str(tmp_path / "out/model.ckpt-7"))
        np.testing.assert_array_equal(session.run(tf.convert_to_tensor(table)), values(named)["table"])


def test_the_same_bytes_are_stored_once(named, tmp_path):
    report = api.checkpoint(named, tmp_path / "out")
    assert len(report.done.shared) == 1
    assert report.done.shared_bytes == 50 * 50 * 4
    bundle = open_bundle(str(tmp_path / "out/model.ckpt-7"), tmp_path)
    (one,), (twin,) = bundle.tensors["one"].pieces, bundle.tensors["twin"].pieces
    assert one.range == twin.range
    # TensorFlow's own tools take it: a merge with another one, and a Saver that reads and writes it again.
    tf.raw_ops.SaveV2(prefix=f"{tmp_path}/more", tensor_names=["x"], shape_and_slices=[""], tensors=[tf.ones(3)])
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[f"{tmp_path}/copy/model.ckpt-7", f"{tmp_path}/more"],
        destination_prefix=f"{tmp_path}/merged",
    )
    merged = values(f"{tmp_path}/merged")
    assert all(same(merged[name], value) for name, value in values(tmp_path / "out").items())


def test_for_training_all_of_it_stays_and_training_goes_on(tmp_path):
    trained_v1(tmp_path, steps=5)
    report = api.checkpoint(tmp_path / "run", tmp_path / "out", keep="training")
    assert not gone(report)
    before, after = values(tmp_path / "run"), values(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(same(after[name], before[name]) for name in after)
    with tf1.Graph().as_default(), tf1.Session() as session:
        prefix = tf.train.latest_checkpoint(tmp_path / "out")
        tf1.train.import_meta_graph(f"{prefix}.meta").restore(session, prefix)
        assert session.run("global_step/Read/ReadVariableOp:0") == 5


def test_a_program_for_inference_restores_what_is_left(tmp_path):
    wanted = trained_v1(tmp_path, steps=5)
    report = api.checkpoint(tmp_path / "run", tmp_path / "out")
    assert report.bytes < 0.4 * report.done.bytes_before
    assert len(gone(report)) == 2 * 7 + 3
    found = values(exported(tmp_path / "out", tmp_path / "again") / "variables/variables")
    before = values(wanted / "variables/variables")
    assert all(same(found[name], before[name]) for name in before)
    (note,) = report.done.notes
    assert ".meta was not copied: it restores 17 tensors that are gone" in note


@pytest.mark.parametrize(
    ("averages", "kernel", "average"), [("keep", True, True), ("drop", True, False), ("only", False, True)]
)
def test_moving_averages_stay_unless_told(named, tmp_path, averages, kernel, average):
    api.checkpoint(named, tmp_path / "out", averages=averages)
    found = values(tmp_path / "out")
    assert ("dense/kernel" in found, "dense/kernel/ExponentialMovingAverage" in found) == (kernel, average)


def test_patterns_have_the_last_word(named, tmp_path):
    report = api.checkpoint(named, tmp_path / "out", include=["global_step"], exclude=["t*"])
    assert "global_step" in values(report.path)
    assert {name for name, kind in gone(report).items() if kind == "weights"} == {"table", "twin"}
    with pytest.raises(
        UsageError, match=r"--include globalstep: the checkpoint has no tensor .* did you mean 'global_step'"
    ):
        api.checkpoint(named, tmp_path / "more", include=["globalstep"])
    with pytest.raises(ModelError, match="nothing would be left"):
        api.checkpoint(named, tmp_path / "more", exclude=["*"])


def test_a_checkpoint_of_the_first_format(tmp_path):
    folder = write_v1_graph(tmp_path / "run", tf1.train.SaverDef.V1)
    assert not list(folder.glob("*.index"))
    report = api.checkpoint(folder, tmp_path / "out")
    after = values(tmp_path / "out")
    assert "table" in after
    assert not slots_of(tmp_path / "out")
    assert (tmp_path / "out/model.ckpt-7.index").exists()
    with tf1.Graph().as_default(), tf1.Session() as session:
        table = tf1.get_variable("table", [300, 40], partitioner=tf1.fixed_size_partitioner(PARTS))
        tf1.train.Saver().restore(session, str(folder / "model.ckpt-7"))
        np.testing.assert_array_equal(session.run(tf.convert_to_tensor(table)), after["table"])
    assert report.done.bytes_before > report.bytes


def keras_network(seed=0, **more):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((40,)), keras.layers.Dense(30), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(**more), "mse")
    model.fit(normal(8, 40), normal(8, 2), verbose=0)
    return model


def equal_weights(one, other):
    return all((a == b).all() for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize("with_optimizer", [False, True])
def test_keras_restores_what_is_left_of_its_checkpoint(tmp_path, with_optimizer):
    model = keras_network()
    objects = {"model": model, "step": tf.Variable(3, dtype=tf.int64)}
    if with_optimizer:
        objects["optimizer"] = model.optimizer
    path = tf.train.Checkpoint(**objects).save(str(tmp_path / "run/ckpt"))
    report = api.checkpoint(path, tmp_path / "out")
    assert sorted(set(gone(report).values())) == ["optimizer settings", "optimizer slots", "step counters"]
    assert len(gone(report)) == 2 * 6 + 3
    assert "save_counter/.ATTRIBUTES/VARIABLE_VALUE" in values(tmp_path / "out")
    other = keras_network(seed=1)
    fresh = keras.Sequential([keras.layers.Dense(30), keras.layers.BatchNormalization(), keras.layers.Dense(2)])
    fresh.build((None, 40))
    assert not equal_weights(model, other)
    tf.train.Checkpoint(model=other).restore(f"{tmp_path}/out/ckpt-1").expect_partial()
    assert equal_weights(model, other)
    tf.train.Checkpoint(model=fresh).restore(f"{tmp_path}/out/ckpt-1").assert_existing_objects_matched()
    assert equal_weights(model, fresh)


def test_averages_that_an_optimizer_keeps_are_restored_into_one(tmp_path):
    model = keras_network(use_ema=True)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "run/ckpt"))
    report = api.checkpoint(path, tmp_path / "out")
    assert sum(tensor.kind == "moving averages" and tensor.kept for tensor in report.done.tensors) == 6
    other = keras_network(seed=1, use_ema=True)
    tf.train.Checkpoint(model=other).restore(f"{tmp_path}/out/ckpt-1").expect_partial()
    for mine, theirs in zip(
        model.optimizer._model_variables_moving_average, other.optimizer._model_variables_moving_average, strict=True
    ):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    less = api.checkpoint(path, tmp_path / "less", averages="drop")
    assert not [tensor for tensor in less.done.tensors if tensor.kind == "moving averages" and tensor.kept]
    with pytest.raises(UsageError, match="--averages only is for checkpoints of names"):
        api.checkpoint(path, tmp_path / "more", averages="only")


def test_slots_that_an_object_graph_tells(tmp_path):
    optimizer, variable = tf1.train.AdamOptimizer(), tf.Variable(normal(30, 20))
    optimizer.apply_gradients([(tf.ones((30, 20)), variable)])
    path = tf.train.Checkpoint(optimizer=optimizer, layer=variable).save(str(tmp_path / "run/ckpt"))
    report = api.checkpoint(path, tmp_path / "out")
    assert {name for name in gone(report) if ".OPTIMIZER_SLOT" in name} == {
        f"layer/.OPTIMIZER_SLOT/optimizer/{slot}/.ATTRIBUTES/VARIABLE_VALUE" for slot in ("m", "v")
    }
    other = tf.Variable(tf.zeros((30, 20)))
    tf.train.Checkpoint(layer=other).restore(f"{tmp_path}/out/ckpt-1").assert_consumed()
    np.testing.assert_array_equal(other.numpy(), variable.numpy())


@pytest.mark.parametrize("model", [GUESSLANG, BASIC_PITCH], ids=["guesslang", "basic_pitch"])
def test_variables_of_real_models(model, tmp_path):
    report = api.checkpoint(model, tmp_path / "out")
    before, after = values(model / "variables/variables"), values(tmp_path / "out")
    graph = "_CHECKPOINTABLE_OBJECT_GRAPH"
    assert all(same(after[name], before[name]) for name in after if name != graph)
    assert report.done.bytes_before == sum(f.stat().st_size for f in (model / "variables").iterdir())
    assert not [name for name in after if "OPTIMIZER_SLOT" in name or name.endswith(("/Adagrad", "/Ftrl", "/Ftrl_1"))]


def break_data(folder, prefix):
    file = next(folder.glob("*.data-*"))
    file.write_bytes(file.read_bytes()[:-1000])


def flip_data(folder, prefix):
    file = next(folder.glob("*.data-*"))
    data = bytearray(file.read_bytes())
    piece = open_bundle(str(prefix), folder).tensors["one"].pieces[0]
    data[piece.entry.offset + 8] ^= 1
    file.write_bytes(data)


def cut_index(folder, prefix):
    file = next(folder.glob("*.index"))
    file.write_bytes(file.read_bytes()[:-5])


def lose_data(folder, prefix):
    next(folder.glob("*.data-*")).unlink()


def lose_index(folder, prefix):
    next(folder.glob("*.index")).unlink()


@pytest.mark.parametrize("harm", [break_data, flip_data, cut_index, lose_data, lose_index])
def test_a_damaged_checkpoint_is_one_line_and_leaves_nothing(named, tmp_path, harm, capfd):
    folder = shutil.copytree(named, tmp_path / "run")
    harm(folder, folder / "model.ckpt-7")
    assert main(["checkpoint", str(folder), str(tmp_path / "out")]) == 1
    told = capfd.readouterr().err.strip().splitlines()
    assert [line for line in told if line.startswith("tfslim: ")] == told[-1:]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_a_damaged_index_never_ends_in_a_traceback(named, tmp_path_factory, data):
    index = bytearray((named / "model.ckpt-7.index").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        index[data.draw(st.integers(0, len(index) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_table(bytes(index[: data.draw(st.integers(0, len(index)))]))
    except ModelError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_a_copy_that_reads_otherwise_is_refused(named, tmp_path, monkeypatch):
    chunks = tensor_bundle._copy

    def wrong(piece, out, name):
        chunks(piece, out, name)
        if name == "one":
            out.seek(-4, 1)
            out.write(b"\0\0\0\1")

    monkeypatch.setattr(tensor_bundle, "_copy", wrong)
    with pytest.raises(ModelError, match=r"cannot be read back|does not read back"):
        api.checkpoint(named, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_replaced(named, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError):
        api.checkpoint(named, tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds model\.ckpt-7 itself"):
        api.checkpoint(named, named, overwrite=True)
    assert (named / "model.ckpt-7.index").exists()


def test_a_directory_that_was_moved_is_found_beside_its_state_file(named, tmp_path):
    folder = shutil.copytree(named, tmp_path / "moved")
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-7"\n')
    assert api.checkpoint(folder, tmp_path / "out").prefix.name == "model.ckpt-7"
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-8"\n')
    with pytest.raises(ModelError, match=r"names the checkpoint 'model.ckpt-8', which is not beside it"):
        api.checkpoint(folder, tmp_path / "more")
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ModelError, match="no checkpoint"):
            api.checkpoint(path, tmp_path / "more")


def test_the_command_tells_what_went(named, tmp_path, capfd):
    assert main(["checkpoint", str(named / "model.ckpt-7.index"), str(tmp_path / "out")]) == 0
    told = capfd.readouterr().err
    assert "optimizer slots" in told
    assert "odd/Adam stays" in told
    assert main(["checkpoint", str(named), str(tmp_path / "json"), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    slots = next(group for group in found["groups"] if group["kind"] == "optimizer slots")
    assert (slots["kept"], slots["tensors"], slots["bytes"]) == (False, 4, 2 * 4 * (300 * 40 + 40 * 30))


def test_no_tensor_is_read_whole_to_copy_it(named, tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_bundle, "CHUNK_BYTES", 1000)
    report = api.checkpoint(named, tmp_path / "out")
    before, after = values(named), values(report.path)
    assert all(same(after[name], before[name]) for name in after)


names = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="/_-."), min_size=1, max_size=30)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        names, st.tuples(st.sampled_from(["float32", "bfloat16", "int8", "bool", "str"]), st.integers(0, 40))
    ),
    st.integers(0, 2**32 - 1),
)
def test_tensors_of_any_name_and_dtype_are_copied(tmp_path_factory, tensors, seed):
    folder = tmp_path_factory.mktemp("any")
    random = np.random.default_rng(seed)
    wanted = {"w": normal(2)}
    for name, (kind, size) in tensors.items():
        noise = random.integers(0, 256, size)
        wanted[name] = {
            "str": lambda: np.array([bytes([n % 256]) * n for n in noise.tolist()], object),  # noqa: B023
            "bfloat16": lambda: noise.astype(ml_dtypes.bfloat16),  # noqa: B023
        }.get(kind, lambda: noise.astype(kind))()  # noqa: B023
    tf.raw_ops.SaveV2(
        prefix=f"{folder}/c",
        tensor_names=list(wanted),
        shape_and_slices=[""] * len(wanted),
        tensors=[
            tf.constant(value, tf.string) if value.dtype == object else tf.constant(value) for value in wanted.values()
        ],
    )
    index = (folder / "c.index").read_bytes()
    assert read_table(table_bytes(read_table(index))) == read_table(index)
    (folder / "out").mkdir()
    smaller.slim_checkpoint(f"{folder}/c", folder / "out", smaller.Wanted("training"))
    found = values(folder / "out")
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].tolist() == value.tolist()


def test_a_data_file_of_a_saved_model_that_leads_outside_is_refused(tmp_path):
    model = Path(shutil.copytree(GUESSLANG, tmp_path / "model"))
    file = next((model / "variables").glob("*.data-*"))
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="leads outside the model"):
        api.checkpoint(model, tmp_path / "out")
