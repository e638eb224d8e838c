"""The Graph Transform Tool's function, on a GraphDef and on a file of one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tfslim_core import storage
from tfslim_core.api.arguments import Location, local, silent
from tfslim_core.api.reports import StageReport, stage_report
from tfslim_core.staging import in_buckets

if TYPE_CHECKING:
    from tfslim_core.stages import Progress


def transform_graph(
    graph_def: Any, inputs: Sequence[str], outputs: Sequence[str], transforms: str | Iterable[str]
) -> Any:
    """The Graph Transform Tool's TransformGraph: a GraphDef in, a GraphDef out.

    inputs, outputs: names of nodes or tensors ("x" or "x:0") that keep their names and meaning. An output may be a node
    without tensors, such as the one that fills the tables.

    Raises:
        TransformError: a transform or parameter is unknown, or one failed.
        GraphError: the graph is not valid, or a name is not in it.
    """
    from tfslim_core.drop_in import plain_graph
    from tfslim_core.saved_model.write import with_values
    from tfslim_core.transforms import apply

    graph, _ = apply(plain_graph(graph_def, inputs, outputs), transforms)
    return with_values(graph)


@in_buckets(reads=["in_graph"], writes=["out_graph"])
def transform_graph_file(
    in_graph: Location,
    out_graph: Location,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    transforms: str | Iterable[str],
    overwrite: bool = False,
    progress: Progress = silent,
) -> StageReport:
    """`transform_graph` on .pb files; both graphs answer a made-up request before the result is written.

    Raises:
        ModelError: the file is no GraphDef, or the answers changed where nothing that was asked for changes them.
        TransformError: a transform or parameter is unknown, or one failed.
        GraphError: the graph is not valid, or a name is not in it.
        OutputExistsError: the output exists and `overwrite` is false.
    """
    from tfslim_core import stages
    from tfslim_core.drop_in import as_bundle, plain_graph
    from tfslim_core.graph_files import read_graph_def, write_graph_def
    from tfslim_core.saved_model.write import with_values

    start = time.monotonic()
    source, target = local(in_graph), local(out_graph)
    storage.check_free(target, overwrite=overwrite)
    before = as_bundle(plain_graph(read_graph_def(source), inputs, outputs), source)
    after = stages.transformed(before, transforms, progress)
    sample = stages.sample_of(before, progress)
    errors = stages.checked_as_meant(after, sample, 0, "the transforms", progress)
    write_graph_def(with_values(after.graph), target, overwrite=overwrite)
    return stage_report(after, target, "transform-graph", start, errors, sample)
