"""A SavedModel is read by its protobuf; what is wrong with it is said in one line."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.text_format import MessageToString
from tensorflow.core.protobuf import saved_model_pb2

from tests.saved_models import BASIC_PITCH, GUESSLANG, normal, save_v1, save_v2
from tfslim_core.errors import ModelError
from tfslim_core.saved_model.read import Asset, open_checkpoint, read_saved_model

tf1 = tf.compat.v1


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    def build():
        x = tf1.placeholder(tf.float32, [None, 3], name="x")
        w = tf1.get_variable("w", initializer=normal(3, 40), use_resource=True)
        y = tf.matmul(x, w)
        return {"serving_default": ({"x": x}, {"y": y}), "regress": ({"x": x}, {"y": y[:, :1]})}

    return save_v1(tmp_path_factory.mktemp("read") / "m", build, tags=("serve", "cpu"))


@pytest.fixture
def model(original, tmp_path):
    return shutil.copytree(original, tmp_path / "m")


def refused(path, match, tags=("serve", "cpu"), signatures=None):
    with pytest.raises(ModelError, match=match) as caught:
        read_saved_model(path, tags, signatures)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_everything_that_a_server_reads_is_read(model):
    read = read_saved_model(str(model), ["cpu", "serve"], None)
    assert (read.path, read.tags, list(read.signatures)) == (model, ("cpu", "serve"), ["regress", "serving_default"])
    assert (read.init_op, read.assets) == (None, ())
    assert read.checkpoint == str(model / "variables/variables")
    assert list(read_saved_model(model, ["serve", "cpu"], ["regress"]).signatures) == ["regress"]
    assert list(open_checkpoint(read.checkpoint).get_variable_to_shape_map()) == ["w"]


@pytest.mark.parametrize(("path", "names"), [(GUESSLANG, 3), (BASIC_PITCH, 1)], ids=["guesslang", "basic_pitch"])
def test_real_models_are_read(path, names):
    assert len(read_saved_model(path, ["serve"], None).signatures) == names


def test_a_model_in_text_form_is_read(model):
    proto = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    (model / "saved_model.pbtxt").write_text(MessageToString(proto))
    (model / "saved_model.pb").unlink()
    assert list(read_saved_model(model, ["cpu", "serve"], None).signatures) == ["regress", "serving_default"]
    (model / "saved_model.pbtxt").write_text("meta_graphs { nonsense")
    refused(model, "cannot be parsed")
    (model / "saved_model.pbtxt").write_bytes(b"\xff\xfe\0")
    refused(model, "cannot be parsed")


def test_what_is_no_saved_model_is_refused(model, tmp_path):
    refused(tmp_path / "none", "none: no such directory")
    refused(model / "saved_model.pb", "is a file, not a SavedModel")
    refused(model / "variables", "is not a SavedModel: it holds no saved_model.pb")
    (model / "saved_model.pb").write_bytes(b"not a protobuf at all")
    refused(model, "saved_model.pb cannot be parsed")
    (model / "saved_model.pb").write_bytes(b"")
    refused(model, "holds no MetaGraph")
    (model / "saved_model.pb").unlink()
    (model / "saved_model.pb").mkdir()
    refused(model, "saved_model.pb")


def test_a_cut_saved_model_is_refused(model):
    whole = (model / "saved_model.pb").read_bytes()
    for size in (1, len(whole) // 3, len(whole) - 1):
        (model / "saved_model.pb").write_bytes(whole[:size])
        refused(model, "cannot be parsed")


def test_tags_and_signatures_that_are_not_there_are_told_with_those_that_are(model):
    message = refused(model, "no MetaGraph with the tags serve", tags=["serve"])
    assert message.endswith("it has: cpu,serve")
    message = refused(
        model, "no signature 'servin_default'; did you mean 'serving_default'", signatures=["servin_default"]
    )
    assert message.endswith("? (it has: regress, serving_default)")
    message = refused(model, "no signature 'zzz'", signatures=["zzz"])
    assert message.endswith("'zzz' (it has: regress, serving_default)")
    refused(model, "no signature", signatures=[])


def test_one_of_several_tag_sets_is_chosen(original, tmp_path):
    path = shutil.copytree(original, tmp_path / "m")
    proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    other = proto.meta_graphs.add()
    other.CopyFrom(proto.meta_graphs[0])
    del other.meta_info_def.tags[:]
    other.meta_info_def.tags.extend(["train"])
    del other.signature_def["regress"]
    bare = proto.meta_graphs.add()
    bare.CopyFrom(other)
    del bare.meta_info_def.tags[:]
    (path / "saved_model.pb").write_bytes(proto.SerializeToString())
    assert list(read_saved_model(path, ["train"], None).signatures) == ["serving_default"]
    assert len(read_saved_model(path, ["serve", "cpu"], None).signatures) == 2
    assert read_saved_model(path, [], None).tags == ()
    assert refused(path, "it has", tags=["gpu"]).endswith("it has: cpu,serve; train; (no tags)")


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/hostname", "a/../../../secret.txt", "link.txt", ""])
def test_assets_that_lead_outside_of_the_model_are_refused(model, name, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (model / "assets/a").mkdir(parents=True)
    (model / "assets/link.txt").symlink_to(tmp_path / "secret.txt")
    proto = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    proto.meta_graphs[0].asset_file_def.add(filename=name).tensor_info.name = "x:0"
    (model / "saved_model.pb").write_bytes(proto.SerializeToString())
    refused(model, "leads outside|is missing")


def test_assets_of_both_tensorflows_are_found(tmp_path):
    (tmp_path / "words.txt").write_text("a\nb\n")

    def build():
        s = tf1.placeholder(tf.string, [None], name="s")
        table = tf1.lookup.StaticHashTable(
            tf1.lookup.TextFileInitializer(
                str(tmp_path / "words.txt"),
                tf.string,
                tf1.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf1.lookup.TextFileIndex.LINE_NUMBER,
            ),
            -1,
        )
        return {"serving_default": ({"s": s}, {"i": table.lookup(s)})}

    first = save_v1(tmp_path / "one", build, init=tf1.tables_initializer, assets=True)
    proto = saved_model_pb2.SavedModel.FromString((first / "saved_model.pb").read_bytes())
    collection = proto.meta_graphs[0].collection_def
    assert "saved_model_assets" in collection
    del proto.meta_graphs[0].asset_file_def[:]
    (first / "saved_model.pb").write_bytes(proto.SerializeToString())
    read = read_saved_model(first, ["serve"], None)
    assert [asset.filename for asset in read.assets] == ["words.txt"]
    assert read.init_op is not None

    class Words(tf.Module):
        def __init__(self):
            super().__init__()
            self.table = tf.lookup.StaticVocabularyTable(
                tf.lookup.TextFileInitializer(
                    str(tmp_path / "words.txt"),
                    tf.string,
                    tf.lookup.TextFileIndex.WHOLE_LINE,
                    tf.int64,
                    tf.lookup.TextFileIndex.LINE_NUMBER,
                ),
                1,
            )

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="s")])
        def __call__(self, s):
            return {"i": self.table.lookup(s)}

    words = Words()
    second = read_saved_model(save_v2(tmp_path / "two", words, serving_default=words.__call__), ["serve"], None)
    assert [(type(asset), asset.filename) for asset in second.assets] == [(Asset, "words.txt")]
    assert list(second.signatures) == ["serving_default"]
    assert second.init_op is not None


@pytest.mark.parametrize("name", ["variables.index", "variables.data-00000-of-00001", "more"])
def test_variables_that_a_symlink_brings_from_outside_are_refused(model, tmp_path, name):
    outside = tmp_path / "outside"
    if (model / "variables" / name).exists():
        shutil.move(model / "variables" / name, outside)
    else:
        outside.write_text("other")
    (model / "variables" / name).symlink_to(outside)
    refused(model, "leads outside the model")


def test_a_model_whose_folder_is_a_symlink_is_read(model, tmp_path):
    (tmp_path / "latest").symlink_to(model)
    assert read_saved_model(tmp_path / "latest", ["serve", "cpu"], None).checkpoint is not None


def test_a_folder_of_variables_that_is_a_symlink_to_elsewhere_is_refused(model, tmp_path):
    shutil.move(model / "variables", tmp_path / "elsewhere")
    (model / "variables").symlink_to(tmp_path / "elsewhere")
    refused(model, "leads outside the model")


def test_a_damaged_index_is_told_in_one_line(model):
    index = model / "variables/variables.index"
    index.write_bytes(b"\0" * 40 + os.urandom(8))
    with pytest.raises(ModelError, match="the variables cannot be read") as caught:
        open_checkpoint(str(model / "variables/variables"))
    assert "\n" not in str(caught.value)
    index.write_bytes(b"")
    with pytest.raises(ModelError, match="the variables cannot be read"):
        open_checkpoint(str(model / "variables/variables"))


def test_a_signature_without_tensors_or_defaults_is_read(model):
    proto = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    signatures = proto.meta_graphs[0].signature_def
    signatures["serving_default"].defaults["x"].CopyFrom(tf.make_tensor_proto(np.ones((1, 3), np.float32)))
    signatures["__saved_model_train_op"].outputs["x"].name = "x:0"
    (model / "saved_model.pb").write_bytes(proto.SerializeToString())
    read = read_saved_model(model, ["serve", "cpu"], None)
    assert list(read.signatures) == ["regress", "serving_default"]
    assert "x" in read.signatures["serving_default"].defaults
