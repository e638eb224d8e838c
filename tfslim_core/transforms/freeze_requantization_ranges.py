"""Fix the ranges that eight-bit results are measured for on every request, from a log or from sample requests.

    Before: Requantize(c, lo, hi, RequantizationRange(c, lo, hi))        After: Requantize(c, lo, hi, min, max)

`quantize_nodes` has each result of 32 bits measured at run time before it is brought to 8. Here constants take the
place of these measurements, for each RequantizationRange node of which there are ranges: the least values that it saw
are sorted and the one at `min_percentile` is taken, and of the greatest the one at 100 - `max_percentile`, so that a
few extreme requests do not make everybody's steps coarse. Values beyond are cut off. The constants are named
`NODE/frozen_min` and `NODE/frozen_max`.

| parameter | |
|---|---|
| min_max_log_file | the log, see below |
| data | in its place, an .npz file: arrays by input name, whose first axis counts examples |
| min_percentile, max_percentile | percent of the runs whose values may be cut off, at either end |

A log is what a model wrote to stderr after `insert_logging(op=RequantizationRange, show_name=true,
message="__requant_min_max:")`. A line is `;NODE__print__;__requant_min_max:[MIN][MAX]`; others are passed over. Lines
that are cut off, or whose range holds NaN or infinity or has its ends the wrong way round, are left out and counted.
With `data`, the graph is run here on these requests: one example at a time, or as many as its inputs are fixed to.

Exactly one of the two files is given. A range is widened to hold zero, which the kernels need. A log that names a node
that is not in the graph, or is no RequantizationRange, is that of another graph: an error.

Left alone, with a reason: a RequantizationRange node of which there is no range, or that is part of the interface.
Function bodies are not entered.

Source: tensorflow/tools/graph_transforms/freeze_requantization_ranges.cc, same name, parameters and percentiles; unlike
it we take sample requests as well, and no NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tfslim_core.errors import TransformError, nearest
from tfslim_core.graph import CONTROL, Graph, Input, NodeDef, constant, parse_input, rewired
from tfslim_core.quantized_ops import TINY, Range
from tfslim_core.registry import Outcome, Skipped, transform
from tfslim_core.requantization_log import RangeLog, batches_of, measuring_nodes, read_log, record_ranges


@transform("freeze_requantization_ranges", exact=False)
def freeze_requantization_ranges(
    graph: Graph,
    *,
    min_max_log_file: str = "",
    min_percentile: float = 5.0,
    max_percentile: float = 5.0,
    data: str = "",
) -> Outcome:
    """Fix the ranges that eight-bit results are measured for on every request, from a log or from sample requests."""
    for name, value in (("min_percentile", min_percentile), ("max_percentile", max_percentile)):
        if not 0 <= value <= 100:
            raise TransformError(f"{name}={value:g} is not between 0 and 100")
    if bool(min_max_log_file) == bool(data):
        found = "both" if data else "none"
        raise TransformError(f"it needs min_max_log_file (a log) or data (an .npz of sample requests); got {found}")
    file = Path(data or min_max_log_file)
    log = read_log(record_ranges(graph, batches_of(graph, file))) if data else _logged(file)
    _check_names(graph, log, file)
    skipped = [Skipped(str(file), f"{_lines(log.bad)} no usable range")] if log.bad else []
    ranges: dict[str, Range] = {}
    for name in measuring_nodes(graph):
        if name in graph.interface:
            skipped.append(Skipped(name, "it is part of the interface"))
        elif name not in log.ranges:
            skipped.append(Skipped(name, "there is no range of it"))
        else:
            ranges[name] = _percentiles(log.ranges[name], min_percentile, max_percentile)
    return Outcome(_frozen(graph, ranges) if ranges else graph, len(ranges), tuple(skipped))


def _logged(file: Path) -> RangeLog:
    try:
        with file.open(errors="replace") as lines:
            log = read_log(lines)
    except OSError as error:
        raise TransformError(f"the log {file} cannot be read: {error.strerror}") from None
    if not log.ranges:
        bad = f"; {_lines(log.bad)} no usable range" if log.bad else ""
        raise TransformError(f"the log {file} has no line like ';NODE__print__;__requant_min_max:[MIN][MAX]'{bad}")
    return log


def _lines(numbers: tuple[int, ...]) -> str:
    if len(numbers) == 1:
        return f"line {numbers[0]} has"
    return f"{len(numbers)} lines, the first is line {numbers[0]}, have"


def _check_names(graph: Graph, log: RangeLog, file: Path) -> None:
    known = measuring_nodes(graph)
    wrong = [name for name in log.ranges if name not in known]
    if wrong:
        name = wrong[0]
        what = f"is a {graph.nodes[name].op} node" if name in graph.nodes else "is not in the graph"
        more = f" ({len(wrong)} such names)" if len(wrong) > 1 else ""
        raise TransformError(f"{file} has ranges of {name!r}, which {what}{nearest(name, known)}{more}")


def _percentiles(found: Iterable[Range], min_percentile: float, max_percentile: float) -> Range:
    lows, highs = (sorted(ends) for ends in zip(*found, strict=True))
    first = _index(len(lows), np.float32(min_percentile) / np.float32(100))
    last = _index(len(highs), np.float32(1) - np.float32(max_percentile) / np.float32(100))
    low, high = min(lows[first], 0.0), max(highs[last], 0.0)
    return low, high if low else max(high, TINY)


def _index(count: int, share: np.float32) -> int:
    """Of `count`, the one that far from the first. Halves go up and products are float32, as the old tool has it."""
    return min(math.floor(float(np.float32(count) * share) + 0.5), count - 1)


def _frozen(graph: Graph, ranges: dict[str, Range]) -> Graph:
    fresh = graph.fresh_names()
    new: dict[str, NodeDef] = {}
    sources: dict[Input, Input] = {}
    for name, ends in ranges.items():
        node = graph.nodes[name]
        before = [text for text in node.input if text.startswith("^")]
        if graph.has_v1_control_flow:
            before.append(f"^{parse_input(node.input[0]).node}")  # there it says in which loop a constant is
        for port, (end, value) in enumerate(zip(("min", "max"), ends, strict=True)):
            wish = fresh(f"{name}/frozen_{end}")
            new[wish], _ = constant(wish, np.asarray(value, np.float32), device=node.device)
            new[wish].input.extend(dict.fromkeys(before))
            sources[Input(name, port)] = Input(wish, 0)
    waited_for = {name for name in ranges if any(reader.port == CONTROL for reader in graph.readers_of(name))}
    for reader in {reader.node for name in ranges for reader in graph.readers_of(name)}:
        new[reader] = rewired(graph.nodes[reader], sources)
    return graph.replace(new.values(), set(ranges) - waited_for)
