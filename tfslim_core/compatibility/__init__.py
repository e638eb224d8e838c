"""Which TensorFlow releases know all that a graph is made of."""

from tfslim_core.compatibility.needs import Need, needs, needs_of
from tfslim_core.compatibility.op_releases import Release, release, words
from tfslim_core.compatibility.runtime import refuse_newer

__all__ = ["Need", "Release", "needs", "needs_of", "refuse_newer", "release", "words"]
