"""The frozen graphs that transforms are measured on: real models, Keras ones, and a generated one of many nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.places import BASIC_PITCH, GUESSLANG, OUT
from benchmarks.subjects import sleepecg
from tfslim_core.bundle import Bundle, roots
from tfslim_core.graph import constant, make_node
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.saved_model.write import with_values
from tfslim_core.storage import whole_directory

tf1 = tf.compat.v1
GENERATED_NODES = 50_000


@dataclass(frozen=True)
class FrozenGraph:
    """A GraphDef with its values. inputs, outputs: tensors; feeds: by tensor. init: the node that fills the tables."""

    name: str
    graph_def: Any
    inputs: Sequence[str]
    outputs: Sequence[str]
    feeds: Mapping[str, np.ndarray]
    init: str = ""

    @property
    def input_nodes(self) -> list[str]:
        """What the old tool is to leave as inputs."""
        return _nodes(self.inputs)

    @property
    def output_nodes(self) -> list[str]:
        """What the old tool is to compute still."""
        return [*_nodes(self.outputs), *([self.init] if self.init else [])]


def frozen_graphs(told: Callable[[str], None], only: Sequence[str] = ()) -> Iterator[FrozenGraph]:
    """One after the other: they are large."""
    rng = np.random.default_rng(0)
    image = rng.random((2, 96, 96, 3), np.float32)
    texts = ["def f(x):\n    return x", "int main() { return 0; }", "SELECT * FROM t", "the night was short"]
    strings = np.array([text.encode() for text in texts], object)
    models: dict[str, tuple[Callable[[], Path], Mapping[str, np.ndarray]]] = {
        "guesslang": (lambda: GUESSLANG, {"inputs": strings}),
        "basic_pitch": (lambda: BASIC_PITCH, {"input_2": rng.normal(0, 0.1, (2, 43_844, 1)).astype(np.float32)}),
        "sleepecg": (lambda: sleepecg(1).path, {"input_10": rng.normal(size=(2, 12, 36)).astype(np.float32)}),
        "MobileNetV2": (lambda: exported_keras("mobilenet"), {"": image}),
        "ResNet50": (lambda: exported_keras("resnet50"), {"": image[:, :64, :64]}),
        "EfficientNetB0": (lambda: exported_keras("efficientnet"), {"": 255 * image[:, :64, :64]}),
        "text LSTM": (lambda: exported_keras("text_lstm"), {"": strings}),
    }
    for name, (path, feeds) in models.items():
        if not only or name in only:
            told(f"{name}: freeze")
            yield _frozen(name, freeze_saved_model(read_saved_model(path(), ("serve",), None)), feeds)
    if not only or "generated" in only:
        yield FrozenGraph(
            "generated",
            generated(GENERATED_NODES),
            ["x:0"],
            ["out:0"],
            {"x:0": rng.normal(size=(3, 8)).astype(np.float32)},
        )


def _frozen(name: str, bundle: Bundle, feeds: Mapping[str, np.ndarray]) -> FrozenGraph:
    signatures = bundle.manifest.signature_defs()
    inputs, outputs = roots(signatures)
    init = bundle.manifest.init_op or ""
    keys = signatures["serving_default"].inputs
    return FrozenGraph(
        name,
        with_default_attributes(with_values(bundle.graph)),
        inputs,
        outputs,
        {keys[key or next(iter(keys))].name: value for key, value in feeds.items()},
        init,
    )


def _nodes(tensors: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(tensor.partition(":")[0] for tensor in tensors))


def with_default_attributes(graph_def: Any) -> Any:
    """The graph with all attributes: those stripped as equal to their default make the old tool abort."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    return graph.as_graph_def()


def exported_keras(name: str) -> Path:
    """The Keras model of that name, made and exported if it is not there yet."""
    from tests.keras_models import MODELS, exported  # builds them with random weights, the same each time

    path = OUT / "models" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_directory(path) as aside:
            exported(MODELS[name](), aside)
    return path


def generated(nodes: int) -> Any:
    """A chain of small dense layers [batch, 8] -> [batch, 8], each with an unfused batch norm and a tanh."""
    graph_def = tf1.GraphDef()
    graph_def.versions.producer = tf.version.GRAPH_DEF_VERSION
    rng = np.random.default_rng(0)

    def add(node: Any) -> str:
        graph_def.node.append(node)
        return str(node.name)

    def number(op: str, name: str, *inputs: str) -> str:
        return add(make_node(op, name, inputs, T=tf.float32))

    x = make_node("Placeholder", "x", [], dtype=tf.float32)
    x.attr["shape"].shape.CopyFrom(tf.TensorShape([None, 8]).as_proto())
    at, layer = add(x), 0
    while len(graph_def.node) < nodes - 1:
        here = f"layer_{layer}"
        weights = add(constant(f"{here}/w", 0.3 * rng.normal(size=(8, 8)).astype(np.float32))[0])
        gamma, variance, bias = (
            add(constant(f"{here}/{name}", rng.uniform(0.5, 1.5, 8).astype(np.float32))[0])
            for name in ("gamma", "variance", "bias")
        )
        product = number("MatMul", f"{here}/matmul", at, number("Identity", f"{here}/w/read", weights))
        scale = number("Mul", f"{here}/scale", number("Rsqrt", f"{here}/rsqrt", variance), gamma)
        scaled = number("Mul", f"{here}/mul", product, scale)
        at = number("Tanh", f"{here}/tanh", number("AddV2", f"{here}/add", scaled, bias))
        layer += 1
    number("Identity", "out", at)
    return graph_def
