"""The way back: the version before becomes the one that is served."""

from components.lightweight import component
from components.shared import call, log_notes


@component
def rollback(base: str, to: int = 0) -> str:
    """Hides the highest version below BASE, so that the one before it is served.

    Args:
        base: The directory that TensorFlow Serving watches; a gs:// address, or a path that the task sees.
        to: The version to serve again, hiding all above it; the one before the highest unless told.

    Returns:
        Output: The path or address of the version that is served now.
    """
    import logging

    from tfslim_core import api

    done = call(api.rollback, base, to=to or None)
    logging.info("tfslim: version %d is served now: %s", done.version, done.path)
    log_notes(done.notes)
    return str(done.path)
