"""`python -m components compile`: write each component's YAML and the tables of its README anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def about() -> None:
    """The components of tfslim, for pipelines of any kind."""


@app.command()
def compile(  # noqa: A001  # the command's name
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write DIR/NAME/component.yaml alone; in the checkout unless told."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --out: replace files that are there.")] = False,
) -> None:
    """Write component.yaml of each, for the image that TFSLIM_IMAGE names, and what is generated in their READMEs."""
    from components.catalog import COMPONENTS, folder
    from components.compiled import compiled
    from components.pages import page
    from tfslim_core.errors import TfslimError
    from tfslim_core.storage import whole_file

    try:
        for name in COMPONENTS:
            file = (out / name if out else folder(name)) / "component.yaml"
            with whole_file(file, overwrite=out is None or overwrite) as aside:
                aside.write_text(compiled(name))
            if out is None:
                readme = file.with_name("README.md")
                readme.write_text(page(name, readme.read_text()))
            typer.echo(file)
    except TfslimError as error:
        typer.echo(f"components: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


if __name__ == "__main__":
    app()
