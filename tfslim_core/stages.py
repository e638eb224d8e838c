"""The stages on bundles in memory, and how each checks what it made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from tfslim_core import compatibility, registry, storage, transforms
from tfslim_core.bundle import Bundle, Skip, StepEntry, read_bundle
from tfslim_core.errors import ModelError, TfslimError
from tfslim_core.fidelity.differences import refuse_losses
from tfslim_core.fidelity.facts import Facts, bundle_facts, facts_of, without_file_names
from tfslim_core.origins import with_fate
from tfslim_core.quantization.encode_weights import Choice, encode_weights, with_earlier
from tfslim_core.quantization.harm import Harm
from tfslim_core.registry import Call
from tfslim_core.saved_model.join import write_joined
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.saved_model.sample_check import ChangedAnswersError, Sample, check_equal, differences, take_sample
from tfslim_core.saved_model.write import write_saved_model
from tfslim_core.weights import Array

if TYPE_CHECKING:
    from tfslim_core.quantization.budgeting import Budget
    from tfslim_core.quantization.input_moments import InputMoments
    from tfslim_core.vocabulary.corpus_pruning import PrunedBundle, Pruning

Progress = Callable[[str, int, int], None]
"""Told what is being done, and how many of how many steps of it are; 0 of 0 where that is not known."""

# Transforms whose products and sums come in another order than the model's, and how far that alone may lead.
_ROUNDING = frozenset(
    "fold_batch_norms fold_old_batch_norms flatten_atrous_conv fuse_pad_and_conv fuse_resize_and_conv "
    "fuse_resize_pad_and_conv".split()
)
_MOST_ROUNDING = 0.01

Errors = dict[str, float]
"""How far answers are from what they were, by "signature/output"; see `sample_check.difference`."""


def transformed(bundle: Bundle, calls: str | Iterable[str] | None, progress: Progress) -> Bundle:
    """The bundle with its graph rewritten, and the steps in its manifest.

    Raises:
        TransformError: a transform or parameter is unknown, or one failed.
    """
    graph, steps = transforms.apply(
        bundle.graph, calls, progress=lambda done, total, name: progress(f"transform: {name}", done, total)
    )
    entries = [
        StepEntry(
            name=step.name,
            parameters={k: list(v) if isinstance(v, tuple) else v for k, v in step.parameters.items()},
            changes=step.changes,
            nodes_before=step.nodes_before,
            nodes_after=step.nodes_after,
            bytes_before=step.bytes_before,
            bytes_after=step.bytes_after,
            skipped=[Skip(node=skipped.node, reason=skipped.reason) for skipped in step.skipped],
            exact=step.exact,
            error=step.error,
        )
        for step in steps
    ]
    # A transform may need tables to be filled where nothing ran at load before.
    init_op = bundle.manifest.init_op or next(iter(graph.targets), None)
    variables = bundle.manifest.variables
    for step in steps:
        variables = with_fate(variables, step.fate, step.name)
    update = {"steps": [*bundle.manifest.steps, *entries], "init_op": init_op, "variables": variables}
    manifest = bundle.manifest.model_copy(update=update)
    return replace(bundle, graph=graph, manifest=manifest)


def quantized(
    bundle: Bundle,
    choice: Choice,
    harm: Harm,
    progress: Progress,
    notes: Sequence[str] = (),
    moments: InputMoments | None = None,
) -> Bundle:
    """The bundle with its weights encoded, save those that it harms, and why in its manifest.

    notes: what else was found, for the manifest. moments: of the inputs of weights, which are rounded for them.

    Raises:
        TransformError: there is no such encoding, or no weight of an included name.
    """
    with _one_thread():
        graph, entries = encode_weights(
            bundle.graph,
            choice,
            harm=harm.alone,
            instead=harm.instead,
            moments=moments.of if moments is not None else None,
            progress=lambda name: progress(f"quantize: {name}", 0, 0),
        )
    step = StepEntry(
        name="quantize",
        parameters={"encoding": "by budget" if choice.plan else choice.encoding},
        changes=sum(entry.placement != "none" for entry in entries),
        nodes_before=len(bundle.graph.nodes),
        nodes_after=len(graph.nodes),
        bytes_before=transforms.stored_bytes(bundle.graph),
        bytes_after=transforms.stored_bytes(graph),
    )
    if moments is not None and not choice.plan:
        rounded = len(set(moments.known) & {entry.name for entry in entries if entry.placement != "none"})
        notes = [*notes, f"{rounded} weight{'s' * (rounded != 1)} rounded by what the layers are fed in the data"]
    manifest = bundle.manifest.model_copy(
        update={
            "steps": [*bundle.manifest.steps, step],
            "weights": with_earlier(bundle.graph, entries, bundle.manifest.weights),
            "notes": [*bundle.manifest.notes, *notes],
        }
    )
    return replace(bundle, graph=graph, manifest=manifest)


def searched(
    bundle: Bundle,
    choice: Choice,
    budget: Budget,
    state: Path | None,
    progress: Progress,
    reference: Bundle | None = None,
) -> Bundle:
    """The bundle with its weights in the smallest encodings within the budget, and what was found in its manifest.

    state: a file that a search which is stopped leaves, for the next one to go on from. reference: the model whose
    answers count, where something else was done to the bundle before.

    Raises:
        DataError, UsageError: see `search_within`; no state is left.
    """
    from tfslim_core.quantization.budgeting import search_within

    try:
        with _one_thread():
            found = search_within(bundle, choice, budget, state, progress, reference)
    except TfslimError:
        if state is not None:
            state.unlink(missing_ok=True)
        raise
    return quantized(bundle, found.choice, Harm(found.harm, {}), progress, found.notes, found.moments)


def _one_thread() -> threadpool_limits:
    """For NumPy's products: they are small, their threads wait for the next one by spinning, which takes twice as long
    as none, and how sums come out would hang on how many there are.
    """
    return threadpool_limits(limits=1, user_api="blas")


def calibrated(bundle: Bundle, choice: Choice, given: Mapping[str, Any], progress: Progress) -> InputMoments:
    """What the weights that `choice` encodes are multiplied with, on a sample of the data. given: fields of a `Budget`
    that tell where the sample comes from.

    Raises:
        DataError: it cannot be read, or does not fit.
    """
    from tfslim_core.quantization.budgeting import Budget, look_at_inputs

    return look_at_inputs(bundle, choice, Budget((), **given), progress)


def vocabulary_pruned(bundle: Bundle, wanted: Pruning, folder: Path, progress: Progress) -> PrunedBundle:
    """The bundle without the rows of embeddings that a corpus does not need, and what was dropped in its manifest.

    folder: an empty one that lives as long as the result, for its assets.

    Raises:
        UsageError, DataError: see `prune_by_corpus`.
    """
    from tfslim_core.vocabulary.corpus_pruning import prune_by_corpus

    return prune_by_corpus(bundle, wanted, folder, progress)


def checked_pruned(before: Bundle, after: Bundle, pruned: PrunedBundle, sample: Sample, progress: Progress) -> Errors:
    """The errors of a pruned bundle on the corpus; it must answer as the model with its dropped rows replaced.

    Raises:
        ModelError: it does not, or NaN, infinity or another shape came out where there was none before.
    """
    progress("check the answers", 0, 0)
    check_as_pruned(before, after, pruned)
    errors = measured(after, sample, "pruning the vocabulary", progress)
    return {place: error for place, error in errors.items() if place.startswith(f"{pruned.signature}/")}


def check_as_pruned(before: Bundle, after: Bundle, pruned: PrunedBundle) -> None:
    """Make sure that a pruned bundle answers the corpus as the model with its dropped rows replaced.

    Raises:
        ModelError: it does not.
    """
    from tfslim_core.vocabulary.corpus_pruning import check_as_meant

    check_as_meant(before, after, pruned)


def sample_of(
    bundle: Bundle, progress: Progress, given: Mapping[str, Sequence[Mapping[str, Array]]] | None = None
) -> Sample:
    """What a bundle answers to requests, served as it is; made-up ones where none are given."""
    progress("ask the model as it was", 0, 0)
    with tempfile.TemporaryDirectory(prefix="tfslim-") as aside:
        write_saved_model(bundle, Path(aside))
        return take_sample(aside, bundle.manifest.tags, list(bundle.manifest.signatures), given)


def checked(bundle: Bundle, sample: Sample, what: str, progress: Progress) -> Errors:
    """The errors of a bundle whose answers should be the sample's.

    Raises:
        ModelError: they are not; `what` names what was done to the model.
    """
    return _compared(bundle, sample, lambda path: check_equal(sample, path, bundle.manifest.tags, what), progress)


def measured(bundle: Bundle, sample: Sample, what: str, progress: Progress) -> Errors:
    """The errors of a bundle whose answers may differ a little.

    Raises:
        ModelError: NaN, infinity or another shape came out where there was none before.
    """
    errors = _compared(bundle, sample, lambda path: differences(sample, path, bundle.manifest.tags), progress)
    refuse_broken(errors, what)
    return errors


def checked_as_meant(bundle: Bundle, sample: Sample, done: int, what: str, progress: Progress) -> Errors:
    """`checked`, or `measured` when one of the steps after the first `done` is meant to change the answers a little.

    Raises:
        ModelError: the answers changed more than that; it says which steps to leave out.
    """
    steps = bundle.manifest.steps[done:]
    if not all(step.exact for step in steps):
        return measured(bundle, sample, what, progress)
    try:
        return checked(bundle, sample, what, progress)
    except ChangedAnswersError as changed:
        raise ModelError(f"{changed}; {_advice(steps, changed.error)}") from None


def _advice(steps: Sequence[StepEntry], error: float) -> str:
    """What to try when these steps changed the answers that much."""
    acted = list(dict.fromkeys(step.name for step in steps if step.changes))
    rounding = [name for name in acted if name in _ROUNDING]
    if error > _MOST_ROUNDING or not rounding:
        found = f", which of these made changes: {', '.join(acted)}" if acted else ""
        return f"rounding does not explain that; to find the step, give a shorter list of transforms{found}"
    others = " ".join(str(_call(step)) for step in steps if step.name not in rounding)
    return (
        f"rounding may explain that, where a model amplifies it, since {' and '.join(rounding)} computed weights anew; "
        f"to do without, give the transforms '{others}'"
    )


def _call(step: StepEntry) -> Call:
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in step.parameters.items()}
    return Call(registry.named(step.name), arguments, ignore_errors=bool(step.error))


def refuse_broken(errors: Mapping[str, float], what: str) -> None:
    """Refuse answers that cannot be compared.

    Raises:
        ModelError: an error is infinite.
    """
    for place, error in errors.items():
        if error == float("inf"):
            raise ModelError(f"{what} made NaN, infinity or another shape of the output {place!r}")


def check_kept(before: Bundle, after: Bundle, what: str) -> None:
    """Make sure that a bundle still promises all that the one before did.

    Raises:
        ModelError: it does not; `what` names what was done to it.
    """
    refuse_losses(bundle_facts(before), bundle_facts(after), what)


def check_servable(promised: Facts, tags: Sequence[str], servable: Path, asked: Collection[str] = ()) -> None:
    """Read a servable back, and hold what it promises against what it should. asked: parts that were meant to change.

    Raises:
        ModelError: something is lost.
    """
    refuse_losses(promised, facts_of(servable, tags), "writing the SavedModel", asked)


def runtime_of(bundle: Bundle, servable: Path, min_runtime: str | None) -> list[str]:
    """What release the MetaGraph needs that a servable of several holds of this bundle.

    Raises:
        ModelError, UsageError: see `compatibility.refuse_newer`.
    """
    found = read_saved_model(servable, bundle.manifest.tags, None)
    return list(compatibility.refuse_newer(found.meta_graph.graph_def, bundle.manifest.source, min_runtime).notes)


def joined(bundles: Sequence[Bundle], directory: Path, progress: Progress) -> tuple[Errors, list[str]]:
    """Write bundles as the tag sets of one SavedModel into an empty directory; the errors, and notes for the reader.

    Each tag set is loaded and run by the C++ loader, and must answer as its bundle does alone.

    Raises:
        ModelError: they cannot be joined, or a tag set does not load or gives other answers.
    """
    shared = write_joined(bundles, directory)
    errors: Errors = {}
    notes = []
    for number, (bundle, found) in enumerate(zip(bundles, shared, strict=True)):
        tags = ",".join(bundle.manifest.tags)
        check_servable(without_file_names(bundle_facts(bundle)), bundle.manifest.tags, directory)
        sample = sample_of(bundle, progress)
        progress(f"load the tags {tags} with the C++ loader", 0, 0)
        compared = check_equal(sample, directory, bundle.manifest.tags, f"joining the tags {tags}")
        errors |= {f"{tags}: {signature}/{key}": error for (signature, key), error in compared.items()}
        notes += [f"{tags}: signature {name!r} was not checked: {why}" for name, why in sample.unchecked.items()]
        if number:
            notes.append(
                f"{tags}: {len(bundle.graph.nodes):,} nodes; {found.tensors} of {found.of} stored tensors, "
                f"{found.bytes:,} bytes, are shared with the tag sets before"
            )
    return errors, notes


def written(
    bundle: Bundle, out: str | os.PathLike[str], overwrite: bool, check: Callable[[Bundle], Errors], progress: Progress
) -> Errors:
    """Write a bundle; it takes its name when what can be read back passes the check, whose result is returned."""
    progress("write", 0, 0)
    with storage.whole_directory(out, overwrite=overwrite) as aside:
        bundle.write(aside)
        return check(read_bundle(aside))


def _compared(
    bundle: Bundle, sample: Sample, compare: Callable[[str], Mapping[tuple[str, str], float]], progress: Progress
) -> Errors:
    progress("check the answers", 0, 0)
    if not sample.requests:
        return {}
    with tempfile.TemporaryDirectory(prefix="tfslim-") as aside:
        write_saved_model(bundle, Path(aside))
        return {f"{signature}/{key}": error for (signature, key), error in compare(aside).items()}
