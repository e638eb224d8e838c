"""From a budget and data to a choice of encodings, and what was found on the way in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tfslim_core import gate
from tfslim_core.bundle import Bundle
from tfslim_core.errors import UsageError
from tfslim_core.quantization.budget import Found, Judged
from tfslim_core.quantization.encode_weights import Choice, candidates
from tfslim_core.quantization.input_moments import InputMoments, input_moments
from tfslim_core.quantization.live_model import LiveModel
from tfslim_core.quantization.search import EXAMPLES, MINUTES, Progress, Search, search_encodings
from tfslim_core.quantization.trials import refuse_unsearchable
from tfslim_core.saved_model.served_signatures import signatures_in
from tfslim_core.validation.sample import SplitSample, split_sample


@dataclass(frozen=True)
class Budget:
    """What an encoding may cost, and the data that tells. bounds: gate expressions about answers.

    examples: drawn from the data, three fifths to search with and two to confirm. minutes: for the search.
    """

    bounds: tuple[str, ...]
    data: Mapping[str, str] = field(default_factory=dict)
    signature: str | None = None
    main_output: str | None = None
    label: str | None = None
    minutes: float = MINUTES
    examples: int = EXAMPLES
    seed: int = 0

    def gates(self) -> list[gate.Gate]:
        """The bounds, understood.

        Raises:
            UsageError: one cannot be, or bounds nothing that encodings change; or there is no data, or no such seed.
        """
        gates = [gate.parse(text) for text in self.bounds]
        refuse_unsearchable(gates)
        if not self.data:
            raise UsageError("--budget needs data to be measured on; give --data NAME=PATH")
        if self.seed < 0 or not self.minutes >= 0:
            raise UsageError(f"--seed {self.seed}, --search-minutes {self.minutes}: both are 0 or more")
        return gates


@dataclass(frozen=True)
class Chosen:
    """The choice with a plan for every weight; harm: weight -> the relative L2 error that it is expected to make alone.

    notes: sentences on what was found. moments: of the inputs of weights, which the plan is for.
    """

    choice: Choice
    harm: Mapping[str, float]
    notes: Sequence[str]
    moments: InputMoments = field(compare=False)


def search_within(
    bundle: Bundle,
    choice: Choice,
    budget: Budget,
    state: Path | None,
    progress: Progress,
    reference: Bundle | None = None,
) -> Chosen:
    """Search the smallest encodings within the budget.

    state: a file that is written while it searches, and that a later run goes on from. reference: the model whose
    answers count, where something else was done to the bundle before.

    Raises:
        UsageError: a bound cannot be understood or searched for.
        DataError: a dataset cannot be read, does not fit, or cannot judge the budget.
    """
    gates = budget.gates()
    sample = _sample(bundle, budget, progress)
    gate.check_names(gates, list(sample.signature.outputs), labelled=budget.label is not None)
    wanted = Search(gates, budget.main_output, budget.minutes, state, reference)
    searched = search_encodings(bundle, choice, sample, wanted, progress)
    found, ladders = searched.found, searched.ladders
    harm = {
        name: max(rung.harm, 0.0) ** 0.5
        for name, encoding in found.plan.items()
        for rung in ladders[name]
        if rung.encoding == encoding
    }
    plan = dict.fromkeys(candidates(bundle.graph, choice), "") | dict(found.plan)
    return Chosen(replace(choice, plan=plan), harm, _words(found, *searched.examples, budget), searched.moments)


def look_at_inputs(bundle: Bundle, choice: Choice, data: Budget, progress: Progress) -> InputMoments:
    """The moments of the inputs of the weights that `choice` encodes, on a sample of the data.

    data: what it is drawn from, and how; without bounds.

    Raises:
        DataError: a dataset cannot be read, or does not fit.
    """
    sample = _sample(bundle, data, progress)
    names = candidates(bundle.graph, choice)
    with LiveModel(bundle, names) as live:
        return input_moments(
            live,
            bundle.graph,
            names,
            sample.signature.name,
            [batch.feeds for batch in (*sample.search, *sample.held_out)],
            progress=lambda done, total: progress("look at what layers are fed", done, total),
        )


def _sample(bundle: Bundle, data: Budget, progress: Progress) -> SplitSample:
    """What is drawn from the data."""
    progress("draw a sample", 0, 0)
    signatures = signatures_in(bundle.meta_graph())
    return split_sample(signatures, data.data, data.signature, data.label, examples=data.examples, seed=data.seed)


def _words(found: Found, seen: int, unseen: int, budget: Budget) -> list[str]:
    notes = [
        f"budget: {_values(found.search)} on the {seen:,} examples that were searched with, {_values(found.held_out)} "
        f"on {unseen:,} others; {100 * max(found.search.used, found.held_out.used):.0f} % of it is used"
    ]
    if not found.finished:
        notes.append(f"the search was stopped after {budget.minutes:g} minutes; more --search-minutes may find more")
    step, judged = found.next_step, found.next_judged
    if step is not None:
        at = f", at {_values(judged)}" if judged is not None and judged.values else ""
        if judged is not None and judged.holds and found.finished:
            at += ", which the others did not confirm"
        notes.append(f"the next step, {step.weight} as {step.encoding}, would save {step.saved:,} bytes{at}")
    return notes


def _values(judged: Judged) -> str:
    return ", ".join(
        f"{name.partition('>')[0].partition('<')[0]} {value + 0.0:.5g}" for name, value in judged.values.items()
    )
