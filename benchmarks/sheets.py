"""A table that is shown on a terminal and written into a page alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tfslim_core.storage import whole_file

_HEAD = """# Benchmarks

`make bench` measures all of this anew; `python -m benchmarks --help` has the parts. Every comparison is of one run on
one machine, in turns, so that whatever else the machine does hits all alike: compare within a table, never between two.
"""


@dataclass(frozen=True)
class Sheet:
    """Rows of text. notes: sentences below the table."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def show(self, console: Console) -> None:
        """Print it."""
        table = Table(box=SIMPLE_HEAD, title=self.title, title_justify="left")
        for number, name in enumerate(self.header):
            table.add_column(name, justify="left" if number == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for note in self.notes:
            console.print(note, style="dim", markup=False)

    def markdown(self) -> str:
        """The same for a page."""
        lines = [f"### {self.title}", "", _line(self.header), _line(["---", *["---:"] * (len(self.header) - 1)])]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, "", *self.notes]).rstrip() + "\n"


def write_section(page: Path, name: str, title: str, content: str) -> None:
    """Put the content between a section's markers; a section that the page lacks goes to its end."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text() if page.exists() else _HEAD
    if begin not in text:
        text = f"{text.rstrip()}\n\n## {title}\n\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    page.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(page, overwrite=True) as file:
        file.write_text(f"{before}{begin}\n{content.strip()}\n{end}{after}")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
