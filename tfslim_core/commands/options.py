"""Arguments and options that several commands take, and how their texts are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from tfslim_core.errors import UsageError

Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A SavedModel, a .pb, a checkpoint, a .keras or .h5 file.", show_default=False
    ),
]
BundleIn = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, as freeze writes it.", show_default=False)]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="What to write; it appears whole.", show_default=False)]
Base = Annotated[
    Path, typer.Argument(metavar="BASE", help="The folder that TensorFlow Serving polls.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON to stdout.")]
Tags = Annotated[str, typer.Option("--tags", help="The MetaGraph's tags, with commas between.")]
Inputs = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="Of a graph without signatures: nodes or tensors, with commas between."),
]
Outputs = Annotated[str | None, typer.Option(metavar="NAMES", help="The same; both are guessed, and shown.")]
GraphFile = Annotated[
    Path | None, typer.Option("--graph", metavar="FILE", help="Of a checkpoint without a .meta: .pb, .pbtxt or .meta.")
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="NAME=PATH",
        help="Real requests: .jsonl, .npz, .tfrecord[.gz], .csv or .parquet; globs are allowed. May be repeated.",
    ),
]
Gates = Annotated[
    list[str] | None,
    typer.Option("--gate", metavar="EXPR", help='What must hold, e.g. "top1_agreement>=0.99". May be repeated.'),
]
Signature = Annotated[str | None, typer.Option(help="The signature that the data feeds.")]
MainOutput = Annotated[str | None, typer.Option(help="The output that gates without a name mean.")]
Label = Annotated[str | None, typer.Option(metavar="KEY", help="The data's key that holds the label.")]
Slices = Annotated[
    list[str] | None,
    typer.Option(
        "--slice",
        metavar="KEY[:N,N]",
        help="Judge examples apart by this key of the data, or by buckets of its numbers. May be repeated.",
    ),
]
BadRecords = Annotated[
    float | None,
    typer.Option(metavar="SHARE", min=0, max=1, help="More bad records than this are an error; 0.01."),
]
Include = Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Weights to encode, by name (* and ?).")]
Exclude = Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Weights to leave alone, by name.")]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget", metavar="EXPR", help='Search the smallest encodings that hold, e.g. "top1_agreement>=0.99".'
    ),
]
SearchMinutes = Annotated[float | None, typer.Option(metavar="MINUTES", min=0, help="Time for the search; 10.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of the sample that is drawn from the data; 0.")]
Corpus = Annotated[
    list[str] | None,
    typer.Option(
        "--corpus", metavar="NAME=PATH", help="Texts in which to count what is used, as --data. May be repeated."
    ),
]
StandIn = Annotated[
    Literal["oov", "centre"] | None,
    typer.Option(help="What stands for dropped rows: the row for unknown words if there is one, else cluster centres."),
]
MinCount = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Drop rows that are looked up less often; 1, the unused.")
]
Keep = Annotated[int | None, typer.Option(metavar="N", min=1, help="Keep so many of the most used rows.")]
MinRuntime = Annotated[
    str | None,
    typer.Option(
        metavar="RELEASE",
        help="The oldest TensorFlow that is to serve it, e.g. 2.4; else as old as serves the original.",
    ),
]
Warmup = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, max=1000, help="Make so many warm-up requests of a sample of the data, for the server."
    ),
]
MinimumSize = Annotated[int | None, typer.Option(metavar="ELEMENTS", min=0, help="Leave smaller weights alone; 1024.")]


def named_paths(data: Sequence[str] | None, flag: str = "--data") -> dict[str, str]:
    """NAME=PATH pairs.

    Raises:
        UsageError: one is not a pair, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in data or ():
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise UsageError(f"{flag} {text}: give NAME=PATH, e.g. {flag} test={text}")
        if name in found:
            raise UsageError(f"{flag} {name} is given twice; each dataset has a name of its own")
        found[name] = path
    return found


def listed(names: str) -> list[str]:
    """Names with commas between."""
    return [name.strip() for name in names.split(",") if name.strip()]


def whole_numbers(numbers: str, flag: str) -> list[int]:
    """Whole numbers from 1 on with commas between, ascending and each once.

    Raises:
        UsageError: something else is among them.
    """
    texts = listed(numbers)
    if not texts or not all(text.isascii() and text.isdecimal() and 0 < int(text) < 1 << 31 for text in texts):
        raise UsageError(f"{flag} {numbers}: give whole numbers from 1 on with commas between, e.g. {flag} 1,8,32")
    return sorted({int(text) for text in texts})
