import json

import numpy as np
import pytest

from tests.validation import tiny_models
from tfslim_core.errors import DataError, UsageError
from tfslim_core.validation.convert import from_nested
from tfslim_core.validation.job import validate
from tfslim_core.validation.records import Record
from tfslim_core.validation.slicing import MOST_SLICES, Slicing, parse_slicing, parse_slicings
from tfslim_core.verdict import Verdict

WEIGHTS = np.random.default_rng(5).normal(size=(4, 3)).round(2)
X = np.random.default_rng(1).normal(size=(120, 4)).astype(np.float32)


@pytest.fixture
def models(tmp_path):
    """A model and one that differs."""
    return tiny_models.linear(tmp_path / "a", WEIGHTS), tiny_models.linear(tmp_path / "b", WEIGHTS + 0.01)


def run(models, data, tmp_path, *gates, out="out", **options):
    (tmp_path / out).mkdir()
    return validate(*models, {"test": str(data)}, out=tmp_path / out, gates=gates, measure_costs=False, **options)


def slice_of(slicing, value):
    return slicing.slices(Record(0, {"k": value}, from_nested), 1).tolist()


@pytest.mark.parametrize(
    ("text", "slicing"),
    [
        ("lang", Slicing("lang")),
        ("length:10,100", Slicing("length", (10, 100))),
        (" a b:0.5,1e3 ", Slicing("a b", (0.5, 1000))),
    ],
)
def test_a_slicing_is_read(text, slicing):
    assert parse_slicing(text) == slicing


@pytest.mark.parametrize("text", ["", ":1", "length:", "length:10,5", "length:1,1", "length:a", "length:nan"])
def test_a_wrong_slicing_is_refused_with_what_to_write(text):
    with pytest.raises(UsageError, match="is not KEY or KEY:NUMBER"):
        parse_slicing(text)


def test_a_key_is_sliced_once():
    with pytest.raises(UsageError, match="'a' is given twice"):
        parse_slicings(["a", "b", "a:1,2"])


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("de", "k=de"),
        (b"de", "k=de"),
        (3, "k=3"),
        (np.int64(3), "k=3"),
        (3.0, "k=3"),
        (True, "k=true"),
        ([7], "k=7"),
        (None, "k=(none)"),
        ("", "k=(none)"),
        (float("nan"), "k=(none)"),
        ([], "k=(none)"),
    ],
)
def test_each_value_is_a_slice(value, name):
    assert slice_of(Slicing("k"), value) == [name]


@pytest.mark.parametrize(
    ("value", "name"),
    [(-5, "k<10"), (9.99, "k<10"), (10, "10<=k<100"), ("99", "10<=k<100"), (100, "k>=100"), (None, "k=(none)")],
)
def test_numbers_fall_into_buckets(value, name):
    slicing = Slicing("k", (10, 100))
    assert slice_of(slicing, value) == [name]
    assert name in slicing.names


def test_what_has_no_slice_is_a_bad_record():
    with pytest.raises(DataError, match=r"--slice k:0\.1,1,10"):
        slice_of(Slicing("k"), 0.5)
    with pytest.raises(DataError, match="'long' is no number"):
        slice_of(Slicing("k", (1,)), "long")
    with pytest.raises(DataError, match="expected one value for 'k', found 2"):
        slice_of(Slicing("k"), [1, 2])


def test_every_slice_has_its_own_metrics_and_gates(models, tmp_path):
    lang = np.array(["de", "en", "fr"])[np.arange(120) % 3]
    length = np.arange(120)
    np.savez(tmp_path / "a.npz", x=X, lang=lang, length=length, label=X.argmax(1) % 3)
    gates = ["max_abs_error<=1@lang=*", "max_abs_error<=0.001@test,length<40", "mean_abs_error<=1"]
    found = run(
        models, tmp_path / "a.npz", tmp_path, *gates, slices=["lang", "length:40,100"], label="label", batch_size=7
    )
    result = found.verdict.datasets["test"]
    assert {name: part.examples for name, part in result.slices.items()} == {
        "lang=de": 40,
        "lang=en": 40,
        "lang=fr": 40,
        "length<40": 40,
        "40<=length<100": 60,
        "length>=100": 20,
    }
    before, after = X @ np.float32(WEIGHTS), X @ np.float32(WEIGHTS + 0.01)
    error = np.abs(after - before)
    for name, rows in (("lang=en", lang == "en"), ("length>=100", length >= 100)):
        metrics = result.slices[name].outputs["y"]
        assert metrics.max_abs_error == pytest.approx(error[rows].max(), rel=1e-4)
        assert metrics.rel_l2_error == pytest.approx(
            np.linalg.norm(error[rows]) / np.linalg.norm(before[rows]), rel=1e-4
        )
        assert result.slices[name].labels["accuracy"].original == np.mean(
            before[rows].argmax(1) == (X.argmax(1) % 3)[rows]
        )
    checks = {(check.expr, check.slice): check for check in found.verdict.checks}
    assert {part for expr, part in checks if expr == gates[0]} == {"lang=de", "lang=en", "lang=fr"}
    assert checks[gates[2], None].examples == 120
    failed = checks[gates[1], "length<40"]
    assert (failed.passed, failed.dataset, failed.examples) == (False, "test", 40)
    assert found.verdict.verdict == "fail"
    worst = np.argsort(-error[:40].max(1))[:3].tolist()
    assert found.verdict.reasons[0].startswith("On dataset 'test', slice 'length<40', max_abs_error of 'y' is 0.0")
    assert f"(worst: records {', '.join(map(str, worst))})" in found.verdict.reasons[0]
    assert Verdict.read(tmp_path / "out/verdict.json") == found.verdict


def test_a_failing_check_of_all_names_the_worst_slice(tmp_path):
    x = X.copy()
    x[60:] *= 100
    np.savez(tmp_path / "a.npz", x=x, loud=np.arange(120) >= 60)
    models = tiny_models.linear(tmp_path / "a", WEIGHTS), tiny_models.linear(tmp_path / "b", WEIGHTS + 0.01)
    found = run(models, tmp_path / "a.npz", tmp_path, "mean_abs_error<=0.02", slices=["loud"])
    assert "worst slice: 'loud=true', at " in found.verdict.reasons[0]


def test_a_slice_of_few_examples_is_inconclusive(models, tmp_path):
    lines = [{"x": row.tolist(), "lang": "rare" if number < 3 else "de"} for number, row in enumerate(X)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = run(models, tmp_path / "a.jsonl", tmp_path, "max_abs_error<=1@lang=*", slices=["lang"])
    assert found.verdict.verdict == "inconclusive"
    assert found.verdict.reasons == ["Dataset 'test', slice 'lang=rare', has 3 examples; fewer than 10 prove nothing."]


def test_a_slice_that_no_example_is_in_is_inconclusive(models, tmp_path):
    np.savez(tmp_path / "a.npz", x=X, lang=["perl"] * 120)
    found = run(models, tmp_path / "a.npz", tmp_path, "max_abs_error<=1@lang=pearl", slices=["lang"])
    assert found.verdict.verdict == "inconclusive"
    assert found.verdict.reasons == [
        "'max_abs_error<=1@lang=pearl' cannot be judged: no example is in slice 'lang=pearl'; did you mean 'lang=perl'?"
    ]


def test_extra_columns_of_every_format_are_read(models, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lang = ["de" if number % 2 else None for number in range(40)]
    pq.write_table(pa.table({"x": X[:40].tolist(), "lang": lang, "unused": lang}), tmp_path / "a.parquet")
    found = run(models, tmp_path / "a.parquet", tmp_path, slices=["lang"])
    assert {name: part.examples for name, part in found.verdict.datasets["test"].slices.items()} == {
        "lang=(none)": 20,
        "lang=de": 20,
    }


def test_a_key_that_no_record_has_is_refused_with_the_nearest(models, tmp_path):
    np.savez(tmp_path / "a.npz", x=X, language=np.arange(120))
    with pytest.raises(DataError, match="no record has the slice key 'langage'; did you mean 'language'"):
        run(models, tmp_path / "a.npz", tmp_path, slices=["langage"])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_key_with_very_many_values_is_refused(models, tmp_path, workers):
    for part in range(2):
        rows = MOST_SLICES * 3 // 4
        np.savez(tmp_path / f"{part}.npz", x=np.ones((rows, 4)), id=np.arange(rows) + part * rows)
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"] if workers == 2 else []
    with pytest.raises(DataError, match="--slice id has more than 200 values; if they are numbers give buckets"):
        run(models, tmp_path / "?.npz", tmp_path, slices=["id"], beam_options=options)


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ("cosine>=0@tset", "no dataset 'tset'; did you mean 'test'"),
        ("cosine>=0@lnag=de", "no slices by 'lnag=de'; did you mean 'lang'"),
        ("cosine>=0@length<41", "no slice 'length<41'; did you mean 'length<40'"),
        ("cosine>=0@test,length=*", None),
        ("size_ratio<=1@test", "is of the models, not of a dataset"),
    ],
)
def test_gates_on_places_that_are_not_there_are_refused_before_the_run(models, tmp_path, gate, says):
    np.savez(tmp_path / "a.npz", x=X[:30], lang=["de"] * 30, length=np.arange(30) + 25)
    options = {"slices": ["lang", "length:40,100"]}
    if says is None:
        assert run(models, tmp_path / "a.npz", tmp_path, gate, **options).verdict.checks
        return
    with pytest.raises(UsageError, match=says):
        run(models, tmp_path / "a.npz", tmp_path, gate, **options)


def test_a_gate_on_slices_needs_them(models, tmp_path):
    np.savez(tmp_path / "a.npz", x=X, lang=["de"] * 120)
    with pytest.raises(UsageError, match="name the key that tells them apart with --slice"):
        run(models, tmp_path / "a.npz", tmp_path, "cosine>=0@lang=de")
