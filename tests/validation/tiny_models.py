"""Small SavedModels written as protocol buffers, without TensorFlow: graphs of constants, served by the C++ loader."""

from pathlib import Path

import numpy as np

from tfslim_core.saved_model.served_signatures import proto_module

DT = {"float32": 1, "int32": 3, "object": 7, "int64": 9}


def linear(folder: Path, weights, *, guarded: bool = False, method: str = "tensorflow/serving/predict") -> Path:
    """y = x @ weights, x: [?, n] float32; `guarded` fails on NaN and infinity in the request."""
    graph = _graph()
    _placeholder(graph, "x", 1, [-1, len(weights)])
    _constant(graph, "w", np.float32(weights))
    if guarded:
        node = graph.node.add(name="checked", op="CheckNumerics", input=["x"])
        node.attr["T"].type = 1
        node.attr["message"].s = b"not a number"
    node = graph.node.add(name="y", op="MatMul", input=["checked" if guarded else "x", "w"])
    node.attr["T"].type = 1
    columns = np.shape(weights)[1]
    signature = {"serving_default": ({"x": ("x", 1, [-1, len(weights)])}, {"y": ("y", 1, [-1, columns])})}
    return _save(folder, graph, signature, method)


def echo(folder: Path, signatures: dict[str, dict[str, tuple[int, list[int]]]]) -> Path:
    """Each signature answers "out_KEY" with its input KEY; inputs are key -> (DataType number, shape)."""
    graph = _graph()
    found = {}
    for name, inputs in signatures.items():
        ins, outs = {}, {}
        for key, (dtype, shape) in inputs.items():
            node = f"{name}_{key}"
            _placeholder(graph, node, dtype, shape)
            graph.node.add(name=f"{node}_out", op="Identity", input=[node]).attr["T"].type = dtype
            ins[key], outs[f"out_{key}"] = (node, dtype, shape), (f"{node}_out", dtype, shape)
        found[name] = (ins, outs)
    return _save(folder, graph, found, "tensorflow/serving/predict")


def _graph():
    return proto_module("framework.graph_pb2").GraphDef()


def _placeholder(graph, name, dtype, shape):
    node = graph.node.add(name=name, op="Placeholder")
    node.attr["dtype"].type = dtype
    for size in shape:
        node.attr["shape"].shape.dim.add(size=size)
    if not shape:
        node.attr["shape"].shape.SetInParent()


def _constant(graph, name, value):
    node = graph.node.add(name=name, op="Const")
    node.attr["dtype"].type = DT[value.dtype.name]
    tensor = node.attr["value"].tensor
    tensor.dtype = DT[value.dtype.name]
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = value.tobytes()


def _save(folder, graph, signatures, method):
    model = proto_module("protobuf.saved_model_pb2").SavedModel(saved_model_schema_version=1)
    meta = model.meta_graphs.add()
    meta.meta_info_def.tags.append("serve")
    graph.versions.producer = 1395
    meta.graph_def.CopyFrom(graph)
    for name, (inputs, outputs) in signatures.items():
        signature = meta.signature_def[name]
        signature.method_name = method
        for side, tensors in ((signature.inputs, inputs), (signature.outputs, outputs)):
            for key, (node, dtype, shape) in tensors.items():
                side[key].name, side[key].dtype = f"{node}:0", dtype
                for size in shape:
                    side[key].tensor_shape.dim.add(size=size)
                if not shape:
                    side[key].tensor_shape.SetInParent()
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return folder
