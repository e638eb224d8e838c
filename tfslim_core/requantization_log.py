"""What RequantizationRange nodes found at run time, as lines of a log.

    ;conv/eightbit/requant_range__print__;__requant_min_max:[-1.5][4.25]

A line is one run of one node: its name, and the least and greatest value that it saw. Print nodes write such lines to
stderr after `insert_logging(op=RequantizationRange, show_name=true, message="__requant_min_max:")`, and whatever else
is written there may be between them; `record_ranges` makes them from sample requests, without a changed graph.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfslim_core.errors import DataError, nearest
from tfslim_core.graph import Graph, needed, parse_input
from tfslim_core.weights import Array

_MARK = "__requant_min_max:"
_LINE = re.compile(r"(?:^|;)([^;]+)__print__;" + _MARK + r"\[([^][]*)\]\[([^][]*)\]\s*(?:;|$)")


@dataclass(frozen=True)
class RangeLog:
    """ranges: per node, in order, the least and the greatest value of each run. bad: numbers of lines of no use."""

    ranges: Mapping[str, list[tuple[float, float]]]
    bad: tuple[int, ...] = ()


def read_log(lines: Iterable[str]) -> RangeLog:
    """The ranges in a log. Of no use is a line with the mark that is cut off, or whose range is no range."""
    ranges: dict[str, list[tuple[float, float]]] = {}
    bad = []
    for number, text in enumerate(lines, 1):
        if _MARK not in text:
            continue
        found = _LINE.search(text)
        ends = _range(found[2], found[3]) if found else None
        if found is None or ends is None:
            bad.append(number)
        else:
            ranges.setdefault(found[1], []).append(ends)
    return RangeLog(ranges, tuple(bad))


def _range(low: str, high: str) -> tuple[float, float] | None:
    try:
        ends = float(low), float(high)
    except ValueError:
        return None
    return ends if math.isfinite(ends[0]) and math.isfinite(ends[1]) and ends[0] <= ends[1] else None


def measuring_nodes(graph: Graph) -> list[str]:
    """Names of the RequantizationRange nodes."""
    return [name for name, node in graph.nodes.items() if node.op == "RequantizationRange"]


def record_ranges(graph: Graph, batches: Iterable[Mapping[str, Array]]) -> list[str]:
    """The log of running the graph on sample requests: a line for each batch and RequantizationRange node.

    batches: values for the graph's inputs, by tensor name ("x:0").

    Raises:
        DataError: the graph cannot be run on a batch.
        ModelError: the graph is larger than 2 GiB, which is too large for this.
    """
    from tfslim_core.saved_model.write import with_values

    names = measuring_nodes(graph)
    if not names:
        return []
    fetches = [(f"{name}:0", f"{name}:1") for name in names]
    lines = []
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(with_values(graph), name="")
    config = tf.compat.v1.ConfigProto(allow_soft_placement=True, device_count={"GPU": 0})
    with tf.compat.v1.Session(graph=imported, config=config) as session:
        try:
            session.run(list(graph.targets))
            for batch in batches:
                found = session.run(fetches, dict(batch))
                lines += [
                    f";{name}__print__;{_MARK}[{float(low)!r}][{float(high)!r}]"
                    for name, (low, high) in zip(names, found, strict=True)
                ]
        except (tf.errors.OpError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"the graph cannot be run on the data: {str(error).partition(chr(10))[0]}") from None
    return lines


def batches_of(graph: Graph, file: Path) -> Iterator[dict[str, Array]]:
    """The sample requests of an .npz file: arrays by input name ("x" or "x:0"), whose first axis counts examples.

    A request is one example, or as many as the graph's inputs are fixed to.

    Raises:
        DataError: the file cannot be read or does not fit the graph's inputs.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {_input(graph, name, file): stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} cannot be read as .npz: {error}") from None
    wanted = needed(graph, measuring_nodes(graph))
    for tensor in graph.inputs:
        if tensor not in arrays and parse_input(tensor).node in wanted:
            raise DataError(f"{file} has no array for the input {tensor!r} (it has: {', '.join(arrays) or 'none'})")
    lengths = {tensor: len(array) for tensor, array in arrays.items() if array.ndim}
    if len(set(lengths.values())) != 1:
        raise DataError(f"{file} should have as many examples in each array; it has {lengths}")
    examples, size = next(iter(lengths.values())), _batch_size(graph, arrays)
    if examples < size:
        raise DataError(f"{file} has {examples} examples; the graph takes {size} at a time")
    for start in range(0, examples - size + 1, size):
        yield {tensor: array[start : start + size] if array.ndim else array for tensor, array in arrays.items()}


def _input(graph: Graph, name: str, file: Path) -> str:
    tensor = name if name in graph.inputs else f"{name}:0"
    if tensor not in graph.inputs:
        raise DataError(f"{file}: {name!r} is no input of the graph{nearest(name, graph.inputs)}")
    return tensor


def _batch_size(graph: Graph, tensors: Iterable[str]) -> int:
    for tensor in tensors:
        shape = graph.nodes[parse_input(tensor).node].attr["shape"].shape
        if shape.dim and shape.dim[0].size > 0:
            return int(shape.dim[0].size)
    return 1
