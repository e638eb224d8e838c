"""The commands, a file each, in the order that `tfslim --help` lists them: importing one registers it."""

from __future__ import annotations

# isort: off
from tfslim_core.commands import inspect as inspect
from tfslim_core.commands import freeze as freeze
from tfslim_core.commands import transform as transform
from tfslim_core.commands import prune_vocabulary as prune_vocabulary
from tfslim_core.commands import quantize as quantize
from tfslim_core.commands import reexport as reexport
from tfslim_core.commands import validate as validate
from tfslim_core.commands import slim as slim
from tfslim_core.commands import diff as diff
from tfslim_core.commands import warmup as warmup
from tfslim_core.commands import publish as publish
from tfslim_core.commands import list_versions as list_versions
from tfslim_core.commands import transform_graph as transform_graph
from tfslim_core.commands import transforms as transforms
from tfslim_core.commands import checkpoint as checkpoint
from tfslim_core.commands import thaw as thaw
