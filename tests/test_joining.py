"""Several verdicts become one, and of several candidates one is chosen."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.report import samples
from tests.saved_models import normal
from tests.validation import tiny_models
from tfslim_core import api
from tfslim_core.errors import DataError, ModelError
from tfslim_core.joining import Candidate, chosen, joined
from tfslim_core.verdict import Check, Verdict

W = normal(64, 48, seed=3)


def part(name, outcome="pass", **of_model):
    """A verdict on one dataset of that name."""
    found = samples.verdict(outcome)
    checks = [one.model_copy(update={"dataset": name}) for one in found.checks if one.dataset == "files"]
    result = found.datasets["files"]
    models = found.models.model_copy(update={"optimized": found.models.optimized.model_copy(update=of_model)})
    reasons = found.reasons or ["All 4 checks hold on 10 examples."]
    return found.model_copy(update={"checks": checks, "datasets": {name: result}, "models": models, "reasons": reasons})


def on_models(value, *, passed, undecided=False):
    return Check(expr="latency_ratio<=1", value=value, bound=1, passed=passed, dataset="", undecided=undecided)


@pytest.mark.parametrize(
    ("outcomes", "worst"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["fail", "inconclusive", "pass"], "fail"),
        (["pass"], "pass"),
    ],
)
def test_the_worst_wins(outcomes, worst):
    parts = [part(f"d{at}", outcome) for at, outcome in enumerate(outcomes)]
    found = joined(parts)
    assert found.verdict == worst
    assert list(found.datasets) == [f"d{at}" for at in range(len(parts))]
    assert len(found.checks) == sum(len(one.checks) for one in parts)
    assert Verdict.model_validate_json(found.model_dump_json()) == found


def test_the_reasons_of_a_failure_come_first_and_a_pass_gives_none():
    failed, unsure = part("a", "fail"), part("b", "inconclusive")
    assert joined([part("c"), unsure, failed]).reasons == [*failed.reasons, *unsure.reasons]


def test_a_pass_counts_all_checks_and_examples():
    parts = [part("a"), part("b")]
    examples = sum(one.datasets[name].examples for one, name in zip(parts, "ab", strict=True))
    checks = sum(len(one.checks) for one in parts)
    assert joined(parts).reasons == [f"All {checks} checks hold on {examples:,} examples."]


def test_a_check_on_the_models_is_told_once_where_it_came_out_worst():
    parts = [
        one.model_copy(update={"checks": [check]})
        for one, check in [
            (part("a"), on_models(0.9, passed=True)),
            (part("b", "fail"), on_models(1.2, passed=False)),
            (part("c", "inconclusive"), on_models(1.0, passed=True, undecided=True)),
        ]
    ]
    assert [check.value for check in joined(parts).checks] == [1.2]
    assert [check.value for check in joined([parts[0], parts[2]]).checks] == [1.0]


def test_verdicts_of_other_models_are_refused():
    with pytest.raises(ModelError, match=r"not of the same optimized model: its digest is .*, ffff… in another"):
        joined([part("a"), part("b", digest="ffff")])
    with pytest.raises(DataError, match="two verdicts have a dataset 'a'"):
        joined([part("a"), part("a")])
    with pytest.raises(ModelError, match="no verdict to join"):
        joined([])


def test_the_smallest_that_passed_is_chosen():
    candidates = [
        Candidate("int8", part("a", bytes=800)),
        Candidate("int4", part("a", bytes=400)),
        Candidate("int2", part("a", "fail", bytes=200)),
    ]
    found = chosen(candidates)
    assert (found.name, found.outcome) == ("int4", "pass")
    assert [re.match(r"(\S+) \((\d+) bytes\): (\w+)", line).groups() for line in found.others] == [
        ("int8", "800", "pass"),
        ("int2", "200", "fail"),
    ]
    assert samples.verdict("fail").reasons[0] in found.others[1]


def test_where_none_passed_the_one_that_came_closest_is():
    near, far = (
        part("a", "fail").model_copy(
            update={"checks": [Check(expr="top1_agreement>=0.99", value=value, bound=0.99, passed=False, dataset="a")]}
        )
        for value in (0.98, 0.5)
    )
    assert chosen([Candidate("far", far), Candidate("near", near)]).name == "near"
    unsure = part("a", "inconclusive")
    assert chosen([Candidate("near", near), Candidate("unsure", unsure)]).name == "unsure"
    nothing = near.model_copy(update={"checks": [near.checks[0].model_copy(update={"value": None})]})
    assert chosen([Candidate("nothing", nothing), Candidate("far", far)]).name == "far"
    with pytest.raises(ModelError, match="no candidate"):
        chosen([])


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """Two datasets validated one by one, and together."""
    folder = tmp_path_factory.mktemp("apart")
    tiny_models.linear(folder / "model", W)
    tiny_models.linear(folder / "close", W * 1.001)
    given = {}
    for seed, name in enumerate(("a", "b")):
        np.savez(folder / f"{name}.npz", x=normal(400, 64, seed=seed))
        given[name] = str(folder / f"{name}.npz")
    for name, data in ({"both": given} | {name: {name: path} for name, path in given.items()}).items():
        api.validate(folder / "model", folder / "close", data=data, out=folder / name, costs=False)
    return folder


def test_joined_is_what_one_validation_of_all_data_finds(apart, tmp_path):
    models = apart / "model", apart / "close"
    report = api.join_verdicts([apart / "a", apart / "b"], *models, out=tmp_path / "joined")
    whole, found = Verdict.read(apart / "both/verdict.json"), Verdict.read(tmp_path / "joined/verdict.json")
    assert found == report.verdict
    assert (found.verdict, found.reasons, found.checks) == (whole.verdict, whole.reasons, whole.checks)
    assert found.models.optimized.digest == whole.models.optimized.digest
    assert found.datasets == whole.datasets
    page = (tmp_path / "joined/report.html").read_text()
    assert all(f">{name}<" in page for name in ("a", "b"))
    assert "## b" in (tmp_path / "joined/report.md").read_text()
    api.publish(apart / "close", tmp_path / "base", verdict=tmp_path / "joined/verdict.json")
    assert (tmp_path / "base/1/saved_model.pb").is_file()


def test_a_joined_verdict_of_another_model_is_refused_and_leaves_nothing(apart, tmp_path):
    with pytest.raises(ModelError, match=r"the verdicts are not of .*/model: its digest is"):
        api.join_verdicts([apart / "a"], apart / "model", apart / "model", out=tmp_path / "joined")
    with pytest.raises(ModelError, match="no verdict there"):
        api.join_verdicts([apart / "nothing"], apart / "model", apart / "close", out=tmp_path / "joined")
    assert not list(tmp_path.iterdir())


def test_candidates_are_chosen_by_their_directories(apart):
    assert api.choose({"a": apart / "a", "b": apart / "b"}).name == "a"
    with pytest.raises(ModelError, match="no verdict there"):
        api.choose({"a": apart / "nothing"})
