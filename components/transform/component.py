"""The second stage: rewrite the graph."""

from kfp import dsl

from components.lightweight import component
from components.shared import describe, history, log_notes, log_numbers, place, progress, write


@component
def transform(
    bundle: dsl.Input[dsl.Model],
    transformed: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    transforms: str = "",
):
    """Rewrites a bundle's graph; the signatures and the answers stay.

    Args:
        bundle: From freeze.
        transforms: Calls such as "strip_unused_nodes fold_constants(ignore_errors=true)"; the default set unless told.

    Returns:
        transformed: The rewritten bundle.
        metrics: Bytes and nodes, and how far the answers are from those before.
    """
    from tfslim_core import api

    done = write(
        transformed,
        lambda path: api.transform(
            place(bundle),
            path,
            transforms=transforms or None,
            overwrite=True,
            progress=progress(),
        ),
    )
    log_notes(done.notes)
    log_numbers(metrics, done.metrics())
    describe(transformed, "tfslim bundle", **history(transformed.path))
