"""What tfslim does, as functions: each reads its input, calls the core once, checks the result and writes it whole.

The command line and the pipeline components call these and nothing else. Every function raises TfslimError for what
can be expected to go wrong, and then leaves nothing behind; see `errors`.
"""

from __future__ import annotations

from tfslim_core.api.arguments import Location
from tfslim_core.api.checkpoints import CheckpointReport, ThawReport, checkpoint, thaw
from tfslim_core.api.comparing import diff
from tfslim_core.api.graphs import transform_graph, transform_graph_file
from tfslim_core.api.inspecting import audit, inspect
from tfslim_core.api.publishing import publish, rollback, versions
from tfslim_core.api.reexporting import reexport
from tfslim_core.api.reports import SlimReport, StageReport, ValidationReport
from tfslim_core.api.running import RunReport, candidates, fetch, report_run, served
from tfslim_core.api.slimming import slim
from tfslim_core.api.stages import freeze, prune_vocabulary, quantize, transform
from tfslim_core.api.validating import choose, join_verdicts, validate
from tfslim_core.api.warming import WarmupReport, warmup

__all__ = [
    "CheckpointReport",
    "Location",
    "RunReport",
    "SlimReport",
    "StageReport",
    "ThawReport",
    "ValidationReport",
    "WarmupReport",
    "audit",
    "candidates",
    "checkpoint",
    "choose",
    "diff",
    "fetch",
    "freeze",
    "inspect",
    "join_verdicts",
    "prune_vocabulary",
    "publish",
    "quantize",
    "reexport",
    "report_run",
    "rollback",
    "served",
    "slim",
    "thaw",
    "transform",
    "transform_graph",
    "transform_graph_file",
    "validate",
    "versions",
    "warmup",
]
