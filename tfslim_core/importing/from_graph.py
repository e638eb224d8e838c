"""A SavedModel of a graph that has none around it: the part that is served, its signature, tables and restore op."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfslim_core import ops
from tfslim_core.errors import GraphError, ModelError
from tfslim_core.graph import Input, NameMaker, NodeDef, data_inputs, make_node, needed_functions, parse_input, rewired
from tfslim_core.importing import scratch
from tfslim_core.importing.interface import PLACEHOLDERS, Interface, Nodes, switches
from tfslim_core.importing.mending import refuse_unknown_ops
from tfslim_core.one_line import one_line
from tfslim_core.storage import inside

SIGNATURE = "serving_default"
PREDICT = "tensorflow/serving/predict"
VARIABLES = frozenset({"VariableV2", "Variable", "VarHandleOp"})
_FEEDABLE = PLACEHOLDERS | {"PlaceholderWithDefault"}
_INITIALIZES_TABLE = re.compile(r"InitializeTable.*")
_FROM_FILE = re.compile(r"InitializeTableFromTextFile(V2)?")
_STALE = ("_class", "_output_shapes")


@dataclass(frozen=True)
class Restoring:
    """Nodes that bring the checkpoint's values into a graph's variables: `run` is run, `prefix` fed with the path."""

    nodes: list[NodeDef] = field(default_factory=list)
    run: str = ""
    prefix: str = ""


Restorer = Callable[[Collection[str], NameMaker], Restoring]
"""Makes them for the variables and tables that are needed; names are to be made by the given function."""


def one_signature(interface: Interface) -> dict[str, Any]:
    """A signature of these tensors; their dtypes and shapes are yet to be filled in."""
    signature = tf.compat.v1.MetaGraphDef().signature_def[SIGNATURE]
    signature.method_name = PREDICT
    for infos, tensors in ((signature.inputs, interface.inputs), (signature.outputs, interface.outputs)):
        for key, tensor in tensors.items():
            infos[key].name = tensor
    return {SIGNATURE: signature}


def write_saved_model(
    folder: Path,
    source: Path,
    graph_def: Any,
    signatures: Mapping[str, Any],
    tags: Sequence[str],
    restorer: Restorer | None = None,
    beside: Path | None = None,
) -> list[str]:
    """Write the part of a graph that the signatures need as a SavedModel; what a reader should know of it.

    restorer: makes the restore op; without one the graph may not need variables. beside: where vocabulary files are.

    Raises:
        GraphError: an op is unknown, or the graph is not valid.
        ModelError: it needs a variable and has no checkpoint, or a vocabulary file is missing.
    """
    nodes = Nodes(graph_def)
    fed = [tensor for signature in signatures.values() for tensor in _tensors(signature.inputs)]
    outputs = [tensor for signature in signatures.values() for tensor in _tensors(signature.outputs)]
    for source_tensor in (*fed, *outputs):
        if source_tensor.node not in nodes.by_name:
            raise GraphError(f"{source}: the signature names {str(source_tensor)!r}, which is not in the graph")
    interior = [one for one in dict.fromkeys(fed) if nodes.by_name[one.node].op not in _FEEDABLE]
    wanted = nodes.before([one.node for one in outputs if one not in interior], interior)
    wanted |= {one.node for one in fed if one not in interior}
    initializers = _initializers(nodes, wanted)
    wanted |= nodes.before(initializers)
    nodes.refuse_dangling(name for name in wanted if name not in {one.node for one in interior})
    called = needed_functions((nodes.by_name[name] for name in wanted), nodes.functions)
    bodies = [node for name in called for node in nodes.functions[name].node_def]
    refuse_unknown_ops([*(n for n in graph_def.node if n.name in wanted), *bodies], nodes.functions, source)
    names = NameMaker(nodes.by_name)
    shapes = _shapes(graph_def, nodes, interior)
    moved = {one: Input(names(f"fed/{one.node}" + f"_{one.port}" * bool(one.port)), 0) for one in interior}
    variables = [name for name in wanted if nodes.by_name[name].op in VARIABLES]
    if restorer is None and variables:
        many = f"{len(variables)} variable{'s' * (len(variables) > 1)}"
        raise ModelError(
            f"{source} is not frozen: it needs {many} (the first is {min(variables)!r}) whose "
            "values are in a checkpoint: give that, and this graph with --graph"
        )
    restoring = restorer(wanted, names) if restorer is not None else Restoring()
    meta_graph = tf.compat.v1.MetaGraphDef()
    made = meta_graph.graph_def
    made.versions.CopyFrom(graph_def.versions)
    made.node.extend(rewired(node, moved) for node in graph_def.node if node.name in wanted)
    made.node.extend(_placeholder(nodes, one, moved[one].node, shapes[one]) for one in interior)
    made.node.extend(restoring.nodes)
    for function in graph_def.library.function:
        if function.signature.name in called:
            made.library.function.add().CopyFrom(function)
    if initializers:
        init = make_node("NoOp", names("init_all_tables"), [f"^{name}" for name in initializers])
        made.node.append(init)
        meta_graph.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = init.name
        assets = _assets(folder, source, nodes, initializers, beside)
        for tensor, filename in assets.items():
            meta_graph.asset_file_def.add(tensor_info={"name": tensor}, filename=filename)
    for node in (*made.node, *(n for f in made.library.function for n in f.node_def)):
        node.ClearField("device")
        for key in _STALE:
            node.attr.pop(key, None)
    _describe(meta_graph, signatures, moved, source)
    if restoring.run:
        meta_graph.saver_def.filename_tensor_name = f"{restoring.prefix}:0"
        meta_graph.saver_def.restore_op_name = restoring.run
        meta_graph.saver_def.save_tensor_name = f"{restoring.prefix}:0"
        meta_graph.saver_def.version = meta_graph.saver_def.V2
    scratch.write(folder, meta_graph, tags)
    return switches(made, [f"{one.node}:{one.port}" for one in (*fed, *moved.values())], {n.name for n in made.node})


def _tensors(infos: Mapping[str, Any]) -> list[Input]:
    """A signature's tensors, the parts of sparse ones among them."""
    names = []
    for info in infos.values():
        if info.WhichOneof("encoding") == "coo_sparse":
            names += [getattr(info.coo_sparse, f"{part}_tensor_name") for part in ("values", "indices", "dense_shape")]
        else:
            names.append(info.name)
    return [parse_input(name) for name in names]


def _initializers(nodes: Nodes, wanted: set[str]) -> list[str]:
    """What fills the tables that are needed; nobody reads it, and so it is looked for by what it writes to."""
    return [
        name
        for name, node in nodes.by_name.items()
        if _INITIALIZES_TABLE.fullmatch(node.op) and data_inputs(node) and data_inputs(node)[0].node in wanted
    ]


def _assets(
    folder: Path, source: Path, nodes: Nodes, initializers: Iterable[str], beside: Path | None
) -> dict[str, str]:
    """The vocabulary files that tables are filled from, copied below assets/: tensor -> file name.

    A file is only looked for beside the model: a graph may name any file of this machine.
    """
    found: dict[str, str] = {}
    for name in initializers:
        node = nodes.by_name[name]
        if not _FROM_FILE.fullmatch(node.op):
            continue
        constant = nodes.by_name[data_inputs(node)[-1].node]
        try:
            text = tf.make_ndarray(constant.attr["value"].tensor).item() if constant.op == "Const" else None
        except (ValueError, TypeError):
            text = None
        if not isinstance(text, bytes):
            raise ModelError(f"{source}: table initializer {name!r} does not say by a constant which file it reads")
        filename = Path(text.decode(errors="replace")).name
        if not filename or beside is None or not (beside / filename).is_file():
            raise ModelError(
                f"{source}: {name!r} fills a table from the file {filename!r}, which is not beside the model: "
                "put it there"
            )
        tensor = f"{constant.name}:0"
        if filename in found.values() and found.get(tensor) != filename:
            found[tensor] = filename
            continue
        scratch.link(inside(beside, filename, beside), folder / "assets" / filename)
        found[tensor] = filename
    return found


def _shapes(graph_def: Any, nodes: Nodes, tensors: Iterable[Input]) -> dict[Input, Any]:
    """The shapes of tensors inside the graph, as far as it tells them."""
    found = {}
    for one in tensors:
        node = nodes.by_name[one.node]
        for key in ("_output_shapes", "output_shapes"):
            if key in node.attr and len(node.attr[key].list.shape) > one.port:
                found[one] = node.attr[key].list.shape[one.port]
                break
        else:
            found[one] = _inferred(graph_def, nodes, one)
    return found


def _inferred(graph_def: Any, nodes: Nodes, one: Input) -> Any:
    unknown = tf.TensorShape(None).as_proto()
    wanted = nodes.before([one.node])
    part = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    part.node.extend(node for node in graph_def.node if node.name in wanted)
    try:
        return _imported(part).get_tensor_by_name(f"{one.node}:{one.port}").shape.as_proto()
    except (ValueError, KeyError, TypeError, tf.errors.OpError):
        return unknown


def _imported(graph_def: Any) -> Any:
    # The import writes defaults of today into the message that it is given, which older releases do not know.
    copy = tf.compat.v1.GraphDef()
    copy.CopyFrom(graph_def)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(copy, name="")
    return graph


def _placeholder(nodes: Nodes, one: Input, name: str, shape: Any) -> NodeDef:
    dtypes = ops.output_dtypes(nodes.by_name[one.node], nodes.functions)
    if one.port >= len(dtypes):
        raise GraphError(f"the input {str(one)!r} does not exist: {one.node!r} has {len(dtypes)} outputs")
    dtype = dtypes[one.port] % ops.REF
    node = make_node("Placeholder", name, [], dtype=tf.as_dtype(dtype))
    node.attr["shape"].shape.CopyFrom(shape)
    return node


def _describe(meta_graph: Any, signatures: Mapping[str, Any], moved: Mapping[Input, Input], source: Path) -> None:
    """Write the signatures with the dtypes and shapes that TensorFlow infers; it refuses a graph that is not valid."""
    try:
        graph = _imported(meta_graph.graph_def)
    except (ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        raise GraphError(f"{source}: TensorFlow does not take this graph: {one_line(error)}") from None
    for name, signature in signatures.items():
        made = meta_graph.signature_def[name]
        made.CopyFrom(signature)
        for infos in (made.inputs, made.outputs):
            for info in infos.values():
                if info.WhichOneof("encoding") == "coo_sparse":
                    continue
                where = parse_input(info.name)
                where = moved.get(where, where)
                info.name = f"{where.node}:{where.port}"
                try:
                    tensor = graph.get_tensor_by_name(info.name)
                except (KeyError, ValueError):
                    raise GraphError(
                        f"{source}: signature {name!r} names {info.name!r}, which does not exist"
                    ) from None
                info.dtype = tensor.dtype.base_dtype.as_datatype_enum
                info.tensor_shape.CopyFrom(tensor.shape.as_proto())
