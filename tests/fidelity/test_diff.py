"""What `tfslim diff` sees, on models that differ in one thing at a time, and that stages refuse a loss."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.saved_models import GUESSLANG, save_v1
from tfslim_core import api, cli, stages
from tfslim_core.bundle import read_bundle
from tfslim_core.errors import ModelError
from tfslim_core.fidelity.facts import bundle_facts, facts_of

tf1 = tf.compat.v1


def _vocabulary(folder, *words):
    folder.mkdir(exist_ok=True)
    file = folder / "words.txt"
    file.write_text("\n".join(words) + "\n")
    return str(file)


def _text_model(path, words, extra=b"", tags=("serve",)):
    """Words to rows of an embedding by a table filled from an asset, and scores; labels by a table in the graph."""

    def build():
        name = _vocabulary(path.parent / "words", *words)
        table = tf.lookup.StaticVocabularyTable(
            tf.lookup.TextFileInitializer(
                name, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            ),
            1,
        )
        labels = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.range(2, dtype=tf.int64), tf.constant(["no", "yes"])), "?"
        )
        text = tf1.placeholder(tf.string, [None], name="text")
        rows = tf.gather(
            tf1.get_variable("rows", [8, 2], initializer=tf1.random_normal_initializer(seed=1)), table.lookup(text)
        )
        return {
            "serving_default": ({"text": text}, {"scores": rows, "label": labels.lookup(tf.argmax(rows, -1))}),
            "rows": ({"text": text}, {"rows": rows}),
        }

    save_v1(
        path,
        build,
        tags=tags,
        init=tf1.tables_initializer,
        assets=True,
        methods={"rows": "tensorflow/serving/classify"},
    )
    if extra:
        (path / "assets.extra").mkdir()
        (path / "assets.extra/tf_serving_warmup_requests").write_bytes(extra)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return _text_model(tmp_path_factory.mktemp("text") / "model", ["red", "green", "blue"], extra=b"warm")


def _edited(model, path, edit):
    shutil.copytree(model, path)
    proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    edit(proto.meta_graphs[0])
    (path / "saved_model.pb").write_bytes(proto.SerializeToString())
    return path


def _losses(a, b):
    return {str(one) for one in api.diff(a, b).losses}


def test_a_model_is_like_itself(model):
    found = api.diff(model, model)

    assert not found.differences
    assert found.alike > 20


def test_facts_are_in_words(model):
    facts = facts_of(model)

    assert facts["tag set", "serve"] == "present"
    assert facts["signature", "rows"] == "tensorflow/serving/classify"
    assert facts["input", "rows/text"] == "string [?]"
    assert facts["output", "serving_default/scores"] == "float32 [?, 2]"
    assert facts["table", "string -> int64"] == "the file words.txt"
    assert facts["table", "int64 -> string"].startswith("2 entries, sha256 ")
    assert facts["asset", "words.txt"].startswith("15 bytes, sha256 ")
    assert facts["extra file", "tf_serving_warmup_requests"].startswith("4 bytes")


def _without_signature(meta):
    del meta.signature_def["rows"]


def _renamed_key(meta):
    inputs = meta.signature_def["rows"].inputs
    inputs["words"].CopyFrom(inputs["text"])
    del inputs["text"]


def _other_shape(meta):
    meta.signature_def["rows"].outputs["rows"].tensor_shape.dim[1].size = -1


def _other_dtype(meta):
    meta.signature_def["rows"].outputs["rows"].dtype = tf.float64.as_datatype_enum


def _other_method(meta):
    meta.signature_def["rows"].method_name = "tensorflow/serving/predict"


def _other_tags(meta):
    meta.meta_info_def.tags[:] = ["train"]


def _new_default(meta):
    value = meta.signature_def["rows"].defaults["text"]
    value.CopyFrom(tf.make_tensor_proto([b"red"]))


@pytest.mark.parametrize(
    ("edit", "losses"),
    [
        (
            _without_signature,
            {
                "signature 'rows' is lost (tensorflow/serving/classify)",
                "input 'rows/text' is lost (string [?])",
                "output 'rows/rows' is lost (float32 [?, 2])",
            },
        ),
        (_renamed_key, {"input 'rows/text' is lost (string [?])", "input 'rows/words' is added (string [?])"}),
        (_other_shape, {"output 'rows/rows' was float32 [?, 2], and is float32 [?, ?]"}),
        (_other_dtype, {"output 'rows/rows' was float32 [?, 2], and is float64 [?, 2]"}),
        (_other_method, {"signature 'rows' was tensorflow/serving/classify, and is tensorflow/serving/predict"}),
        (_other_tags, {"tag set 'serve' is lost (present)"}),
        (_new_default, set()),
    ],
)
def test_each_change_of_the_interface_is_seen(model, tmp_path, edit, losses):
    changed = _edited(model, tmp_path / "changed", edit)

    assert _losses(model, changed) == losses
    assert api.diff(model, changed).differences


def test_a_default_that_goes_is_a_loss(model, tmp_path):
    with_default = _edited(model, tmp_path / "with", _new_default)

    assert _losses(with_default, model) == {"default 'rows/text' is lost (string [1] [b'red'])"}


def test_files_and_tables_are_compared_by_content(model, tmp_path):
    other = _text_model(tmp_path / "other", ["red", "green", "grey"])

    found = {(one.part, one.kind) for one in api.diff(model, other).losses}

    assert found == {("asset", "changed"), ("extra file", "lost")}


def test_a_table_in_the_graph_is_compared_by_its_entries(model, tmp_path):
    def swap(meta):
        for node in meta.graph_def.node:
            if node.op == "Const" and list(node.attr["value"].tensor.string_val) == [b"no", b"yes"]:
                node.attr["value"].tensor.string_val[:] = [b"yes", b"no"]

    (loss,) = api.diff(model, _edited(model, tmp_path / "swapped", swap)).losses

    assert (loss.part, loss.place, loss.kind) == ("table", "int64 -> string", "changed")


def test_all_metagraphs_are_compared_unless_one_is_named(model, tmp_path):
    def both(path, tags):
        shutil.copytree(model, path)
        proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        proto.meta_graphs.add().CopyFrom(proto.meta_graphs[0])
        proto.meta_graphs[1].meta_info_def.tags[:] = tags
        (path / "saved_model.pb").write_bytes(proto.SerializeToString())
        return path

    a, b = both(tmp_path / "a", ["serve", "tpu"]), both(tmp_path / "b", ["serve", "gpu"])

    assert "tag set 'serve,tpu' is lost (present)" in _losses(a, b)
    assert not api.diff(a, b, tags=["serve"]).losses


def test_the_command_tells_and_exits_by_it(model, tmp_path, capsys):
    changed = _edited(model, tmp_path / "changed", _other_method)

    assert cli.main(["diff", str(model), str(model)]) == 0
    assert "nothing is lost" in capsys.readouterr().err
    assert cli.main(["diff", str(model), str(changed)]) == 3
    captured = capsys.readouterr()
    assert "CHANGED" in captured.out
    assert "is broken" in captured.err
    assert cli.main(["diff", str(model), str(changed), "--json"]) == 3
    data = json.loads(capsys.readouterr().out)
    assert (data["lost"], data["differences"][0]["place"]) == (1, "rows")
    assert cli.main(["diff", str(model), str(tmp_path / "nowhere")]) == 1
    assert cli.main(["diff", str(model), str(changed), "--tags", "serve,tpu"]) == 1


def test_slimming_a_real_model_loses_nothing(tmp_path):
    api.freeze(GUESSLANG, tmp_path / "frozen")
    api.quantize(tmp_path / "frozen", tmp_path / "quantized")
    api.reexport(tmp_path / "quantized", tmp_path / "slim")

    found = api.diff(GUESSLANG, tmp_path / "slim")

    assert not found.losses
    assert any(one.part == "bytes on disk" for one in found.differences)


def test_a_stage_that_loses_something_is_refused(model, tmp_path):
    api.freeze(model, tmp_path / "frozen")
    frozen = read_bundle(tmp_path / "frozen")
    api.reexport(tmp_path / "frozen", tmp_path / "out")

    stages.check_servable(bundle_facts(frozen), ["serve"], tmp_path / "out")
    for edit, words in [(_other_shape, "output 'rows/rows' was"), (_without_signature, "signature 'rows' is lost")]:
        broken = _edited(tmp_path / "out", tmp_path / edit.__name__, edit)
        with pytest.raises(ModelError, match=words):
            stages.check_servable(bundle_facts(frozen), ["serve"], broken)
    (tmp_path / "out/assets.extra/tf_serving_warmup_requests").write_bytes(b"cold")
    with pytest.raises(ModelError, match="extra file 'tf_serving_warmup_requests' was"):
        stages.check_servable(bundle_facts(frozen), ["serve"], tmp_path / "out")
    with pytest.raises(ModelError, match="extra file"):
        stages.check_servable(bundle_facts(frozen), ["serve"], tmp_path / "out", ["asset", "table"])


def test_entries_of_a_table_that_numbers_compute_are_known(tmp_path):
    """A table whose keys a Range gives is the same table when folding has made a constant of it."""

    def build(keys):
        def built():
            table = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(keys(), tf.constant(["a", "b", "c"])), "?"
            )
            x = tf1.placeholder(tf.int64, [None])
            return {"serving_default": ({"x": x}, {"y": table.lookup(x)})}

        return built

    counted = save_v1(tmp_path / "counted", build(lambda: tf.range(3, dtype=tf.int64)), init=tf1.tables_initializer)
    written = save_v1(tmp_path / "written", build(lambda: tf.constant(np.arange(3))), init=tf1.tables_initializer)

    assert not _losses(counted, written)
    assert facts_of(counted)["table", "int64 -> string"].startswith("3 entries")


def test_a_model_of_another_format_promises_what_it_becomes(tmp_path):
    keras = tf.keras.Sequential([tf.keras.Input([4], name="x"), tf.keras.layers.Dense(3, name="y")])
    keras.save(tmp_path / "model.keras")
    api.freeze(tmp_path / "model.keras", tmp_path / "frozen")
    api.reexport(tmp_path / "frozen", tmp_path / "slim")

    found = api.diff(tmp_path / "model.keras", tmp_path / "slim")

    assert not found.losses
    assert facts_of(tmp_path / "model.keras")["input", "serving_default/x"] == "float32 [?, 4]"
