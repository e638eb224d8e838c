"""Models that mean harm, each refused or harmless: exit 1 in one line, and nothing is written outside."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.saved_models import save_v1
from tfslim_core import api
from tfslim_core.cli import main
from tfslim_core.errors import TfslimError
from tfslim_core.saved_model.checkpoint_index import check_index

tf1 = tf.compat.v1
HUGE = 1 << 30
DATA = "variables/variables.data-00000-of-00001"


def doubled():
    x = tf1.placeholder(tf.float32, [None, 4], name="x")
    w = tf1.get_variable("w", initializer=np.ones((4, 300), np.float32), use_resource=True)
    return {"serving_default": ({"x": x}, {"y": tf.matmul(x, w)})}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return save_v1(tmp_path_factory.mktemp("sound") / "m", doubled)


@pytest.fixture
def model(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "here/m"))


def edit(model, change):
    """Change the first MetaGraph of a SavedModel."""
    proto = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    change(proto.meta_graphs[0])
    (model / "saved_model.pb").write_bytes(proto.SerializeToString())


def contents(folder):
    """All that is there; what no program should have written to."""
    return {path: path.read_bytes() if path.is_file() and not path.is_symlink() else b"" for path in folder.rglob("*")}


def refused(capsys, *arguments):
    """The one line with which a command ends, with exit 1; nothing is written outside of the folder `out`."""
    here = Path(arguments[1]).parent
    before = {
        path: path.read_bytes() if path.is_file() else b"" for path in here.parent.rglob("*") if not path.is_fifo()
    }
    start = time.monotonic()
    code = main(list(map(str, arguments)))
    told = capsys.readouterr()
    assert (code, told.out) == (1, ""), told
    assert len(told.err.splitlines()) == 1, told.err
    after = {
        path: path.read_bytes() if path.is_file() else b"" for path in here.parent.rglob("*") if not path.is_fifo()
    }
    assert after == before
    assert time.monotonic() - start < 30
    return told.err


def freeze(capsys, model):
    return refused(capsys, "freeze", model, model.parent / "bundle")


@pytest.mark.parametrize("name", ["../../x", "/etc/hostname", "a/../../../x", "x\0y", "x" * 5000])
def test_an_asset_outside_of_the_model(capsys, model, name):
    (model / "assets").mkdir()
    (model.parent / "x").write_text("not the model's")

    def change(meta_graph):
        asset = meta_graph.asset_file_def.add(filename=name)
        asset.tensor_info.name = "x:0"

    edit(model, change)
    told = freeze(capsys, model)
    assert "leads outside the model" in told or "a name that no file can have" in told or "missing from" in told


def test_an_asset_that_is_a_symlink_to_elsewhere(capsys, model):
    (model / "assets").mkdir()
    (model / "assets/words").symlink_to("/etc/hostname")
    edit(model, lambda meta_graph: meta_graph.asset_file_def.add(filename="words"))
    assert "leads outside the model" in freeze(capsys, model)


def test_symlinks_in_a_circle(capsys, model):
    (model / "assets").mkdir()
    (model / "assets/words").symlink_to("words")
    edit(model, lambda meta_graph: meta_graph.asset_file_def.add(filename="words"))
    assert "a name that no file can have" in freeze(capsys, model)


@pytest.mark.parametrize("name", ["variables.index", "variables.data-00000-of-00001"])
def test_variables_that_are_symlinks_to_elsewhere(capsys, model, name):
    (model.parent / name).write_bytes((model / "variables" / name).read_bytes())
    (model / "variables" / name).unlink()
    (model / "variables" / name).symlink_to(model.parent / name)
    assert "leads outside the model" in freeze(capsys, model)


def test_a_variables_folder_that_is_a_symlink_to_elsewhere(capsys, model):
    shutil.move(model / "variables", model.parent / "variables")
    (model / "variables").symlink_to(model.parent / "variables")
    assert "leads outside the model" in freeze(capsys, model)


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
def test_a_pipe_in_the_place_of_a_file(capsys, model, name):
    (model / name).unlink()
    os.mkfifo(model / name)
    assert "missing" in freeze(capsys, model)


def test_a_pipe_or_a_folder_in_the_place_of_a_frozen_graph(capsys, tmp_path):
    (tmp_path / "here").mkdir()
    for make, name in ((os.mkfifo, "pipe.pb"), (os.mkdir, "folder.pb")):
        make(tmp_path / "here" / name)
        arguments = ["--inputs", "x", "--outputs", "y", "--transforms", "fold_constants"]
        path = tmp_path / "here" / name
        refused(capsys, "transform-graph", f"--in-graph={path}", f"--out-graph={tmp_path / 'out.pb'}", *arguments)


def test_a_model_that_is_dev_zero(capsys, model):
    (model / "saved_model.pb").unlink()
    (model / "saved_model.pb").symlink_to("/dev/zero")
    assert "leads outside the model" in freeze(capsys, model)


def constant(shape, dtype=tf.float32):
    tensor = tf.make_tensor_proto(0, dtype, [1])
    del tensor.tensor_shape.dim[:]
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


@pytest.mark.parametrize("shape", [[HUGE], [1 << 40, 1 << 40], [1 << 62, 2], [-5]])
def test_a_tensor_of_gigabytes_claimed_in_a_hundred_bytes(capsys, model, shape):
    def change(meta_graph):
        node = meta_graph.graph_def.node.add(name="huge", op="Const")
        node.attr["dtype"].type = tf.float32.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(constant(shape))
        assert node.ByteSize() < 150
        add = meta_graph.graph_def.node.add(name="sum", op="Sum", input=["huge", "axis"])
        add.attr["T"].type = tf.float32.as_datatype_enum
        axis = meta_graph.graph_def.node.add(name="axis", op="Const")
        axis.attr["dtype"].type = tf.int32.as_datatype_enum
        axis.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.int32([0])))
        meta_graph.signature_def["serving_default"].outputs["z"].name = "sum:0"
        meta_graph.signature_def["serving_default"].outputs["z"].dtype = tf.float32.as_datatype_enum

    edit(model, change)
    told = freeze(capsys, model)
    assert "'huge'" in told


def test_many_constants_that_are_small_alone(capsys, model):
    def change(meta_graph):
        outputs = meta_graph.signature_def["serving_default"].outputs
        for number in range(20):
            node = meta_graph.graph_def.node.add(name=f"c{number}", op="Const")
            node.attr["dtype"].type = tf.float32.as_datatype_enum
            node.attr["value"].tensor.CopyFrom(constant([1 << 26]))
            outputs[f"z{number}"].name = f"c{number}:0"
            outputs[f"z{number}"].dtype = tf.float32.as_datatype_enum

    edit(model, change)
    assert "more than 256 MiB are claimed and not there" in freeze(capsys, model)


@pytest.mark.parametrize("size", [1 << 40, 1 << 62])
def test_a_request_of_terabytes_is_not_made_up(capsys, model, size):
    def change(meta_graph):
        info = meta_graph.signature_def["serving_default"].inputs["x"]
        del info.tensor_shape.dim[:]
        for one in (size, 4):
            info.tensor_shape.dim.add(size=one)

    edit(model, change)
    assert main(["freeze", str(model), str(model.parent / "bundle")]) in (0, 1)
    assert len(capsys.readouterr().err.splitlines()) <= 3  # what it saw, that nothing was asked, and the result


def test_folding_does_not_compute_what_is_huge_on_the_way(tmp_path):
    from tfslim_core.drop_in import plain_graph
    from tfslim_core.transforms import apply

    graph = tf.Graph()
    with graph.as_default():
        x = tf1.placeholder(tf.float32, [None], name="x")
        huge = tf.fill([1 << 33], tf.constant(1.0))
        tf.identity(x + tf.reduce_sum(huge), name="y")
        tf.identity(x + tf.cast(tf.reduce_sum(tf.range(tf.constant(1 << 33, tf.int64))), tf.float32), name="z")
        tf.identity(x + tf.reduce_sum(tf.tile(tf.constant([1.0]), [1 << 33])), name="t")
    peak = memory()
    after, _ = apply(plain_graph(graph.as_graph_def(), ["x"], ["y", "z", "t"]), "fold_constants")
    assert memory() - peak < 1 << 30
    assert {"Fill", "Range", "Tile"} <= after.by_op.keys()


def memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def test_an_op_that_says_it_has_a_trillion_inputs(capsys, model):
    def change(meta_graph):
        node = meta_graph.graph_def.node.add(name="many", op="AddN", input=["x"])
        node.attr["T"].type = 1
        node.attr["N"].i = 1 << 40
        meta_graph.signature_def["serving_default"].outputs["y"].name = "many:0"

    edit(model, change)
    freeze(capsys, model)
    with pytest.raises(TfslimError, match="1,099,511,627,776 tensors"):
        api.inspect(model)


def test_functions_that_call_each_other_in_a_circle(capsys, model):
    def change(meta_graph):
        library = meta_graph.graph_def.library
        for name, callee in (("a", "b"), ("b", "a")):
            function = library.function.add()
            function.signature.name = name
            function.signature.input_arg.add(name="p", type=1)
            function.signature.output_arg.add(name="r", type=1)
            call = function.node_def.add(name="call", op="PartitionedCall", input=["p"])
            call.attr["f"].func.name = callee
            for key in ("Tin", "Tout"):
                call.attr[key].list.type.append(1)
            function.ret["r"] = "call:output:0"
        call = meta_graph.graph_def.node.add(name="call", op="PartitionedCall", input=["x"])
        call.attr["f"].func.name = "a"
        for key in ("Tin", "Tout"):
            call.attr[key].list.type.append(1)
        meta_graph.signature_def["serving_default"].outputs["y"].name = "call:0"

    edit(model, change)
    freeze(capsys, model)


def test_functions_that_double_at_each_call(capsys, model):
    def change(meta_graph):
        library = meta_graph.graph_def.library
        for level in range(40):
            function = library.function.add()
            function.signature.name = f"f{level}"
            function.signature.input_arg.add(name="p", type=1)
            function.signature.output_arg.add(name="r", type=1)
            for number, source in ((0, "p"), (1, "c0:output:0")):
                op = "PartitionedCall" if level else "Identity"
                node = function.node_def.add(name=f"c{number}", op=op, input=[source])
                if level:
                    node.attr["f"].func.name = f"f{level - 1}"
                    for key in ("Tin", "Tout"):
                        node.attr[key].list.type.append(1)
                else:
                    node.attr["T"].type = 1
                    source = "c0:output:0"
            if not level:
                function.node_def[1].input[0] = "c0:output:0"
            function.ret["r"] = "c1:output:0"
        call = meta_graph.graph_def.node.add(name="call", op="PartitionedCall", input=["x"])
        call.attr["f"].func.name = "f39"
        for key in ("Tin", "Tout"):
            call.attr[key].list.type.append(1)
        meta_graph.signature_def["serving_default"].outputs["y"].name = "call:0"

    edit(model, change)
    assert "unfold into more than 20,000,000 nodes" in freeze(capsys, model)


def test_a_long_chain_of_calls(capsys, model):
    def change(meta_graph):
        library = meta_graph.graph_def.library
        for level in range(3000):
            function = library.function.add()
            function.signature.name = f"f{level}"
            function.signature.input_arg.add(name="p", type=1)
            function.signature.output_arg.add(name="r", type=1)
            op = "PartitionedCall" if level else "Identity"
            node = function.node_def.add(name="c", op=op, input=["p"])
            if level:
                node.attr["f"].func.name = f"f{level - 1}"
                for key in ("Tin", "Tout"):
                    node.attr[key].list.type.append(1)
            else:
                node.attr["T"].type = 1
            function.ret["r"] = "c:output:0"
        call = meta_graph.graph_def.node.add(name="call", op="PartitionedCall", input=["x"])
        call.attr["f"].func.name = "f2999"
        for key in ("Tin", "Tout"):
            call.attr[key].list.type.append(1)
        meta_graph.signature_def["serving_default"].outputs["y"].name = "call:0"

    edit(model, change)
    assert "call each other more than 200 deep" in freeze(capsys, model)


def test_text_that_is_nested_ten_thousand_deep(capsys, model):
    (model / "saved_model.pb").unlink()
    deep = "value { list { func { attr { key: 'a' value { func { attr { key: 'b' "
    (model / "saved_model.pbtxt").write_text("meta_graphs { graph_def { node { attr { key: 'k' " + deep * 5000)
    freeze(capsys, model)


def test_a_chain_of_a_hundred_thousand_nodes(model):
    def change(meta_graph):
        last = "x"
        for number in range(100_000):
            node = meta_graph.graph_def.node.add(name=f"n{number}", op="Identity", input=[last])
            node.attr["T"].type = 1
            last = node.name
        meta_graph.signature_def["serving_default"].outputs["y"].name = f"{last}:0"

    edit(model, change)
    assert api.inspect(model).nodes > 100_000


def test_a_vocabulary_with_a_million_columns(tmp_path, capsys):
    words = tmp_path / "words.txt"
    words.write_text("\t".join(map(str, range(1_000_000))) + "\nb\n")

    def made():
        text = tf1.placeholder(tf.string, [None], name="text")
        init = tf.lookup.TextFileInitializer(
            str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        return {"serving_default": ({"text": text}, {"id": tf.lookup.StaticHashTable(init, -1).lookup(text)})}

    model = save_v1(tmp_path / "m", made, init=tf1.tables_initializer, assets=True)
    code = main(["freeze", str(model), str(tmp_path / "bundle")])
    assert code == 0, capsys.readouterr().err
    assert (tmp_path / "bundle/assets/words.txt").stat().st_size == words.stat().st_size


@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_data_with_a_million_columns(capsys, model, tmp_path, extension):
    file = tmp_path / f"data.{extension}"
    count = 1_000_000 if extension == "csv" else 20_000
    if extension == "csv":
        file.write_text(",".join(f"c{number}" for number in range(count)) + "\n" + ",".join("1" * count) + "\n")
    else:
        import pyarrow as pa
        import pyarrow.parquet

        pa.parquet.write_table(pa.table({f"c{number}": [1] for number in range(count)}), file)
    told = refused(capsys, "validate", model, model, "--data", f"d={file}", "--out", tmp_path / "report")
    assert "lacks" in told or "keys" in told
    assert len(told) < 3000


def test_a_checkpoint_that_claims_more_than_it_has(capsys, model):
    from tests.fuzz.readers import _mended_index

    index = model / "variables/variables.index"
    data = index.read_bytes()
    at = data.index(bytes([0x12, 3, 0x08, 0xAC, 0x02])) if bytes([0x12, 3, 0x08, 0xAC, 0x02]) in data else -1
    assert at >= 0, "the dimension 300"
    index.write_bytes(_mended_index(data[: at + 3] + b"\xff\x7f" + data[at + 5 :]))
    with pytest.raises(TfslimError, match="is said to have the shape"):
        check_index(str(index.with_suffix("")))
    assert "Invalid size" in freeze(capsys, model)  # a process that the loader has to itself says so first


def test_a_bundle_whose_weights_claim_terabytes(capsys, model, tmp_path):
    bundle = tmp_path / "here/bundle"
    api.freeze(model, bundle)
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    for text in (len(header).to_bytes(8, "little") + header, (1 << 62).to_bytes(8, "little") + header):
        (bundle / "weights.safetensors").write_bytes(text)
        refused(capsys, "inspect", bundle)


@pytest.mark.parametrize("name", ["manifest.json", "graph.pb", "weights.safetensors"])
def test_files_of_a_bundle_that_are_symlinks_to_elsewhere(capsys, model, tmp_path, name):
    bundle = tmp_path / "here/bundle"
    api.freeze(model, bundle)
    shutil.move(bundle / name, tmp_path / name)
    (bundle / name).symlink_to(tmp_path / name)
    assert "leads outside the model" in refused(capsys, "inspect", bundle)


def test_an_archive_with_a_trillion_rows_of_nothing(tmp_path):
    from tfslim_core.validation.sources import first_records, open_dataset

    np.savez(tmp_path / "a.npz", x=np.zeros((1 << 40, 0), np.float32))
    with pytest.raises(TfslimError, match="1,099,511,627,776 rows, and there is nothing in them"):
        first_records(open_dataset("d", str(tmp_path / "a.npz")))


def test_an_empty_tensor_of_a_message_is_an_empty_array():
    from tfslim_core.saved_model.c_api import from_tensor, tensor_from_proto

    proto = tf.make_tensor_proto(np.zeros((0, 2), np.float32)).SerializeToString()
    assert from_tensor(tensor_from_proto(proto)).shape == (0, 2)
