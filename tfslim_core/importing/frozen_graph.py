"""A frozen GraphDef, or a MetaGraphDef without variables, as a SavedModel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfslim_core.importing.from_graph import one_signature, write_saved_model
from tfslim_core.importing.interface import find
from tfslim_core.importing.mending import mend
from tfslim_core.importing.meta_graph import declared_signatures
from tfslim_core.importing.protos import read_graph_proto


def convert(
    file: Path, folder: Path, inputs: Sequence[str] | None, outputs: Sequence[str] | None, tags: Sequence[str]
) -> list[str]:
    """Write the SavedModel into an empty folder; what was seen and done.

    Raises:
        ModelError, GraphError: the file is damaged, or the graph cannot be served as it is.
    """
    proto = read_graph_proto(file)
    meta_graph = proto if isinstance(proto, tf.compat.v1.MetaGraphDef) else None
    graph_def = meta_graph.graph_def if meta_graph is not None else proto
    seen = [f"{len(graph_def.node):,} nodes, of GraphDef version {graph_def.versions.producer}"]
    mended = mend(graph_def, meta_graph.meta_info_def.stripped_op_list.op if meta_graph is not None else ())
    signatures: dict[str, Any] = {}
    if meta_graph is not None and not inputs and not outputs:
        signatures = declared_signatures(meta_graph)
    if not signatures:
        interface = find(graph_def, inputs, outputs)
        signatures, mended = one_signature(interface), [*interface.notes, *mended]
    said = write_saved_model(folder, file, graph_def, signatures, tags, beside=file.parent)
    return [*seen, *mended, *said]
