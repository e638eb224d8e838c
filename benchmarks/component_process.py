"""`python -m benchmarks.component_process NAME ARGUMENTS`: one component's function, as a task calls it.

ARGUMENTS is JSON: name -> {"uri": path} for an artifact, or the value of a parameter.
"""

from __future__ import annotations

import json
import sys

from kfp import dsl

from components.catalog import COMPONENTS


def main() -> None:
    """Call the component and nothing else."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    kinds = {"metrics": dsl.Metrics, "classes": dsl.ClassificationMetrics}
    given = {
        key: kinds.get(key, dsl.Artifact)(uri=value["uri"]) if isinstance(value, dict) else value
        for key, value in arguments.items()
    }
    COMPONENTS[name].python_func(**given)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
