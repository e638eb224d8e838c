"""Progress for people: a spinner and bars where stderr is a terminal, nothing where it is not."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

# From so many columns on, a bar leaves room for the words beside it.
_WIDE = 105


class Narrator:
    """A context manager that is told what is being done; see `stages.Progress`."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            *([BarColumn(bar_width=24)] if console.width >= _WIDE else []),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Narrator:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show what is being done."""
        count = f"{done:,} of {total:,}" if total else f"{done:,}" if done else ""
        if self._task is None:
            self._task = self._progress.add_task(what, total=None, count=count, detail="")
        self._progress.update(self._task, description=what, completed=done, total=total or None, count=count, detail="")

    def detail(self, words: str) -> None:
        """Show words beside the count, until the next step."""
        if self._task is not None:
            self._progress.update(self._task, detail=words)


def file_size(size: int) -> str:
    """Bytes for people, in powers of 1000 as files are listed: "28.7 MB"."""
    if size < 1000:
        return f"{size} B"
    number = size / 1000
    for unit in ("kB", "MB"):
        if number < 999.5:  # what would be rounded to 1000 is one of the next unit
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB" if number < 999.5 else f"{number:,.0f} GB"
