import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfslim_core.intervals import wilson
from tfslim_core.labels import LabelStats, predicted_labels

SCORES = np.float32([[0.1, 0.9], [0.8, 0.2]])
NUMBERS = np.array([1, 1])
NAMES = np.array([b"cat", b"dog"], object)
repeatable = settings(max_examples=10, deadline=None, derandomize=True)


def objects(values):
    array = np.empty(len(values), object)
    array[:] = [value.item() if isinstance(value, np.generic) else value for value in values]
    return array


def stats(labels, original, optimized=None, main="scores", first=0, **options):
    """Of outputs, or of a lone one named scores."""
    outputs = [one if isinstance(one, dict) else {"scores": np.asarray(one)} for one in (original, optimized)]
    found = LabelStats(**options)
    found.add(
        objects(labels), outputs[0], outputs[1 if optimized is not None else 0], main, np.arange(len(labels)) + first
    )
    return found


def summary(*args, **options):
    return stats(*args, **options).summary()


def softmax(scores):
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def test_a_class_number_is_the_argmax():
    assert predicted_labels({"scores": SCORES}, "scores", NUMBERS).tolist() == [1, 0]


def test_a_class_name_stands_where_the_scores_are_highest():
    classes = np.array([[b"cat", b"dog"]] * 2, object)
    assert predicted_labels({"scores": SCORES, "classes": classes}, "scores", NAMES).tolist() == [b"dog", b"cat"]


def test_without_scores_an_output_with_one_value_per_example_is_the_answer():
    outputs = {"names": np.array([[b"dog"], [b"cat"]], object), "ids": np.array([[1], [0]]), "value": np.zeros((2, 1))}
    assert predicted_labels(outputs, "value", NAMES).tolist() == [b"dog", b"cat"]
    assert predicted_labels(outputs, "value", NUMBERS).tolist() == [1, 0]


def test_scores_alone_name_no_class():
    assert predicted_labels({"scores": SCORES}, "scores", NAMES) is None
    assert predicted_labels({"value": np.zeros((2, 1), np.float32)}, "value", NUMBERS) is None


def test_accuracy_adds_up():
    whole = stats([0, 0, 0], [[1.0, 0], [1, 0], [0, 1]], [[1.0, 0], [0, 1], [0, 1]])
    whole.merge(stats([1], [[0.0, 1]], [[1.0, 0]], first=3))
    accuracy = whole.summary()["accuracy"]
    assert (accuracy.original, accuracy.optimized, accuracy.difference) == (0.75, 0.25, -0.5)
    assert accuracy.original_interval == wilson(0.75, 4)
    assert whole.turned == 2


def test_no_label_has_no_accuracy():
    assert LabelStats().summary()["accuracy"].original is None
    missing = stats([None, None], SCORES)
    assert (missing.missing, missing.examples) == (2, 0)
    assert missing.summary()["accuracy"].original is None


def test_examples_without_a_label_are_left_out_and_counted():
    random = np.random.default_rng(0)
    scores = random.normal(size=(50, 3))
    labels = random.integers(0, 3, 50).tolist()
    some = [None if row % 5 == 0 else label for row, label in enumerate(labels)]
    kept = [row for row in range(50) if row % 5]
    found = stats(some, scores, scores[:, ::-1])
    assert found.missing == 10
    wanted = LabelStats()
    wanted.add(
        objects([labels[row] for row in kept]),
        {"scores": scores[kept]},
        {"scores": scores[kept, ::-1]},
        "scores",
        np.array(kept),
    )
    assert found.summary() == wanted.summary()


def known_auc(positive, scores):
    """By counting every pair."""
    above = scores[positive][:, None] - scores[~positive]
    return ((above > 0) + 0.5 * (above == 0)).mean()


def known_calibration(probabilities, labels):
    top, right = probabilities.max(1), probabilities.argmax(1) == labels
    places = np.minimum((top * 15).astype(int), 14)
    return sum(abs(np.sum((top - right)[places == one])) for one in range(15)) / len(labels)


def test_known_values_of_class_probabilities():
    random = np.random.default_rng(3)
    logits = random.normal(size=(600, 8), scale=2)
    labels = np.where(random.random(600) < 0.6, logits.argmax(1), random.integers(0, 8, 600))
    models = softmax(logits), softmax(logits + random.normal(size=logits.shape))
    found = summary(labels, *models)
    assert set(found) == {"accuracy", "top5_accuracy", "auc", "log_loss", "calibration_error"}
    for name, of in {
        "accuracy": lambda p: np.mean(p.argmax(1) == labels),
        "top5_accuracy": lambda p: np.mean((np.argsort(-p, axis=1)[:, :5] == labels[:, None]).any(1)),
        "log_loss": lambda p: -np.log(p[np.arange(600), labels]).mean(),
        "calibration_error": lambda p: known_calibration(p, labels),
    }.items():
        values = [of(p) for p in models]
        assert (found[name].original, found[name].optimized) == pytest.approx(values, rel=1e-9), name
        assert found[name].difference == pytest.approx(values[1] - values[0], rel=1e-9), name
        low, high = found[name].interval
        assert low < found[name].difference < high, name
    areas = [np.mean([known_auc(labels == one, p[:, one]) for one in range(8)]) for p in models]
    assert (found["auc"].original, found["auc"].optimized) == pytest.approx(areas, abs=1e-3)
    assert found["auc"].interval[0] < areas[1] - areas[0] < found["auc"].interval[1]


def test_scikit_learn_finds_the_same():
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(5)
    logits = random.normal(size=(900, 7), scale=3)
    labels = np.where(random.random(900) < 0.5, logits.argmax(1), random.integers(0, 7, 900))
    p = softmax(logits)
    found = summary(labels, p)
    assert found["accuracy"].original == metrics.accuracy_score(labels, p.argmax(1))
    assert found["top5_accuracy"].original == pytest.approx(metrics.top_k_accuracy_score(labels, p, k=5))
    assert found["log_loss"].original == pytest.approx(metrics.log_loss(labels, p))
    assert found["auc"].original == pytest.approx(metrics.roc_auc_score(labels, p, multi_class="ovr"), abs=1e-3)
    chance = 1 / (1 + np.exp(-logits[:, 0]))
    binary = (random.random(900) < chance).astype(int)
    lone = summary(binary, chance[:, None])
    assert lone["auc"].original == pytest.approx(metrics.roc_auc_score(binary, chance), abs=1e-3)
    assert lone["log_loss"].original == pytest.approx(metrics.log_loss(binary, chance))
    assert lone["accuracy"].original == metrics.accuracy_score(binary, chance >= 0.5)
    values = logits[:, 0] + random.normal(size=900)
    estimated = summary(values, logits[:, :1])
    assert estimated["mae"].original == pytest.approx(metrics.mean_absolute_error(values, logits[:, 0]))
    assert estimated["rmse"].original == pytest.approx(metrics.mean_squared_error(values, logits[:, 0]) ** 0.5)


def test_a_lone_number_is_a_probability_or_an_estimate_by_what_the_data_holds():
    random = np.random.default_rng(1)
    chance = random.random(300)
    labels = (random.random(300) < chance).astype(int)
    binary = summary(labels, chance[:, None], np.sqrt(chance)[:, None])
    assert set(binary) == {"accuracy", "auc", "log_loss", "calibration_error"}
    assert binary["auc"].original == pytest.approx(known_auc(labels == 1, chance), abs=1e-3)
    assert binary["auc"].difference == pytest.approx(0, abs=1e-3)  # the order is the same
    assert binary["log_loss"].optimized > binary["log_loss"].original
    # One label of 2.5 among them, and they are estimates, whatever came before.
    both = stats(labels, chance[:, None])
    both.merge(stats([2.5], [[0.5]], first=300))
    estimates = both.summary()
    assert set(estimates) == {"accuracy", "mae", "rmse"}
    assert estimates["accuracy"].original is None
    errors = np.append(chance - labels, 2.0)
    assert estimates["mae"].original == pytest.approx(np.abs(errors).mean())
    assert estimates["rmse"].original == pytest.approx(np.sqrt(np.square(errors).mean()))
    assert estimates["mae"].interval == estimates["rmse"].interval == (0, 0)


def test_logits_have_no_log_loss_and_two_of_them_an_area():
    random = np.random.default_rng(1)
    logits = random.normal(size=(300, 2), scale=4)
    labels = (random.random(300) < softmax(logits)[:, 1]).astype(int)
    found = summary(labels, logits)
    assert set(found) == {"accuracy", "auc"}
    assert found["auc"].original == pytest.approx(known_auc(labels == 1, logits[:, 1] - logits[:, 0]), abs=1e-3)
    # The same as of the probabilities that the logits stand for, near to 0 and 1 too.
    assert summary(labels, softmax(logits))["auc"].original == pytest.approx(found["auc"].original, abs=1e-3)


def test_class_names_score_like_class_numbers():
    random = np.random.default_rng(2)
    scores = softmax(random.normal(size=(200, 6)))
    labels = random.integers(0, 6, 200)
    classes = np.array([[f"c{one}".encode() for one in range(6)]] * 200, object)
    named = summary([f"c{one}".encode() for one in labels], {"scores": scores, "classes": classes})
    assert named == summary(labels, scores)
    # Listed from best to worst, there is no column of a class; text that is no class is wrong, and has no loss.
    order = np.argsort(-scores, axis=1)
    ranked = {"scores": np.take_along_axis(scores, order, 1), "classes": np.take_along_axis(classes, order, 1)}
    found = summary([f"c{one}".encode() for one in labels], ranked)
    assert "auc" not in found
    merged = LabelStats()
    merged.merge(stats([f"c{one}".encode() for one in labels], ranked))
    assert merged.summary() == found
    assert found["accuracy"] == named["accuracy"]
    assert found["log_loss"].original == pytest.approx(named["log_loss"].original)
    strange = summary([b"x"] * 200, {"scores": scores, "classes": classes})
    assert strange["accuracy"].original == 0
    assert "log_loss" not in strange


def test_text_labels_are_numbers_where_the_model_answers_none():
    assert summary([b"1", b"0"], SCORES)["accuracy"].original == 1
    assert summary([b"one", b"two"], SCORES)["accuracy"].original is None


def test_text_that_is_no_label_takes_no_other_label_with_it():
    labels = [b"1", b"N/A", b"nan", b"0", 2**70, None]
    found = stats(labels, np.float32([[0.2, 0.8]] * 6))
    assert (found.examples, found.missing, found.of_no_class) == (3, 3, 1)
    assert found.summary()["accuracy"].original == 1 / 3
    # Whatever they came along with.
    alone = LabelStats()
    for place, label in enumerate(labels):
        alone.merge(stats([label], np.float32([[0.2, 0.8]]), first=place))
    assert alone.summary() == found.summary()


def test_an_answer_of_nan_is_never_right():
    broken = np.full((40, 3), np.nan, np.float32)
    sound = np.tile(np.float32([5, 1, 0]), (40, 1))
    assert summary([0] * 40, sound, broken)["accuracy"].optimized == 0
    classes = np.array([[b"cat", b"dog", b"cow"]] * 40, object)
    named = summary([b"cat"] * 40, {"scores": sound, "c": classes}, {"scores": broken, "c": classes})["accuracy"]
    assert (named.original, named.optimized) == (1, 0)


def test_labels_of_no_class_are_counted():
    assert stats([0, 1, 2, 3, -1, 0.5], np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]).of_no_class == 3
    classes = np.array([[b"cat", b"dog"]] * 2, object)
    assert stats([b"cat", b"cow"], {"scores": SCORES, "classes": classes}).of_no_class == 1


def test_a_log_loss_is_never_infinite():
    assert summary([0], [[0.0, 1.0]])["log_loss"].original == pytest.approx(-np.log(1e-15))


def test_where_no_answer_turned_the_interval_is_that_of_none_among_so_many():
    found = summary([0] * 100, [[0.6, 0.4]] * 100, [[0.7, 0.3]] * 100)["accuracy"]
    assert found.difference == 0
    assert found.interval == pytest.approx((-0.037, 0.037), abs=1e-4)


def test_identical_models_differ_by_nothing():
    random = np.random.default_rng(2)
    found = summary(random.integers(0, 6, 200), softmax(random.normal(size=(200, 6))))
    for name in ("log_loss", "calibration_error", "auc"):
        assert found[name].difference == 0
        assert found[name].interval == (0, 0)


def test_intervals_of_95_percent_hold_the_difference_in_about_95_of_100_samples():
    random = np.random.default_rng(0)
    logits = random.normal(size=(30_000, 3), scale=2)
    labels = np.where(random.random(30_000) < 0.7, logits.argmax(1), random.integers(0, 3, 30_000))
    before, after = softmax(logits), softmax(logits + random.normal(size=logits.shape))
    truth = summary(labels, before, after)
    held = dict.fromkeys(truth, 0)
    for start in range(0, 30_000, 600):
        rows = slice(start, start + 600)
        for name, metric in summary(labels[rows], before[rows], after[rows], first=start).items():
            held[name] += metric.interval[0] <= truth[name].difference <= metric.interval[1]
    # The calibration error of few examples is too large for both models, so its difference is off as well.
    assert all(many >= 43 for name, many in held.items() if name != "calibration_error"), held


LABELS = st.lists(st.sampled_from([None, 0, 1, 2, 0.5, b"a", b"1"]), min_size=1, max_size=30)


@repeatable
@given(LABELS, st.sampled_from(["scores", "value", "logits"]), st.data())
def test_any_split_merged_in_any_order_adds_up_to_the_whole(labels, kind, data):
    random = np.random.default_rng(len(labels))
    of = {"scores": (3,), "value": (1,), "logits": (7,)}[kind]
    models = [random.normal(size=(len(labels), *of)) for _ in range(2)]
    if kind == "scores":
        models = [softmax(one) for one in models]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(labels)), max_size=4)))
    parts = [
        stats(labels[a:b], *(one[a:b] for one in models), first=a)
        for a, b in itertools.pairwise([0, *cuts, len(labels)])
        if b > a
    ]
    total = LabelStats()
    for part in data.draw(st.permutations(parts)):
        total.merge(part)
    whole = stats(labels, *models)
    assert (total.examples, total.missing, total.turned) == (whole.examples, whole.missing, whole.turned)
    first, second = total.summary(), whole.summary()
    assert set(first) == set(second)
    for name, metric in second.items():
        assert first[name].interval == metric.interval
        for end in ("original", "optimized", "difference"):
            wanted = getattr(metric, end)
            assert getattr(first[name], end) == (None if wanted is None else pytest.approx(wanted, rel=1e-9, abs=1e-12))
