"""The stages as users call them: checked, written whole or not at all, every expected failure one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import (
    BASIC_PITCH,
    GUESSLANG,
    assert_alike,
    assert_serves_alike,
    in_python,
    interface,
    normal,
    save_v1,
    served,
)
from tfslim_core import api, storage, transforms
from tfslim_core.bundle import read_bundle
from tfslim_core.errors import ModelError, OutputExistsError, TfslimError, TransformError, UsageError
from tfslim_core.verdict import ModelCosts, Models, Verdict

tf1 = tf.compat.v1
X = normal(4, 300)
REQUEST = [("serving_default", {"x": X})]


def build():
    x = tf1.placeholder(tf.float32, [None, 300], name="x")
    w = tf1.get_variable("w", initializer=normal(300, 200), use_resource=True)
    b = tf1.get_variable("b", initializer=normal(200), use_resource=True)
    return {"serving_default": ({"x": x}, {"y": tf.nn.relu(tf.matmul(x, w) + b)})}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = save_v1(tmp_path_factory.mktemp("stages") / "m", build)
    (path / "assets.extra").mkdir()
    (path / "assets.extra/notes").write_text("notes")
    return path


@pytest.fixture(scope="module")
def bundle(original, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "b"
    api.freeze(original, out)
    return out


def refused(call, folder: Path, match, kind=TfslimError):
    """The call fails in one line, and nothing is left in the folder."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(kind, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before


def test_stage_after_stage(original, bundle, tmp_path):
    said = []
    transformed = api.transform(bundle, tmp_path / "t", progress=lambda *words: said.append(words))
    quantized = api.quantize(tmp_path / "t", tmp_path / "q")
    done = api.reexport(tmp_path / "q", tmp_path / "s")
    assert said
    assert transformed.errors == {"serving_default/y": 0} or transformed.errors["serving_default/y"] < 1e-4
    assert 0 < quantized.errors["serving_default/y"] < 0.02
    assert done.bytes == storage.size(tmp_path / "s") < storage.size(original) * 0.35
    assert interface(tmp_path / "s") == interface(original)
    for loader in (served, in_python):
        assert_alike(served(original, REQUEST), loader(tmp_path / "s", REQUEST), rtol=0.1, atol=1)
    assert (tmp_path / "s/assets.extra/notes").read_text() == "notes"
    assert {entry.name: entry.placement for entry in quantized.weights if entry.placement != "none"}.keys() == {"w"}
    assert [step.name for step in done.steps][-1] == "quantize"
    for report in (transformed, quantized, done):
        json.dumps(report.to_json(), allow_nan=False)
        assert all(np.isfinite(number) for number in report.metrics().values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q", "s", "t"]


def files_of(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_the_same_input_gives_the_same_bytes(original, tmp_path):
    for name in ("a", "b"):
        api.freeze(original, tmp_path / name / "f")
        api.transform(tmp_path / name / "f", tmp_path / name / "t")
        api.quantize(tmp_path / name / "t", tmp_path / name / "q")
        api.reexport(tmp_path / name / "q", tmp_path / name / "s")
    for stage in "ftqs":
        assert files_of(tmp_path / "a" / stage) == files_of(tmp_path / "b" / stage), stage


@pytest.mark.parametrize(
    ("path", "requests"),
    [
        (
            GUESSLANG,
            [("serving_default", {"inputs": np.array([b"import os\nprint(1)\n" * 9, b"#include <a>", b""], object)})],
        ),
        (BASIC_PITCH, [("serving_default", {"input_2": normal(1, 43844, 1)})]),
    ],
    ids=["guesslang", "basic_pitch"],
)
def test_real_models_through_freeze_transform_and_reexport(path, requests, tmp_path):
    api.freeze(path, tmp_path / "f")
    api.transform(tmp_path / "f", tmp_path / "t")
    api.reexport(tmp_path / "t", tmp_path / "s")
    assert interface(tmp_path / "s") == interface(path)
    for loader in (served, in_python):
        assert_alike(served(path, requests), loader(tmp_path / "s", requests), rtol=1e-4, atol=1e-5)


def test_a_plain_frozen_graph(original, bundle, tmp_path):
    for call in (
        lambda out: api.freeze(original, out, format="graph_def"),
        lambda out: api.reexport(bundle, out, format="graph_def"),
    ):
        report = call(tmp_path / "f.pb")
        graph_def = tf1.GraphDef.FromString((tmp_path / "f.pb").read_bytes())
        assert report.bytes == len((tmp_path / "f.pb").read_bytes())
        again = api.transform_graph(graph_def, ["x"], ["Relu:0"], "strip_unused_nodes fold_constants")
        for frozen in (graph_def, again):
            with tf1.Session(graph=tf.Graph()) as session:
                tf1.import_graph_def(frozen, name="")
                assert_alike(served(original, REQUEST), [{"y": session.run("Relu:0", {"x:0": X})}])
        (tmp_path / "f.pb").unlink()


def test_what_exists_is_overwritten_only_when_told(original, bundle, tmp_path):
    for stage, source in (
        (api.freeze, original),
        (api.transform, bundle),
        (api.quantize, bundle),
        (api.reexport, bundle),
    ):
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        (out / "old").write_text("old")
        refused(
            lambda stage=stage, source=source, out=out: stage(source, out), tmp_path, "--overwrite", OutputExistsError
        )
        stage(source, out, overwrite=True)
        assert not (out / "old").exists()


def test_an_input_that_is_also_the_output(bundle, tmp_path):
    same = shutil.copytree(bundle, tmp_path / "b")
    api.quantize(same, same, overwrite=True)
    assert read_bundle(same).manifest.encoded["w"].encoding == "int8"
    api.transform(same, same, overwrite=True)
    assert read_bundle(same).manifest.encoded["w"].encoding == "int8"


def test_what_was_stored_before_is_told_as_it_was(bundle, tmp_path):
    """Wherever it is decoded, and in what a user may type again."""
    for placement in ("load", "graph"):
        first = api.quantize(bundle, tmp_path / "a", encoding="int4/block10", placement=placement, overwrite=True)
        (before,) = (weight for weight in first.weights if weight.name == "w")
        assert (before.encoding, before.placement) == ("int4/block10", placement)
        second = api.quantize(tmp_path / "a", tmp_path / "b", encoding="int8", overwrite=True)
        assert [weight for weight in second.weights if weight.name == "w"] == [before]
        if placement == "load":
            (tensor,) = (tensor for tensor in api.inspect(tmp_path / "b").largest if tensor.name == "w")
            assert (tensor.encoding, tensor.bytes) == ("int4/block10", before.bytes_after)


@pytest.mark.parametrize("stage", ["transform", "quantize", "reexport"])
def test_what_is_no_bundle_is_refused(stage, original, bundle, tmp_path):
    call = getattr(api, stage)
    refused(lambda: call(tmp_path / "none", tmp_path / "out"), tmp_path, "no such directory")
    refused(lambda: call(original, tmp_path / "out"), tmp_path, "run tfslim freeze first")
    refused(lambda: call("s3://bucket/b", tmp_path / "out"), tmp_path, "s3://", UsageError)
    broken = shutil.copytree(bundle, tmp_path / "b")
    weights = (broken / "weights.safetensors").read_bytes()
    (broken / "weights.safetensors").write_bytes(weights[:-9])
    refused(lambda: call(broken, tmp_path / "out"), tmp_path, "damaged", ModelError)
    (broken / "weights.safetensors").write_bytes(weights)
    graph = (broken / "graph.pb").read_bytes()
    (broken / "graph.pb").write_bytes(graph[:-9])
    refused(lambda: call(broken, tmp_path / "out"), tmp_path, "graph.pb|gone|does not exist|no value", TfslimError)


def test_what_is_no_saved_model_is_refused(original, tmp_path):
    out = tmp_path / "out"
    refused(lambda: api.freeze(tmp_path / "none", out), tmp_path, "no such directory", ModelError)
    refused(lambda: api.freeze(original / "variables", out), tmp_path, "is not a SavedModel", ModelError)
    refused(lambda: api.freeze(original, out, tags=["train"]), tmp_path, "it has: serve", ModelError)
    refused(lambda: api.freeze(original, out, signatures=["serv"]), tmp_path, "it has: serving_default", ModelError)
    copy = shutil.copytree(original, tmp_path / "m")
    (copy / "saved_model.pb").write_bytes(os.urandom(200))
    refused(lambda: api.freeze(copy, out), tmp_path, "saved_model.pb", ModelError)


def test_damaged_variables_are_refused(original, tmp_path):
    out, copy = tmp_path / "out", shutil.copytree(original, tmp_path / "m")
    data = copy / "variables/variables.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    refused(lambda: api.freeze(copy, out), tmp_path, "variables|loader refuses", ModelError)
    data.unlink()
    refused(lambda: api.freeze(copy, out), tmp_path, "variables|loader refuses", ModelError)
    data.write_bytes(whole)
    (copy / "variables/variables.index").unlink()
    refused(lambda: api.freeze(copy, out), tmp_path, "variables.index is missing", ModelError)
    shutil.rmtree(copy / "variables")
    refused(lambda: api.freeze(copy, out), tmp_path, "variables.index is missing", ModelError)


def test_a_changed_byte_in_the_variables_is_refused(original, tmp_path):
    copy = shutil.copytree(original, tmp_path / "m")
    data = copy / "variables/variables.data-00000-of-00001"
    whole = bytearray(data.read_bytes())
    whole[5000] ^= 1
    data.write_bytes(whole)
    refused(lambda: api.freeze(copy, tmp_path / "out"), tmp_path, "variables|loader refuses|[Cc]hecksum", ModelError)


def test_what_cannot_be_done_is_refused(bundle, tmp_path):
    out = tmp_path / "out"
    refused(lambda: api.transform(bundle, out, transforms="fold_batch_norm"), tmp_path, "did you mean", TransformError)
    refused(lambda: api.quantize(bundle, out, encoding="int88"), tmp_path, "no encoding 'int88'", TransformError)
    refused(lambda: api.quantize(bundle, out, include=["nobody*"]), tmp_path, "nobody", TransformError)
    (tmp_path / "file").write_text("")
    for call in (api.transform, api.quantize, api.reexport):
        refused(lambda call=call: call(bundle, tmp_path / "file/out"), tmp_path, "cannot write", TfslimError)


def test_a_transform_that_changes_the_answers_is_refused(bundle, tmp_path, monkeypatch):
    from tfslim_core import stages

    def spoil(found, calls, progress):
        weight = found.graph.weights["w"]
        return stages.replace(found, graph=found.graph.replace(weights={"w": weight.map(lambda value: value * 2)}))

    monkeypatch.setattr(stages, "transformed", spoil)
    refused(lambda: api.transform(bundle, tmp_path / "out"), tmp_path, "the transforms changed the answers", ModelError)


def test_a_refusal_says_which_transform_to_leave_out_where_rounding_may_explain_it(tmp_path):
    def amplifies():
        x = tf1.placeholder(tf.float32, [None, 300], name="x")
        h = tf.matmul(x, tf1.get_variable("w", initializer=normal(300, 20))) * tf1.get_variable(
            "scale", initializer=np.abs(normal(20, seed=1))
        )
        return {"serving_default": ({"x": x}, {"y": tf.sin(h * 100)})}

    bundle = tmp_path / "b"
    api.freeze(save_v1(tmp_path / "m", amplifies), bundle)
    with pytest.raises(ModelError) as error:
        api.transform(bundle, tmp_path / "out")
    message = str(error.value)
    assert "rounding may explain that, where a model amplifies it, since fold_batch_norms computed" in message
    wanted = message.partition("give the transforms '")[2].rstrip("'")
    assert wanted == " ".join(call for call in transforms.DEFAULT if call != "fold_batch_norms")
    assert api.transform(bundle, tmp_path / "out", transforms=wanted)


def test_a_refusal_says_which_transforms_made_changes_where_rounding_cannot_explain_it(bundle):
    from tfslim_core import registry, stages

    @registry.transform("triple_for_this_test")
    def triple(graph):
        return registry.Outcome(graph.replace(weights={"w": graph.weights["w"].map(lambda value: value * 3)}), 1)

    try:
        before = read_bundle(bundle)
        sample = stages.sample_of(before, lambda *_: None)
        after = stages.transformed(before, "fold_batch_norms triple_for_this_test", lambda *_: None)
        with pytest.raises(ModelError, match=r"rounding does not explain that; .* made changes: triple_for_this_test$"):
            stages.checked_as_meant(after, sample, len(before.manifest.steps), "the transforms", lambda *_: None)
    finally:
        del registry._registered["triple_for_this_test"]


def test_publish_and_rollback(original, tmp_path):
    def verdict(word):
        costs = ModelCosts(bytes=1, load_seconds=None, peak_rss_bytes=None, digest=storage.digest(original))
        models = Models(original=costs, optimized=costs)
        return Verdict(verdict=word, reasons=["so"], checks=[], models=models, datasets={})

    verdict("pass").write(tmp_path)
    for number in (1, 2):
        assert api.publish(original, tmp_path / "base", verdict=tmp_path / "verdict.json").version == number
    assert api.rollback(tmp_path / "base").version == 1
    assert_serves_alike(original, tmp_path / "base/1", REQUEST, loaders=(served,))
    refused(lambda: api.publish(original, tmp_path / "base", verdict=verdict("fail")), tmp_path, "gate failed")
    refused(
        lambda: api.publish(original, tmp_path / "base", verdict=tmp_path / "none.json"), tmp_path, "no verdict there"
    )
    refused(lambda: api.rollback(tmp_path / "base"), tmp_path, "nothing to roll back to")


@pytest.mark.parametrize("stage", ["freeze", "reexport"])
def test_a_killed_stage_leaves_nothing_that_looks_whole(stage, original, bundle, tmp_path):
    """Whatever the moment: the old output, or the new one whole, or none."""
    source = original if stage == "freeze" else bundle
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_stage", stage, str(source), str(tmp_path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    children = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(children) >= 6
    assert sum(child["killed"] for child in children) >= 5
    whole = files_of(tmp_path / "whole/out")
    for child in children:
        folder = tmp_path / str(child["moment"])
        assert {name for name in child["names"] if not name.startswith(".")} <= {"out"}
        if (folder / "out").exists():
            found = files_of(folder / "out")
            assert found in ({"old": b"old"}, whole) if child["old"] else found == whole, child
        for name in child["names"]:
            assert name == "out" or name.startswith(".out.")
