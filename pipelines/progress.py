"""What people see while a pipeline runs: a line for each step that ended, and on a terminal what goes on now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from pipelines.local_run import LocalRun
from pipelines.steps import Step


class Teller:
    """Tells of each step on `console`, of those beside each other too; pass `told` to run_locally."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._running: dict[int, TaskID] = {}
        self._width = 10

    def told(self, step: Step) -> None:
        """A step began, said something, ended, or was skipped."""
        if step.imports and not step.failed:
            return
        self._width = max(self._width, len(step.title))
        title = escape(f"{step.title:<{self._width}}")
        if step.skipped:
            self._console.print(f"  {title} [yellow]skipped[/]", highlight=False, soft_wrap=True)
        elif step.failed is None:
            if id(step) not in self._running:
                self._running[id(step)] = self._progress.add_task("", total=None)
            says = f" [dim]{escape(step.says)}[/]" if step.says else ""
            self._progress.update(self._running[id(step)], description=f"{title}{says}")
        else:
            if id(step) in self._running:
                self._progress.remove_task(self._running.pop(id(step)))
            failed = "[yellow]stopped[/]" if step.stopped else "[red]failed[/]"
            mark = failed if step.failed else "[green]done[/]"
            self._console.print(f"  {title} {mark} [dim]{step.seconds:6.1f} s[/]", highlight=False, soft_wrap=True)


@contextmanager
def telling(console: Console) -> Iterator[Teller]:
    """Tell of a run on a console, live where it is a terminal."""
    columns = (TextColumn(" "), SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # The runner's own output is redirected while this is shown; Rich must not redirect it as well.
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        yield Teller(console, progress)


def show_log(console: Console, run: LocalRun) -> None:
    """Show the end of the log of the step that failed, or of the whole log where none did."""
    for line in run.failed.said if run.failed else run.said:
        console.print(f"    {line}", style="dim", markup=False, highlight=False, soft_wrap=True)
