"""What each task of a pipeline asks a cluster for, how often it is tried again, and what may be taken from a cache.

Memory: TensorFlow takes 0.6 GB before any model. A stage holds a model's weights about twice; the search for a budget
also a live session; a validation runs two models and measures each in a process of its own. The limits fit models of up
to 2 GB; compile for larger ones with TFSLIM_MEMORY, a factor on all of them.

Tried again is what only reads artifacts and writes its own, and so ends the same whenever it ends: a pod that was
evicted or a network that failed costs no night. Not validate, join, choose and decide: what they say first is what
counts, and a gate is not asked until it gives in. Not publish: after an unclear end a second try could publish twice.

Cached is what depends on its inputs alone: on artifacts that a task of the same pipeline made, by their address, and on
parameters. Never what reads what lies under an address of the user's, where the content can change.

kfp 2.17 knows no timeout of a task, and labels or annotations of pods only by kfp-kubernetes, which is not needed here;
give a run's deadline where it is submitted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from kfp.dsl import PipelineTask

from tfslim_core.errors import UsageError


@dataclass(frozen=True)
class Needs:
    """cpu: asked for and at most. memory: GB asked for and at most. retries: how often a task is tried again."""

    cpu: tuple[str, str]
    memory: tuple[float, float]
    retries: int = 0


# TensorFlow spreads one request over two cores well, and over more hardly.
STAGE = Needs(cpu=("1", "2"), memory=(2, 8), retries=2)
SEARCH = Needs(cpu=("2", "4"), memory=(4, 16), retries=2)
VALIDATION = Needs(cpu=("2", "4"), memory=(4, 16))
TRAINING = Needs(cpu=("2", "4"), memory=(4, 16), retries=1)
# These read JSON and copy directories.
SMALL = Needs(cpu=("200m", "1"), memory=(0.5, 2))
# These only look, so that they can be tried again.
LOOK = Needs(cpu=("200m", "1"), memory=(0.5, 2), retries=2)


def with_needs(task: PipelineTask, needs: Needs, title: str, *, cached: bool = False) -> PipelineTask:
    """The task with what it needs and the name that the page of a run shows.

    Raises:
        UsageError: TFSLIM_MEMORY is no number above 0.
    """
    factor = _factor()
    task.set_display_name(title).set_caching_options(cached)
    task.set_cpu_request(needs.cpu[0]).set_cpu_limit(needs.cpu[1])
    task.set_memory_request(_megabytes(needs.memory[0] * factor))
    task.set_memory_limit(_megabytes(needs.memory[1] * factor))
    if needs.retries:
        task.set_retry(needs.retries, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration="600s")
    return task


def _megabytes(gigabytes: float) -> str:
    return f"{round(gigabytes * 1000)}M"


def _factor() -> float:
    text = os.environ.get("TFSLIM_MEMORY", "1")
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor < 1000:
        raise UsageError(f"TFSLIM_MEMORY is {text!r}; give a factor such as 2")
    return factor
