"""Progress where somebody watches, and nothing where nobody does."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tfslim_core.details import tell_detail
from tfslim_core.terminal import Narrator, file_size


def told(terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    with Narrator(console) as progress:
        progress("freeze [bold]", 0, 0)
        progress("compare", 1200, 0)
        progress("measure", 3, 7)
    return console.file.getvalue()


def test_nothing_where_nobody_watches():
    assert told(terminal=False) == ""


def test_what_is_done_and_how_much_of_it(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    shown = told(terminal=True)
    assert "measure" in shown
    assert "3 of 7" in shown


@pytest.mark.parametrize("width", [80, 120])
def test_words_beside_a_count_last_until_the_next_step(width, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with Narrator(console) as progress:
        progress.detail("too early")
        tell_detail(progress, "compare", 12_320, 50_000, "386 batches, 320 /s, about 45.0 s left")
        progress._progress.refresh()
        shown = console.file.getvalue()
        console.file.truncate(0)
        progress("measure", 3, 7)
        progress._progress.refresh()
    assert "12,320 of 50,000 386 batches, 320 /s, about 45.0 s left 0:00:00" in " ".join(shown.split())
    assert "3 of 7" in console.file.getvalue()
    assert "batches" not in console.file.getvalue()


def test_a_listener_that_shows_no_words_gets_the_count():
    told = []
    tell_detail(lambda *step: told.append(step), "compare", 320, 1000, "10 batches")
    assert told == [("compare", 320, 1000)]


def test_names_that_look_like_markup(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with Narrator(console) as progress:
        progress("quantize: w[/b]:key:", 0, 0)
    assert "quantize: w[/b]:key:" in console.file.getvalue()


def test_errors_pass_through_and_the_cursor_comes_back(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True, width=80)

    def fail():
        with Narrator(console) as progress:
            progress("freeze", 0, 0)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert console.file.getvalue().rindex("\x1b[?25h") > console.file.getvalue().rindex("\x1b[?25l")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (999_400, "999 kB"),
        (999_600, "1 MB"),
        (28_734_000, "28.7 MB"),
        (999_999_999, "1 GB"),
        (487_300_000_000, "487 GB"),
        (1_234_000_000_000, "1,234 GB"),
    ],
)
def test_sizes(size, words):
    assert file_size(size) == words
