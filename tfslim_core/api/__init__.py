"""What tfslim does, as functions: each reads its input, calls the core once, checks the result and writes it whole.

The command line and the pipeline components call these and nothing else. Every function raises TfslimError for what
can be expected to go wrong, and then leaves nothing behind; see `errors`.
"""

from __future__ import annotations

from tfslim_core.api.arguments import Location
from tfslim_core.api.graphs import transform_graph, transform_graph_file
from tfslim_core.api.inspecting import audit, inspect
from tfslim_core.api.publishing import publish, rollback
from tfslim_core.api.reports import SlimReport, StageReport, ValidationReport
from tfslim_core.api.slimming import slim
from tfslim_core.api.stages import freeze, prune_vocabulary, quantize, reexport, transform
from tfslim_core.api.validating import validate

__all__ = [
    "Location",
    "SlimReport",
    "StageReport",
    "ValidationReport",
    "audit",
    "freeze",
    "inspect",
    "prune_vocabulary",
    "publish",
    "quantize",
    "reexport",
    "rollback",
    "slim",
    "transform",
    "transform_graph",
    "transform_graph_file",
    "validate",
]
