import numpy as np
import pytest

from tfslim_core.errors import UsageError
from tfslim_core.gate import Findings, Gate, check_names, default_gates, evaluate, parse
from tfslim_core.metrics import ErrorStats
from tfslim_core.report import words
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
        ("cosine>0@test", Gate(None, "cosine", ">", 0, "test")),
        ("a:cosine>0 @ lang=de", Gate("a", "cosine", ">", 0, None, "lang=de")),
        ("cosine>0@lang=*", Gate(None, "cosine", ">", 0, None, "lang=*")),
        ("cosine>0@test,10<=n<100", Gate(None, "cosine", ">", 0, "test", "10<=n<100")),
        ("cosine>0@at=12:30, noon", Gate(None, "cosine", ">", 0, None, "at=12:30, noon")),
        ("label_log_loss_rise<=0.01", Gate(None, "label_log_loss_rise", "<=", 0.01)),
    ],
)
def test_an_expression_is_read_and_written_back(text, gate):
    assert parse(text) == gate
    assert parse(str(gate)) == gate


def test_a_bound_keeps_its_digits_and_a_value_has_those_that_tell_them_apart():
    assert str(parse("top1_agreement>=0.98999999999")) == "top1_agreement>=0.98999999999"
    failed = judge({"y": output(np.arange(40.0), np.arange(40.0) + 1.0000001)}, "max_abs_error<=1")
    assert "max_abs_error of 'y' is 1.0000001 (" in failed.reasons[0]
    assert failed.reasons[0].endswith("the gate asks for <= 1.")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("top1_agrement>=0.9", "did you mean 'top1_agreement'"),
        ("top1_agreement=>0.9", "is not [OUTPUT:]METRIC OP NUMBER"),
        ("label_auc_dorp<=0", "did you mean 'label_auc_drop'"),
        ("load_ratio<=1@test", "is of the models, not of a dataset"),
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


def noisy(examples, scale=1e-3, classes=5):
    """Scores and the same off by a little: no flips."""
    random = np.random.default_rng(11)
    scores = np.tile(np.arange(classes), (examples, 1)) * 1.0
    random.permuted(scores, axis=1, out=scores)
    return scores, scores + random.normal(size=scores.shape, scale=scale)


def flipped(examples, flips):
    """Scores of which so many flip, and as far as any could."""
    scores, other = noisy(examples)
    other[:flips] = other[:flips, ::-1] * 0 - scores[:flips]
    return scores, other


@pytest.mark.parametrize(
    ("examples", "flips", "outcome"),
    [(29, 0, "inconclusive"), (30, 0, "pass"), (10_000, 50, "pass"), (400, 3, "inconclusive")],
)
def test_a_share_passes_where_no_flip_is_possible_or_its_interval_holds(examples, flips, outcome):
    found = judge({"scores": output(*flipped(examples, flips))}, "top1_agreement>=0.99")
    assert found.outcome == outcome
    assert found.checks[0].passed
    assert found.checks[0].examples == examples
    low, high = found.checks[0].interval
    assert low <= found.checks[0].value <= high


def test_too_few_examples_are_told_with_how_many_would_do():
    # Not one flips, though some could have.
    scores, other = noisy(150, scale=0.2)
    assert (scores.argmax(1) == other.argmax(1)).all()
    found = judge({"scores": output(scores, other)}, "top1_agreement>=0.99")
    assert found.outcome == "inconclusive"
    assert found.reasons == [
        "On dataset 'test' top1_agreement of 'scores' is 1 on 150 examples, 95 % interval 0.975 to 1; the gate asks "
        "for >= 0.99; about 381 examples would do if all agree."
    ]
    assert (
        judge({"scores": output(*noisy(381, scale=0.2))}, "top1_agreement>=0.99", "flip_rate<=0.01").outcome == "pass"
    )
    # That all agree of however many is no proof that all do.
    assert judge({"scores": output(*noisy(381, scale=0.2))}, "top1_agreement==1").outcome == "inconclusive"
    assert judge({"scores": output(*noisy(381, scale=0.2))}, "flip_rate<=0").outcome == "inconclusive"
    assert judge({"scores": output(scores)}, "top1_agreement==1", "flip_rate<=0", "exact_match==1").reasons == [
        "On dataset 'test' exact_match of 'scores' has no value, so 'exact_match==1' cannot be judged."
    ]


def test_an_error_near_its_bound_needs_more_examples():
    scores, other = noisy(40, scale=0.1)
    value = output(scores, other).metrics.mean_abs_error
    near = judge({"scores": output(scores, other)}, f"mean_abs_error<={value * 1.02}")
    assert near.outcome == "inconclusive"
    assert "95 % interval" in near.reasons[0]
    assert near.reasons[0].endswith("examples would do if it stays so.")
    many = int(near.reasons[0].split("about ")[1].split()[0].replace(",", ""))
    assert 100 < many < 10_000
    assert judge({"scores": output(scores, other)}, f"mean_abs_error<={value * 1.5}").outcome == "pass"
    assert judge({"scores": output(scores, other)}, f"mean_abs_error<={value * 0.98}").outcome == "fail"


def test_a_high_quantile_of_few_examples_has_no_upper_end():
    found = judge({"scores": output(*noisy(367, scale=0.1))}, "p99_abs_error<=9", "p50_abs_error<=9")
    assert found.outcome == "inconclusive"
    assert len(found.reasons) == 1
    assert "to any larger; the gate asks for <= 9; an upper end takes 368 examples" in found.reasons[0]
    assert judge({"scores": output(*noisy(368, scale=0.1))}, "p99_abs_error<=9").outcome == "pass"


@pytest.mark.parametrize(("examples", "outcome"), [(9, "inconclusive"), (10, "pass")])
@pytest.mark.parametrize("gate", ["rel_l2_error<=0.1", "max_abs_error<=1", "nan_mismatches<=0", "size_ratio<=1"])
def test_under_ten_examples_never_pass(gate, examples, outcome):
    found = judge({"scores": output(*noisy(examples))}, gate)
    assert found.outcome == outcome
    assert judge({"scores": output(*noisy(examples))}, gate, "cosine>=1").outcome == "fail"


def test_an_identical_output_passes_on_thirty_examples_whatever_it_is():
    tokens = np.arange(90).reshape(30, 3)
    gates = ["tokens:exact_match>=0.999", "names:exact_match>=0.999", "label_accuracy_drop<=0.001"]
    names = np.array([b"a", b"b"] * 15, object)
    outputs = {"tokens": output(tokens), "names": output(names), "scores": output(noisy(30)[0])}
    interval = (-0.11, 0.11)
    labels = {"accuracy": LabelMetric(original=1, optimized=1, difference=0, interval=interval)}
    assert judge(outputs, *gates, labels=labels).outcome == "pass"
    off = tokens.copy()
    off[0, 0] += 1
    outputs["tokens"] = output(tokens, off)
    assert judge(outputs, "tokens:exact_match>=0.9", labels=labels).outcome == "pass"
    assert judge(outputs, "tokens:exact_match>=0.98", labels=labels).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("metric", "gate", "difference", "interval", "outcome"),
    [
        ("accuracy", "label_accuracy_drop<=0.01", -0.001, (-0.005, 0.003), "pass"),
        ("accuracy", "label_accuracy_drop<=0.01", -0.001, (-0.02, 0.018), "inconclusive"),
        ("accuracy", "label_accuracy_drop<=0.01", -0.02, (-0.03, -0.01), "fail"),
        ("auc", "label_auc_drop<=0.01", 0.02, (0.0, 0.04), "pass"),
        ("log_loss", "label_log_loss_rise<=0.01", 0.02, (0.0, 0.04), "fail"),
        ("log_loss", "label_log_loss_rise<=0.01", -0.02, (-0.04, 0.0), "pass"),
        ("rmse", "label_rmse_rise<=0.01", 0.0, (-0.04, 0.04), "inconclusive"),
        ("rmse", "label_mae_rise<=0.01", 0.0, (0.0, 0.0), "inconclusive"),
    ],
)
def test_losses_against_labels_are_judged_by_the_interval_of_the_difference(
    metric, gate, difference, interval, outcome
):
    labels = {metric: LabelMetric(original=0.5, optimized=0.5 + difference, difference=difference, interval=interval)}
    found = judge({"scores": output(*noisy(100, scale=0.5))}, gate, labels=labels)
    assert found.outcome == outcome
    if "no value" not in found.reasons[0]:
        assert found.checks[0].interval == (interval if "rise" in gate else (-interval[1], -interval[0]))


def test_examples_without_a_label_are_told_and_do_not_count():
    labels = {"accuracy": LabelMetric(original=1, optimized=1, difference=0, interval=(0, 0))}
    found = judge({"scores": output(SCORES)}, "label_accuracy_drop<=0.1", labels=labels, without_label=20)
    assert (found.outcome, found.checks[0].examples) == ("pass", 80)
    assert found.reasons[1] == (
        "Dataset 'test': 20 of 100 examples have no label that answers can be held against; metrics against "
        "labels leave them out."
    )
    few = judge({"scores": output(SCORES)}, "label_accuracy_drop<=0.1", labels=labels, without_label=80)
    assert few.outcome == "inconclusive"
    none = judge({"scores": output(SCORES)}, "label_accuracy_drop<=0.1", labels=labels, without_label=95)
    assert none.outcome == "inconclusive"
    assert none.reasons[0] == "On dataset 'test' label_accuracy_drop rests on 5 examples; fewer than 10 prove nothing."


def test_of_many_slices_the_worst_are_told_and_how_many_more_there_are():
    def part(error, examples=40):
        return findings({"y": output(np.arange(examples) + 0.5, np.arange(examples) + 0.5 + error)})

    broken = {f"k={{}}{number:03}": part(number / 8) for number in range(100)}
    small = {f"k=small{number}": part(0, 3) for number in range(20)}
    slices = {"k": {**broken, **small}}
    gate = "max_abs_error<=1@k=*"
    found = judge({"y": output(np.arange(40.0))}, gate, slices=slices)
    assert (found.outcome, len(found.checks)) == ("fail", 120)
    assert len(found.reasons) == 12
    assert "slice 'k={}099', max_abs_error of 'y' is 12.375" in found.reasons[0]
    assert found.reasons[5] == f"'{gate}' says the same of 86 more slices of dataset 'test'."
    assert found.reasons[11] == "The same is so of 15 more slices of dataset 'test'."


def test_what_the_default_gates_leave_alone_is_told_where_it_differs_much():
    outputs = {"scores": output(SCORES), "near": output(SCORES, SCORES * 1.05), "boxes": output(SCORES, SCORES[::-1])}
    found = judge(outputs)
    assert (found.outcome, len(found.reasons)) == ("pass", 2)
    assert found.reasons[1].startswith("Dataset 'test': 'boxes' is held to nothing but NaN by the default gates")
    assert len(judge(outputs, "top1_agreement>=0.9").reasons) == 1


def test_labels_that_are_no_class_are_told():
    labels = {"accuracy": LabelMetric(original=0.7, optimized=0.7, difference=0.0, interval=(-0.01, 0.01))}
    found = judge({"scores": output(SCORES)}, "label_accuracy_drop<=0.1", labels=labels, of_no_class=30)
    assert found.outcome == "pass"
    assert found.reasons[1].startswith("Dataset 'test': 30 of 100 examples have a label that is none of the classes")


def test_a_failing_check_points_at_the_worst_examples():
    other = SCORES.copy()
    other[[17, 4]] += [[9.0], [8.0]]
    found = judge({"scores": output(SCORES, other)}, "max_abs_error<=1")
    assert "is 9 (worst: records 17, 4); the gate asks" in found.reasons[0]


def test_a_check_on_a_slice_of_a_few_examples_is_undecided_where_it_is_not_broken():
    few = {"k": {"k=a": findings({"scores": output(SCORES[:4])}), "k=b": findings({"scores": output(SCORES)})}}
    found = judge({"scores": output(SCORES)}, "top1_agreement>=0.9@k=*", slices=few)
    assert found.outcome == "inconclusive"
    told = {check.slice: (check.value, check.passed, check.undecided, words.result(check)) for check in found.checks}
    assert told == {"k=a": (1, True, True, "undecided"), "k=b": (1, True, False, "held")}
    broken = {"k": {"k=a": findings({"scores": output(SCORES[:4], SCORES[:4, ::-1])})}}
    (check,) = judge({"scores": output(SCORES)}, "top1_agreement>=0.9@k=a", slices=broken).checks
    assert (check.undecided, words.result(check)) == (False, "broken")
