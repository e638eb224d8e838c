"""What people see while a pipeline runs: a line for each step that ended, and on a terminal what goes on now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipelines.local_run import LocalRun, Step


class Teller:
    """Tells of each step on `console`; pass `told` to run_locally."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._task = progress.add_task("", total=None, visible=False)

    def told(self, step: Step) -> None:
        """A step began, said something, or ended."""
        if step.imports:
            return
        if step.failed is None:
            says = f" [dim]{escape(step.says)}[/]" if step.says else ""
            if not step.says:
                self._progress.reset(self._task)
            self._progress.update(self._task, visible=True, description=f"{step.name:<10}{says}")
            return
        self._progress.update(self._task, visible=False)
        mark = "[red]failed[/]" if step.failed else "[green]done[/]"
        self._console.print(f"  {step.name:<10} {mark} [dim]{step.seconds:6.1f} s[/]", highlight=False)


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
