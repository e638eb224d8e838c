"""From a servable to a .tflite file by TensorFlow's converter, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tfslim_core.errors import ModelError
from tfslim_core.saved_model.array_stream import write_message
from tfslim_core.saved_model.fresh_process import Request

Quantization = Literal["none", "float16", "dynamic", "int8"]
"""How the converter stores weights: in float32 or float16; in int8, with sums in int8 too, scaled as each request needs
it (dynamic), or as a sample of requests needed it (int8)."""

_LOCATED = re.compile(r'error: loc\((?:fused\["(?P<op>[^":]*):?", )?"(?P<node>[^"]*)".*?\)+: (?P<said>.*)')
_NO_KERNEL = "is neither a custom op nor a flex op"
_TYPES = re.compile(r"tensor<(?:[^<>]*x)?(?:!tf_type\.)?([a-z]+[0-9]*)>")
_NODES_TOLD = 3


def convert(
    servable: Path,
    out: Path,
    tags: Sequence[str],
    signatures: Sequence[str],
    quantize: Quantization = "none",
    requests: Sequence[Request] = (),
    timeout: float = 3600,
) -> None:
    """Convert some of a SavedModel's signatures, the first of them into the first subgraph.

    requests: what int8 is scaled for. timeout: seconds.

    Raises:
        ModelError: an op has no kernel in TFLite, or the converter failed, died or took too long.
    """
    asked = {
        "servable": os.fspath(servable.resolve()),
        "out": os.fspath(out.resolve()),
        "tags": list(tags),
        "signatures": list(signatures),
        "quantize": quantize,
    }
    with tempfile.TemporaryFile() as questions, tempfile.TemporaryFile() as said:
        write_message(questions, asked)
        for request in requests:
            write_message(questions, {"signature": request.signature}, request.feeds)
        questions.seek(0)
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "tfslim_core.tflite.converter_process"],
                stdin=questions,
                stdout=subprocess.DEVNULL,
                stderr=said,
                timeout=timeout,
                check=False,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
        except subprocess.TimeoutExpired:
            raise ModelError(f"TFLite's converter took more than {timeout:g} s") from None
        said.seek(0)
        words = said.read().decode(errors="replace")
    complaint = Path(f"{out}.error")
    if complaint.exists():
        text = complaint.read_text()
        complaint.unlink()
        raise ModelError(explained(text))
    if done.returncode != 0 or not out.is_file():
        raise ModelError(f"TFLite's converter {_how(done.returncode)}: {_last(words)}")


def explained(error: str) -> str:
    """What the converter said, in one line: the ops that TFLite lacks, where they are, and what to do."""
    places: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for found in _LOCATED.finditer(error):
        op = found["op"] or found["node"]
        nodes = places.setdefault(op, [])
        if found["op"] and found["node"] not in nodes:
            nodes.append(found["node"])
        if op not in reasons or _NO_KERNEL in found["said"]:
            reasons[op] = found["said"]
    lacking = [op for op, said in reasons.items() if _NO_KERNEL in said]
    if lacking:
        told = ", ".join(f"{op}{_types(op, error)}{_nodes(places[op])}" for op in lacking)
        return (
            f"TFLite has no kernel for {told}; TensorFlow Serving's TFLite has TFLite's kernels alone, so that nothing "
            "else would run there: serve the SavedModel, or keep only signatures without them (tfslim freeze "
            "--signatures NAME)"
        )
    where = "; ".join(f"{op}{_nodes(places[op])}: {_short(said)}" for op, said in list(reasons.items())[:2])
    return (
        f"TFLite's converter refuses the model: {where or _short(error)}; serve the SavedModel, or keep only "
        "signatures that it takes (tfslim freeze --signatures NAME)"
    )


def _types(op: str, error: str) -> str:
    """The dtypes that the first such op has, in the converter's words: TFLite may have it for others."""
    found = re.search(rf'"tf\.{re.escape(op)}"\([^\n]*: (\(tensor[^\n]*)', error)
    kinds = sorted(set(_TYPES.findall(found[1]))) if found else []
    return f" of {' and '.join(kinds)}" if kinds else ""


def _nodes(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NODES_TOLD} more" if len(names) > _NODES_TOLD else ""
    return f" (node {', '.join(map(repr, names[:_NODES_TOLD]))}{more})"


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _last(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    fatal = [line for line in lines if "Check failed" in line or "error:" in line.lower()]
    return _short([*lines[-1:], *fatal[-1:]][-1]) if lines else "it said nothing"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."
