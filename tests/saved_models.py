"""SavedModels for tests: the builders of TensorFlow 1 and 2, and what loaders answer to a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tfslim_core.bundle import read_bundle
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.saved_model.server_loader import ServedModel
from tfslim_core.saved_model.write import write_saved_model

tf1 = tf.compat.v1
MODELS = Path(__file__).parents[1] / ".cache/models"
GUESSLANG = MODELS / "guesslang/data/model"
BASIC_PITCH = MODELS / "basic_pitch/saved_models/icassp_2022/nmp"


def save_v1(path: Path, build, tags=("serve",), init=None, assets=False, methods: Mapping[str, str] | None = None):
    """A SavedModel of the signatures {name: (inputs, outputs)} that `build()` makes, by TensorFlow 1's builder.

    An entry is a tensor or a finished TensorInfo. init: a function that makes the init op. methods: method names.
    """

    def info(tensor):
        return tensor if isinstance(tensor, meta_graph_pb2.TensorInfo) else tf1.saved_model.build_tensor_info(tensor)

    with tf1.Graph().as_default(), tf1.Session() as session:
        signatures = {
            name: tf1.saved_model.build_signature_def(
                {key: info(tensor) for key, tensor in inputs.items()},
                {key: info(tensor) for key, tensor in outputs.items()},
                (methods or {}).get(name, "tensorflow/serving/predict"),
            )
            for name, (inputs, outputs) in build().items()
        }
        session.run(tf1.global_variables_initializer())
        builder = tf1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            list(tags),
            signatures,
            assets_collection=tf1.get_collection(tf1.GraphKeys.ASSET_FILEPATHS) if assets else None,
            main_op=init() if init else None,
        )
        builder.save()
    return path


def save_v2(path: Path, module: tf.Module, **signatures):
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def meta_graph(path: Path):
    """The first MetaGraph of a SavedModel."""
    return saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0]


def interface(path: Path) -> dict[str, Any]:
    """Signatures as a client sees them: method, and for each key the dtype, shape and kind; tensors' names left out."""

    def entry(info):
        copy = meta_graph_pb2.TensorInfo()
        copy.CopyFrom(info)
        if copy.WhichOneof("encoding") == "coo_sparse":
            copy.coo_sparse.Clear()
            copy.coo_sparse.SetInParent()
        elif copy.WhichOneof("encoding") == "composite_tensor":
            for component in copy.composite_tensor.components:
                component.ClearField("name")
        else:
            copy.ClearField("name")
        return copy.SerializeToString(deterministic=True)

    return {
        name: (
            signature.method_name,
            {key: entry(info) for key, info in signature.inputs.items()},
            {key: entry(info) for key, info in signature.outputs.items()},
        )
        for name, signature in meta_graph(path).signature_def.items()
        if not name.startswith("__saved_model_")
    }


def served(path: Path, requests, tags=("serve",)):
    """What TensorFlow's C++ loader answers to (signature, feeds) pairs, in order, in one session."""
    with ServedModel(path, tags) as model:
        return [model.run(signature, feeds) for signature, feeds in requests]


def in_session(path: Path, requests, tags=("serve",)):
    """What a v1 session answers."""
    with tf1.Session(graph=tf1.Graph()) as session:
        signatures = tf1.saved_model.load(session, list(tags), str(path)).signature_def
        return [
            _arrays(
                session.run(
                    {key: info.name for key, info in signatures[name].outputs.items()},
                    {signatures[name].inputs[key].name: value for key, value in feeds.items()},
                )
            )
            for name, feeds in requests
        ]


def in_python(path: Path, requests, tags=("serve",)):
    """What `tf.saved_model.load` answers."""
    model = tf.saved_model.load(str(path), list(tags))
    return [
        _arrays(model.signatures[name](**{key: tf.constant(value) for key, value in feeds.items()}))
        for name, feeds in requests
    ]


def _arrays(answer):
    values = {key: value.numpy() if tf.is_tensor(value) else value for key, value in answer.items()}
    return {key: np.array(value, object) if isinstance(value, bytes) else value for key, value in values.items()}


@dataclass(frozen=True)
class Slimmed:
    """A model that went through freeze and reexport."""

    bundle: Any
    path: Path


def slimmed(model: Path, folder: Path, change=None, tags=("serve",), signatures=None) -> Slimmed:
    """Freeze, write the bundle, read it back, write the servable: `folder/bundle` and `folder/slim`."""
    frozen = freeze_saved_model(read_saved_model(model, tags, signatures))
    for name in ("bundle", "slim"):
        (folder / name).mkdir(parents=True)
    (change(frozen) if change else frozen).write(folder / "bundle")
    bundle = read_bundle(folder / "bundle")
    write_saved_model(bundle, folder / "slim")
    return Slimmed(bundle, folder / "slim")


def assert_alike(wanted, found, rtol=1e-5, atol=1e-6, varies=True):
    """Answers are equal: keys, dtypes, shapes, values. An output that is one number over and over proves nothing."""
    for before, after in zip(wanted, found, strict=True):
        assert before.keys() == after.keys()
        for key in before:
            a, b = np.asarray(before[key]), np.asarray(after[key])
            assert (b.dtype, b.shape) == (a.dtype, a.shape), key
            if a.dtype.kind == "f" and a.size > 1 and varies:
                assert np.ptp(a[np.isfinite(a)]) > 0, f"{key} is constant"
            if a.dtype == object:
                assert b.tolist() == a.tolist(), key
            else:
                np.testing.assert_allclose(
                    b.astype(np.float64), a.astype(np.float64), rtol=rtol, atol=atol, err_msg=key
                )


def assert_serves_alike(original: Path, slim: Path, requests, loaders=(served, in_session, in_python), tags=("serve",)):
    """Every loader gives the slim model's answers as the original's C++ session does; the interfaces are one."""
    assert interface(slim) == interface(original)
    wanted = served(original, requests, tags)
    for loader in loaders:
        assert_alike(wanted, loader(slim, requests, tags))
