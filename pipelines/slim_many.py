"""Several models slimmed by one run, a few at once, each as `slim` does it: with its own gate, base and report."""
# ruff: noqa: B006  # a default that a pipeline shows; nothing changes the lists

from kfp import dsl

from pipelines.handing_on import task_of
from pipelines.slim import slim

# Models at once. Each asks for up to as much memory as its largest task, a validation.
AT_ONCE = 2


@dsl.pipeline(name="tfslim-slim-many")
def slim_many(
    models: list[dict],
    encodings: list[str] = [],
    budget: list[str] = [],
    search_minutes: float = 10.0,
    gates: list[str] = [],
    label: str = "",
    batch_size: int = 32,
    measure_costs: bool = True,
    keep: int = 0,
    report_to: str = "",
):
    """Slims several models, a few at once; one that fails its gate does not keep the others from being published.

    Args:
        models: For each model its `model`, `data`, a list, and `base`, as slim takes them. On a command line: --arg
            models='{"model": …, "data": […], "base": …}' for each.
        encodings: As in slim, for each model; so are the others.
        budget: Bounds within which the encodings are searched for.
        search_minutes: Time for the search of these.
        gates: Checks on each dataset; the default ones unless told.
        label: The key of the data that holds labels.
        batch_size: Examples in one request of the validation.
        measure_costs: Whether to measure load time, memory and latency of both models.
        keep: So many of the newest versions stay below each base, 2 or more; all unless told.
        report_to: A directory or a gs:// address for a JSON file on how each ended; none unless told.
    """
    given = dict(locals())
    with dsl.ParallelFor(models, parallelism=AT_ONCE) as one:
        done = task_of(slim, given, model=one.model, data=one.data, base=one.base)
        done.set_caching_options(False)
