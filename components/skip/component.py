"""In the place of a step that was not needed."""

from components.lightweight import component


@component
def skip(reason: str) -> str:
    """Says why a step was skipped, where a pipeline needs a word from one of two branches.

    Args:
        reason: Why.

    Returns:
        Output: skipped.
    """
    import logging

    logging.info("tfslim: skipped: %s", reason)
    return "skipped"
