"""tfslim diff."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from tfslim_core import api
from tfslim_core.commands.app import app, err, out
from tfslim_core.commands.options import AsJson, listed
from tfslim_core.commands.printing import print_json, visible
from tfslim_core.commands.untrusted import may_be_untrusted

if TYPE_CHECKING:
    from tfslim_core.fidelity.differences import Difference

_LOST_SOMETHING = 3


@app.command()
@may_be_untrusted(["a", "b"])
def diff(
    a: Annotated[
        Path, typer.Argument(metavar="A", help="A model of any format or a bundle, as it was.", show_default=False)
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="What was made of it.", show_default=False)],
    tags: Annotated[
        str | None, typer.Option("--tags", help="One MetaGraph's tags, with commas between; all MetaGraphs.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print the counts of ops too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a model lost on the way to another: signatures, tables, files; then what else differs.

    Exits with 3 when callers of A would miss something in B. Nothing is run.
    """
    found = api.diff(a, b, tags=listed(tags) if tags is not None else None)
    if as_json:
        print_json(found.to_json())
    else:
        shown = [one for one in found.differences if everything or one.part != "op"]
        if shown:
            out.print(_table(shown))
        hidden = len(found.differences) - len(shown)
        counts = f"{len(found.differences)} differences, {found.alike} facts alike"
        more = f"; {hidden} counts of ops differ (--all shows them)" if hidden else ""
        lost = len(found.losses)
        end = f"{lost} of what {a} promises {'is' if lost == 1 else 'are'} broken" if lost else "nothing is lost"
        err.print(visible(f"{end}: {counts}{more}"))
    if found.losses:
        raise typer.Exit(_LOST_SOMETHING)


def _table(shown: Sequence[Difference]) -> Table:
    table = Table("", Column("what", overflow="fold"), Column("A", overflow="fold"), Column("B", overflow="fold"))
    for one in shown:
        mark = one.kind.upper() if one.loss else one.kind
        table.add_row(
            mark,
            visible(f"{one.part} {one.place}".rstrip()),
            visible(one.a or ""),
            visible(one.b or ""),
            style="bold red" if one.loss else "" if one.interface else "dim",
        )
    return table
