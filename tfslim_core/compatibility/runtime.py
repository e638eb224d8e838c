"""Refuse a result that the TensorFlow which is to serve it does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfslim_core.compatibility.needs import Need, needs_of
from tfslim_core.compatibility.op_releases import op_releases, release, words, written_by
from tfslim_core.errors import ModelError

if TYPE_CHECKING:
    from tfslim_core.bundle import Source


def refuse_newer(graph_def: Any, source: Source, min_runtime: str | None) -> Need:
    """What the result needs, which is no more than `min_runtime` knows; without one, no more than the original needed,
    or than the release knows that the original was written by.

    Raises:
        ModelError: it is newer; names what, where, and the release that knows it.
        UsageError: `min_runtime` is not a release.
    """
    need = needs_of(graph_def)
    needed = release(source.runtime) if source.runtime else None
    if min_runtime is not None:
        if need.release > release(min_runtime):
            own = needed is not None and need.release <= needed
            advice = (
                "the original needs that too; export it anew"
                if own
                else "leave out the transform or the encoding that brings it in"
            )
            raise ModelError(
                f"the result {need}, and --min-runtime is {min_runtime}: {advice}, or serve it with a later release"
            )
        return need
    wrote = written_by(source.tensorflow_version, source.producer)
    known = [one for one in (wrote, needed) if one is not None]
    if known and need.release > max(known, default=op_releases().oldest):
        raise ModelError(
            f"the result {need}, and the original needs no more than {words(max(known))}; give --min-runtime "
            f"{words(need.release)} if it is served by that or later"
        )
    return need
