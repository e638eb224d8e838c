"""`python -m tfslim_core.safety.confined SETTINGS ARGUMENTS…`: confine this process, then run a module in it.

SETTINGS is JSON: module, folders (to write to), memory (bytes).
"""

from __future__ import annotations

import json
import runpy
import sys

from tfslim_core.errors import ModelError
from tfslim_core.orphans import end_with_parent
from tfslim_core.safety.confinement import confine


def main() -> None:
    """Confine, say what could not be done, and run the module as `python -m` would."""
    settings = json.loads(sys.argv[1])
    try:
        for lack in confine(settings["folders"], settings["memory"]):
            sys.stderr.write(f"tfslim: {lack}\n")
    except ModelError as error:
        sys.stderr.write(f"tfslim: {error}\n")
        sys.exit(error.exit_code)
    end_with_parent(group=True)  # a thread, and so after the confinement, which holds for what comes later
    sys.argv[1:2] = []
    try:
        runpy.run_module(settings["module"], run_name="__main__", alter_sys=True)
    except MemoryError:
        gibibytes = settings["memory"] / 2**30
        sys.stderr.write(f"tfslim: more than {gibibytes:g} GiB of memory would be needed; see --memory-limit\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
