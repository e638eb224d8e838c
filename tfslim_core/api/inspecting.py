"""inspect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfslim_core.api.arguments import Location, local

if TYPE_CHECKING:
    from tfslim_core.inspection import Inspection


def inspect(
    model: Location,
    *,
    tags: Sequence[str] = ("serve",),
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    graph: Location | None = None,
) -> Inspection:
    """What is in a model of any format or a bundle, what it costs, and what slimming would save. Nothing is run.

    inputs, outputs, graph: as in freeze. A Keras file is read by Keras, in a process of its own.

    Raises:
        ModelError: it is neither, or it is damaged.
    """
    from tfslim_core.inspection import inspect as inspected

    return inspected(local(model), tags, inputs, outputs, local(graph) if graph is not None else None)
