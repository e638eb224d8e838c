"""The gate: `[OUTPUT:]METRIC OP NUMBER[@PLACE]` expressions, and the verdict that they come to.

A check whose value does not hold fails the verdict. One whose value holds is a pass where the examples say so too: the
whole interval of 95 % holds, on at least 30 examples for a share and 10 for anything else. A share of answers that
agree also passes where no answer could have differed: all of them are equal, or the original's smallest lead of a best
class over its second is more than twice the largest error. Where nothing fails but something could not be judged (no
data, a metric without meaning, an output that never varies, too few examples), the verdict is inconclusive and says
why.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tfslim_core import cost_ratios
from tfslim_core.errors import UsageError, nearest
from tfslim_core.intervals import examples_for_all
from tfslim_core.metrics import OutputSummary, main_output
from tfslim_core.verdict import Check, Interval, LabelMetric, LatencyPair, Models, Outcome, OutputMetrics

OUTPUT_METRICS = tuple(name for name in OutputMetrics.model_fields if name not in ("positions", "intervals"))
# What the optimized model loses: drops of what is better larger, rises of what is better smaller.
_LOSSES: Mapping[str, tuple[str, int]] = {
    "label_accuracy_drop": ("accuracy", -1),
    "label_top5_accuracy_drop": ("top5_accuracy", -1),
    "label_auc_drop": ("auc", -1),
    "label_log_loss_rise": ("log_loss", 1),
    "label_mae_rise": ("mae", 1),
    "label_rmse_rise": ("rmse", 1),
    "label_calibration_error_rise": ("calibration_error", 1),
}
LABEL_METRICS = tuple(_LOSSES)
MODEL_METRICS = cost_ratios.METRICS
METRICS = (*OUTPUT_METRICS, *LABEL_METRICS, *MODEL_METRICS)
# What is of the top class alone, and so cannot differ where no flip is possible.
_TOP_CLASS = ("top1_agreement", "flip_rate", "label_accuracy_drop")
# A share of so few examples is known too coarsely to say anything about a bound near 1.
RATES = ("top1_agreement", "top5_agreement", "flip_rate", "exact_match", *LABEL_METRICS[:2])
FEWEST_EXAMPLES = 30
# On fewer than these nothing is ever a pass.
FEWEST_OF_ALL = 10
# Counts and extremes of what was seen, which have no interval.
_WITHOUT_INTERVAL = ("max_abs_error", "nan_mismatches")
_QUANTILES = {"p50_abs_error": 0.5, "p99_abs_error": 0.99, "p999_abs_error": 0.999}
_WORST_NAMED = 3
_MOST_UNASKED = 0.1  # relative error of scores, where no gate is given
_MOST_ADVISED = 10**9  # examples: what would take more is not settled by more of them
_TOLD_FILES = 3
_TOLD_SLICES = 5
# The dataset of a check on the models themselves.
NO_DATASET = ""

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_EXPRESSION = re.compile(
    r"(?:(?P<output>.+):)?\s*(?P<metric>\w+)\s*(?P<op><=|>=|==|<|>)\s*(?P<bound>[^\s<>=@]+)\s*(?:@(?P<place>.+))?"
)


@dataclass(frozen=True)
class Gate:
    """One bound on one metric; `output` None is the main output. `str` gives the expression back.

    dataset: where it holds; each unless named. slice: as "KEY=VALUE", or "KEY=*" for every slice of a key; None means
    the dataset as a whole.
    """

    output: str | None
    metric: str
    op: str
    bound: float
    dataset: str | None = None
    slice: str | None = None

    @property
    def every_slice_of(self) -> str | None:
        """The key of whose every slice it is."""
        return self.slice.removesuffix("=*") if self.slice is not None and self.slice.endswith("=*") else None

    def holds(self, value: float) -> bool:
        """Whether `value` is within the bound; NaN never is."""
        return _OPERATORS[self.op](value, self.bound)

    def __str__(self) -> str:
        place = ",".join(filter(None, (self.dataset, self.slice)))
        output = f"{self.output}:" if self.output else ""
        return f"{output}{self.metric}{self.op}{self.bound:.15g}{'@' if place else ''}{place}"


@dataclass(frozen=True)
class Findings:
    """What a run found on one dataset.

    failures: examples that the original answered and the optimized model could not; first_failure: its error.
    labels: metric -> both models' values; None where no label was named. without_label: examples that have none;
    of_no_class: those whose label is none of the classes.
    slices: key -> slice -> what was found on it. cut_off: files whose end could not be read, each with where it begins.
    """

    examples: int = 0
    bad_records: int = 0
    failures: int = 0
    first_failure: str = ""
    outputs: Mapping[str, OutputSummary] = field(default_factory=dict)
    labels: Mapping[str, LabelMetric] | None = None
    latency_ms: LatencyPair = field(default_factory=LatencyPair)
    without_label: int = 0
    of_no_class: int = 0
    slices: Mapping[str, Mapping[str, Findings]] = field(default_factory=dict)
    cut_off: Sequence[str] = ()


@dataclass(frozen=True)
class Judgement:
    """The verdict, its reasons as sentences, and every check that was made."""

    outcome: Outcome
    reasons: list[str]
    checks: list[Check]


@dataclass(frozen=True)
class _Judged:
    """A check and what follows from it: a sentence on why it fails, or on why it proves nothing."""

    check: Check
    failure: str | None = None
    doubt: str | None = None


@dataclass(frozen=True)
class _Place:
    """A dataset, or a slice of one, and what was found there."""

    dataset: str
    found: Findings
    slice: str | None = None

    def __str__(self) -> str:
        return f"dataset {self.dataset!r}" + (f", slice {self.slice!r}," if self.slice is not None else "")


@dataclass(frozen=True)
class _Value:
    """A metric's value and how well it is known. certain: no answer it counts could have differed."""

    value: float | None
    examples: int
    interval: Interval | None = None
    certain: bool = False


def parse(text: str) -> Gate:
    """A gate from `[OUTPUT:]METRIC OP NUMBER[@PLACE]`, OP one of <= >= == < >, spaces allowed around it.

    PLACE is DATASET, KEY=VALUE or another slice, KEY=* for every slice of a key, or DATASET and a slice with a comma.

    Raises:
        UsageError: it is not of that form, or there is no such metric.
    """
    match = _EXPRESSION.fullmatch(text.strip())
    if not match:
        raise UsageError(f"gate {text!r} is not [OUTPUT:]METRIC OP NUMBER[@PLACE], such as top1_agreement>=0.99")
    metric, bound = match["metric"], _finite(match["bound"])
    if metric not in METRICS:
        hint = nearest(metric, METRICS)
        raise UsageError(f"gate {text!r}: no metric {metric!r}{hint} (there are: {', '.join(METRICS)})")
    if bound is None:
        raise UsageError(f"gate {text!r}: {match['bound']!r} is not a number")
    if match["output"] and metric not in OUTPUT_METRICS:
        raise UsageError(f"gate {text!r}: {metric} is not a metric of an output; write {metric}{match['op']}…")
    dataset, part = _place(match["place"])
    if match["place"] and metric in MODEL_METRICS:
        raise UsageError(f"gate {text!r}: {metric} is of the models, not of a dataset; write it without the @")
    return Gate(match["output"], metric, match["op"], bound, dataset, part)


def check_names(
    gates: Iterable[Gate],
    outputs: Sequence[str],
    *,
    labelled: bool,
    datasets: Sequence[str] | None = None,
    slicings: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Refuse gates that nothing in this run can answer.

    datasets: the names of all; not looked at unless given. slicings: key -> the slices that buckets make, empty where
    its values make them.

    Raises:
        UsageError: a gate names an output that the signature lacks, a dataset or slice that there is not, or a label
            metric where no label is named.
    """
    for gate in gates:
        if gate.output is not None and gate.output not in outputs:
            hint = nearest(gate.output, outputs)
            raise UsageError(f"gate '{gate}': no output {gate.output!r}{hint} (there are: {', '.join(outputs)})")
        if gate.metric in LABEL_METRICS and not labelled:
            raise UsageError(f"gate '{gate}' needs labels; name the key that holds them with --label")
        if datasets is not None and gate.dataset is not None and gate.dataset not in datasets:
            hint = nearest(gate.dataset, datasets)
            raise UsageError(f"gate '{gate}': no dataset {gate.dataset!r}{hint} (there are: {', '.join(datasets)})")
        if gate.slice is not None:
            _check_slice(gate, gate.slice, slicings or {})


def default_gates(outputs: Mapping[str, OutputSummary], main: str | None) -> list[Gate]:
    """What is asked of a run that names no gate.

    No NaN mismatches on any float; on the main output top1_agreement>=0.99 and rel_l2_error<=0.1 where it scores
    classes, else rel_l2_error<=0.02; exact_match>=0.99 for strings, integers and booleans that vary. One that is
    constant by design, such as a label list, is held to nothing unless the optimized model's differs.
    """
    gates = [Gate(key, "nan_mismatches", "<=", 0) for key, found in outputs.items() if found.kind == "float"]
    if main is not None and main in outputs and outputs[main].kind == "float":
        scores = outputs[main].scores_classes
        gates += [Gate(None, "top1_agreement", ">=", 0.99)] if scores else []
        gates += [Gate(None, "rel_l2_error", "<=", _MOST_UNASKED if scores else 0.02)]
    for key, found in outputs.items():
        if found.kind != "float" and not found.constant:
            gates.append(Gate(key, "exact_match", ">=", 0.99))
        elif found.kind != "float" and found.metrics.exact_match != 1:
            gates.append(Gate(key, "exact_match", "==", 1))
    return gates


def _unwatched(dataset: str, outputs: Mapping[str, OutputSummary], main: str | None) -> Iterator[str]:
    """Outputs beside the main one that differ by more than that may, which no default gate asks for."""
    for key, found in outputs.items():
        error = found.metrics.rel_l2_error
        if key != main and found.kind == "float" and error is not None and error > _MOST_UNASKED:
            yield (
                f"Dataset {dataset!r}: {key!r} is held to nothing but NaN by the default gates, and its "
                f"rel_l2_error is {error:.6g}; --gate '{key}:rel_l2_error<=…' holds it to more."
            )


def evaluate(
    gates: Sequence[Gate], datasets: Mapping[str, Findings], models: Models, main: str | None = None
) -> Judgement:
    """Hold what was found against the gates, or against the default ones where there are none.

    main: the output that a gate without a name means; guessed from what was found unless given.
    """
    judged = [_judge_models(gate, models, datasets) for gate in gates if gate.metric in MODEL_METRICS]
    on_data = [gate for gate in gates if gate.metric not in MODEL_METRICS]
    doubts = [] if datasets else ["No data was given, so nothing was compared."]
    unwatched: list[str] = []
    for name, found in datasets.items():
        doubts += _too_few(_Place(name, found))
        chosen = main or main_output({key: (o.kind, o.scores_classes) for key, o in found.outputs.items()})
        judged += _broken_answers(name, found)
        if not found.outputs:
            continue
        used = on_data if gates else default_gates(found.outputs, chosen)
        few: list[str] = []
        for gate in used:
            for place in _places(gate, name, found):
                judged.append(_judge(gate, place, chosen, asked=bool(gates)))
                few += _too_few(place) if place.slice is not None else []
        doubts += _shortened(list(dict.fromkeys(few)), "The same is so of", name)
        unwatched += [] if gates else _unwatched(name, found.outputs, chosen)
        if not gates and all(gate.metric == "nan_mismatches" for gate in used):
            doubts.append(f"On dataset {name!r} no output varies, so nothing compares the answers.")
    doubts += _nowhere(on_data, datasets)
    failures = _sentences(judged, "failure")
    doubts += _sentences(judged, "doubt")
    checks = [
        one.check.model_copy(update={"undecided": one.check.undecided or one.doubt is not None}) for one in judged
    ]
    if not checks and not doubts:
        doubts.append("No check was made.")
    notes = [
        f"Dataset {name!r}: {found.without_label:,} of {found.examples:,} examples have no label that answers can "
        "be held against; metrics against labels leave them out."
        for name, found in datasets.items()
        if found.without_label
    ]
    notes += [
        f"Dataset {name!r}: {found.of_no_class:,} of {found.examples:,} examples have a label that is none of the "
        "classes, which counts as wrong for both models; are they numbered from 0 on?"
        for name, found in datasets.items()
        if found.of_no_class
    ]
    notes += unwatched
    notes += [
        f"Dataset {name!r}: what could not be read was not compared: {_few(found.cut_off)}."
        for name, found in datasets.items()
        if found.cut_off
    ]
    if failures:
        return Judgement("fail", list(dict.fromkeys([*failures, *doubts, *notes])), checks)
    if doubts:
        return Judgement("inconclusive", list(dict.fromkeys([*doubts, *notes])), checks)
    total = sum(found.examples for found in datasets.values())
    held = "The one check holds" if len(checks) == 1 else f"All {len(checks)} checks hold"
    return Judgement("pass", [f"{held} on {total:,} examples.", *notes], checks)


def _sentences(judged: Iterable[_Judged], kind: Literal["failure", "doubt"]) -> list[str]:
    """Why not: of a gate on many slices of a dataset those farthest from its bound, and how many more there are."""
    groups: dict[tuple[str, str], list[_Judged]] = {}
    for one in judged:
        if getattr(one, kind):
            groups.setdefault((one.check.expr, one.check.dataset), []).append(one)
    told = []
    for (expr, dataset), some in groups.items():
        if len(some) > _TOLD_SLICES:
            some.sort(key=lambda one: -abs((one.check.value or 0.0) - one.check.bound))
        told += _shortened([getattr(one, kind) for one in some], f"'{expr}' says the same of", dataset)
    return told


def _shortened(told: Sequence[str], same: str, dataset: str) -> list[str]:
    """The first few sentences on slices, and one on how many more there are, which begins with `same`."""
    rest = len(told) - _TOLD_SLICES
    return [*told[:_TOLD_SLICES], f"{same} {rest:,} more slices of dataset {dataset!r}."] if rest > 1 else [*told]


def _few(places: Sequence[str]) -> str:
    more = f" and {len(places) - _TOLD_FILES:,} more files" if len(places) > _TOLD_FILES else ""
    return ", ".join(places[:_TOLD_FILES]) + more


def label_loss(labels: Mapping[str, LabelMetric] | None, metric: str) -> float | None:
    """What a gate on a label metric bounds: how much worse the optimized model is; None where that is not known."""
    name, sign = _LOSSES[metric]
    found = (labels or {}).get(name)
    return None if found is None or found.difference is None else sign * found.difference + 0.0


def _place(text: str | None) -> tuple[str | None, str | None]:
    """The dataset and the slice that are written after the @."""
    if not text:
        return None, None
    first, comma, rest = (part.strip() for part in text.partition(","))
    if re.search("[=<>]", first):
        return None, text.strip()
    return first, rest if comma else None


def _check_slice(gate: Gate, name: str, slicings: Mapping[str, Sequence[str]]) -> None:
    if not slicings:
        raise UsageError(f"gate '{gate}' needs slices; name the key that tells them apart with --slice")
    keys = [key for key in slicings if name.startswith((f"{key}=", f"{key}<", f"{key}>")) or f"<={key}<" in name]
    if not keys:
        word = gate.every_slice_of or re.split("[=<>]", name)[0]
        raise UsageError(
            f"gate '{gate}': no slices by {name!r}{nearest(word, slicings)} (--slice {', '.join(slicings)})"
        )
    known = [one for key in keys for one in slicings[key]]
    if gate.every_slice_of is None and known and name not in known:
        raise UsageError(f"gate '{gate}': no slice {name!r}{nearest(name, known)} (there are: {', '.join(known)})")


def _places(gate: Gate, dataset: str, found: Findings) -> list[_Place]:
    """Where in a dataset a gate holds."""
    if gate.dataset not in (None, dataset):
        return []
    if gate.slice is None:
        return [_Place(dataset, found)]
    if gate.every_slice_of is not None:
        return [_Place(dataset, part, name) for name, part in found.slices.get(gate.every_slice_of, {}).items()]
    return [_Place(dataset, parts[gate.slice], gate.slice) for parts in found.slices.values() if gate.slice in parts]


def _nowhere(gates: Iterable[Gate], datasets: Mapping[str, Findings]) -> Iterator[str]:
    """Gates whose slice no data has."""
    for gate in gates:
        if gate.slice is None or any(_places(gate, name, found) for name, found in datasets.items()):
            continue
        known = [one for found in datasets.values() for parts in found.slices.values() for one in parts]
        yield f"'{gate}' cannot be judged: no example is in slice {gate.slice!r}{nearest(gate.slice, known) or '.'}"


def _too_few(place: _Place) -> list[str]:
    examples = place.found.examples
    if examples >= FEWEST_OF_ALL:
        return []
    where = f"Dataset {place.dataset!r}" + (f", slice {place.slice!r}," if place.slice is not None else "")
    if not examples:
        return [f"{where} has no example that could be compared."]
    many = f"{examples} example{'s' * (examples > 1)}"
    return [f"{where} has {many}; fewer than {FEWEST_OF_ALL} prove nothing."]


def _judge(gate: Gate, place: _Place, main: str | None, *, asked: bool) -> _Judged:
    found = place.found
    key = gate.output or main or ""
    summary = found.outputs.get(key)
    value = _value(gate, found, main)
    what = gate.metric if gate.metric in LABEL_METRICS else f"{gate.metric} of {key!r}"
    judged = _judge_value(gate, place, value, what, _pointers(gate, place, main, summary))
    # A float that is watched for NaN unasked may be constant by design, such as anchor boxes.
    constant = summary is not None and summary.constant and gate.metric not in LABEL_METRICS
    if judged.check.passed and constant and (asked or key == main or gate.metric != "nan_mismatches"):
        doubt = f"On {place} the original answers {key!r} alike on every example, which proves nothing."
        return _Judged(judged.check, doubt=doubt.replace(",,", ","))
    return judged


def _value(gate: Gate, found: Findings, main: str | None) -> _Value:
    """What the gate's metric comes to, and how well it is known."""
    summary = found.outputs.get((None if gate.metric in LABEL_METRICS else gate.output) or main or "")
    certain = summary is not None and (summary.identical or (summary.no_flip_possible and gate.metric in _TOP_CLASS))
    if gate.metric in LABEL_METRICS:
        name, sign = _LOSSES[gate.metric]
        metric = (found.labels or {}).get(name)
        ends = metric.interval if metric is not None else None
        interval = ends if ends is None or sign > 0 else (_negative(ends[1]), _negative(ends[0]))
        return _Value(label_loss(found.labels, gate.metric), found.examples - found.without_label, interval, certain)
    if summary is None:
        return _Value(None, 0)
    value = getattr(summary.metrics, gate.metric)
    return _Value(value, summary.examples, summary.metrics.intervals.get(gate.metric), certain)


def _judge_value(gate: Gate, place: _Place | None, found: _Value, what: str, pointers: str = "") -> _Judged:
    where = f"On {place} {what}" if place is not None else f"The {what}"
    check = Check(
        expr=str(gate),
        value=found.value,
        bound=gate.bound,
        passed=False,
        dataset=place.dataset if place is not None else NO_DATASET,
        slice=place.slice if place is not None else None,
        interval=found.interval,
        examples=found.examples if place is not None else None,
    )
    if found.value is None or math.isnan(found.value):
        check.value = None
        return _Judged(check, doubt=f"{where} has no value, so '{gate}' cannot be judged.")
    check.passed = gate.holds(found.value)
    asks = f"the gate asks for {gate.op} {gate.bound:.15g}"
    if not check.passed:
        return _Judged(check, failure=f"{where} is {_in_digits(gate, found.value)}{pointers}; {asks}.")
    if place is None:
        return _Judged(check)
    if place.found.examples < FEWEST_OF_ALL:  # for which there is one doubt on the whole place
        check.undecided = True
        return _Judged(check)
    if found.examples < FEWEST_OF_ALL:
        few = f"{where} rests on {found.examples} examples; fewer than {FEWEST_OF_ALL} prove nothing."
        return _Judged(check, doubt=few)
    if gate.metric in RATES and found.examples < FEWEST_EXAMPLES:
        few = f"{where} rests on {found.examples} examples; a share needs at least {FEWEST_EXAMPLES} to be judged."
        return _Judged(check, doubt=few)
    if gate.metric in _WITHOUT_INTERVAL or found.certain:
        return _Judged(check)
    known = f"{where} is {_in_digits(gate, found.value)} on {found.examples:,} examples"
    if found.interval is None:
        return _Judged(check, doubt=f"{known}, of which no interval can be told; {asks}.")
    low, high = (math.inf * side if end is None else end for end, side in zip(found.interval, (-1, 1), strict=True))
    if gate.holds(low) and gate.holds(high):
        return _Judged(check)
    ends = f"95 % interval {low:.4g} to " + ("any larger" if math.isinf(high) else f"{high:.4g}")
    return _Judged(check, doubt=f"{known}, {ends}; {asks}{_would_do(gate, found.value, found.examples, low, high)}.")


def _would_do(gate: Gate, value: float, examples: int, low: float, high: float) -> str:
    """About how many examples would settle it, in words; nothing where no number would."""
    share = gate.bound if gate.metric in RATES and gate.op.startswith(">") else 1 - gate.bound
    all_agree = value == (1 if gate.op.startswith(">") else 0)
    if gate.metric in RATES and all_agree and gate.op != "==":
        many = examples_for_all(share)
        return f"; about {many:,} examples would do if all agree" if many is not None else ""
    if gate.metric in _QUANTILES and math.isinf(high):
        many = math.ceil(math.log(0.025) / math.log(_QUANTILES[gate.metric]))
        return f"; an upper end takes {many:,} examples"
    room = abs(gate.bound - value)
    spread = abs((low if gate.op.startswith(">") else high) - value)
    if not room or gate.op == "==" or not math.isfinite(spread):
        return ""
    # An interval narrows with the square root of the examples.
    many = math.ceil(examples * (spread / room) ** 2)
    return f"; about {many:,} examples would do if it stays so" if many <= _MOST_ADVISED else ""


def _in_digits(gate: Gate, value: float) -> str:
    """A value in six digits, or in so many that it is seen on which side of the bound it is."""
    short = f"{value:.6g}"
    return short if gate.holds(float(short)) == gate.holds(value) else f"{value:.15g}"


def _pointers(gate: Gate, place: _Place, main: str | None, summary: OutputSummary | None) -> str:
    """Where to look: the worst records, and the slice on which it is worst."""
    told = []
    worst = [] if summary is None else summary.worst[:_WORST_NAMED]
    if worst:
        told.append(f"worst: record{'s' * (len(worst) > 1)} {', '.join(str(case.index) for case in worst)}")
    if place.slice is None:
        values = {
            name: value
            for parts in place.found.slices.values()
            for name, part in parts.items()
            if part.examples >= FEWEST_OF_ALL and (value := _value(gate, part, main).value) is not None
        }
        if values:
            name = (min if gate.op.startswith(">") else max)(values, key=values.__getitem__)
            told.append(f"worst slice: {name!r}, at {values[name]:.6g}")
    return f" ({'; '.join(told)})" if told else ""


def _negative(end: float | None) -> float | None:
    return None if end is None else -end + 0.0


def _broken_answers(dataset: str, found: Findings) -> Iterator[_Judged]:
    """Failures that no gate has to ask for."""
    if found.failures:
        yield _Judged(
            Check(expr="failures<=0", value=found.failures, bound=0, passed=False, dataset=dataset),
            failure=f"On dataset {dataset!r} the optimized model failed on {found.failures:,} examples that the "
            f"original answers: {found.first_failure}.",
        )
    for key, summary in found.outputs.items():
        if summary.mismatches:
            yield _Judged(
                Check(
                    expr=f"{key}:shape_mismatches<=0",
                    value=summary.mismatches,
                    bound=0,
                    passed=False,
                    dataset=dataset,
                ),
                failure=f"On dataset {dataset!r} {key!r} has another shape or dtype than the original's on "
                f"{summary.mismatches:,} examples (the first: record {min(case.index for case in summary.worst)}).",
            )


def _judge_models(gate: Gate, models: Models, datasets: Mapping[str, Findings]) -> _Judged:
    latencies = [found.latency_ms for found in datasets.values()]
    value, interval, rounds = cost_ratios.ratio_of(gate.metric, models, latencies)
    judged = _judge_value(gate, None, _Value(value, 0), gate.metric)
    if value is None or interval is None:
        return judged
    low, high = interval
    check = judged.check.model_copy(update={"interval": interval})
    if gate.holds(low) == gate.holds(high) == gate.holds(value):
        return _Judged(check, judged.failure, judged.doubt)
    return _Judged(
        check,
        doubt=f"The {gate.metric} is {value:.4g}, but by the noise of {rounds} rounds it may be anything from "
        f"{low:.4g} to {high:.4g}, so '{gate}' is neither held nor broken for certain.",
    )


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
