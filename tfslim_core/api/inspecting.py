"""inspect, and the audit that it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfslim_core import storage
from tfslim_core.api.arguments import Location, local
from tfslim_core.staging import in_buckets

if TYPE_CHECKING:
    from tfslim_core.inspection import Inspection
    from tfslim_core.safety.audit import Audit


@in_buckets(reads=["model", "graph"], writes=["html"])
def inspect(
    model: Location,
    *,
    tags: Sequence[str] = ("serve",),
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    graph: Location | None = None,
    html: Location | None = None,
    overwrite: bool = False,
) -> Inspection:
    """What is in a model of any format or a bundle, what it costs, and what slimming would save. Nothing is run.

    inputs, outputs, graph: as in freeze. A Keras file is read by Keras, in a process of its own.

    html: a file for a page that shows it, with a map of the bytes.

    Raises:
        ModelError: it is neither, or it is damaged.
        OutputExistsError: the page exists and `overwrite` is false.
    """
    from tfslim_core.inspection import inspect as inspected

    if html is not None:
        storage.check_free(local(html), overwrite=overwrite)
    found = inspected(local(model), tags, inputs, outputs, local(graph) if graph is not None else None)
    if html is None:
        return found
    from tfslim_core.report.inspection_page import inspection_html

    with storage.whole_file(local(html), overwrite=overwrite) as aside:
        aside.write_text(inspection_html(found), encoding="utf-8")
    return found


@in_buckets(reads=["model", "graph"])
def audit(model: Location, *, graph: Location | None = None) -> Audit:
    """What a model of any format or a bundle touches besides itself: files, network, Python, unknown libraries.

    Raises:
        ModelError: it is none of these, or it is damaged.
    """
    from tfslim_core.safety import audit as audited

    return audited(local(model), local(graph) if graph is not None else None)
