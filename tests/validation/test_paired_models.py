import weakref

import numpy as np
import pytest

from tfslim_core.errors import ModelError
from tfslim_core.validation.batches import Batch
from tfslim_core.validation.paired_models import LoadFailure, ModelPair, NoModels, PairHandler


class Doubles:
    """Answers y = 2 x; fails on a batch that has one of `refused`."""

    def __init__(self, *refused, factor=2):
        self.refused, self.factor, self.calls = refused, factor, 0

    def run(self, signature, feeds):
        self.calls += 1
        if np.isin(feeds["x"], self.refused).any():
            raise ModelError(f"{signature} cannot take it")
        return {"y": feeds["x"] * self.factor}


def batch(*values):
    return Batch("d", {"x": np.array(values)}, np.arange(len(values)))


def test_both_models_get_the_same_batch():
    (answers,) = ModelPair(Doubles(), Doubles(factor=3), "s").answers(batch(1, 2))
    assert answers.original["y"].tolist() == [2, 4]
    assert answers.optimized["y"].tolist() == [3, 6]


@pytest.mark.parametrize("which", ["original", "optimized"])
def test_a_model_that_fails_is_asked_again_example_by_example(which):
    pair = {"original": Doubles(), "optimized": Doubles(), which: Doubles(2)}
    found = list(ModelPair(pair["original"], pair["optimized"], "s").answers(batch(1, 2, 3)))
    assert [answers.batch.places.tolist() for answers in found] == [[0], [1], [2]]
    assert [answers.error for answers in found] == ["", "s cannot take it", ""]
    assert getattr(found[1], which) is None
    assert (found[1].original is None) == (which == "original")
    assert found[2].optimized["y"].tolist() == [6]


def test_bugs_are_not_taken_for_bad_examples():
    class Broken:
        def run(self, signature, feeds):
            raise AttributeError("a bug")

    with pytest.raises(AttributeError):
        list(ModelPair(Broken(), Broken(), "s").answers(batch(1)))


def test_models_that_cannot_be_loaded_are_told_rather_than_raised():
    def refuse(path, tags):
        raise ModelError(f"{path} is damaged")

    handler = PairHandler("a", "b", ("serve",), "s", refuse)
    models = handler.load_model()
    assert isinstance(models, NoModels)
    assert handler.run_inference(batch(1), models) == [LoadFailure("d", "a is damaged")]


def test_the_pair_can_be_referenced_weakly_and_news_of_ranges_needs_no_model():
    handler = PairHandler("a", "b", ("serve",), "s", lambda path, tags: Doubles())
    models = handler.load_model()
    assert weakref.ref(models)() is models
    (answers,) = handler.run_inference(Batch.empty("d", {0: 4}), models)
    assert answers.batch.finished == {0: 4}
    assert handler.should_skip_batching()
    assert handler.get_num_bytes(batch(1, 2)) == 16
