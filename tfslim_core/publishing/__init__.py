"""Publish models where TensorFlow Serving looks for versions, BASE/<integer>/, and take them back.

    BASE/3/…                            a version
    BASE/.tfslim/claims/3.json          its number is taken, for ever; what was published and by which verdict
    BASE/.tfslim/staged/TOKEN/…         while it is published
    BASE/.tfslim/removing/TOKEN/…       while a version is deleted, to keep no more than so many

A version that was taken back is BASE/.rolled-back-3/. In a bucket, where nothing can be renamed, it is
BASE/.tfslim/rolled-back/3/, and one that is deleted has a mark, BASE/.tfslim/removed/1.TOKEN. A server takes no notice
of a name that is not an integer.
"""

from tfslim_core.publishing.versions import Published, Version

__all__ = ["Published", "Version"]
