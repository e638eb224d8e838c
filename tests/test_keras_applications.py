"""Keras image models as they are exported: what the default transforms leave of them."""

import numpy as np
import pytest

import tfslim_core
from tests import keras_models
from tests.graphs import op_counts
from tfslim_core.graph import data_inputs
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.fresh_process import Request, answers
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.saved_model.write import write_saved_model
from tfslim_core.stages import transformed

TOLERANCE = 1e-4  # relative L2
LAYERS = {"Conv2D", "DepthwiseConv2dNative", "MatMul"}
# The size of the images and their largest value; batch norms, convolutions, and the products that are no batch norm's:
# EfficientNet has 49 of its swish and 16 of squeeze and excitation.
MODELS = {
    "mobilenet": (96, 1, 52, 35, 0),
    "resnet50": (64, 1, 53, 53, 0),
    "efficientnet": (64, 255, 49, 65, 49 + 16),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    """The name, the folder with the exported and the slim model, the frozen graph and the transformed one."""
    folder = tmp_path_factory.mktemp(request.param)
    keras_models.exported(keras_models.MODELS[request.param](), folder / "exported")
    frozen = freeze_saved_model(read_saved_model(folder / "exported", ("serve",), None))
    slim = transformed(frozen, None, lambda *now: None)
    (folder / "slim").mkdir()
    write_saved_model(slim, folder / "slim")
    return request.param, folder, frozen.graph, slim.graph


def test_no_batch_norm_is_left(model):
    name, _, before, after = model
    _, _, norms, convolutions, products = MODELS[name]
    counts = op_counts(after)
    assert op_counts(before)["Rsqrt"] == norms  # Keras 3 spells a batch norm out
    assert not [op for op in counts if "BatchNorm" in op]
    left = ("Rsqrt", "Sub", "RealDiv", "Mul", "Conv2D")
    assert {op: counts[op] for op in left} == {
        "Rsqrt": 0,
        "Sub": 0,
        "RealDiv": 0,
        "Mul": products,
        "Conv2D": convolutions,  # both signatures are held once
    }
    assert len(before.nodes) > 2.5 * len(after.nodes)


def test_constants_are_added_to_layers_alone(model):
    *_, after = model
    for node in after.nodes.values():
        below = {after.nodes[source.node].op for source in data_inputs(node)}
        if node.op in ("Mul", "AddV2", "BiasAdd") and "Const" in below:
            assert node.op != "Mul", node.name
            assert below & LAYERS, node.name


def test_answers_are_equal(model):
    name, folder, *_ = model
    size, brightest, *_ = MODELS[name]
    x = brightest * np.random.default_rng(1).random((4, size, size, 3), np.float32)
    signatures = tfslim_core.inspect(folder / "slim").signatures
    assert {signature.name for signature in signatures} == {"serve", "serving_default"}
    requests = [Request(signature.name, {next(iter(signature.inputs)): x}) for signature in signatures]
    for wanted, found in zip(*(answers(folder / stage, requests) for stage in ("exported", "slim")), strict=True):
        ((before,), (after,)) = wanted.values(), found.values()
        assert before.std(axis=0).max() > 1e-3 * np.abs(before).max()
        assert np.linalg.norm(after - before) <= TOLERANCE * np.linalg.norm(before)
