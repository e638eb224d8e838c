"""tfslim inspect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.table import Column, Table

from tfslim_core import api
from tfslim_core.commands.app import app, err, out
from tfslim_core.commands.options import AsJson, GraphFile, Inputs, Model, Outputs, Overwrite, Tags, listed
from tfslim_core.commands.printing import print_json, visible
from tfslim_core.commands.untrusted import may_be_untrusted
from tfslim_core.terminal import file_size

if TYPE_CHECKING:
    from tfslim_core.inspection import Inspection
    from tfslim_core.inspection.stored import Tensor
    from tfslim_core.safety.audit import Audit

_SHOWN, _SHOWN_DEAD = 20, 5
_ROLES = {"served": "", "optimizer": "optimizer state", "unread": "read by nothing"}


@app.command()
@may_be_untrusted(["model"], ["html"], lists="audit")
def inspect(
    model: Model,
    tags: Tags = "serve",
    inputs: Inputs = None,
    outputs: Outputs = None,
    graph: GraphFile = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every tensor and op, not the most important alone.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with a map of the bytes too.")
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="List what touches files, the network, Python or unknown libraries.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Show what is in a model of any format or in a bundle, what it costs, and what slimming would save."""
    if audit:
        _audit(api.audit(model, graph=graph), as_json)
        return
    found = api.inspect(
        model,
        tags=listed(tags),
        inputs=listed(inputs) if inputs else None,
        outputs=listed(outputs) if outputs else None,
        graph=graph,
        html=html,
        overwrite=overwrite,
    )
    if as_json:
        print_json(found.to_json())
        return
    for part in _shown(found, everything):
        out.print(part)
    if html is not None:
        err.print(visible(f"page: {html}"))


def _audit(found: Audit, as_json: bool) -> None:
    """Print what a model touches, the worst first; the last line counts."""
    if as_json:
        print_json(found.to_json())
        return
    if found.findings:
        table = Table(Column("kind", no_wrap=True), Column("op", overflow="fold"), Column("where", overflow="fold"))
        table.add_column("what", overflow="fold")
        for one in found.findings:
            what = f"{one.why}: {', '.join(map(repr, one.paths))}" if one.paths else one.why
            kind = one.kind if one.refused else f"({one.kind})"
            when = "at load: " if one.at_load else ""
            table.add_row(kind, visible(f"{one.op} {one.node}"), visible(when + one.where), visible(what))
        out.print(table, width=None if out.is_terminal else 160)
    verdict = f"refuses it for {len(found.refused):,}" if found.refused else "accepts it"
    err.print(
        visible(
            f"{found.path}: {found.nodes:,} nodes and {found.functions:,} functions looked at, "
            f"{len(found.findings):,} of note; --untrusted {verdict}"
        )
    )


def _shown(found: Inspection, everything: bool) -> Iterator[RenderableType]:
    """The tables; no name is cut off, however narrow the terminal."""
    yield _facts(found, everything)
    yield _parts(found)
    yield _signatures(found)
    served = [tensor for tensor in found.tensors if tensor.role == "served"]
    others = [tensor for tensor in found.tensors if tensor.role != "served"]
    for title, tensors, most in (("Served tensors", served, _SHOWN), ("Not served", others, _SHOWN_DEAD)):
        if tensors:
            yield _tensors(title, tensors, len(tensors) if everything else most)


def _facts(found: Inspection, everything: bool) -> Table:
    made_by = f", TensorFlow {found.tensorflow_version}" if found.tensorflow_version else ""
    facts = Table.grid("", Column(overflow="fold"), padding=(0, 2))
    facts.add_row(found.kind, visible(f"{found.path}  (tags {','.join(found.tags) or 'none'}{made_by})"))
    for note in found.notes:
        facts.add_row("", visible(note))
    if len(found.tag_sets) > 1:
        others = "; ".join(",".join(one) or "none" for one in found.tag_sets if one != found.tags)
        facts.add_row("MetaGraphs", visible(f"{len(found.tag_sets)}; the others have the tags {others}"))
    facts.add_row("on disk", file_size(found.bytes))
    facts.add_row("in memory", f"{file_size(found.memory_bytes)} of tensors once it is loaded")
    facts.add_row("served weights", f"{file_size(found.live_bytes)} in {found.live_parameters:,} parameters")
    dead = found.dead
    if dead.tensors or dead.nodes or dead.constants:
        size = file_size(dead.bytes + dead.constants)
        counts = f"tensors {dead.tensors:,}, nodes {dead.nodes:,}, functions {dead.functions:,}"
        facts.add_row("not served", f"{size}: {counts}")
    facts.add_row(
        "slimmed", f"about {file_size(found.slim_bytes)} at int8, {file_size(found.int8_bytes)} of it weights"
    )
    most = list(found.ops.items())[: None if everything else 6]
    ops = ", ".join(f"{op} {count}" for op, count in most)
    facts.add_row("nodes", visible(f"{found.nodes:,}, most often {ops}"))
    because = f": {found.needs.because} of {found.needs.node}" if found.needs.because else ""
    facts.add_row("runs on", visible(f"TensorFlow {found.needs.tensorflow} and later{because}"))
    if found.assets:
        facts.add_row("assets", visible(", ".join(found.assets)))
    return facts


def _parts(found: Inspection) -> Table:
    table = Table("on disk", title="What the bytes are for", title_justify="left")
    table.add_column("bytes", justify="right")
    table.add_column("share", justify="right")
    for name, size in found.parts.items():
        table.add_row(name, file_size(size), f"{100 * size / sum(found.parts.values()):.1f} %")
    return table


def _signatures(found: Inspection) -> Table:
    def keys(specs: Mapping[str, str]) -> str:
        return "\n".join(visible(f"{key}: {spec}") for key, spec in specs.items())

    table = Table(title="Signatures", title_justify="left")
    for column in ("signature", "method", "inputs", "outputs"):
        table.add_column(column, overflow="fold")
    for one in found.signatures:
        table.add_row(visible(one.name), visible(one.method), keys(one.inputs), keys(one.outputs))
    return table


def _tensors(title: str, tensors: Sequence[Tensor], shown: int) -> Table:
    rest = tensors[shown:]
    table = Table(title=title, title_justify="left", show_footer=bool(rest))
    size = file_size(sum(tensor.bytes for tensor in rest))
    table.add_column("tensor", overflow="fold", footer=f"{len(rest):,} smaller ones (--all shows them)")
    table.add_column("shape", overflow="fold")
    table.add_column("stored as", overflow="fold")
    table.add_column("bytes", justify="right", footer=size)
    table.add_column("in memory", justify="right")
    table.add_column("read by", overflow="fold")
    for tensor in tensors[:shown]:
        readers = ", ".join(op if many == 1 else f"{op} × {many}" for op, many in tensor.readers.items())
        table.add_row(
            visible(tensor.name),
            " × ".join(map(str, tensor.shape)) or "scalar",
            tensor.encoding,
            file_size(tensor.bytes),
            file_size(tensor.memory),
            visible(readers or _ROLES[tensor.role]),
        )
    return table
