"""What the encodings are measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.digits import digits
from benchmarks.examples_file import examples_file
from benchmarks.frozen import exported_keras
from benchmarks.models import dense_inputs, made, text_examples
from benchmarks.places import OUT
from benchmarks.subjects import Feeds, Subject, basic_pitch, guesslang, tones
from tfslim_core.saved_model.served_signatures import read_signatures

_WORDS = 100_000  # x 300 float32: 120 MB


@dataclass(frozen=True)
class Case:
    """A subject, the budget that its encodings are searched under, and its tuning data's label, if it has one."""

    subject: Subject
    budget: Sequence[str]
    label: str | None = None


def _text() -> Case:
    path = made("text", words=_WORDS, layers=3, filters=256, pretrained=1, steps=300)
    inputs, labels = text_examples(2048, words=_WORDS, seed=1)
    tuning, _ = text_examples(4000, words=_WORDS, seed=2)
    subject = Subject(
        "text",
        "text CNN, embedding of 100,000 x 300",
        path,
        inputs,
        f"{len(labels):,} generated texts, words by Zipf's law, that neither training nor tuning saw",
        classifies=True,
        tuning={"tuning": _tuning("text", tuning)},
        labels=labels,
    )
    return Case(subject, ["top1_agreement>=0.992"])


def _dense() -> Case:
    subject = Subject(
        "dense",
        "4 dense layers of 2048 x 2048",
        made("dense"),
        dense_inputs(512),
        "512 of seeded noise",
        classifies=False,
        tuning={"tuning": _tuning("dense", dense_inputs(512, seed=2))},
    )
    return Case(subject, ["rel_l2_error<=0.05"])


def _guesslang() -> Case:
    return Case(guesslang(tuning=1500, per_extension=200), ["top1_agreement>=0.99"])


def _digits() -> Case:
    path = made("digits")
    images, labels = digits().unseen
    tuned_images, tuned_labels = digits().tuning
    subject = Subject(
        "digits",
        "classifier of handwritten digits, three dense layers",
        path,
        {"x": images},
        f"{len(images):,} real digits that neither training nor tuning saw",
        classifies=True,
        tuning={"tuning": _tuning("digits", {"x": tuned_images, "label": tuned_labels})},
        labels=labels,
    )
    return Case(subject, ["label_accuracy_drop<=0.003"], "label")


def _basic_pitch() -> Case:
    tuning = {"tuning": _tuning("basic_pitch", {"input_2": tones(64, seed=2)})}
    budget = [f"{output}:rel_l2_error<=0.01" for output in ("contour", "note", "onset")]
    return Case(replace(basic_pitch(), tuning=tuning), budget)


def _transformer() -> Case:
    def inputs(seed: int) -> dict[str, NDArray[np.float32]]:
        return {"x": np.random.default_rng(seed).standard_normal((256, 32, 256), np.float32)}

    subject = Subject(
        "transformer",
        "4 transformer blocks, random weights",
        made("transformer"),
        inputs(1),
        "256 of seeded noise",
        classifies=False,
        tuning={"tuning": _tuning("transformer", inputs(2))},
    )
    return Case(subject, ["rel_l2_error<=0.05"])


def _keras(name: str, about: str, size: int) -> Case:
    path = exported_keras(name)
    (key,) = read_signatures(path)["serving_default"].inputs

    def images(seed: int) -> dict[str, NDArray[np.float32]]:
        # Noise of several grains, so that there is something to see at each scale.
        rng = np.random.default_rng(seed)
        found = np.zeros((128, size, size, 3), np.float32)
        for grain in (1, 4, 16):
            found += np.kron(rng.random((128, size // grain, size // grain, 3), np.float32), np.ones((grain, grain, 1)))
        return {key: found / 3}

    subject = Subject(
        name,
        about,
        path,
        images(1),
        "128 images of seeded noise",
        classifies=False,
        tuning={"tuning": _tuning(name, images(2))},
    )
    return Case(subject, ["rel_l2_error<=0.05"])


def _tuning(name: str, arrays: Feeds) -> str:
    return str(examples_file(OUT / "encodings_data" / name, arrays))


CASES: Mapping[str, Callable[[], Case]] = {
    "text": _text,
    "dense": _dense,
    "guesslang": _guesslang,
    "digits": _digits,
    "basic_pitch": _basic_pitch,
    "transformer": _transformer,
    "MobileNetV2": lambda: _keras("mobilenet", "MobileNetV2 of Keras, random weights", 96),
    "ResNet50": lambda: _keras("resnet50", "ResNet50 of Keras, random weights", 64),
}
