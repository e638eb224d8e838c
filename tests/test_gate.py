import numpy as np
import pytest

from tfslim_core.errors import UsageError
from tfslim_core.gate import Findings, Gate, check_names, default_gates, evaluate, parse
from tfslim_core.metrics import ErrorStats
from tfslim_core.verdict import LabelMetric, LatencyPair, ModelCosts, Models, Percentiles

RANDOM = np.random.default_rng(3)
SCORES = RANDOM.normal(size=(100, 5)).astype(np.float32)
NAMES = np.array([[b"a", b"b"]] * 100, object)


def models(size=50, seconds=None, memory=None):
    def costs(size, seconds, memory):
        return ModelCosts(bytes=size, load_seconds=seconds, peak_rss_bytes=memory, digest="0")

    return Models(original=costs(100, 2.0, 1000), optimized=costs(size, seconds, memory))


def output(original, optimized=None):
    stats = ErrorStats()
    stats.add_batch(original, original if optimized is None else optimized, range(len(original)))
    return stats.summary()


def findings(outputs, **more):
    examples = max((found.examples for found in outputs.values()), default=0)
    return Findings(examples=examples, outputs=outputs, **more)


def judge(outputs, *gates, main=None, **more):
    return evaluate([parse(gate) for gate in gates], {"test": findings(outputs, **more)}, models(), main)


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("top1_agreement>=0.999", Gate(None, "top1_agreement", ">=", 0.999)),
        ("scores:rel_l2_error <= 1e-2", Gate("scores", "rel_l2_error", "<=", 0.01)),
        (" size_ratio<.3 ", Gate(None, "size_ratio", "<", 0.3)),
        ("a/b:0:exact_match==1", Gate("a/b:0", "exact_match", "==", 1)),
        ("cosine>-0.5", Gate(None, "cosine", ">", -0.5)),
    ],
)
def test_an_expression_is_read_and_written_back(text, gate):
    assert parse(text) == gate
    assert parse(str(gate)) == gate


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("top1_agrement>=0.9", "did you mean 'top1_agreement'"),
        ("top1_agreement=>0.9", "is not [OUTPUT:]METRIC OP NUMBER"),
        ("top1_agreement", "is not [OUTPUT:]METRIC OP NUMBER"),
        ("top1_agreement>=much", "'much' is not a number"),
        ("top1_agreement>=nan", "'nan' is not a number"),
        ("scores:size_ratio<=0.3", "not a metric of an output"),
        ("", "is not [OUTPUT:]METRIC OP NUMBER"),
    ],
)
def test_a_wrong_expression_is_refused_with_what_to_write(text, says):
    with pytest.raises(UsageError) as error:
        parse(text)
    assert says in str(error.value)
    assert error.value.exit_code == 2


def test_gates_that_nothing_can_answer_are_refused():
    with pytest.raises(UsageError, match="did you mean 'scores'"):
        check_names([parse("score:cosine>0")], ["scores", "classes"], labelled=False)
    with pytest.raises(UsageError, match="--label"):
        check_names([parse("label_accuracy_drop<=0")], ["scores"], labelled=False)
    check_names([parse("scores:cosine>0"), parse("label_accuracy_drop<=0")], ["scores"], labelled=True)


def test_identical_answers_pass_the_default_gate():
    found = judge({"scores": output(SCORES), "ids": output(np.arange(100)), "names": output(NAMES)})
    assert found.outcome == "pass"
    assert found.reasons == ["All 4 checks hold on 100 examples."]
    assert [check.expr for check in found.checks] == [
        "scores:nan_mismatches<=0",
        "top1_agreement>=0.99",
        "rel_l2_error<=0.1",
        "ids:exact_match>=0.99",
    ]


def test_a_regression_is_held_to_its_relative_error():
    exprs = [str(gate) for gate in default_gates({"y": output(SCORES[:, :1])}, "y")]
    assert exprs == ["y:nan_mismatches<=0", "rel_l2_error<=0.02"]


def test_a_check_that_does_not_hold_fails_with_its_numbers():
    found = judge({"scores": output(SCORES, SCORES[:, ::-1].copy())})
    assert found.outcome == "fail"
    assert found.reasons[0].startswith("On dataset 'test' top1_agreement of 'scores' is 0.")
    assert found.reasons[0].endswith("the gate asks for >= 0.99.")
    assert [check.passed for check in found.checks] == [True, False, False]


def test_a_nan_in_any_output_fails():
    broken = SCORES.copy()
    broken[3, 1] = np.nan
    assert judge({"scores": output(SCORES), "z": output(SCORES, broken)}).outcome == "fail"


@pytest.mark.parametrize(
    ("outputs", "gates", "says"),
    [
        ({}, [], "no example"),
        ({"scores": output(np.ones((100, 5)))}, [], "alike on every example"),
        ({"scores": output(SCORES[:29])}, [], "rests on 29 examples"),
        ({"scores": output(SCORES), "names": output(NAMES)}, ["names:exact_match==1"], "alike on every example"),
        ({"scores": output(SCORES)}, ["exact_match>=0.9"], "has no value"),
        ({"scores": output(np.full((100, 5), np.nan))}, ["rel_l2_error<=1"], "has no value"),
        ({"names": output(NAMES)}, [], "no output varies"),
        ({"scores": output(SCORES)}, ["latency_ratio<=1"], "has no value"),
        ({"scores": output(SCORES)}, ["memory_ratio<=1"], "has no value"),
    ],
)
def test_what_proves_nothing_is_inconclusive_and_never_a_pass(outputs, gates, says):
    found = judge(outputs, *gates)
    assert found.outcome == "inconclusive"
    assert says in " ".join(found.reasons)


def test_no_data_is_inconclusive():
    found = evaluate([], {}, models())
    assert (found.outcome, found.checks) == ("inconclusive", [])


def test_one_empty_dataset_among_good_ones_is_inconclusive():
    good = findings({"scores": output(SCORES)})
    assert evaluate([], {"good": good, "empty": Findings()}, models()).outcome == "inconclusive"


def test_a_failure_beats_a_doubt():
    found = judge({"scores": output(SCORES, SCORES + 1)}, "max_abs_error<=0.5", "exact_match>=1")
    assert found.outcome == "fail"
    assert "asks for <= 0.5" in found.reasons[0]
    assert "cannot be judged" in found.reasons[1]


def test_thirty_examples_are_enough_for_a_share():
    assert judge({"scores": output(SCORES[:30])}).outcome == "pass"


def test_a_label_list_is_not_gated_unless_the_optimized_models_differs():
    alike = judge({"scores": output(SCORES), "names": output(NAMES)})
    assert alike.outcome == "pass"
    assert not any("names" in check.expr for check in alike.checks)
    other = NAMES.copy()
    other[:, 0] = b"z"
    assert judge({"scores": output(SCORES), "names": output(NAMES, other)}).outcome == "fail"


def test_a_constant_output_beside_the_main_one_spoils_nothing():
    assert judge({"scores": output(SCORES), "anchors": output(np.ones((100, 4)))}).outcome == "pass"


def test_another_shape_or_a_failure_of_the_optimized_model_fails_whatever_the_gates():
    assert judge({"scores": output(SCORES, SCORES[:, :4])}, "size_ratio<=1").outcome == "fail"
    found = judge({"scores": output(SCORES)}, "size_ratio<=1", failures=2, first_failure="no such table")
    assert found.outcome == "fail"
    assert "no such table" in found.reasons[0]


def test_the_named_main_output_is_the_one_that_bare_gates_mean():
    outputs = {"scores": output(SCORES), "z": output(SCORES, SCORES + 1)}
    assert judge(outputs, "max_abs_error<=0.1").outcome == "pass"
    assert judge(outputs, "max_abs_error<=0.1", main="z").outcome == "fail"


def test_ratios_are_optimized_over_original():
    def latency(p50):
        return {batch: Percentiles(p50=p50 * factor, p95=9, p99=9) for batch, factor in (("1", 1), ("32", p50))}

    pair = LatencyPair(original=latency(1.0), optimized=latency(1.2))
    data = {"test": findings({"scores": output(SCORES)}, latency_ms=pair)}
    gates = [parse(f"{name}_ratio<=1") for name in ("size", "load", "memory", "latency")]
    found = evaluate(gates, data, models(size=25, seconds=1.0, memory=900))
    assert [check.value for check in found.checks] == [0.25, 0.5, 0.9, pytest.approx(1.44)]
    assert [check.passed for check in found.checks] == [True, True, True, False]


def test_a_drop_in_accuracy_is_positive():
    labels = {"accuracy": LabelMetric(original=0.9, optimized=0.85, difference=-0.05)}
    found = judge({"scores": output(SCORES)}, "label_accuracy_drop<=0.04", labels=labels)
    assert found.checks[0].value == 0.05
    assert found.outcome == "fail"
