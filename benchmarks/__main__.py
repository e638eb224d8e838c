"""Measure what tfslim saves and what it takes: the tables of docs/benchmarks.md."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.machine import facts, sentence
from benchmarks.places import OUT, PAGE
from benchmarks.sheets import Sheet, write_section

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measure what tfslim saves and what it takes. Figures also go to build/benchmarks/NAME.json.",
)
answers = Console(highlight=False)
people = Console(stderr=True, highlight=False)  # wherever sys.stderr is when it is used

WriteDocs = Annotated[bool, typer.Option("--write-docs", help="Put the tables into docs/benchmarks.md too.")]
Seconds = Annotated[
    float,
    typer.Option(min=0.5, help="Time for one batch size of one form of a model, all rounds."),
]
Told = Callable[[str], None]


@app.command()
def serving(
    only: Annotated[list[str] | None, typer.Option(metavar="MODEL", help="One of the models; may be repeated.")] = None,
    seconds: Seconds = 8,
    write_docs: WriteDocs = False,
) -> None:
    """Size, load time, memory, latency and agreement: original, frozen, the old recipe, tfslim."""
    from benchmarks import serving as section
    from benchmarks.subjects import SUBJECTS

    unknown = set(only or ()) - set(SUBJECTS)
    if unknown:
        raise typer.BadParameter(f"no model {min(unknown)!r} (there are: {', '.join(SUBJECTS)})")
    before = facts(_command())
    found = []
    with _telling() as told:
        for name in only or SUBJECTS:
            found.append(section.run(SUBJECTS[name](), seconds, told))
    sheets = [*map(section.sheet, found), section.goals(found)]
    _publish("serving", "Serving", before, sheets, found, write_docs)


@app.command()
def encodings(
    only: Annotated[list[str] | None, typer.Option(metavar="MODEL", help="One of the models; may be repeated.")] = None,
    seconds: Seconds = 8,
    write_docs: WriteDocs = False,
) -> None:
    """All encodings and a search under a budget, beside the old recipe, TensorFlow's MLIR quantizer and TFLite."""
    from benchmarks import encoding_goals
    from benchmarks import encodings as section
    from benchmarks.cases import CASES
    from benchmarks.plots import plot

    unknown = set(only or ()) - set(CASES)
    if unknown:
        raise typer.BadParameter(f"no model {min(unknown)!r} (there are: {', '.join(CASES)})")
    before = facts(_command())
    found = []
    with _telling() as told:
        for name in only or CASES:
            found.append(section.run(CASES[name](), seconds, told))
    sheets = [*map(section.sheet, found), encoding_goals.goals(found)]
    drawn = plot(found, (PAGE.parent if write_docs else OUT) / "encodings.svg")
    answers.print(f"plot: {drawn}", markup=False)
    _publish("encodings", "Encodings", before, sheets, found, write_docs, f"![Bytes and error]({drawn.name})\n\n")


@app.command()
def formats(
    only: Annotated[list[str] | None, typer.Option(metavar="MODEL", help="One of the models; may be repeated.")] = None,
    seconds: Seconds = 8,
    write_docs: WriteDocs = False,
) -> None:
    """The same model as a SavedModel and as TFLite: float32, float16, int8 scaled for each request or by data."""
    from benchmarks import formats as section

    unknown = set(only or ()) - set(section.SUBJECTS)
    if unknown:
        raise typer.BadParameter(f"no model {min(unknown)!r} (there are: {', '.join(section.SUBJECTS)})")
    before = facts(_command())
    with _telling() as told:
        found = section.run(seconds, told, only or section.SUBJECTS)
    _publish("formats", "Formats", before, [*map(section.sheet, found)], found, write_docs)


@app.command()
def stages(write_docs: WriteDocs = False) -> None:
    """Time and memory of slimming a 120 MB model."""
    from benchmarks import stages as section

    before = facts(_command())
    with _telling() as told:
        found = section.run(told)
    _publish("stages", "Slimming", before, [section.sheet(found)], found, write_docs)


@app.command()
def transforms(write_docs: WriteDocs = False) -> None:
    """The transforms beside the old Graph Transform Tool: time, nodes and bytes, on real graphs and a large one."""
    from benchmarks import transforms as section

    before = facts(_command())
    with _telling() as told:
        found = section.run(told)
    _publish("transforms", "Transforms", before, [section.sheet(found)], found, write_docs)


@app.command("quantized-nodes")
def quantized_nodes(write_docs: WriteDocs = False) -> None:
    """What quantize_nodes costs and saves: float32 against TensorFlow's eight-bit kernels."""
    from benchmarks import quantized_nodes as section

    before = facts(_command())
    with _telling() as told:
        found = section.run(told)
    _publish("quantized_nodes", "Eight-bit compute", before, [section.sheet(found)], found, write_docs)


@app.command()
def vocabulary(write_docs: WriteDocs = False) -> None:
    """Rows of an embedding by what texts use: bytes and agreement with fewer of them."""
    from benchmarks import vocabulary as section

    before = facts(_command())
    with _telling() as told:
        found = section.run(told)
    _publish("vocabulary", "Vocabulary", before, [section.sheet(found)], found, write_docs)


@app.command()
def validation(
    examples: Annotated[int, typer.Option(min=64, help="Of the convolutional model.")] = 20_000,
    turns: Annotated[int, typer.Option(min=1, help="Of each model; the median counts.")] = 3,
    write_docs: WriteDocs = False,
) -> None:
    """The validation job against a bare loop over the same batches."""
    from benchmarks import validation as section

    before = facts(_command())
    with _telling() as told:
        found = section.run(told, examples, turns)
    _publish("validation", "Validation", before, [section.sheet(found)], found, write_docs)


@app.command()
def runners(
    scale: Annotated[float, typer.Option(min=0.01, help="Of the numbers of examples; 1 for figures to publish.")] = 1,
    write_docs: WriteDocs = False,
) -> None:
    """Memory of the validation job over much data, and what a second process gains."""
    from benchmarks import runners as section

    before = facts(_command())
    with _telling() as told:
        found = section.run(told, scale)
    _publish("runners", "Runners", before, [section.sheet(found)], found, write_docs)


@app.command()
def many(write_docs: WriteDocs = False) -> None:
    """Memory and time of ten models that one pipeline slims."""
    from benchmarks import many as section

    before = facts(_command())
    with _telling() as told:
        found = section.run(told)
    _publish("many", "Ten models", before, [section.sheet(found)], [found], write_docs)


@app.command()
def components(write_docs: WriteDocs = False) -> None:
    """Memory and processor time of each Kubeflow component; with --write-docs for the tables of their READMEs."""
    from benchmarks import component_memory as section

    with _telling() as told:
        found = section.run(told)
    answers.print_json(json.dumps(found))
    if write_docs:
        section.write(found)
        people.print("now call: make docs")


@app.command()
def big(
    gigabytes: Annotated[float, typer.Option(min=0.01, help="Of float32 weights.")] = 3,
    folder: Annotated[Path | None, typer.Option(help="For 3.5 times as many; a temporary one unless told.")] = None,
    write_docs: WriteDocs = False,
) -> None:
    """Time and memory of slimming a model that no protobuf could hold. Not part of `all`."""
    from benchmarks import big as section

    before = facts(_command())
    with _telling() as told:
        found = section.run(gigabytes, folder, told)
    _publish("big", "Large models", before, [section.sheet(found)], [found], write_docs)


@app.command("all")
def everything(seconds: Seconds = 8, write_docs: WriteDocs = False) -> None:
    """All of them but `big`, one after the other."""
    serving(None, seconds, write_docs)
    encodings(None, seconds, write_docs)
    formats(None, seconds, write_docs)
    stages(write_docs)
    transforms(write_docs)
    quantized_nodes(write_docs)
    vocabulary(write_docs)
    validation(write_docs=write_docs)
    runners(write_docs=write_docs)
    many(write_docs)


def _publish(
    name: str,
    title: str,
    before: dict[str, str],
    sheets: Sequence[Sheet],
    found: Sequence[Any],
    write_docs: bool,
    picture: str = "",
) -> None:
    for sheet in sheets:
        sheet.show(answers)
    answers.print(sentence(before), style="dim", markup=False)
    OUT.mkdir(parents=True, exist_ok=True)
    data = {"facts": before, "found": [asdict(one) for one in found]}
    (OUT / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    if write_docs:
        tables = "\n".join([*(sheet.markdown() for sheet in sheets), sentence(before)])
        write_section(PAGE, name, title, picture + tables)


@contextmanager
def _telling() -> Iterator[Told]:
    """What is being done: a spinner where stderr is a terminal, nothing where it is not."""
    with people.status("") as status:
        yield lambda what: status.update(what)


def _command() -> str:
    return " ".join(["python -m benchmarks", *sys.argv[1:]])


def _hush_libraries() -> None:
    """Look for no GPU, and give stderr to Python alone: TensorFlow writes to its descriptor whatever the log level."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # the models are made with what is deprecated
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


if __name__ == "__main__":
    _hush_libraries()
    app()
