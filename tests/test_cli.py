"""The command as scripts and people meet it: exit codes, what goes to stdout and stderr, what is left on disk."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.saved_models import normal
from tests.validation import tiny_models
from tfslim_core import api, cli
from tfslim_core.errors import UsageError
from tfslim_core.saved_model.server_loader import ServedModel
from tfslim_core.verdict import Verdict

TFSLIM = Path(sys.executable).with_name("tfslim")
COMMANDS = (
    "inspect freeze transform prune-vocabulary quantize reexport validate slim diff warmup publish rollback list "
    "transform-graph transforms checkpoint thaw".split()
)
W = normal(64, 48, seed=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the tests read and never change."""
    folder = tmp_path_factory.mktemp("made")
    tiny_models.linear(folder / "model", W)
    tiny_models.linear(folder / "mirrored", W[:, ::-1])
    shutil.copytree(folder / "model", folder / "damaged")
    (folder / "damaged/saved_model.pb").write_bytes(b"\xff\xfe")
    (folder / "empty").mkdir()
    x = normal(200, 64, seed=4)
    np.savez(folder / "x.npz", x=x)
    np.savez(folder / "few.npz", x=x[:2])
    np.savez(folder / "none.npz", x=x[:0])
    np.savez(folder / "keys.npz", pixels=x, ident=x[:, 0])
    api.freeze(folder / "model", folder / "bundle")
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A folder to write to, which commands run in; what was made is in it by links."""
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def unmeasured(monkeypatch):
    """Validation without load times and latencies, which take seconds and which these tests do not ask for."""
    from tfslim_core.costs import Costs

    def costs(*_args, **_options):
        return (Costs(1, 0.1, None, 1, {}), Costs(1, 0.1, None, 1, {}))

    monkeypatch.setattr("tfslim_core.validation.job.measure_pair", costs)
    monkeypatch.setattr("tfslim_core.costs.measure_pair", costs)


@pytest.fixture
def tfslim(capsys):
    """Run a command in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def data(text: str):
    """JSON as strict readers take it."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


# Help and usage


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_terminal(command, tfslim):
    code, out, err = tfslim(*filter(None, [command, "--help"]))
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: tfslim {command}".rstrip())
    assert max(map(len, out.splitlines())) <= 80
    usage = out.partition("\n\n")[0]
    assert not re.search(r"\{[a-z]", usage)  # arguments by the names of the documents, MODEL and the like


def test_every_command_of_the_contract_is_there(tfslim):
    _, out, _ = tfslim("--help")
    listed = [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    assert set(COMMANDS) <= set(listed)


@pytest.mark.parametrize("command", ["slim", "validate", "quantize", "prune-vocabulary"])
def test_every_option_says_what_it_is(command, tfslim):
    _, out, _ = tfslim(command, "--help")
    options = out.partition("Options:")[2]
    for block in options.split("\n  --")[1:]:
        words = block.split()
        assert len(words) > 3, f"--{words[0]} has no help"


def test_the_version(tfslim):
    code, out, err = tfslim("--version")
    assert (code, out.split()[0], err) == (0, "tfslim", "")


USAGE = {
    "batch sizes": (
        ["validate", "model", "model", "--data", "a=x.npz", "--out", "out", "--batch-sizes", "1,x"],
        "give whole numbers from 1 on with commas between",
    ),
    "a gate on costs without costs": (
        ["validate", "model", "model", "--data", "a=x.npz", "--out", "out", "--no-costs", "--gate", "load_ratio<=1"],
        "needs what --no-costs leaves out",
    ),
    "no corpus": (["prune-vocabulary", "bundle", "out"], "give --corpus NAME=PATH"),
    "two ways to choose rows": (
        ["prune-vocabulary", "bundle", "out", "--corpus", "a=x.npz", "--keep", "3", "--min-count", "2"],
        "give one of them",
    ),
    "pruning's flags without it": (["slim", "model", "out", "--keep", "3"], "are for --prune-vocabulary"),
    "budget without data": (["quantize", "bundle", "out", "--budget", "rel_l2_error<=0.1"], "give --data NAME=PATH"),
    "slim's budget without data": (["slim", "model", "out", "--budget", "rel_l2_error<=0.1"], "give --data NAME=PATH"),
    "a budget and an encoding": (
        ["slim", "model", "out", "--budget", "rel_l2_error<=0.1", "--data", "a=x.npz", "--encoding", "int8"],
        "leave out --encoding",
    ),
    "a budget of costs": (
        ["quantize", "bundle", "out", "--budget", "size_ratio<=0.3", "--data", "a=x.npz"],
        "hold size_ratio with --gate",
    ),
    "nothing": ([], "Usage: tfslim"),
    "unknown command": (["freze", "model", "out"], "Did you mean 'freeze'"),
    "unknown option": (["slim", "model", "out", "--encodin", "int8"], "--encoding"),
    "missing argument": (["slim", "model"], "Missing argument 'OUT'"),
    "missing option": (["publish", "model", "base"], "--verdict"),
    "format": (["freeze", "model", "out", "--format", "zip"], "'bundle', 'graph_def'"),
    "share": (["validate", "model", "model", "--out", "out", "--fail-on-bad-records", "7"], "--fail-on-bad-records"),
    "size": (["slim", "model", "out", "--minimum-size", "-3"], "--minimum-size"),
    "gate without data": (["slim", "model", "out", "--gate", "top1_agreement>=0.9"], "give --data NAME=PATH"),
    "validate's too": (["validate", "model", "model", "--out", "out", "--gate", "size_ratio<=1"], "--data NAME=PATH"),
    "data without a name": (["slim", "model", "out", "--data", "x.npz"], "NAME=PATH, e.g. --data test=x.npz"),
    "data without a path": (["slim", "model", "out", "--data", "x="], "NAME=PATH"),
    "data twice": (["slim", "model", "out", "--data", "a=x.npz", "--data", "a=few.npz"], "given twice"),
    "gate": (["slim", "model", "out", "--data", "a=x.npz", "--gate", "top1"], "METRIC OP NUMBER"),
    "metric": (["slim", "model", "out", "--data", "a=x.npz", "--gate", "top1_agrement>=1"], "'top1_agreement'"),
    "main output": (
        ["validate", "model", "model", "--data", "a=x.npz", "--out", "out", "--main-output", "z"],
        "no output 'z'",
    ),
    "three models": (["validate", "model", "model", "mirrored", "--out", "out"], "what is 'mirrored'"),
    "url": (["slim", "s3://bucket/model", "out"], "s3://bucket/model: paths are local or gs://"),
    "url out": (["slim", "model", "s3://bucket/out"], "s3://bucket/out: paths are local or gs://"),
    "url of a bundle": (["transform", "s3://bucket/bundle", "out"], "s3://bucket/bundle: paths are local or gs://"),
    "url of a report": (["slim", "model", "out", "--report", "s3://b/r"], "s3://b/r: paths are local or gs://"),
    "url of a verdict": (["publish", "model", "base", "--verdict", "s3://b/v"], "s3://b/v: paths are local or gs://"),
    "url of a graph": (
        ["transform-graph", *"--in-graph model --out-graph s3://b/g --inputs x --outputs y --transforms z".split()],
        "s3://b/g: paths are local or gs://",
    ),
    "report in the output": (["slim", "model", "out", "--report", "out/report"], "its own place"),
    "output in the report": (["slim", "model", "out/slim", "--report", "out"], "its own place"),
    "report in a model": (["validate", "model", "mirrored", "--out", "mirrored/out"], "its own place"),
    "report over a model": (["validate", "model", "mirrored", "--out", "model", "--overwrite"], "its own place"),
}


@pytest.mark.parametrize(("arguments", "words"), USAGE.values(), ids=USAGE)
def test_usage_errors_exit_2(arguments, words, here, tfslim):
    before = names(here)
    code, out, err = tfslim(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    assert names(here) == before


# Expected errors

EXPECTED = {
    "no such directory": (["inspect", "nowhere"], ["nowhere: no such directory"]),
    "slim nothing": (["slim", "nowhere", "out"], ["nowhere: no such directory"]),
    "an empty directory": (["freeze", "empty", "out"], ["empty is not a SavedModel", "saved_model.pb"]),
    "a file": (["slim", "x.npz", "out"], ["x.npz is a zip without a model that is known"]),
    "damaged": (["slim", "damaged", "out"], ["damaged", "cannot be parsed"]),
    "tags": (["freeze", "model", "out", "--tags", "train"], ["tags train", "it has: serve"]),
    "tags of slim": (["slim", "model", "out", "--tags", "gpu,serve"], ["tags gpu,serve", "it has: serve"]),
    "signature": (
        ["freeze", "model", "out", "--signatures", "serving_defualt"],
        ["no signature 'serving_defualt'", "did you mean 'serving_default'"],
    ),
    "not a bundle": (["transform", "model", "out"], ["model is not a bundle", "tfslim freeze"]),
    "output exists": (["freeze", "model", "empty"], ["empty already exists", "--overwrite"]),
    "report exists": (["slim", "model", "out", "--report", "empty"], ["empty already exists", "--overwrite"]),
    "transform": (["transform", "bundle", "out", "--transforms", "fold_constant"], ["did you mean 'fold_constants'"]),
    "parameter": (
        ["transform", "bundle", "out", "--transforms", "fold_constants(exclude_ops=a)"],
        ["fold_constants has no parameter 'exclude_ops'", "exclude_op"],
    ),
    "slim's transform": (["slim", "model", "out", "--transforms", "fold_constant"], ["did you mean 'fold_constants'"]),
    "encoding": (
        ["quantize", "bundle", "out", "--encoding", "int88"],
        ["did you mean 'int8'", "bfloat16, int8"],
    ),
    "slim's encoding": (["slim", "model", "out", "--encoding", "flot16"], ["did you mean 'float16'"]),
    "pattern": (["quantize", "bundle", "out", "--include", "nothing*"], ["no weight is called 'nothing*'"]),
    "keys": (
        ["validate", "model", "model", "--data", "a=keys.npz", "--out", "out"],
        ["keys.npz", "ident, pixels", "serving_default takes the keys: x"],
    ),
    "slim's keys": (["slim", "model", "out", "--data", "a=keys.npz"], ["ident, pixels", "takes the keys: x"]),
    "no data file": (["slim", "model", "out", "--data", "a=nothing.npz"], ["nothing.npz: no such file"]),
    "glob": (["slim", "model", "out", "--data", "a=nothing*.npz"], ["nothing*.npz matches no file"]),
    "verdict": (["publish", "model", "base", "--verdict", "verdict.json"], ["verdict.json: no verdict there"]),
    "rollback": (["rollback", "empty"], ["empty has 0 versions"]),
    "graph": (
        ["transform-graph", *"--in-graph x.npz --out-graph out --inputs x --outputs y --transforms fold".split()],
        ["x.npz is not a frozen GraphDef"],
    ),
}


@pytest.mark.parametrize(("arguments", "words"), EXPECTED.values(), ids=EXPECTED)
def test_expected_errors_are_one_line_and_leave_nothing(arguments, words, here, tfslim):
    before = names(here)
    code, out, err = tfslim(*arguments)
    assert (code, out) == (1, ""), err
    assert err.startswith("tfslim: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert names(here) == before


def test_a_name_with_line_breaks_and_escapes_still_makes_one_line(here, tfslim):
    code, _, err = tfslim("inspect", "two\nlines\x1b[31m[bold]:key:")
    assert code == 1
    assert err == "tfslim: two\\nlines\\x1b[31m[bold]:key:: no such directory, file or checkpoint\n"


def test_truncated_variables(here, tfslim):
    import tensorflow as tf

    module = tf.Module()
    module.w = tf.Variable(W)
    answer = tf.function(lambda x: {"y": x @ module.w}, [tf.TensorSpec([None, 64], tf.float32, "x")])
    tf.saved_model.save(module, str(here / "cut"), signatures=answer)
    shard = here / "cut/variables/variables.data-00000-of-00001"
    os.truncate(shard, shard.stat().st_size // 2)
    before = names(here)
    for arguments in (["slim", "cut", "out"], ["freeze", "cut", "out"]):
        code, out, err = tfslim(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert "variables" in err
        assert names(here) == before


# Data to stdout, words to stderr


def test_a_budget_is_searched_told_and_explained(here, tfslim):
    budget = ["--budget", "rel_l2_error<=0.05", "--data", "a=x.npz", "--seed", "3", "--search-minutes", "1"]
    code, out, err = tfslim("quantize", "bundle", "small", *budget, "--explain")
    assert code == 0, err
    assert re.search(r"budget: rel_l2_error 0\.0\d+ on the 120 examples that were searched with, .* on 80 others", err)
    assert re.search(r"│ \S+ +│ 64x\d+ +│ u?int\d", out)
    code, out, err = tfslim("quantize", "bundle", "same", *budget, "--json")
    assert code == 0, err
    (weight,) = (weight for weight in data(out)["weights"] if weight["placement"] != "none")
    assert weight["bytes_after"] < weight["bytes_before"] / 3
    assert 0 < weight["harm"] < 0.05
    assert names(here) >= {"small", "same"}
    assert not any(name.endswith(".search") for name in names(here))


def test_stage_after_stage(here, tfslim):
    for command, source, target in (
        ("freeze", "model", "frozen"),
        ("transform", "frozen", "folded"),
        ("quantize", "folded", "int8"),
        ("reexport", "int8", "slim"),
    ):
        code, out, err = tfslim(command, source, target)
        assert (code, out) == (0, ""), err
        assert err.count("\n") == (2 if command == "freeze" else 1)  # which says what it saw
        assert err.splitlines()[-1].startswith(f"{target}: ")
    code, out, err = tfslim("quantize", "folded", "float16", "--encoding", "float16", "--json")
    assert (code, err) == (0, "")
    found = data(out)
    assert (found["stage"], found["path"]) == ("quantize", "float16")
    assert found["bytes"] == sum(path.stat().st_size for path in (here / "float16").rglob("*") if path.is_file())
    assert [weight["encoding"] for weight in found["weights"]] == ["float16"]
    assert 0 < found["errors"]["serving_default/y"] < 1e-3
    with ServedModel(here / "slim", ["serve"]) as model:
        x = normal(3, 64, seed=9)
        np.testing.assert_allclose(model.run("serving_default", {"x": x})["y"], x @ W, atol=0.3)
        assert np.ptp(x @ W) > 10


def test_inspect(here, tfslim, monkeypatch):
    code, out, err = tfslim("inspect", "model", "--json")
    assert (code, err) == (0, "")
    found = data(out)
    assert (found["kind"], found["live_parameters"], found["signatures"][0]["inputs"]) == (
        "SavedModel",
        64 * 48,
        {"x": "float32 [?, 64]"},
    )
    monkeypatch.setenv("COLUMNS", "60")
    code, out, err = tfslim("inspect", "model")
    assert (code, err) == (0, "")
    assert "…" not in out
    assert "(tags serve)" in out
    columns = zip(*(line.split("│")[1:-1] for line in out.splitlines() if line.count("│") == 5), strict=True)
    assert "tensorflow/serving/predict" in ["".join(map(str.strip, column)) for column in columns][1]


def test_names_that_look_like_markup_are_shown_as_they_are(here, tfslim):
    tiny_models.echo(here / "odd[bold]", {"a[/b]:key:": {"[red]s\x1b[31m": (1, [-1])}})
    code, out, err = tfslim("inspect", "odd[bold]")
    assert (code, err) == (0, "")
    joined = out.replace("\n", "")
    assert "[red]s\\x1b[31m" in joined
    assert "a[/b]:key:" in joined
    assert "odd[bold]" in joined
    assert "\x1b" not in out
    code, out, err = tfslim("freeze", "model", "out[bold]")
    assert err.splitlines()[-1].startswith("out[bold]: ")


def test_transforms(tfslim):
    code, out, err = tfslim("transforms", "--json")
    assert (code, err) == (0, "")
    found = {one["name"]: one for one in data(out)}
    assert {"strip_unused_nodes", "fold_constants", "fold_batch_norms"} <= found.keys()
    assert any("max_constant_size_in_bytes" in text for text in found["fold_constants"]["parameters"])
    code, out, err = tfslim("transforms")
    assert (code, err) == (0, "")
    assert "…" not in out.replace("=…", "")


def test_transform_graph(here, tfslim):
    code, _, _ = tfslim("freeze", "model", "a.pb", "--format", "graph_def")
    assert code == 0
    arguments = ["transform-graph", "--in-graph", "a.pb", "--out-graph", "b.pb", "--inputs", "x", "--outputs", "y"]
    code, out, err = tfslim(*arguments, "--transforms", "strip_unused_nodes fold_constants")
    assert (code, out, err.count("\n")) == (0, "", 1)
    assert re.fullmatch(r"b\.pb: 12\.4 kB, 3 nodes, [\d.]+ s, equal answers\n", err)
    code, out, err = tfslim(*arguments, "--transforms", "strip_unused_nodes")
    assert (code, err) == (1, "tfslim: b.pb already exists; give --overwrite to replace it\n")
    code, _, err = tfslim(*arguments, "--transforms", "strip_unused_node", "--overwrite")
    assert code == 1
    assert "did you mean 'strip_unused_nodes'" in err
    code, _, err = tfslim(*arguments[:-1], "z", "--transforms", "strip_unused_nodes", "--overwrite")
    assert code == 1
    assert err.startswith("tfslim: no node for the output 'z'")
    code, out, err = tfslim(
        *arguments, "--transforms", "remove_nodes(op=MatMul, max_inputs=2)", "--overwrite", "--json"
    )
    report = data(out)
    assert report["steps"][0]["skipped"] == [{"node": "y", "reason": "it is part of the interface"}]
    assert report["errors"] == {"graph/y:0": 0}


def test_transform_graph_refuses_what_changes_the_answers(here, tfslim, monkeypatch):
    """A transform that says that it is exact, and is not."""
    from tfslim_core import registry
    from tfslim_core.graph import constant
    from tfslim_core.registry import Outcome

    @registry.transform("double_for_this_test")
    def double(graph):
        name, weight = next(iter(graph.weights.items()))
        node, weights = constant(name, weight.read() * 2)
        return Outcome(graph.replace([node], weights=weights), 1)

    try:
        tfslim("freeze", "model", "a.pb", "--format", "graph_def")
        arguments = ["transform-graph", "--in-graph", "a.pb", "--out-graph", "b.pb", "--inputs", "x", "--outputs", "y"]
        code, _, err = tfslim(*arguments, "--transforms", "double_for_this_test")
        assert code == 1
        assert "the transforms changed the answers: output 'y:0'" in err
        assert not (here / "b.pb").exists()
    finally:
        del registry._registered["double_for_this_test"]


def test_one_transform_explained(tfslim):
    code, out, err = tfslim("transforms", "remove_nodes")
    assert (code, err) == (0, "")
    assert "Before: y = Relu(Identity(x, ^a))" in out
    code, out, _ = tfslim("transforms", "remove_nodes", "--json")
    assert data(out)[0]["documentation"].startswith("Take out")
    code, _, err = tfslim("transforms", "remove_node")
    assert code == 1
    assert "did you mean 'remove_nodes'?" in err


# Verdicts


@pytest.mark.parametrize(
    ("optimized", "more", "code", "outcome"),
    [
        ("model", ["--data", "test=x.npz"], 0, "pass"),
        ("mirrored", ["--data", "test=x.npz"], 3, "fail"),
        ("model", ["--data", "test=x.npz", "--gate", "size_ratio<=0.5"], 3, "fail"),
        ("model", ["--data", "test=none.npz"], 4, "inconclusive"),
        ("model", ["--data", "test=few.npz"], 4, "inconclusive"),
        ("model", [], 4, "inconclusive"),
    ],
    ids=["same", "other", "gate", "no examples", "too few", "no data"],
)
def test_validate_exits_by_its_verdict(optimized, more, code, outcome, here, tfslim, unmeasured):
    found, out, err = tfslim("validate", "model", optimized, *more, "--out", "out", "--json")
    assert found == code, err
    assert data(out)["verdict"] == outcome
    assert Verdict.read(here / "out/verdict.json").verdict == outcome
    assert "<html" in (here / "out/report.html").read_text()
    assert err.count("\n") == 1
    assert err.startswith(outcome)
    assert err.endswith(" (report: out/report.html)\n")
    if outcome != "pass":
        assert Verdict.read(here / "out/verdict.json").reasons[0] in err


def test_slim_without_data_proves_nothing_and_says_so(here, tfslim, unmeasured):
    code, out, err = tfslim("slim", "model", "out", "--report", "report", "--json")
    assert code == 0, err
    found = data(out)
    assert found["verdict"] == data((here / "report/verdict.json").read_text())
    assert found["verdict"]["verdict"] == "inconclusive"
    assert "made-up inputs only" in found["verdict"]["reasons"][0]
    assert "made-up inputs only" in err
    assert err.count("\n") == 1
    assert "made-up inputs only" in (here / "report/report.html").read_text()
    assert [(weight["encoding"], weight["harm"] < 0.02) for weight in found["weights"]] == [("int8", True)]
    assert found["verdict"]["models"]["optimized"]["bytes"] < 0.4 * found["verdict"]["models"]["original"]["bytes"]


@pytest.mark.parametrize(
    ("more", "code", "outcome"),
    [
        (["--data", "test=x.npz", "--gate", "rel_l2_error<=0.1"], 0, "pass"),
        (["--data", "test=x.npz", "--gate", "size_ratio<=0.1"], 3, "fail"),
        (["--data", "test=few.npz"], 4, "inconclusive"),
        (["--data", "test=none.npz"], 4, "inconclusive"),
    ],
)
def test_slim_exits_by_its_verdict(more, code, outcome, here, tfslim, unmeasured):
    found, out, err = tfslim("slim", "model", "out", *more, "--report", "report")
    assert found == code, err
    assert "Verdict" in out
    assert "…" not in out
    assert Verdict.read(here / "report/verdict.json").verdict == outcome
    assert (here / "report/report.html").exists()
    assert (here / "out/saved_model.pb").exists()
    assert err.startswith(outcome)
    assert err.count("\n") == 1


def test_overwrite_replaces(here, tfslim, unmeasured):
    for folder in ("out", "report"):
        (here / folder).mkdir()
        (here / folder / "old").write_text("old")
    code, _, err = tfslim("slim", "model", "out", "--report", "report", "--overwrite")
    assert code == 0, err
    assert "old" not in names(here / "out") | names(here / "report")
    assert "saved_model.pb" in names(here / "out")


@pytest.mark.parametrize(
    "arguments",
    [
        ["slim", "damaged", "out", "--report", "report"],
        ["slim", "model", "out", "--report", "report", "--data", "a=keys.npz"],
        ["slim", "model", "out", "--report", "report", "--signature", "no", "--data", "a=x.npz"],
        ["freeze", "model", "out", "--signatures", "no"],
        ["transform", "bundle", "out", "--transforms", "no"],
        ["quantize", "bundle", "out", "--encoding", "no"],
        ["reexport", "model", "out"],
        ["validate", "model", "model", "--data", "a=keys.npz", "--out", "report"],
    ],
    ids=" ".join,
)
def test_a_failing_run_with_overwrite_leaves_the_old_output(arguments, here, tfslim):
    for folder in ("out", "report"):
        (here / folder).mkdir()
        (here / folder / "old").write_text("old")
    before = names(here)
    code, _, _ = tfslim(*arguments, "--overwrite")
    assert code == 1
    assert names(here) == before
    assert names(here / "out") == names(here / "report") == {"old"}


def test_publish_needs_a_pass_of_these_bytes(here, tfslim, unmeasured):
    for optimized, gate in (("model", "pass"), ("mirrored", "fail")):
        tfslim("validate", "model", optimized, "--data", "test=x.npz", "--out", gate)
    tfslim("validate", "model", "model", "--out", "inconclusive")

    def publish(model, verdict):
        return tfslim("publish", model, "base", "--verdict", f"{verdict}/verdict.json")

    for model, verdict, wanted in (("mirrored", "fail", 3), ("model", "inconclusive", 4), ("mirrored", "pass", 1)):
        code, out, err = publish(model, verdict)
        assert (code, out, err.count("\n")) == (wanted, "", 1)
        assert err.startswith("tfslim: ")
        assert not (here / "base").exists()
    code, out, err = publish("model", "pass")
    assert (code, out, err) == (0, "", "warm-up requests: none\npublished: base/1\n")
    code, out, err = tfslim("publish", "model", "base", "--verdict", "pass/verdict.json", "--json")
    told = {"path": "base/2", "version": 2, "removed": [], "warmup_requests": False, "notes": []}
    assert (code, data(out), err) == (0, told, "")
    code, out, err = tfslim("rollback", "base", "--json")
    assert (code, data(out), err) == (0, {"path": "base/1", "version": 1}, "")
    code, out, err = tfslim("rollback", "base")
    assert (code, out, err.count("\n")) == (1, "", 1)
    code, out, err = tfslim("list", "base", "--json")
    assert (code, err) == (0, "")
    assert [(one["number"], one["served"], one["rolled_back"]) for one in data(out)] == [
        (1, True, False),
        (2, False, True),
    ]
    (here / "base/7").mkdir()
    code, out, err = tfslim("list", "base")
    assert (code, err.count("\n")) == (0, 2)
    assert all(word in out for word in ("served", "rolled back", "incomplete"))
    assert "a server tries version 7 first" in err
    (here / "base/1700000123456").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "50")
        assert "│ 1700000123456 │" in tfslim("list", "base")[1]
    (here / "base/8").write_text("")
    code, out, err = tfslim("list", "base/8")
    assert (code, out, err) == (1, "", "tfslim: cannot read base/8: Not a directory\n")
    assert tfslim("list", "nowhere") == (0, "", "nowhere: no versions\n")


# Options on their way to the API


def test_validate_hands_over_every_option(here, tfslim, monkeypatch):
    given = {}

    def validate(original, optimized, **options):
        given.update(options)
        raise UsageError("enough")

    monkeypatch.setattr(api, "validate", validate)
    arguments = "--data a=x --data b=y --gate p>=1 --gate q>=2 --signature s --main-output m --label l --batch-size 7"
    arguments += " --slice lang --slice n:1,2"
    arguments += " --batch-sizes 32,8,8 --no-costs"
    more = "--fail-on-bad-records 0.5 --tags serve,gpu --overwrite --out d -- --direct_num_workers=1 --runner X"
    code, _, _ = tfslim("validate", "model", "mirrored", *arguments.split(), *more.split())
    assert code == 2
    assert given.pop("progress")
    assert given == {
        "data": {"a": "x", "b": "y"},
        "out": Path("d"),
        "gates": ["p>=1", "q>=2"],
        "signature": "s",
        "main_output": "m",
        "label": "l",
        "inputs": None,
        "outputs": None,
        "graph": None,
        "slices": ["lang", "n:1,2"],
        "batch_size": 7,
        "batch_sizes": [8, 32],
        "costs": False,
        "fail_on_bad_records": 0.5,
        "tags": ["serve", "gpu"],
        "beam_options": ["--direct_num_workers=1", "--runner", "X"],
        "overwrite": True,
    }


def test_flags_win_over_the_file(here, tfslim, monkeypatch):
    given = {}

    def slim(model, out, **options):
        given.update(options)
        raise UsageError("enough")

    monkeypatch.setattr(api, "slim", slim)
    (here / "slim.yaml").write_text(
        "encoding: float16\nminimum_size: 7\ntags: [serve, gpu]\ndata: {a: x.npz}\ngates: [top1_agreement>=0.9]\n"
        "fail_on_bad_records: 0\nreport: there\n"
    )
    tfslim("slim", "model", "out", "--config", "slim.yaml", "--encoding", "int8", "--data", "b=y.npz")
    del given["progress"]
    assert given == {
        "encoding": "int8",
        "minimum_size": 7,
        "tags": ["serve", "gpu"],
        "data": {"b": "y.npz"},
        "gates": ["top1_agreement>=0.9"],
        "fail_on_bad_records": 0,
        "report": "there",
        "overwrite": False,
    }
    given.clear()
    tfslim("slim", "model", "out")
    assert given.keys() == {"overwrite", "progress"}


def test_a_file_of_options_alone(here, tfslim, unmeasured):
    (here / "slim.yaml").write_text("encoding: float16\ndata: {test: x.npz}\nreport: report\n")
    code, out, err = tfslim("slim", "model", "out", "--config", "slim.yaml", "--json")
    assert code == 0, err
    assert [weight["encoding"] for weight in data(out)["weights"]] == ["float16"]
    assert Verdict.read(here / "report/verdict.json").verdict == "pass"
    (here / "slim.yaml").write_text("encodin: float16\n")
    code, _, err = tfslim("slim", "model", "other", "--config", "slim.yaml")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean 'encoding'" in err


# Bugs and interruptions


def test_a_bug_keeps_its_traceback(here):
    script = """
import sys
from tfslim_core import api, cli
def rollback(base, **_):
    raise ValueError("a bug")
api.rollback = rollback
sys.exit(cli.main(["rollback", "base"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=here, timeout=60)
    assert done.returncode not in (0, 2, 3, 4)
    assert done.stderr.startswith("Traceback (most recent call last)")
    assert done.stderr.endswith("ValueError: a bug\n")
    assert done.stdout == ""


def test_an_interruption_leaves_nothing(here, tfslim, monkeypatch):
    before = names(here)

    def interrupted(*_args):
        assert names(here) > before
        raise KeyboardInterrupt

    monkeypatch.setattr("tfslim_core.slimming.write_saved_model", interrupted)
    code, out, err = tfslim("slim", "model", "out", "--report", "report")
    assert (code, out, err) == (130, "", "")
    assert names(here) == before


def command(*arguments):
    return [str(TFSLIM), *map(str, arguments)]


def test_control_c(here, tmp_path_factory):
    before = names(here)
    scratch = tmp_path_factory.mktemp("scratch")
    process = subprocess.Popen(
        command("slim", "model", "out", "--report", "report"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=here,
        env={**os.environ, "TMPDIR": str(scratch)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while names(here) == before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the children get it too
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")
    assert names(here) == before
    assert names(scratch) == set()


def test_commands_load_no_library_before_they_need_it():
    # TensorFlow takes seconds, and writes to stderr when it is loaded before that is given to Python alone.
    seen = "import sys, tfslim_core.cli; print(sorted({'tensorflow', 'apache_beam', 'kfp'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True).stdout == "[]\n"


def test_the_command_as_it_is_installed(here):
    """Nothing but ours on stderr, though TensorFlow and Beam would like to talk; Beam's options reach Beam."""
    done = subprocess.run(
        command(*"validate model model --data test=x.npz --out out --json -- --direct_num_workers=1".split()),
        capture_output=True,
        text=True,
        cwd=here,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "pass: All 3 checks hold on 200 examples. (report: out/report.html)\n"
    found = data(done.stdout)
    assert found["verdict"] == "pass"
    assert found["models"]["original"]["load_seconds"] > 0
    assert found["datasets"]["test"]["latency_ms"]["optimized"].keys() == {"1", "32"}


def test_progress_is_for_terminals(here):
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        command("freeze", "model", "out"),
        stdout=subprocess.PIPE,
        stderr=end,
        cwd=here,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(end)
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    assert process.stdout.read() == b""
    process.stdout.close()
    assert b"ask the original" in shown
    assert b"\x1b[" in shown
    assert b"out: " in shown
