"""Before publishing: one outcome of two comparisons."""

from components.lightweight import component
from components.shared import log_notes


@component
def decide(own: str, served: str) -> str:
    """Makes one outcome of the comparison with a model's own original and that with the served version.

    Args:
        own: pass, fail or inconclusive.
        served: The same, or skipped where nothing is served yet.

    Returns:
        Output: pass, fail or inconclusive: the worse of both; gate on it.
    """
    order = ["skipped", "pass", "inconclusive", "fail"]
    worse = max(own, served, key=order.index)
    log_notes([f"against its own original: {own}; against the served version: {served}"])
    return worse
