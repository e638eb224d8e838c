"""The exit task: how a run ended, and what is served now."""

from kfp import dsl

from components.lightweight import component
from components.shared import call


@component
def report(status: dsl.PipelineTaskFinalStatus, base: str, run: str = "", report_to: str = ""):
    """Tells how a run ended and what is served now, in one line of the log and where told in a file.

    Args:
        status: How the tasks before it ended; Kubeflow fills it in.
        base: The directory that TensorFlow Serving watches; a gs:// address, or a path that the task sees.
        run: The run's id: the file is REPORT_TO/<run>.json.
        report_to: A directory or a gs:// address; no file unless told.
    """
    import logging

    from tfslim_core import api

    found = call(
        api.report_run,
        run=run,
        state=status.state,
        task=status.pipeline_task_name,
        error=status.error_message or "",
        base=base,
        report_to=report_to or None,
    )
    logging.info("tfslim: %s", found.line)
