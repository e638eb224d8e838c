"""Graphs in files: a GraphDef, a MetaGraphDef or a SavedModel, as binary or as text, told apart by what is in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from google.protobuf.text_format import Parse, ParseError
from tensorflow.core.protobuf import saved_model_pb2

from tfslim_core.errors import ModelError
from tfslim_core.one_line import one_line

_KINDS = (saved_model_pb2.SavedModel, tf.compat.v1.MetaGraphDef, tf.compat.v1.GraphDef)
# The first field of a text file says which message it is of.
_FIRST_FIELDS = {
    "saved_model_schema_version": saved_model_pb2.SavedModel,
    "meta_graphs": saved_model_pb2.SavedModel,
    "meta_info_def": tf.compat.v1.MetaGraphDef,
    "graph_def": tf.compat.v1.MetaGraphDef,
    "node": tf.compat.v1.GraphDef,
    "library": tf.compat.v1.GraphDef,
    "versions": tf.compat.v1.GraphDef,
}
_FIELD = re.compile(rb"\A(?:\s|#[^\n]*\n)*([a-z_]+)\s*[:{<]")
_NODE_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*\Z")
_OP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.>/-]*\Z")
_LOOKED_AT = 1000  # nodes


def text_kind(head: bytes) -> type | None:
    """The message that a text file is of, by its first field; None for anything else."""
    found = _FIELD.match(head)
    return _FIRST_FIELDS.get(found[1].decode()) if found else None


def read_graph_proto(file: Path) -> Any:
    """The SavedModel, MetaGraphDef or GraphDef in a file.

    Raises:
        ModelError: it cannot be read, is damaged, or is none of them.
    """
    if file.exists() and not file.is_file():
        raise ModelError(f"{file} is no file; what it is instead is not read")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from None
    kind = text_kind(content[:4096])
    if kind is not None:
        try:
            made = Parse(content.decode(), kind())
        except (ParseError, RecursionError, ValueError) as error:
            raise ModelError(f"{file}: the text of a {kind.__name__} cannot be parsed: {one_line(error)}") from None
        if not graphs_in(made):
            raise ModelError(f"{file} is a {kind.__name__} without a node")
        return made
    for kind in _KINDS:
        try:
            made = kind.FromString(content)
        except DecodeError:
            continue
        if graphs_in(made) and all(map(_plausible, graphs_in(made))):
            return made
    raise ModelError(f"{file} is no graph: neither a GraphDef, a MetaGraphDef nor a SavedModel can be parsed from it")


def graphs_in(proto: Any) -> list[Any]:
    """The GraphDefs with nodes that a message holds."""
    if isinstance(proto, saved_model_pb2.SavedModel):
        return [meta_graph.graph_def for meta_graph in proto.meta_graphs if meta_graph.graph_def.node]
    graph_def = proto.graph_def if isinstance(proto, tf.compat.v1.MetaGraphDef) else proto
    return [graph_def] if graph_def.node else []


def _plausible(graph_def: Any) -> bool:
    """Whether these are nodes; one message often parses as another, with nonsense for names."""
    looked_at = graph_def.node[:_LOOKED_AT]
    return all(_NODE_NAME.match(node.name) and _OP_NAME.match(node.op) for node in looked_at)
