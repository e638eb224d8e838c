"""inspect, and the audit that it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfslim_core.api.arguments import Location, local

if TYPE_CHECKING:
    from tfslim_core.inspection import Inspection
    from tfslim_core.safety.audit import Audit


def inspect(model: Location, *, tags: Sequence[str] = ("serve",)) -> Inspection:
    """What is in a SavedModel or a bundle, what it costs, and what slimming would save. Nothing is run.

    Raises:
        ModelError: it is neither, or it is damaged.
    """
    from tfslim_core.inspection import inspect as inspected

    return inspected(local(model), tags)


def audit(model: Location) -> Audit:
    """What a SavedModel, a bundle or a frozen .pb touches besides itself: files, network, Python, unknown libraries.

    Raises:
        ModelError: it is none of these, or it is damaged.
    """
    from tfslim_core.safety import audit as audited

    return audited(local(model))
