"""The audit of what lies at a path, and the one line with which a dangerous model is refused."""

from __future__ import annotations

import os
from pathlib import Path

from tensorflow.core.protobuf import meta_graph_pb2

from tfslim_core.bundle import is_bundle, read_bundle
from tfslim_core.errors import ModelError
from tfslim_core.graph_files import read_graph_def
from tfslim_core.importing import opened
from tfslim_core.importing.recognize import Kind, recognize
from tfslim_core.safety.audit import Audit, audit_meta_graphs
from tfslim_core.saved_model.read import INIT_SIGNATURE, parse_saved_model


def audit_of(path: str | os.PathLike[str], graph: str | os.PathLike[str] | None = None) -> Audit:
    """The audit of a model of any format, or of a bundle. What is neither a SavedModel nor a graph is audited as the
    SavedModel that it becomes. graph: of a checkpoint that does not lie beside its own.

    Raises:
        ModelError: it is none of these, or it is damaged.
    """
    root = Path(path)
    if is_bundle(root):
        bundle = read_bundle(root)
        made = bundle.meta_graph()
        if bundle.manifest.init_op:
            made.signature_def[INIT_SIGNATURE].outputs["init"].name = bundle.manifest.init_op
        for asset in bundle.manifest.assets:
            made.asset_file_def.add(filename=asset.filename).tensor_info.name = asset.tensor
        return audit_meta_graphs(root, [made])
    found = recognize(root)
    if found.kind is Kind.SAVED_MODEL:
        return audit_meta_graphs(root, parse_saved_model(found.path).meta_graphs)
    if found.kind is Kind.GRAPH:
        return audit_meta_graphs(root, [meta_graph_pb2.MetaGraphDef(graph_def=read_graph_def(found.path))])
    with opened(root, graph=Path(graph) if graph is not None else None) as made:
        return audit_meta_graphs(root, parse_saved_model(made.path).meta_graphs)


def refuse(path: str | os.PathLike[str], graph: str | os.PathLike[str] | None = None) -> None:
    """Return only where nothing dangerous is found.

    Raises:
        ModelError: something is; the worst is named.
    """
    found = audit_of(path, graph).refused
    if found:
        more = f" and {len(found) - 1:,} more like it" if len(found) > 1 else ""
        raise ModelError(
            f"{path} is refused as untrusted: {found[0].line()}{more}; see all: tfslim inspect {path} --audit"
        )
