"""slim keeps several tag sets in one SavedModel: what they share is stored once, and each is told of."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import assert_alike, interface, normal, served, tf1
from tfslim_core import api
from tfslim_core.cli import main
from tfslim_core.configuration import settings
from tfslim_core.errors import ModelError, UsageError

X = normal(64, 60)
TAGS = (("serve",), ("gpu", "serve"))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """One set of variables under two tag sets; the second multiplies, and has a signature of its own."""
    path = tmp_path_factory.mktemp("model") / "m"
    builder = tf1.saved_model.Builder(str(path))
    for number, tags in enumerate(TAGS):
        with tf1.Graph().as_default(), tf1.Session() as session:
            x = tf1.placeholder(tf.float32, [None, 60], name="x")
            body = tf1.get_variable("body", initializer=normal(60, 400))
            head = tf1.get_variable("head", initializer=normal(400, 30, seed=1))
            y = tf.matmul(tf.nn.relu(tf.matmul(x, body)), head) * (1 + number)
            signatures = {"serving_default": tf1.saved_model.predict_signature_def({"x": x}, {"y": y})}
            if number:
                signatures["double"] = tf1.saved_model.predict_signature_def({"x": x}, {"twice": y * 2})
            session.run(tf1.global_variables_initializer())
            if number:
                builder.add_meta_graph(list(tags), signatures)
            else:
                builder.add_meta_graph_and_variables(session, list(tags), signatures)
    builder.save()
    np.savez(path.parent / "x.npz", x=X)
    return path


def test_all_tag_sets_are_kept_and_the_others_are_told_of(original, tmp_path):
    data = {"some": str(original.parent / "x.npz")}
    gates = ["rel_l2_error<=0.05"]
    report = api.slim(
        *(original, tmp_path / "slim"),
        report=tmp_path / "report",
        tags=TAGS[0],
        also_tags=TAGS[1:],
        data=data,
        gates=gates,
    )
    assert report.outcome == "pass"
    assert interface(tmp_path / "slim") == interface(original)
    request = [("serving_default", {"x": X[:3]})]
    for tags in TAGS:
        assert_alike(served(original, request, tags), served(tmp_path / "slim", request, tags), rtol=0.1, atol=9)
    (twice,) = served(tmp_path / "slim", [("double", {"x": X[:3]})], TAGS[1])
    assert_alike(served(original, [("double", {"x": X[:3]})], TAGS[1]), [twice], rtol=0.1, atol=18)
    told = json.loads((tmp_path / "report/verdict.json").read_text())["reasons"]
    (sentence,) = [reason for reason in told if reason.startswith("The tag set gpu,serve")]
    assert "compared on the data's first examples and not gated" in sentence
    stored = sentence.partition("; ")[2].split()
    assert stored[0] == stored[2] != "0"
    assert {"gpu,serve: serving_default/y", "gpu,serve: double/twice", "serving_default/y"} == set(report.errors)
    keys = [name for name, _ in tf.train.list_variables(str(tmp_path / "slim/variables/variables"))]
    assert sorted(keys) == ["body/codes", "body/scale"]  # once; the small head is in both graphs


def test_the_flag_is_repeated_and_the_file_has_a_key(original, tmp_path, capsys):
    assert main(["slim", str(original), str(tmp_path / "a"), "--tags", "serve", "--tags", "serve,gpu", "--json"]) == 0
    reasons = json.loads(capsys.readouterr().out)["verdict"]["reasons"]
    assert any(reason.startswith("The tag set gpu,serve was compared on made-up inputs") for reason in reasons)
    (tmp_path / "slim.yaml").write_text("tags: [serve]\nalso_tags: [[serve, gpu]]\n")
    assert settings(tmp_path / "slim.yaml", {}) == {"tags": ["serve"], "also_tags": [["serve", "gpu"]]}


def test_what_cannot_be_is_refused(original, tmp_path):
    with pytest.raises(UsageError, match="--tags names a tag set twice"):
        api.slim(original, tmp_path / "out", tags=["serve", "gpu"], also_tags=[["gpu", "serve"]])
    with pytest.raises(UsageError, match="one tag set"):
        api.slim(original, tmp_path / "out", also_tags=TAGS[1:], prune_vocabulary=True, corpus={"a": "b"})
    with pytest.raises(ModelError, match="the tags tpu, choose with --tags; it has: serve; gpu,serve"):
        api.slim(original, tmp_path / "out", also_tags=[["tpu"]])
    assert not list(tmp_path.iterdir())
