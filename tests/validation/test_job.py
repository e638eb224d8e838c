import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.validation import tiny_models
from tfslim_core import api
from tfslim_core.errors import DataError, ModelError, UsageError
from tfslim_core.storage import digest
from tfslim_core.validation.job import validate
from tfslim_core.verdict import Verdict

GUESSLANG = Path(__file__).parents[2] / ".cache/models/guesslang/data/model"
WEIGHTS = np.random.default_rng(5).normal(size=(4, 3)).round(2)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Real source files of installed packages, as records of a lone string input."""
    return _write_sources(tmp_path_factory.mktemp("sources") / "files.jsonl", 180)


@pytest.fixture(scope="module")
def many_sources(tmp_path_factory) -> Path:
    """As many as it takes to say that 99 % of the answers agree."""
    return _write_sources(tmp_path_factory.mktemp("sources") / "files.jsonl", 390)


def _write_sources(path: Path, many: int) -> Path:
    installed = Path(np.__file__).parents[1]
    files = sorted(installed.glob("[a-m]*/*.py"))[::2] + sorted(installed.glob("**/*.h"))[:60]
    texts = [text for file in reversed(files) if (text := file.read_text(errors="replace")[:4000]).strip()]
    path.write_text("".join(json.dumps(text) + "\n" for text in texts[:many]))
    return path


@pytest.fixture
def linear(tmp_path):
    return lambda name, weights=WEIGHTS, **more: tiny_models.linear(tmp_path / name, weights, **more)


@pytest.fixture
def numbers(tmp_path) -> str:
    np.savez(tmp_path / "numbers.npz", x=np.random.default_rng(1).normal(size=(100, 4)).astype(np.float32))
    return str(tmp_path / "numbers.npz")


def run(original, optimized, data, out, *gates, measure_costs=False, **options):
    out.mkdir(exist_ok=True)
    data = data if isinstance(data, dict) else {"test": str(data)}
    return validate(original, optimized, data, out=out, gates=gates, measure_costs=measure_costs, **options)


def test_a_real_model_against_itself_passes_with_zeros(sources, tmp_path):
    found = run(GUESSLANG, GUESSLANG, sources, tmp_path)
    assert (found.verdict.verdict, found.signature, found.main_output) == ("pass", "serving_default", "scores")
    result = found.verdict.datasets["test"]
    assert result.examples > 120
    assert result.bad_records == 0
    assert result.outputs["scores"].max_abs_error == result.outputs["scores"].rel_l2_error == 0
    assert result.outputs["scores"].top1_agreement == result.outputs["classes"].exact_match == 1
    assert result.worst == []
    assert found.verdict.models.optimized.digest == digest(GUESSLANG)
    assert Verdict.read(tmp_path / "verdict.json") == found.verdict
    assert not (tmp_path / "dead_letters.jsonl").exists()


def test_one_damaged_weight_of_a_real_model_fails(sources, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(GUESSLANG, damaged)
    _spoil_one_channel(damaged)
    found = run(GUESSLANG, damaged, sources, tmp_path / "out")
    assert found.verdict.verdict == "fail", found.verdict.reasons
    assert "top1_agreement of 'scores'" in " ".join(found.verdict.reasons)
    worst = found.verdict.datasets["test"].worst
    assert worst[0].output == "scores"
    assert worst[0].error == found.verdict.datasets["test"].outputs["scores"].max_abs_error > 0
    line = sources.read_text().splitlines()[worst[0].index]
    assert json.loads(line).startswith(worst[0].input.partition(" … (")[0])
    edges, counts = found.histograms["test"]["scores"]
    assert len(edges) == len(counts) + 1
    assert sum(counts) == found.verdict.datasets["test"].examples * 54


def test_a_real_model_that_is_only_rounded_passes(many_sources, tmp_path):
    api.freeze(GUESSLANG, tmp_path / "bundle")
    api.quantize(tmp_path / "bundle", tmp_path / "rounded", encoding="float16")
    api.reexport(tmp_path / "rounded", tmp_path / "slim")
    found = run(GUESSLANG, tmp_path / "slim", many_sources, tmp_path / "out")
    metrics = found.verdict.datasets["test"].outputs["scores"]
    assert found.verdict.verdict == "pass", found.verdict.reasons
    assert 0 < metrics.rel_l2_error < 0.01
    assert 0 < metrics.kl_divergence < 1e-4
    assert metrics.intervals["rel_l2_error"][0] < metrics.rel_l2_error < metrics.intervals["rel_l2_error"][1]


def test_three_examples_of_a_real_model_are_inconclusive(sources, tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text("".join(sources.read_text().splitlines(keepends=True)[:3]))
    found = run(GUESSLANG, GUESSLANG, few, tmp_path / "out")
    assert found.verdict.verdict == "inconclusive"
    assert found.verdict.reasons == ["Dataset 'test' has 3 examples; fewer than 10 prove nothing."]


def test_some_records_without_a_label_are_counted_and_left_out(linear, tmp_path):
    x = np.random.default_rng(4).normal(size=(60, 4)).astype(np.float32)
    labels = (x @ np.float32(WEIGHTS)).argmax(1).tolist()
    records = [{"x": row.tolist(), "label": label} for row, label in zip(x, labels, strict=True)]
    del records[7]["label"]
    records[30]["label"] = None
    records[31]["label"] = 7
    path = write(tmp_path / "a.jsonl", *records)
    found = run(linear("a"), linear("b"), path, tmp_path / "out", "label_accuracy_drop<=0", label="label")
    result = found.verdict.datasets["test"]
    assert (result.examples, result.bad_records, result.without_label) == (60, 0, 2)
    assert found.verdict.checks[0].examples == 58
    assert found.verdict.verdict == "pass"
    assert found.verdict.reasons[1].startswith("Dataset 'test': 2 of 60 examples have no label")
    assert found.verdict.reasons[2].startswith("Dataset 'test': 1 of 60 examples have a label that is none of the cl")


def test_estimates_are_held_against_numbers(tmp_path):
    x = np.random.default_rng(4).normal(size=(300, 4)).astype(np.float32)
    weights = WEIGHTS[:, :1]
    truth = (x @ weights)[:, 0] + np.random.default_rng(5).normal(size=300)
    np.savez(tmp_path / "a.npz", x=x, truth=truth)
    models = tiny_models.linear(tmp_path / "a", weights), tiny_models.linear(tmp_path / "b", weights * 1.1)
    gates = ["label_mae_rise<=0.1", "label_rmse_rise<=0.1"]
    found = run(*models, tmp_path / "a.npz", tmp_path / "out", *gates, label="truth")
    mae = found.verdict.datasets["test"].labels["mae"]
    errors = [np.abs(x @ np.float32(weights * by) - truth[:, None]).mean() for by in (1, 1.1)]
    assert (mae.original, mae.optimized) == pytest.approx(errors, rel=1e-5)
    assert found.verdict.checks[0].value == mae.difference == pytest.approx(errors[1] - errors[0], rel=1e-4)
    assert found.verdict.verdict == "pass"


def _spoil_one_channel(model: Path) -> None:
    """Write the checkpoint again with one output channel of the last dense layer spoiled."""
    import tensorflow as tf

    prefix = str(model / "variables/variables")
    reader = tf.train.load_checkpoint(prefix)
    values = {name: reader.get_tensor(name) for name in sorted(reader.get_variable_to_shape_map())}
    values["dnn/logits/kernel"] = values["dnn/logits/kernel"].copy()
    values["dnn/logits/kernel"][:, 41] += 3
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(values), shape_and_slices=[""] * len(values), tensors=list(values.values())
    )


def test_a_small_change_is_measured(linear, numbers, tmp_path):
    other = WEIGHTS * 1.01
    found = run(linear("a"), linear("b", other), numbers, tmp_path / "out", "y:rel_l2_error<=0.02")
    metrics = found.verdict.datasets["test"].outputs["y"]
    x = np.load(numbers)["x"]
    before, after = x @ np.float32(WEIGHTS), x @ np.float32(other)
    assert found.verdict.verdict == "pass"
    assert metrics.max_abs_error == pytest.approx(np.abs(after - before).max(), rel=1e-5)
    assert metrics.rel_l2_error == pytest.approx(0.01, rel=1e-3)
    worst = found.worst["test"][0][1]
    assert worst.index == np.abs(after - before).max(1).argmax()
    assert worst.input == pytest.approx(x[worst.index].tolist())
    assert worst.original == pytest.approx(before[worst.index].tolist(), rel=1e-5)
    assert worst.optimized == pytest.approx(after[worst.index].tolist(), rel=1e-5)


def test_many_datasets_are_judged_one_by_one(linear, numbers, tmp_path):
    np.savez(tmp_path / "few.npz", x=np.eye(4, dtype=np.float32))
    data = {"many": numbers, "few": str(tmp_path / "few.npz")}
    found = run(linear("a"), linear("b"), data, tmp_path / "out")
    assert {name: result.examples for name, result in found.verdict.datasets.items()} == {"many": 100, "few": 4}
    assert found.verdict.verdict == "inconclusive"
    assert found.verdict.reasons == ["Dataset 'few' has 4 examples; fewer than 10 prove nothing."]


def test_several_processes_find_the_same(linear, tmp_path):
    random = np.random.default_rng(2)
    parts = {name: random.normal(size=(50, 4), scale=scale).astype(np.float32) for name, scale in (("a", 1), ("b", 9))}
    for name, x in parts.items():
        np.savez(tmp_path / f"{name}.npz", x=x)
    data = {"test": str(tmp_path / "*.npz"), "again": str(tmp_path / "b.npz")}
    models = linear("first"), linear("second", WEIGHTS * 1.001)
    one = run(*models, data, tmp_path / "one")
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    two = run(*models, data, tmp_path / "two", beam_options=options)
    assert one.verdict == two.verdict
    assert one.worst == two.worst
    assert one.verdict.datasets["test"].examples == 100
    # The index counts over all files.
    x = np.concatenate([parts["a"], parts["b"]])
    assert one.verdict.datasets["test"].worst[0].index == np.abs(x @ np.float32(WEIGHTS)).max(1).argmax() >= 50


def test_a_bad_record_is_found_by_its_number_in_the_file_however_it_was_split(linear, tmp_path):
    rows = [[1.0, 2, 3, float(i)] for i in range(50)]
    rows[37] = [1.0]
    for name in ("a", "b"):
        pq.write_table(pa.table({"x": rows}), tmp_path / f"{name}.parquet", row_group_size=10)
    run(linear("a"), linear("b"), tmp_path / "*.parquet", tmp_path / "out", fail_on_bad_records=0.1)
    letters = [json.loads(line) for line in (tmp_path / "out/dead_letters.jsonl").read_text().splitlines()]
    assert [(Path(letter["file"]).stem, letter["record"]) for letter in letters] == [("a", 37), ("b", 37)]


def test_data_without_an_example_is_inconclusive(linear, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    for data in ({}, {"test": str(tmp_path / "empty.jsonl")}):
        found = run(linear(f"a{len(data)}"), linear(f"b{len(data)}"), data, tmp_path / "out")
        assert found.verdict.verdict == "inconclusive"
        assert found.verdict.reasons
        assert found.verdict.checks == []
        assert Verdict.read(tmp_path / "out/verdict.json").verdict == "inconclusive"


def write(path: Path, *instances) -> Path:
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in instances))
    return path


def test_bad_records_go_to_the_dead_letters_and_the_run_goes_on(linear, tmp_path):
    good = [[float(i), 1, 2, 3] for i in range(150)]
    # Two ranges' worth of files, so that numbers are those in the file.
    write(tmp_path / "1.jsonl", *good[:100])
    write(tmp_path / "2.jsonl", *good[100:120], "{broken", [1, 2], "[NaN, 0, 0, 0]", *good[120:])
    found = run(
        linear("a", guarded=True),
        linear("b", guarded=True),
        tmp_path / "?.jsonl",
        tmp_path / "out",
        fail_on_bad_records=0.02,
    )
    assert found.verdict.verdict == "pass"
    assert found.verdict.datasets["test"].examples == 150
    assert found.verdict.datasets["test"].bad_records == 3
    letters = [json.loads(line) for line in (tmp_path / "out/dead_letters.jsonl").read_text().splitlines()]
    assert [(letter["record"], Path(letter["file"]).name) for letter in letters] == [
        (i, "2.jsonl") for i in (20, 21, 22)
    ]
    assert "not JSON" in letters[0]["error"]
    assert "expected shape [4], found [2]" in letters[1]["error"]
    assert "not a number" in letters[2]["error"]
    assert letters[2]["input"] == ["nan", 0.0, 0.0, 0.0]


def test_too_many_bad_records_are_an_error_with_the_first_of_them(linear, tmp_path):
    path = write(tmp_path / "a.jsonl", [1, 2, 3, 4], [1, 2], [1, 2, 3, 4])
    with pytest.raises(DataError) as error:
        run(linear("a"), linear("b"), path, tmp_path / "out")
    assert "1 of 3 records are bad" in str(error.value)
    assert "a.jsonl, record 1: 'x': expected shape [4], found [2]" in str(error.value)


def test_what_only_the_optimized_model_cannot_answer_is_a_failure(linear, tmp_path):
    path = write(tmp_path / "a.jsonl", *[[float(i), 1, 2, 3] for i in range(50)], "[NaN, 0, 0, 0]")
    found = run(linear("a"), linear("b", guarded=True), path, tmp_path / "out", "rel_l2_error<=1")
    assert found.verdict.verdict == "fail", found.verdict.reasons
    assert "failed on 1 examples" in found.verdict.reasons[0]
    assert "not a number" in found.verdict.reasons[0]
    assert (found.verdict.datasets["test"].examples, found.verdict.datasets["test"].bad_records) == (51, 0)


def test_a_shape_that_differs_is_a_failure_and_never_broadcast(linear, numbers, tmp_path):
    found = run(linear("a"), linear("b", WEIGHTS[:, :1]), numbers, tmp_path / "out")
    assert found.verdict.verdict == "fail", found.verdict.reasons
    assert "another shape or dtype" in " ".join(found.verdict.reasons)


def test_labels_give_the_accuracy_of_both(linear, tmp_path):
    x = np.random.default_rng(4).normal(size=(60, 4)).astype(np.float32)
    labels = (x @ np.float32(WEIGHTS)).argmax(1)
    np.savez(tmp_path / "a.npz", x=x, label=labels)
    swapped = WEIGHTS[:, [1, 0, 2]]
    found = run(
        linear("a"),
        linear("b", swapped),
        tmp_path / "a.npz",
        tmp_path / "out",
        "label_accuracy_drop<=0.1",
        label="label",
    )
    accuracy = found.verdict.datasets["test"].labels["accuracy"]
    assert accuracy.original == 1
    assert accuracy.optimized == np.mean((x @ np.float32(swapped)).argmax(1) == labels)
    assert found.verdict.verdict == "fail", found.verdict.reasons
    assert found.verdict.checks[0].value == pytest.approx(1 - accuracy.optimized)


def test_costs_are_measured_on_the_data(linear, numbers, tmp_path):
    told = []
    np.savez(tmp_path / "more.npz", x=np.ones((40, 4), np.float32))
    found = run(
        linear("a"),
        linear("b"),
        {"test": numbers, "more": str(tmp_path / "more.npz")},
        tmp_path / "out",
        "size_ratio<=1",
        "latency_ratio<=1000",
        measure_costs=True,
        progress=lambda *step: told.append(step),
    )
    latency = found.verdict.datasets["test"].latency_ms
    assert set(latency.original) == set(latency.optimized) == {"1", "32"}
    assert found.verdict.models.original.load_seconds > 0
    assert found.verdict.verdict == "pass"
    assert [step for step in told if step[0] == "compare"][-1] == ("compare", 140, 140)
    assert any(step[0] == "measure costs" for step in told)
    ratios = {(ratio.metric, ratio.batch) for ratio in found.verdict.models.ratios}
    by_batch = {(f"{metric}", batch) for metric in ("latency_ratio", "latency_ratio_p99", "throughput_ratio")
                for batch in ("1", "32")}  # fmt: skip
    assert ratios == by_batch | {(f"{metric}_ratio", None) for metric in ("load", "first_request", "memory")}
    # Of several datasets the first one is timed, and every ratio of requests says so.
    assert found.verdict.datasets["more"].latency_ms.original == {}
    assert {ratio.metric: ratio.dataset for ratio in found.verdict.models.ratios} == {
        **dict.fromkeys(("latency_ratio", "latency_ratio_p99", "throughput_ratio", "first_request_ratio"), "test"),
        **dict.fromkeys(("load_ratio", "memory_ratio")),
    }
    for model in (found.verdict.models.original, found.verdict.models.optimized):
        assert model.first_request_ms > 0
        assert model.throughput_per_second["32"] > model.throughput_per_second["1"] > 0


def test_other_batch_sizes_and_no_costs_at_all(linear, numbers, tmp_path):
    models = linear("a"), linear("b")
    found = run(*models, numbers, tmp_path / "one", measure_costs=True, latency_batches=[4])
    assert list(found.verdict.models.optimized.throughput_per_second) == ["4"]
    assert list(found.verdict.datasets["test"].latency_ms.optimized) == ["4"]
    without = run(*models, numbers, tmp_path / "none", "size_ratio<=1").verdict
    assert (without.models.ratios, without.models.original.load_seconds, without.verdict) == ([], None, "pass")
    with pytest.raises(UsageError, match="needs what --no-costs leaves out"):
        run(*models, numbers, tmp_path / "gated", "throughput_ratio>=0.5")


def test_counters_have_names_that_stay(linear, numbers, tmp_path):
    import apache_beam as beam

    from tfslim_core.saved_model.served_signatures import read_signatures
    from tfslim_core.validation import pipeline, runners
    from tfslim_core.validation.feeding import feeding
    from tfslim_core.validation.paired_models import PairHandler
    from tfslim_core.validation.sources import first_records, open_dataset, shards

    served = read_signatures(linear("a"), ("serve",))["serving_default"]
    write(tmp_path / "more.jsonl", [1, 2, 3, 4], [1, 2], [4, 3, 2, 1])
    datasets = {name: open_dataset(name, path) for name, path in
                {"test": numbers, "more": str(tmp_path / "more.jsonl")}.items()}  # fmt: skip
    plan = pipeline.Plan(
        shards=[(name, shard) for name, dataset in datasets.items() for shard in shards(dataset)],
        feedings={n: feeding(served, first_records(d), None, d.path) for n, d in datasets.items()},
        keys=list(served.outputs),
        batch_size=32,
    )
    job = beam.Pipeline(options=runners.options_of([]))
    pipeline.build(
        job, plan, PairHandler(str(tmp_path / "a"), str(linear("b")), ("serve",), served.name), str(tmp_path)
    )
    result = job.run()
    result.wait_until_finish()
    found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace("tfslim"))
    counters = {one.key.metric.name: one.committed for one in found["counters"]}
    assert {name: counters[name] for name in ("examples", "batches", "bad_records")} == {
        "examples": 102, "batches": 5, "bad_records": 1,
    }  # fmt: skip
    spread = {one.key.metric.name: one.committed for one in found["distributions"]}
    assert (spread["batch_size"].sum, spread["batch_size"].count, spread["batch_size"].max) == (102, 5, 32)
    for name in ("original_microseconds", "optimized_microseconds"):
        assert spread[name].count == 5
        assert spread[name].sum > 0


def test_a_line_in_the_log_sums_up_the_comparison(linear, numbers, tmp_path, caplog):
    with caplog.at_level("INFO", logger="tfslim"):
        run(linear("a"), linear("b"), numbers, tmp_path / "out")
    (line,) = [record.getMessage() for record in caplog.records if record.name == "tfslim"]
    assert line.startswith("compare: 100 examples in 4 batches, ")
    assert line.endswith("/s")


def test_a_model_that_does_not_load_is_an_expected_error(linear, numbers, tmp_path):
    broken = linear("b")
    content = (broken / "saved_model.pb").read_bytes()
    (broken / "saved_model.pb").write_bytes(content.replace(b"MatMul", b"NoSuch"))
    with pytest.raises(ModelError, match="NoSuch"):
        run(linear("a"), broken, numbers, tmp_path / "out")


def test_another_interface_is_refused_before_any_data_is_run(tmp_path):
    first = tiny_models.echo(tmp_path / "a", {"serving_default": {"x": (1, [-1])}})
    second = tiny_models.echo(tmp_path / "b", {"serving_default": {"x": (3, [-1])}})
    third = tiny_models.echo(tmp_path / "c", {"other": {"x": (1, [-1])}})
    path = write(tmp_path / "a.jsonl", 1.0)
    with pytest.raises(ModelError, match=r"inputs x \(int32\); the original has x \(float32\)"):
        run(first, second, path, tmp_path / "out")
    with pytest.raises(ModelError, match="no signature 'serving_default'"):
        run(first, third, path, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gates": ["y:cosin>=1"]}, "did you mean 'cosine'"),
        ({"gates": ["z:cosine>=1"]}, "no output 'z'"),
        ({"main_output": "z"}, "--main-output: no output 'z'"),
        ({"gates": ["label_accuracy_drop<=0"]}, "--label"),
        ({"batch_size": 0}, "the batch size is 0"),
        ({"fail_on_bad_records": -1}, "from 0 to 1"),
        ({"fail_on_bad_records": 50}, "from 0 to 1"),
        ({"fail_on_bad_records": float("nan")}, "from 0 to 1"),
    ],
)
def test_usage_errors_are_told_before_the_run(linear, numbers, tmp_path, options, says):
    gates = options.pop("gates", [])
    with pytest.raises(UsageError, match=says):
        run(linear("a"), linear("b"), numbers, tmp_path / "out", *gates, **options)


def test_gates_without_data_are_a_usage_error(linear, tmp_path):
    with pytest.raises(UsageError, match="--data"):
        run(linear("a"), linear("b"), {}, tmp_path / "out", "cosine>=1")
