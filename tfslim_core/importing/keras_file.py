"""A Keras file (.keras, or HDF5) as a SavedModel: Keras reads it, in a child process, and exports it.

Keras 3 comes first; what only Keras 2 reads goes to tf_keras, where that is installed. Neither runs code that the file
brings: Lambda layers with code are refused, and a class that Keras does not have is an error that names it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tfslim_core.errors import ModelError

TIMEOUT = 900  # seconds


def convert(file: Path, folder: Path) -> list[str]:
    """Write the SavedModel into an empty folder; what Keras saw.

    Raises:
        ModelError: Keras cannot read or export it, or it holds weights alone.
    """
    try:
        done = subprocess.run(
            # -P: whatever lies in the current directory must not shadow a module.
            [sys.executable, "-P", "-m", "tfslim_core.importing.keras_export", str(file.absolute()), str(folder)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
            env={
                "TF_CPP_MIN_LOG_LEVEL": "3",
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "-1",
                "KERAS_BACKEND": "tensorflow",
            },
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"{file}: Keras did not read it within {TIMEOUT} s") from None
    try:
        told = json.loads(done.stdout.decode().splitlines()[-1])
    except (ValueError, IndexError):
        said = " ".join(done.stderr.decode(errors="replace").split())[-200:]
        raise ModelError(f"{file}: the process that ran Keras ended with code {done.returncode}: {said}") from None
    if "error" in told:
        raise ModelError(f"{file}: {told['error']}")
    return [str(note) for note in told["notes"]]
