"""The container image that every component runs in."""

import os

from tfslim_core import __version__

IMAGE = os.environ.get("TFSLIM_IMAGE") or f"tfslim:{__version__}"
"""Set TFSLIM_IMAGE when you compile, to the name under which your cluster pulls the image; best with its digest."""
