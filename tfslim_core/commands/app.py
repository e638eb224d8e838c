"""The application that every command registers with, and the two consoles: data on stdout, words on stderr."""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from typing import Annotated

# Before anything loads TensorFlow: its log would drown every word of ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import typer
from rich.console import Console

import tfslim_core

app = typer.Typer(
    name="tfslim",
    help="Slim a TensorFlow SavedModel for CPU serving: same signatures, same answers, no slower.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# Names in a model may look like markup.
out = Console(soft_wrap=True, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


# The arguments that `main` was called with, for a command that starts itself anew.
arguments: ContextVar[list[str] | None] = ContextVar("arguments", default=None)


@app.callback(invoke_without_command=True)
def _version_option(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        sys.stdout.write(f"tfslim {tfslim_core.__version__}\n")
        raise typer.Exit
