"""The gate: `[OUTPUT:]METRIC OP NUMBER` expressions, and the verdict that they come to.

A check that does not hold fails the verdict. Where none fails but something could not be judged (no data, a metric
without meaning, an output that never varies, too few examples), the verdict is inconclusive and says why; else it is a
pass.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tfslim_core import cost_ratios
from tfslim_core.errors import UsageError, nearest
from tfslim_core.metrics import OutputSummary, main_output
from tfslim_core.verdict import Check, LabelMetric, LatencyPair, Models, Outcome, OutputMetrics

OUTPUT_METRICS = tuple(name for name in OutputMetrics.model_fields if name not in ("positions", "intervals"))
LABEL_METRICS = ("label_accuracy_drop",)
MODEL_METRICS = cost_ratios.METRICS
METRICS = (*OUTPUT_METRICS, *LABEL_METRICS, *MODEL_METRICS)
# A share of so few examples is known too coarsely to say anything about a bound near 1.
RATES = ("top1_agreement", "exact_match", *LABEL_METRICS)
FEWEST_EXAMPLES = 30
# The dataset of a check on the models themselves.
NO_DATASET = ""

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_EXPRESSION = re.compile(r"(?:(?P<output>.+):)?\s*(?P<metric>\w+)\s*(?P<op><=|>=|==|<|>)\s*(?P<bound>[^\s<>=]+)")


@dataclass(frozen=True)
class Gate:
    """One bound on one metric; `output` None is the main output. `str` gives the expression back."""

    output: str | None
    metric: str
    op: str
    bound: float

    def holds(self, value: float) -> bool:
        """Whether `value` is within the bound; NaN never is."""
        return _OPERATORS[self.op](value, self.bound)

    def __str__(self) -> str:
        return f"{self.output + ':' if self.output else ''}{self.metric}{self.op}{self.bound:g}"


@dataclass(frozen=True)
class Findings:
    """What a run found on one dataset.

    failures: examples that the original answered and the optimized model could not; first_failure: its error.
    labels: metric -> both models' values; None where no label was named.
    """

    examples: int = 0
    bad_records: int = 0
    failures: int = 0
    first_failure: str = ""
    outputs: Mapping[str, OutputSummary] = field(default_factory=dict)
    labels: Mapping[str, LabelMetric] | None = None
    latency_ms: LatencyPair = field(default_factory=LatencyPair)


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


def parse(text: str) -> Gate:
    """A gate from `[OUTPUT:]METRIC OP NUMBER`, OP one of <= >= == < >, spaces allowed around it.

    Raises:
        UsageError: it is not of that form, or there is no such metric.
    """
    match = _EXPRESSION.fullmatch(text.strip())
    if not match:
        raise UsageError(f"gate {text!r} is not [OUTPUT:]METRIC OP NUMBER, such as top1_agreement>=0.99")
    metric, bound = match["metric"], _finite(match["bound"])
    if metric not in METRICS:
        hint = nearest(metric, METRICS)
        raise UsageError(f"gate {text!r}: no metric {metric!r}{hint} (there are: {', '.join(METRICS)})")
    if bound is None:
        raise UsageError(f"gate {text!r}: {match['bound']!r} is not a number")
    if match["output"] and metric not in OUTPUT_METRICS:
        raise UsageError(f"gate {text!r}: {metric} is not a metric of an output; write {metric}{match['op']}…")
    return Gate(match["output"], metric, match["op"], bound)


def check_names(gates: Iterable[Gate], outputs: Sequence[str], *, labelled: bool) -> None:
    """Refuse gates that nothing in this run can answer.

    Raises:
        UsageError: a gate names an output that the signature lacks, or a label metric where no label is named.
    """
    for gate in gates:
        if gate.output is not None and gate.output not in outputs:
            hint = nearest(gate.output, outputs)
            raise UsageError(f"gate '{gate}': no output {gate.output!r}{hint} (there are: {', '.join(outputs)})")
        if gate.metric in LABEL_METRICS and not labelled:
            raise UsageError(f"gate '{gate}' needs labels; name the key that holds them with --label")


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
        gates += [Gate(None, "rel_l2_error", "<=", 0.1 if scores else 0.02)]
    for key, found in outputs.items():
        if found.kind != "float" and not found.constant:
            gates.append(Gate(key, "exact_match", ">=", 0.99))
        elif found.kind != "float" and found.metrics.exact_match != 1:
            gates.append(Gate(key, "exact_match", "==", 1))
    return gates


def evaluate(
    gates: Sequence[Gate], datasets: Mapping[str, Findings], models: Models, main: str | None = None
) -> Judgement:
    """Hold what was found against the gates, or against the default ones where there are none.

    main: the output that a gate without a name means; guessed from what was found unless given.
    """
    judged = [_judge_models(gate, models, datasets) for gate in gates if gate.metric in MODEL_METRICS]
    on_data = [gate for gate in gates if gate.metric not in MODEL_METRICS]
    doubts = [] if datasets else ["No data was given, so nothing was compared."]
    for name, found in datasets.items():
        if not found.examples:
            doubts.append(f"Dataset {name!r} has no example that could be compared.")
        chosen = main or main_output({key: (o.kind, o.scores_classes) for key, o in found.outputs.items()})
        judged += _broken_answers(name, found)
        if not found.outputs:
            continue
        used = on_data if gates else default_gates(found.outputs, chosen)
        judged += [_judge(gate, name, found, chosen, asked=bool(gates)) for gate in used]
        if not gates and all(gate.metric == "nan_mismatches" for gate in used):
            doubts.append(f"On dataset {name!r} no output varies, so nothing compares the answers.")
    failures = [one.failure for one in judged if one.failure]
    doubts += [one.doubt for one in judged if one.doubt]
    checks = [one.check.model_copy(update={"undecided": one.doubt is not None}) for one in judged]
    if not checks and not doubts:
        doubts.append("No check was made.")
    if failures:
        return Judgement("fail", [*failures, *doubts], checks)
    if doubts:
        return Judgement("inconclusive", list(dict.fromkeys(doubts)), checks)
    total = sum(found.examples for found in datasets.values())
    held = "The one check holds" if len(checks) == 1 else f"All {len(checks)} checks hold"
    return Judgement("pass", [f"{held} on {total:,} examples."], checks)


def _judge(gate: Gate, dataset: str, found: Findings, main: str | None, *, asked: bool) -> _Judged:
    if gate.metric in LABEL_METRICS:
        accuracy = (found.labels or {}).get("accuracy")
        drop = None if accuracy is None or accuracy.difference is None else -accuracy.difference
        return _judge_value(gate, dataset, drop, gate.metric, found.examples)
    key = gate.output or main or ""
    summary = found.outputs.get(key)
    what = f"{gate.metric} of {key!r}"
    if summary is None:
        return _judge_value(gate, dataset, None, what, 0)
    value = getattr(summary.metrics, gate.metric)
    judged = _judge_value(gate, dataset, value, what, summary.examples)
    # A float that is watched for NaN unasked may be constant by design, such as anchor boxes.
    if judged.check.passed and summary.constant and (asked or key == main or gate.metric != "nan_mismatches"):
        doubt = f"On dataset {dataset!r} the original answers {key!r} alike on every example, which proves nothing."
        return _Judged(judged.check, doubt=doubt)
    return judged


def _judge_value(gate: Gate, dataset: str, value: float | None, what: str, examples: int) -> _Judged:
    where = f"On dataset {dataset!r} {what}" if dataset else f"The {what}"
    if value is None or math.isnan(value):
        check = Check(expr=str(gate), value=None, bound=gate.bound, passed=False, dataset=dataset)
        return _Judged(check, doubt=f"{where} has no value, so '{gate}' cannot be judged.")
    check = Check(expr=str(gate), value=value, bound=gate.bound, passed=gate.holds(value), dataset=dataset)
    if not check.passed:
        return _Judged(check, failure=f"{where} is {value:.6g}; the gate asks for {gate.op} {gate.bound:g}.")
    if gate.metric in RATES and examples < FEWEST_EXAMPLES:
        few = f"{where} rests on {examples} examples; a share needs at least {FEWEST_EXAMPLES} to be judged."
        return _Judged(check, doubt=few)
    return _Judged(check)


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
                f"{summary.mismatches:,} examples.",
            )


def _judge_models(gate: Gate, models: Models, datasets: Mapping[str, Findings]) -> _Judged:
    latencies = [found.latency_ms for found in datasets.values()]
    value, interval, rounds = cost_ratios.ratio_of(gate.metric, models, latencies)
    judged = _judge_value(gate, NO_DATASET, value, gate.metric, 0)
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
