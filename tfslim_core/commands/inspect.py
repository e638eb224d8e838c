"""tfslim inspect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from tfslim_core import api
from tfslim_core.commands.app import app, err, out
from tfslim_core.commands.options import AsJson, Model, Tags, listed
from tfslim_core.commands.printing import print_json, visible
from tfslim_core.commands.untrusted import may_be_untrusted
from tfslim_core.terminal import file_size

if TYPE_CHECKING:
    from tfslim_core.inspection import Inspection
    from tfslim_core.safety.audit import Audit


@app.command()
@may_be_untrusted(["model"], lists="audit")
def inspect(
    model: Model,
    tags: Tags = "serve",
    audit: Annotated[
        bool, typer.Option("--audit", help="List what touches files, the network, Python or unknown libraries.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is in a SavedModel or bundle, what it costs, and what slimming would save."""
    if audit:
        _audit(api.audit(model), as_json)
        return
    found = api.inspect(model, tags=listed(tags))
    if as_json:
        print_json(found.to_json())
        return
    _show(found)


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


def _show(found: Inspection) -> None:
    """Print what is in a model; no name is cut off, however narrow the terminal."""

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left")
        for column in columns:
            made.add_column(column, overflow="fold")
        return made

    def keys(specs: Mapping[str, str]) -> str:
        return "\n".join(visible(f"{key}: {spec}") for key, spec in specs.items())

    made_by = f", TensorFlow {found.tensorflow_version}" if found.tensorflow_version else ""
    facts = Table.grid("", Column(overflow="fold"), padding=(0, 2))
    facts.add_row(found.kind, visible(f"{found.path}  (tags {','.join(found.tags) or 'none'}{made_by})"))
    facts.add_row("on disk", file_size(found.bytes))
    facts.add_row("served weights", f"{file_size(found.live_bytes)} in {found.live_parameters:,} parameters")
    facts.add_row("at int8", f"about {file_size(found.int8_bytes)}")
    ops = ", ".join(f"{op} {count}" for op, count in list(found.ops.items())[:6])
    facts.add_row("nodes", visible(f"{found.nodes:,}, most often {ops}"))
    if found.assets:
        facts.add_row("assets", visible(", ".join(found.assets)))
    signatures = table("Signatures", "signature", "method", "inputs", "outputs")
    for one in found.signatures:
        signatures.add_row(visible(one.name), visible(one.method), keys(one.inputs), keys(one.outputs))
    largest = table("Largest weights", "weight", "shape", "stored as")
    largest.add_column("bytes", justify="right")
    for tensor in found.largest:
        shape = " × ".join(map(str, tensor.shape))
        largest.add_row(visible(tensor.name), shape, tensor.encoding, file_size(tensor.bytes))
    for part in (facts, signatures, *([largest] if found.largest else [])):
        out.print(part)
