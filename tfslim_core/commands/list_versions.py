"""tfslim list."""

from __future__ import annotations

from rich.table import Table

from tfslim_core import api
from tfslim_core.commands.app import app, err, out
from tfslim_core.commands.options import AsJson, Base
from tfslim_core.commands.printing import print_json, visible
from tfslim_core.publishing import Version
from tfslim_core.terminal import file_size


@app.command("list")
def list_versions(
    base: Base,
    as_json: AsJson = False,
) -> None:
    """List the versions below BASE: which is served, which were taken back, and what a server cannot load."""
    found = api.versions(base)
    if as_json:
        print_json([version.to_json() for version in found])
        return
    if not found:
        err.print(visible(f"{base}: no versions"))
        return
    table = Table()
    for column in ("version", "state"):  # an exporter's versions are times, which differ in the last digits alone
        table.add_column(column, no_wrap=True)
    table.add_column("size", justify="right")
    for column in ("published (UTC)", "verdict", "digest"):
        table.add_column(column)
    for version in found:
        table.add_row(
            str(version.number),
            _state(version),
            file_size(version.bytes),
            _time(version.published),
            version.verdict or "–",
            visible((version.digest or "–")[:12]),
        )
    out.print(table)
    for version in found:
        if version.problem is not None:
            err.print(visible(f"version {version.number}: {version.problem}"), style="yellow")
    served = next((version.number for version in found if version.served), None)
    tried = max((version.number for version in found if not version.rolled_back), default=None)
    if tried is not None and tried != served:
        err.print(
            visible(
                f"a server tries version {tried} first: one that starts now serves nothing, one that runs keeps what "
                f"it has; publish a version, or: tfslim rollback {base}"
            ),
            style="yellow",
        )


def _state(version: Version) -> str:
    if version.rolled_back:
        return "rolled back"
    if version.served:
        return "served"
    return "kept" if version.complete else "incomplete"


def _time(published: str | None) -> str:
    """ISO 8601 in UTC, in fewer letters."""
    return "by another tool" if published is None else visible(published[:16].replace("T", " "))
