"""Hostile models kept out: what a model may touch, and a process of its own for it, without a network.

audit               what a model touches besides its own tensors, and where
refuse_dangerous    an error where that is more than a served model needs
run_untrusted       a tfslim command in a process without a network, with bounds on memory and time
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfslim_core.safety.audit import Audit

Location = str | os.PathLike[str]


def audit(path: Location, graph: Location | None = None) -> Audit:
    """What a model of any format (all its MetaGraphs) or a bundle touches. Nothing is run.

    graph: of a checkpoint that does not lie beside its own.

    Raises:
        ModelError: it is none of these, or it is damaged.
    """
    from tfslim_core.safety.refusal import audit_of

    return audit_of(path, graph)


def refuse_dangerous(path: Location, graph: Location | None = None) -> None:
    """Return only where the audit finds nothing that `--untrusted` refuses.

    Raises:
        ModelError: it found something; the worst is named. Or the model is damaged.
    """
    from tfslim_core.safety.refusal import refuse

    refuse(path, graph)


def run_untrusted(
    arguments: Sequence[str],
    *,
    writes: Sequence[Location] = (),
    memory_limit: int | None = None,
    time_limit: float | None = None,
) -> int:
    """Run `tfslim ARGUMENTS` as a process without a network, within bounds; its exit code.

    arguments: as on a command line; `--untrusted` among them has the model refused too. writes: the outputs; nothing
    is written elsewhere where the kernel can see to it. memory_limit: bytes. time_limit: seconds.

    Raises:
        ModelError: this system cannot keep a process from the network, or the command passed a bound.
    """
    from tfslim_core.safety.untrusted import MEMORY_LIMIT, TIME_LIMIT, Bounds, run

    bounds = Bounds(memory_limit or MEMORY_LIMIT, time_limit or TIME_LIMIT)
    return run(arguments, [os.fspath(path) for path in writes], bounds)
