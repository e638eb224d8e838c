from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfslim_core.saved_model.fresh_process import Conversation
from tfslim_core.saved_model.sample_inputs import MOST_CANDIDATES, Trial, made_up_inputs, runnable_inputs
from tfslim_core.saved_model.server_loader import Signature, TensorSpec, read_signatures

tf1 = tf.compat.v1
MODELS = Path(__file__).parents[2] / ".cache/models"


def signature(**inputs: TensorSpec) -> Signature:
    return Signature("serving_default", "", inputs, {})


def spec(dtype: object, *shape: int | None, optional: bool = False) -> TensorSpec:
    return TensorSpec("x:0", np.dtype(dtype), shape, optional)


def save(path: Path, dtype: object, shape: list[int | None] | None, answer) -> tuple[str, Signature]:
    with tf1.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(dtype, shape, name="x")
        predict = tf1.saved_model.predict_signature_def({"x": x}, {"y": answer(x)})
        builder = tf1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": predict})
        builder.save()
    return str(path), read_signatures(path)["serving_default"]


def test_the_first_candidate_has_the_likely_values():
    image, ids, flag, text = (
        made_up_inputs(signature(x=one), batch=3)[0]["x"]
        for one in (spec(np.float32, None, 4, 4), spec(np.int32, None, 50), spec(np.bool_, 40), spec(object, None))
    )
    assert (image.shape, image.dtype) == ((3, 4, 4), np.float32)
    assert 0 <= image.min() < 0.2
    assert 0.8 < image.max() < 1
    assert set(np.unique(ids)) == set(range(10))
    assert ids.dtype == np.int32
    assert set(flag.tolist()) == {True, False}
    assert text.shape == (3,)
    assert text.tolist()[0].startswith(b"def ")
    assert text.tolist()[2] == b""


def test_unknown_dimensions_are_guessed_one_way_in_each_candidate():
    shapes = [feeds["x"].shape for feeds in made_up_inputs(signature(x=spec(np.float32, None, None, None, 3)))]
    assert shapes[:4] == [(2, 8, 8, 3), (2, 32, 32, 3), (2, 224, 224, 3), (2, 1, 1, 3)]


def test_unknown_ranks_are_guessed_too():
    unknown = TensorSpec("x:0", np.dtype(np.float32), None)
    shapes = [feeds["x"].shape for feeds in made_up_inputs(signature(x=unknown))]
    assert list(dict.fromkeys(shapes)) == [(2,), (2, 8), ()]


def test_strings_are_also_tried_as_empty_examples():
    texts = [feeds["x"].tolist() for feeds in made_up_inputs(signature(x=spec(object, None)))]
    assert len(texts) == 2
    assert texts[1] == [b"", b""]


def test_inputs_with_a_default_are_first_left_to_it():
    candidates = made_up_inputs(signature(x=spec(np.int64, None), rate=spec(np.float32, optional=True)))
    assert [set(feeds) for feeds in candidates[:2]] == [{"x"}, {"x", "rate"}]


def test_there_are_few_candidates_and_all_differ():
    wide = signature(
        a=spec(object, None, None), b=TensorSpec("b:0", np.dtype(np.int8), None), c=spec(np.bool_, optional=True)
    )
    candidates = made_up_inputs(wide)
    assert len(candidates) == MOST_CANDIDATES
    looks = {str([(key, array.shape, array.tolist()) for key, array in feeds.items()]) for feeds in candidates}
    assert len(looks) == MOST_CANDIDATES


def test_a_guess_is_never_huge():
    for feeds in made_up_inputs(signature(x=spec(np.float32, None, None, None, None, None))):
        assert feeds["x"].size <= 4_000_000


def tried(path, served) -> Trial:
    with Conversation(path) as conversation:
        return runnable_inputs(conversation, served)


def test_the_same_arguments_give_the_same_inputs():
    wanted = signature(x=spec(np.float32, None, None))
    first, again, other = (made_up_inputs(wanted, seed=seed) for seed in (1, 1, 2))
    assert [feeds["x"].tobytes() for feeds in first] == [feeds["x"].tobytes() for feeds in again]
    assert first[0]["x"].tobytes() != other[0]["x"].tobytes()


def test_inputs_that_numpy_cannot_hold_have_no_candidates(tmp_path):
    resource = signature(x=spec(np.void))
    assert made_up_inputs(resource) == []
    trial = tried(tmp_path, resource)
    assert trial.feeds is None
    assert "cannot be made up" in trial.reason


@pytest.mark.parametrize("model", ["guesslang/data/model", "basic_pitch/saved_models/icassp_2022/nmp"])
def test_real_models_run_on_made_up_inputs(model):
    for served in read_signatures(MODELS / model).values():
        trial = tried(MODELS / model, served)
        assert trial.feeds is not None, trial.reason
        assert set(trial.feeds) == set(served.inputs)
        assert set(trial.answer) == set(served.outputs)


def test_a_model_that_parses_examples_runs_on_empty_ones(tmp_path):
    def parse(x):
        return tf.io.parse_example(x, {"a": tf.io.FixedLenFeature([], tf.float32, default_value=1.0)})["a"] + 1

    trial = tried(*save(tmp_path / "m", tf.string, [None], parse))
    assert trial.feeds is not None
    assert trial.feeds["x"].tolist() == [b"", b""]


def test_the_size_with_which_a_model_runs_is_found(tmp_path):
    path, served = save(tmp_path / "m", tf.float32, [None, None], lambda x: tf.matmul(x, tf.ones([32, 2])))
    trial = tried(path, served)
    assert trial.feeds is not None
    assert trial.feeds["x"].shape == (2, 32)


def test_a_model_that_runs_on_nothing_gives_the_reason(tmp_path):
    def refuse(x):
        with tf1.control_dependencies([tf1.assert_greater(x, 100.0, message="far too small")]):
            return tf.identity(x)

    trial = tried(*save(tmp_path / "m", tf.float32, [None], refuse))
    assert trial.feeds is None
    assert "none of 2 made-up requests was answered" in trial.reason
    assert "far too small" in trial.reason
    assert "\n" not in trial.reason
