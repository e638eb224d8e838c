"""Renew the golden file of test_real_models: python -m tests.real_models_golden [MODEL ...]."""

import json
import sys
import tempfile
from pathlib import Path

from tests.real_models import GOLDEN, MODELS, measured


def main() -> None:
    """Write a line for each model, or anew for those that are named."""
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    for name in sys.argv[1:] or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            known[name] = measured(name, Path(folder)).line()
    lines = [f"{json.dumps(name)}: {json.dumps(known[name])}" for name in MODELS if name in known]
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
