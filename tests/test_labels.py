import numpy as np

from tfslim_core.labels import LabelStats, predicted_labels

SCORES = np.float32([[0.1, 0.9], [0.8, 0.2]])
NUMBERS = np.array([1, 1])
NAMES = np.array([b"cat", b"dog"], object)


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
    whole, part = LabelStats(), LabelStats()
    whole.add_batch([True, True, False], [True, False, False])
    part.add_batch([True], [False])
    whole.merge(part)
    accuracy = whole.summary()["accuracy"]
    assert (accuracy.original, accuracy.optimized, accuracy.difference) == (0.75, 0.25, -0.5)


def test_no_label_has_no_accuracy():
    assert LabelStats().summary()["accuracy"].original is None
