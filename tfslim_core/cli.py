"""The `tfslim` command: arguments in, one call of the API, tables out.

Data goes to stdout; words and progress go to stderr. An expected error is one line and its exit code; see `errors`.
Ctrl-C exits with 130 and leaves nothing. Anything else is a bug: a traceback, and Python's exit code for it, 1.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

# Before anything loads TensorFlow: its log would drown every word of ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import typer
from rich.console import Console
from rich.table import Column, Table

import tfslim_core
from tfslim_core import api
from tfslim_core.errors import TfslimError, UsageError
from tfslim_core.terminal import Narrator, file_size

if TYPE_CHECKING:
    from tfslim_core.bundle import StepEntry, WeightEntry
    from tfslim_core.inspection import Inspection

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

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A SavedModel directory.", show_default=False)]
BundleIn = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, as freeze writes it.", show_default=False)]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="What to write; it appears whole.", show_default=False)]
Base = Annotated[
    Path, typer.Argument(metavar="BASE", help="The folder that TensorFlow Serving polls.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON to stdout.")]
Tags = Annotated[str, typer.Option("--tags", help="The MetaGraph's tags, with commas between.")]
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
MinimumSize = Annotated[int | None, typer.Option(metavar="ELEMENTS", min=0, help="Leave smaller weights alone; 1024.")]


@app.command()
def inspect(model: Model, tags: Tags = "serve", as_json: AsJson = False) -> None:
    """Show what is in a SavedModel or bundle, what it costs, and what slimming would save."""
    found = api.inspect(model, tags=_listed(tags))
    if as_json:
        _print_json(found.to_json())
        return
    _show(found)


@app.command()
def freeze(
    model: Model,
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="What to write; it appears whole.", show_default=False)
    ],
    tags: Tags = "serve",
    signatures: Annotated[str | None, typer.Option(help="The signatures to keep, with commas between; all.")] = None,
    output_format: Annotated[
        Literal["bundle", "graph_def"], typer.Option("--format", help="A plain frozen .pb for tools that want one.")
    ] = "bundle",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Freeze a SavedModel's variables and inline its functions: the first stage."""
    with Narrator(err) as told:
        report = api.freeze(
            model,
            bundle,
            tags=_listed(tags),
            signatures=_listed(signatures) if signatures else None,
            format=output_format,
            overwrite=overwrite,
            progress=told,
        )
    _stage(report, as_json)


@app.command()
def transform(
    bundle: BundleIn,
    out_: Out,
    transforms: Annotated[
        str | None,
        typer.Option(help='E.g. "fold_constants(ignore_errors=true) fold_batch_norms"; see: tfslim transforms'),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Rewrite a bundle's graph: prune, fold constants and batch norms, merge duplicates."""
    with Narrator(err) as told:
        report = api.transform(bundle, out_, transforms=transforms, overwrite=overwrite, progress=told)
    _stage(report, as_json)


@app.command("prune-vocabulary", context_settings={"allow_extra_args": True, "ignore_unknown_options": False})
def prune_vocabulary(
    context: typer.Context,
    bundle: BundleIn,
    out_: Out,
    corpus: Corpus = None,
    min_count: MinCount = None,
    keep: Keep = None,
    to: StandIn = None,
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", metavar="EXPR", help='Keep as few rows as hold, e.g. "top1_agreement>=0.99".'),
    ] = None,
    data: Data = None,
    signature: Signature = None,
    main_output: MainOutput = None,
    label: Label = None,
    seed: Seed = None,
    fail_on_bad_records: BadRecords = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Drop rows of embeddings, and words, that a corpus never or rarely uses; Beam's own options go after --.

    With --budget and --data as few rows are kept as hold it; the examples that confirm it are not counted.
    """
    if context.args and not context.args[0].startswith("-"):
        raise UsageError(
            f"one bundle goes in, one comes out; what is {context.args[0]!r}? (Beam's options go after --)"
        )
    if data and not budget:
        raise UsageError("--data is what a budget is measured on; give --budget EXPR too, or --corpus NAME=PATH")
    with Narrator(err) as told:
        report = api.prune_vocabulary(
            bundle,
            out_,
            corpus=_named(corpus, "--corpus"),
            min_count=min_count,
            keep=keep,
            to=to,
            budget=budget or (),
            data=_named(data),
            signature=signature,
            main_output=main_output,
            label=label,
            seed=seed or 0,
            fail_on_bad_records=0.01 if fail_on_bad_records is None else fail_on_bad_records,
            beam_options=context.args,
            overwrite=overwrite,
            progress=told,
        )
    _stage(report, as_json)


@app.command()
def quantize(
    bundle: BundleIn,
    out_: Out,
    encoding: Annotated[
        str | None,
        typer.Option(help="int8 unless told; int4/block32, palette4, sparse8, lossless …; a wrong name lists all."),
    ] = None,
    budget: Budgets = None,
    data: Data = None,
    include: Include = None,
    exclude: Exclude = None,
    minimum_size: MinimumSize = None,
    placement: Annotated[
        Literal["rows", "load", "graph"] | None, typer.Option(help="Where to decode; by each weight's use.")
    ] = None,
    signature: Signature = None,
    main_output: MainOutput = None,
    label: Label = None,
    search_minutes: SearchMinutes = None,
    seed: Seed = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print how each weight is stored, and why.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Store a bundle's weights in fewer bits, decoded where no request pays for it.

    With --budget and --data each weight gets the encoding that makes the whole smallest within that loss. With --data
    alone weights are rounded by what the layers are fed, so that the answers change less.
    """
    with Narrator(err) as told:
        report = api.quantize(
            bundle,
            out_,
            encoding=encoding,
            include=include or (),
            exclude=exclude or (),
            minimum_size=1024 if minimum_size is None else minimum_size,
            placement=placement,
            budget=budget or (),
            data=_named(data),
            signature=signature,
            main_output=main_output,
            label=label,
            search_minutes=10 if search_minutes is None else search_minutes,
            seed=seed or 0,
            overwrite=overwrite,
            progress=told,
        )
    if explain and not as_json:
        # Reasons are sentences: what reads a pipe gets room for them.
        out.print(_weights_table(report.weights), width=None if out.is_terminal else 200)
    _stage(report, as_json)


@app.command()
def reexport(
    bundle: BundleIn,
    out_: Out,
    output_format: Annotated[Literal["saved_model", "graph_def"], typer.Option("--format")] = "saved_model",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write a bundle as a SavedModel, loaded and run by TensorFlow's C++ loader before it counts."""
    with Narrator(err) as told:
        report = api.reexport(bundle, out_, format=output_format, overwrite=overwrite, progress=told)
    _stage(report, as_json)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})
def validate(
    context: typer.Context,
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL", help="The model as it was.", show_default=False)],
    optimized: Annotated[Path, typer.Argument(metavar="OPTIMIZED", help="The model to judge.", show_default=False)],
    report_dir: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where verdict.json and report.html go.")],
    data: Data = None,
    gate: Gates = None,
    signature: Signature = None,
    main_output: MainOutput = None,
    label: Label = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples in a request.")] = 32,
    fail_on_bad_records: BadRecords = None,
    tags: Tags = "serve",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compare two models on real data, as a Beam job; Beam's own options go after --.

    Exits with 3 when the gate fails and with 4 when nothing was proven.
    """
    if context.args and not context.args[0].startswith("-"):
        raise UsageError(f"validate takes two models; what is {context.args[0]!r}? (Beam's own options go after --)")
    with Narrator(err) as told:
        report = api.validate(
            original,
            optimized,
            data=_named(data),
            out=report_dir,
            gates=gate or (),
            signature=signature,
            main_output=main_output,
            label=label,
            batch_size=batch_size,
            fail_on_bad_records=0.01 if fail_on_bad_records is None else fail_on_bad_records,
            tags=_listed(tags),
            beam_options=context.args,
            overwrite=overwrite,
            progress=told,
        )
    if as_json:
        _print_json(report.verdict.model_dump(mode="json"))
    else:
        _print_table(report.verdict, report.context)
    _conclude(report.verdict, report.path)
    _exit_by(report.outcome)


@app.command()
def slim(
    model: Model,
    out_: Out,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file with these options, underscores for dashes; flags win.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="For every weight, as in quantize; without it int8 where it does no harm.")
    ] = None,
    data: Data = None,
    gate: Gates = None,
    report_dir: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Where verdict.json and report.html go.")
    ] = None,
    transforms: Annotated[str | None, typer.Option(help="Instead of the default set.")] = None,
    signatures: Annotated[str | None, typer.Option(help="The signatures to keep, with commas between; all.")] = None,
    include: Include = None,
    exclude: Exclude = None,
    minimum_size: MinimumSize = None,
    budget: Budgets = None,
    search_minutes: SearchMinutes = None,
    seed: Seed = None,
    signature: Signature = None,
    main_output: MainOutput = None,
    label: Label = None,
    fail_on_bad_records: BadRecords = None,
    prune_vocabulary: Annotated[
        bool,
        typer.Option("--prune-vocabulary", help="Drop rows of embeddings that the corpus, or the data, does not use."),
    ] = False,
    corpus: Corpus = None,
    min_count: MinCount = None,
    keep: Keep = None,
    to: StandIn = None,
    tags: Annotated[str | None, typer.Option(help="The MetaGraph's tags, with commas between; serve.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Slim a SavedModel into a SavedModel: all stages at once, and a before/after table.

    With --data the result is validated and exits with 3 when the gate fails, with 4 when nothing was proven; without
    it the answers are checked on made-up inputs only, and the report says so.
    """
    from tfslim_core.configuration import settings

    flags = {
        "encoding": encoding,
        "data": _named(data) or None,
        "gates": gate,
        "report": report_dir,
        "transforms": transforms,
        "signatures": _listed(signatures) if signatures else None,
        "include": include,
        "exclude": exclude,
        "minimum_size": minimum_size,
        "budget": budget,
        "search_minutes": search_minutes,
        "seed": seed,
        "signature": signature,
        "main_output": main_output,
        "label": label,
        "fail_on_bad_records": fail_on_bad_records,
        "prune_vocabulary": prune_vocabulary or None,
        "corpus": _named(corpus, "--corpus") or None,
        "min_count": min_count,
        "keep": keep,
        "to": to,
        "tags": _listed(tags) if tags is not None else None,
    }
    asked = settings(config, {key: value for key, value in flags.items() if value is not None})
    with Narrator(err) as told:
        report = api.slim(model, out_, **asked, overwrite=overwrite, progress=told)
    if as_json:
        _print_json(report.to_json())
    else:
        _print_table(report.verdict, report.context)
    for stage in report.context.stages:
        if stage.notes:
            err.print(_visible(f"{stage.name}: {stage.notes}"), style="dim")
    _conclude(report.verdict, report.report)
    _exit_by(report.outcome if asked.get("data") else "pass")


@app.command()
def publish(
    optimized: Annotated[
        Path, typer.Argument(metavar="OPTIMIZED", help="The SavedModel that was validated.", show_default=False)
    ],
    base: Base,
    verdict: Annotated[Path, typer.Option(metavar="FILE", help="The validation's verdict.json.")],
    as_json: AsJson = False,
) -> None:
    """Publish a model that passed, as the next version below BASE.

    Exits with 3 for a failed verdict and with 4 for an inconclusive one.
    """
    done = api.publish(optimized, base, verdict=verdict)
    _version(done, "published", as_json)


@app.command()
def rollback(
    base: Base,
    as_json: AsJson = False,
) -> None:
    """Hide the highest version below BASE, so that the one before it is served."""
    _version(api.rollback(base), "now served", as_json)


@app.command("transform-graph")
def transform_graph(
    in_graph: Annotated[Path, typer.Option(metavar="A.pb", help="A frozen GraphDef.")],
    out_graph: Annotated[Path, typer.Option(metavar="B.pb", help="What to write.")],
    inputs: Annotated[str, typer.Option(help="Names of nodes or tensors, with commas between.")],
    outputs: Annotated[str, typer.Option(help="Names of nodes or tensors, with commas between.")],
    transforms: Annotated[str, typer.Option(help="As the Graph Transform Tool takes them; see: tfslim transforms")],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Transform a frozen GraphDef as the old transform_graph did.

    Both graphs then answer a made-up request, and the result is written when the answers agree. --json prints what each
    transform changed and what it left alone, with the reasons.
    """
    with Narrator(err) as told:
        report = api.transform_graph_file(
            in_graph,
            out_graph,
            inputs=_listed(inputs),
            outputs=_listed(outputs),
            transforms=transforms,
            overwrite=overwrite,
            progress=told,
        )
    _stage(report, as_json)


@app.command()
def transforms(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One of them: all that there is to know.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the transforms: names, parameters, what each does; or explain one."""
    import tfslim_core.transforms  # noqa: F401  # registers them
    from tfslim_core.registry import known, named

    found = (named(name),) if name else known()
    if as_json:
        facts = [{"name": t.name, "parameters": list(map(str, t.parameters)), "summary": t.summary} for t in found]
        _print_json([one | ({"documentation": named(name).documentation} if name else {}) for one in facts])
        return
    if name:
        parameters = ", ".join(map(str, found[0].parameters)) or "no parameters"
        out.print(f"{name}: {parameters}\n\n{found[0].documentation}")
        return
    table = Table(Column("transform", no_wrap=True), Column("what it does, and its parameters", overflow="fold"))
    for one in found:
        parameters = "\n".join(f"  {parameter}" for parameter in one.parameters)
        table.add_row(one.name, one.summary + (f"\n{parameters}" if parameters else ""))
    out.print(table)


def _stage(report: api.StageReport, as_json: bool) -> None:
    if as_json:
        _print_json(report.to_json())
        return
    if err.is_terminal and report.stage.startswith("transform"):
        err.print(_steps_table(report.steps))
    for step in report.steps:
        if step.error:
            err.print(_visible(f"{step.name} failed and changed nothing: {step.error}"), style="yellow")
    for note in report.notes:
        err.print(_visible(note), style="dim")
    worst = max(report.errors.values(), default=None)
    told = ""
    if worst is not None:
        told = f", answers off by at most {worst:.2g} (relative)" if worst else ", equal answers"
    err.print(
        f"{_visible(str(report.path))}: {file_size(report.bytes)}, {report.nodes:,} nodes, {report.seconds:.1f} s{told}"
    )


def _weights_table(weights: Sequence[WeightEntry]) -> Table:
    """How each weight is stored, the largest first."""
    table = Table("weight", "shape", "encoding", "decoded")
    for column in ("before", "after", "harm"):
        table.add_column(column, justify="right")
    table.add_column("because", overflow="fold", style="dim")
    for weight in sorted(weights, key=lambda weight: (-weight.bytes_before, weight.name)):
        table.add_row(
            _visible(weight.name),
            "x".join(map(str, weight.shape)) or "scalar",
            weight.encoding,
            weight.placement,
            file_size(weight.bytes_before),
            file_size(weight.bytes_after),
            "" if weight.harm is None else f"{weight.harm:.1e}",
            _visible(weight.reason),
        )
    return table


def _steps_table(steps: Sequence[StepEntry]) -> Table:
    """What each transform did, and for what it left alone the most frequent reason."""
    table = Table("transform")
    for column in ("changes", "nodes", "size", "left alone"):
        table.add_column(column, justify="right")
    table.add_column("most often because", overflow="fold", style="dim")
    for step in steps:
        why = Counter(skip.reason for skip in step.skipped).most_common(1)
        table.add_row(
            step.name,
            f"{step.changes:,}",
            f"{step.nodes_after:,}",
            file_size(step.bytes_after),
            f"{len(step.skipped):,}",
            _visible(why[0][0]) if why else "",
        )
    return table


def _version(done: Any, word: str, as_json: bool) -> None:
    if as_json:
        _print_json({"path": str(done.path), "version": done.version})
    else:
        err.print(_visible(f"{word}: {done.path}"))


def _print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False, default=str) + "\n")


def _print_table(verdict: Any, context: Any) -> None:
    from tfslim_core.report import before_after_table

    out.print(before_after_table(verdict, context))


def _conclude(verdict: Any, report: Path | None) -> None:
    """The summary line: the outcome, why, and where to read more."""
    reasons = " ".join(verdict.reasons)
    more = f" (report: {report / 'report.html'})" if report is not None else ""
    err.print(_visible(f"{verdict.verdict}{': ' * bool(reasons)}{reasons}{more}"))


def _exit_by(outcome: str) -> None:
    code = {"pass": 0, "fail": 3, "inconclusive": 4}[outcome]
    if code:
        raise typer.Exit(code)


def _named(data: Sequence[str] | None, flag: str = "--data") -> dict[str, str]:
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


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _show(found: Inspection) -> None:
    """Print what is in a model; no name is cut off, however narrow the terminal."""

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left")
        for column in columns:
            made.add_column(column, overflow="fold")
        return made

    def keys(specs: Mapping[str, str]) -> str:
        return "\n".join(_visible(f"{key}: {spec}") for key, spec in specs.items())

    made_by = f", TensorFlow {found.tensorflow_version}" if found.tensorflow_version else ""
    facts = Table.grid("", Column(overflow="fold"), padding=(0, 2))
    facts.add_row(found.kind, _visible(f"{found.path}  (tags {','.join(found.tags) or 'none'}{made_by})"))
    facts.add_row("on disk", file_size(found.bytes))
    facts.add_row("served weights", f"{file_size(found.live_bytes)} in {found.live_parameters:,} parameters")
    facts.add_row("at int8", f"about {file_size(found.int8_bytes)}")
    ops = ", ".join(f"{op} {count}" for op, count in list(found.ops.items())[:6])
    facts.add_row("nodes", _visible(f"{found.nodes:,}, most often {ops}"))
    if found.assets:
        facts.add_row("assets", _visible(", ".join(found.assets)))
    signatures = table("Signatures", "signature", "method", "inputs", "outputs")
    for one in found.signatures:
        signatures.add_row(_visible(one.name), _visible(one.method), keys(one.inputs), keys(one.outputs))
    largest = table("Largest weights", "weight", "shape", "stored as")
    largest.add_column("bytes", justify="right")
    for tensor in found.largest:
        shape = " × ".join(map(str, tensor.shape))
        largest.add_row(_visible(tensor.name), shape, tensor.encoding, file_size(tensor.bytes))
    for part in (facts, signatures, *([largest] if found.largest else [])):
        out.print(part)


def _visible(text: str) -> str:
    """What a model or a path says, in one line and without the power to steer a terminal."""
    from tfslim_core.report.svg import visible

    return visible(text.replace("\n", "\\n"))


@app.callback(invoke_without_command=True)
def _version_option(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        sys.stdout.write(f"tfslim {tfslim_core.__version__}\n")
        raise typer.Exit


@contextmanager
def _hushed_libraries() -> Iterator[None]:
    """Give stderr to Python alone: TensorFlow's C++ libraries write to its descriptor whatever the log level."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3") != "3" or sys.stderr is not sys.__stderr__:
        yield
        return
    before = sys.stderr
    # Not closed here: a log handler may hold on to it.
    words = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    sys.stderr = words
    try:
        yield
    finally:
        sys.stderr = before
        os.dup2(words.fileno(), 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    with _hushed_libraries():
        try:
            app(args=list(argv) if argv is not None else None, prog_name="tfslim")
        except TfslimError as error:
            err.print(_visible(f"tfslim: {error}"))
            return error.exit_code
        except SystemExit as end:  # the code of typer.Exit, or 2 for a usage error that it has told
            return end.code if isinstance(end.code, int) else 0
        return 0


if __name__ == "__main__":
    sys.exit(main())
