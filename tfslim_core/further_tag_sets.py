"""Slim the other tag sets of a SavedModel beside its first, so that what they share is stored once.

A weight that the first tag set has under the same name gets the encoding that it got there; what another tag set has
for itself is encoded as `slim` does where nothing was asked for: in int8, unless that measurably harms the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tfslim_core import encodings
from tfslim_core.bundle import Bundle, WeightEntry
from tfslim_core.fidelity.facts import bundle_facts, without_file_names
from tfslim_core.quantization.encode_weights import Choice
from tfslim_core.quantization.harm import Harm, measure_harm
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.join import Shared
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.saved_model.sample_check import Feeds, Sample, differences, take_sample
from tfslim_core.stages import Progress, check_servable, checked_as_meant, quantized, refuse_broken, transformed


@dataclass(frozen=True)
class Further:
    """A slimmed tag set, and what the original answered for it."""

    bundle: Bundle
    sample: Sample

    @property
    def tags(self) -> str:
        """As they are told: "gpu,serve"."""
        return ",".join(self.bundle.manifest.tags)


def slim_further(
    source: Path,
    tags: Sequence[str],
    first: Bundle,
    choice: Choice,
    transforms: str | None,
    signatures: Sequence[str] | None,
    given: Mapping[str, Sequence[Feeds]] | None,
    progress: Progress,
) -> Further:
    """Freeze, transform and quantize one more tag set. first: the slimmed first one. signatures: the ones that are
    kept, of which this tag set may lack some. given: requests by signature.

    Raises:
        TfslimError: as the stages raise it.
    """
    told = ",".join(tags)
    model = read_saved_model(source, tags, None)
    if signatures is not None:
        kept = [name for name in model.signatures if name in signatures]
        model = read_saved_model(source, tags, kept or signatures)
    fitting = {name: feeds for name, feeds in (given or {}).items() if name in model.signatures}
    progress(f"ask the original with the tags {told}", 0, 0)
    sample = take_sample(source, model.tags, list(model.signatures), fitting)
    frozen = freeze_saved_model(model)
    rewritten = transformed(frozen, transforms, progress)
    checked_as_meant(rewritten, sample, 0, f"freezing and the transforms (tags {told})", progress)
    plan = {entry.name: _encoding(entry) for entry in first.manifest.weights}
    measured = measure_harm(
        rewritten,
        choice,
        sample.requests,
        sample.random,
        lambda done, total: progress(f"measure what int8 does to each weight (tags {told})", done, total),
    )
    harm = Harm(measured.alone, {name: better for name, better in measured.instead.items() if name not in plan})
    return Further(quantized(rewritten, replace(choice, plan={**choice.plan, **plan}), harm, progress), sample)


def _encoding(entry: WeightEntry) -> str:
    """What a weight was encoded in; "" where it was not, or only so that nothing is lost."""
    return entry.encoding if entry.placement != "none" and entry.encoding in encodings.ENCODINGS else ""


def check_further(
    further: Sequence[Further], shared: Sequence[Shared], servable: Path
) -> tuple[dict[str, float], list[str]]:
    """The errors of the further tag sets of a servable, by "tags: signature/output", and what a report says of each.

    shared: what each has in common with those before it.

    Raises:
        ModelError: one does not load, lacks a signature, or gives NaN or infinity where there was none.
    """
    errors: dict[str, float] = {}
    told = []
    for one, common in zip(further, shared, strict=True):
        tags = one.bundle.manifest.tags
        check_servable(without_file_names(bundle_facts(one.bundle)), tags, servable)
        found = {
            f"{one.tags}: {signature}/{key}": error
            for (signature, key), error in differences(one.sample, servable, tags).items()
        }
        refuse_broken(found, "quantization")
        errors |= found
        inputs = "the data's first examples" if one.sample.given else "made-up inputs"
        worst = max(found.values(), default=None)
        told.append(
            f"The tag set {one.tags} was compared on {inputs} and not gated: no output differs by more than "
            f"{worst:.2g} (relative L2); {common.tensors} of {common.of} stored tensors are shared with those before."
            if worst is not None
            else f"The tag set {one.tags} was loaded, and could not be compared: no input was found that it answers."
        )
        told += [f"Signature {name!r} of it could not be tried: {why}" for name, why in one.sample.unchecked.items()]
    return errors, told
