"""Real handwritten digits to try `retrain_and_slim` on: `python -m pipelines.digits OUT` writes two .npz files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.digits import digits
from tfslim_core.errors import TfslimError
from tfslim_core.storage import whole_directory


def write_digits(out: Path) -> None:
    """Write OUT/training.npz, 3,000 images, and OUT/holdout.npz, 2,000 others: `x` [n, 784] in 0..1, `label` [n].

    Raises:
        OutputExistsError: there is something at OUT.
    """
    found = digits()
    held_out = [np.concatenate(parts) for parts in zip(found.tuning, found.unseen, strict=True)]
    with whole_directory(out) as aside:
        for name, (images, labels) in (("training", found.training), ("holdout", held_out)):
            np.savez(aside / f"{name}.npz", x=images, label=labels)


def main(out: Annotated[Path, typer.Argument(metavar="OUT", help="A new directory.")]) -> None:
    """Write handwritten digits as training.npz and holdout.npz."""
    try:
        write_digits(out)
    except TfslimError as error:
        typer.echo(f"pipelines: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    typer.echo(out / "training.npz")
    typer.echo(out / "holdout.npz")


if __name__ == "__main__":
    typer.run(main)
