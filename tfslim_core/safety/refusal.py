"""The audit of what lies at a path, and the one line with which a dangerous model is refused."""

from __future__ import annotations

import os
from pathlib import Path

from tensorflow.core.protobuf import meta_graph_pb2

from tfslim_core.bundle import is_bundle, read_bundle
from tfslim_core.errors import ModelError
from tfslim_core.graph_files import read_graph_def
from tfslim_core.safety.audit import Audit, audit_meta_graphs
from tfslim_core.saved_model.read import INIT_SIGNATURE, parse_saved_model


def audit_of(path: str | os.PathLike[str]) -> Audit:
    """The audit of a SavedModel, a bundle or a frozen .pb.

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
    if root.is_dir() or not root.exists():
        return audit_meta_graphs(root, parse_saved_model(root).meta_graphs)
    return audit_meta_graphs(root, [meta_graph_pb2.MetaGraphDef(graph_def=read_graph_def(root))])


def refuse(path: str | os.PathLike[str]) -> None:
    """Return only where nothing dangerous is found.

    Raises:
        ModelError: something is; the worst is named.
    """
    found = audit_of(path).refused
    if found:
        more = f" and {len(found) - 1:,} more like it" if len(found) > 1 else ""
        raise ModelError(
            f"{path} is refused as untrusted: {found[0].line()}{more}; see all: tfslim inspect {path} --audit"
        )
