"""tfslim transforms."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column, Table

from tfslim_core.commands.app import app, out
from tfslim_core.commands.options import AsJson
from tfslim_core.commands.printing import print_json


@app.command()
def transforms(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One of them: all that there is to know.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the transforms: names, parameters, what each does; or explain one."""
    import tfslim_core.transforms  # noqa: F401  # registers them
    from tfslim_core.registry import known, named

    found = (named(name),) if name else known()
    if as_json:
        facts = [{"name": t.name, "parameters": list(map(str, t.parameters)), "summary": t.summary} for t in found]
        print_json([one | ({"documentation": named(name).documentation} if name else {}) for one in facts])
        return
    if name:
        parameters = ", ".join(map(str, found[0].parameters)) or "no parameters"
        out.print(f"{name}: {parameters}\n\n{found[0].documentation}")
        return
    table = Table(Column("transform", no_wrap=True), Column("what it does, and its parameters", overflow="fold"))
    for one in found:
        parameters = "\n".join(f"  {parameter}" for parameter in one.parameters)
        table.add_row(one.name, one.summary + (f"\n{parameters}" if parameters else ""))
    out.print(table)
