"""Models that need more than the defaults: two tag sets, no signatures, and one that nobody should run."""

from __future__ import annotations

import pytest
from kfp import dsl

from components.freeze import freeze
from components.reexport import reexport
from tests.components.artifacts import artifact, validation
from tests.saved_models import interface, normal, tf1

TAGS = (["serve"], ["gpu", "serve"])


@pytest.fixture
def two_tag_sets(tmp_path):
    builder = tf1.saved_model.Builder(str(tmp_path / "two tag sets"))
    for factor, tags in enumerate(TAGS, start=1):
        with tf1.Graph().as_default(), tf1.Session() as session:
            x = tf1.placeholder("float32", [None, 40], name="x")
            weights = tf1.get_variable("w", initializer=normal(40, 50))
            signature = tf1.saved_model.predict_signature_def({"x": x}, {"y": factor * (x @ weights)})
            session.run(tf1.global_variables_initializer())
            if factor == 1:
                builder.add_meta_graph_and_variables(session, tags, {"serving_default": signature})
            else:
                builder.add_meta_graph(tags, {"serving_default": signature})
    builder.save()
    return artifact(dsl.Model, tmp_path / "two tag sets")


def test_two_tag_sets_become_one_saved_model_again(two_tag_sets, tmp_path):
    bundles = []
    for name, tags in zip(("one", "other"), TAGS, strict=True):
        bundles.append(artifact(dsl.Model, tmp_path / name))
        freeze.python_func(two_tag_sets, bundles[-1], dsl.Metrics(), tags=tags)
        assert sorted(bundles[-1].metadata["tags"]) == sorted(tags)
    made = artifact(dsl.Model, tmp_path / "joined")
    reexport.python_func(bundles[0], made, dsl.Metrics(), also=bundles[1])
    assert interface(tmp_path / "joined") == interface(tmp_path / "two tag sets")


def test_a_frozen_graph_has_its_ends_named(stages, tmp_path):
    graph = artifact(dsl.Model, tmp_path / "frozen.pb")
    reexport.python_func(stages.frozen, graph, dsl.Metrics(), format="graph_def")
    signature = stages.frozen.metadata["signatures"]["serving_default"]
    assert signature["inputs"].keys() == {"x"}
    again = artifact(dsl.Model, tmp_path / "again")
    freeze.python_func(graph, again, dsl.Metrics(), inputs=["x"])
    assert again.metadata["signatures"]["serving_default"]["inputs"] == signature["inputs"]
    with pytest.raises(SystemExit, match=r"^tfslim: .*'nothing'"):
        freeze.python_func(graph, again, dsl.Metrics(), inputs=["nothing"])


def test_a_model_that_reaches_beyond_itself_is_refused_where_it_is_not_trusted(stages, model, data, tmp_path):
    with tf1.Graph().as_default(), tf1.Session() as session:
        path = tf1.placeholder("string", [None], name="path")
        text = tf1.map_fn(tf1.io.read_file, path)
        signature = tf1.saved_model.predict_signature_def({"path": path}, {"text": text})
        builder = tf1.saved_model.Builder(str(tmp_path / "reader"))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    reader, out = artifact(dsl.Model, tmp_path / "reader"), artifact(dsl.Model, tmp_path / "out")
    with pytest.raises(SystemExit, match=r"^tfslim: .*refused as untrusted: .*ReadFile"):
        freeze.python_func(reader, out, dsl.Metrics(), untrusted=True)
    with pytest.raises(SystemExit, match=r"^tfslim: .*refused as untrusted: .*ReadFile"):
        validation(tmp_path, "out", original=model, optimized=reader, data=data, untrusted=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reader"]
    freeze.python_func(model, out, dsl.Metrics(), untrusted=True)
    assert out.metadata["digest"] == stages.frozen.metadata["digest"]
