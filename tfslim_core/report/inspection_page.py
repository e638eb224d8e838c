"""The page of `tfslim inspect --html`: what a model's bytes are for, tensor by tensor. One file, no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from tfslim_core.report.formats import size
from tfslim_core.report.plots.treemap import Box, treemap
from tfslim_core.report.templating import environment, page_parts

if TYPE_CHECKING:
    from tfslim_core.inspection import Inspection
    from tfslim_core.inspection.stored import Tensor

SHOWN_TENSORS = 100
_DRAWN = 400  # of one kind; the smaller ones share a rectangle
_NOT_TENSORS = ("constants that nothing serves", "graph and functions", "assets", "assets.extra", "other files")
ROLES = {"served": "served", "optimizer": "optimizer state", "unread": "read by nothing"}


def inspection_html(found: Inspection) -> str:
    """The page as text; the same facts give the same bytes."""
    return (
        environment()
        .get_template("inspection.html.j2")
        .render(
            **page_parts(),
            found=found,
            title=PurePosixPath(found.path).name or found.path,
            map=treemap("Bytes on disk, by what they are for", _groups(found)),
            limit=SHOWN_TENSORS,
            roles=ROLES,
            total=sum(found.parts.values()),
        )
    )


def _groups(found: Inspection) -> list[list[Box]]:
    groups = [_boxes([t for t in found.tensors if t.role == role], role) for role in ROLES]
    for name in _NOT_TENSORS:
        if total := found.parts.get(name):
            left = {"graph and functions": found.graph_bytes, "constants that nothing serves": 0}.get(name, total)
            groups.append([Box(name, f"{name}: {size(total)}", total, "rest", left / total)])
    return groups


def _boxes(tensors: Sequence[Tensor], role: str) -> list[Box]:
    boxes = [
        Box(
            tensor.name,
            f"{tensor.name}: {size(tensor.bytes)}, {tensor.dtype} {list(tensor.shape)}, {ROLES[role]}",
            tensor.bytes,
            role,
            tensor.int8_bytes / tensor.bytes if tensor.bytes else 0.0,
        )
        for tensor in tensors[:_DRAWN]
    ]
    if rest := tensors[_DRAWN:]:
        total, left = sum(tensor.bytes for tensor in rest), sum(tensor.int8_bytes for tensor in rest)
        label = f"{len(rest):,} smaller"
        boxes.append(Box(label, f"{label}: {size(total)}, {ROLES[role]}", total, role, left / total if total else 0.0))
    return boxes
