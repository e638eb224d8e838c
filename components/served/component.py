"""Before a new version is compared with it: the version that is served now."""

from kfp import dsl

from components.lightweight import component
from components.shared import call, describe


@component
def served(base: str, model: dsl.Output[dsl.Model]) -> str:
    """Finds the version that is served now below BASE.

    Args:
        base: The directory that TensorFlow Serving watches; a gs:// address, or a path that the task sees.

    Returns:
        model: A copy of that version; empty where there is none.
        Output: served, or nothing where there is no version yet: gate on it.
    """
    import logging
    import os
    import shutil

    from tfslim_core import api

    shutil.rmtree(model.path, ignore_errors=True)  # of a task that is tried again
    now = call(api.served, base)
    if now is None:
        logging.info("tfslim: nothing is served below %s yet", base)
        os.makedirs(model.path)
        return "nothing"
    logging.info("tfslim: version %d is served: %s", now.number, now.path)
    call(api.fetch, now.path, model.path)
    describe(model, "SavedModel", version=now.number, served_from=now.path)
    return "served"
