"""Load servables in old TensorFlow releases and run them: whether the table of op_releases tells the truth.

    python -m benchmarks.old_releases MODEL…      each in every release on record, against this TensorFlow's answers

A model should load and answer in each release from the one that it needs on, and in none before; what differs is
printed. The libraries of each release's wheel are fetched as in `op_releases`; only the C API is used. Requests are
made up; to releases before 2.5, whose C API has other functions for strings, models that take strings are only loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.op_releases import WHEELS, fetch, libraries

TOLERANCE = 0.05  # relative L2: kernels differ between releases, and float16 adds up in another order


def main(models: list[Path]) -> int:
    """Try all in all; the number of surprises."""
    from tfslim_core import compatibility
    from tfslim_core.saved_model.fresh_process import Conversation
    from tfslim_core.saved_model.read import read_saved_model
    from tfslim_core.saved_model.sample_inputs import runnable_inputs
    from tfslim_core.saved_model.served_signatures import read_signatures

    surprises = 0
    with tempfile.TemporaryDirectory() as aside:
        asked = {}
        for number, model in enumerate(models):
            need = compatibility.needs_of(read_saved_model(model, ["serve"], None).meta_graph.graph_def)
            name, signature = next(iter(read_signatures(model).items()))
            with Conversation(model) as conversation:
                trial = runnable_inputs(conversation, signature)
            if trial.feeds is None:
                raise SystemExit(f"{model}: {trial.reason}")
            file = Path(aside) / f"{number}.npz"
            _save(file, name, trial.feeds, trial.answer)
            asked[model] = (need, file)
        for package, version, python in WHEELS:
            with tempfile.TemporaryDirectory(dir=aside) as folder:
                fetch(package, version, python, Path(folder))
                for model, (need, file) in asked.items():
                    found = _child(Path(folder), model, file)
                    expected = need.release <= compatibility.release(version)
                    surprise = expected != (found.startswith("answers"))
                    surprises += surprise
                    print(f"{version:8} {model}: {found}{f'  SURPRISE: it {need}' if surprise else ''}", flush=True)
    return surprises


def _save(file: Path, signature: str, feeds: object, answer: object) -> None:
    def stored(value: np.ndarray) -> np.ndarray:
        return np.asarray(value.tolist(), dtype="S") if value.dtype == object else value

    arrays = {f"feed/{key}": stored(value) for key, value in feeds.items()}  # type: ignore[attr-defined]
    arrays |= {f"answer/{key}": stored(value) for key, value in answer.items()}  # type: ignore[attr-defined]
    np.savez(file, signature=np.array(signature), **arrays)


def _child(folder: Path, model: Path, file: Path) -> str:
    command = [sys.executable, "-m", "benchmarks.old_releases", "--child", folder, model, file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.stdout.strip() or f"died with {done.returncode}"


def _try(folder: Path, model: Path, file: Path) -> None:
    """In the child: put a release's libraries in the place of this TensorFlow's, load, run, compare."""
    from tfslim_core.errors import TfslimError
    from tfslim_core.saved_model import c_api, server_loader
    from tfslim_core.saved_model.sample_check import difference

    loaded = libraries(folder)
    tf = next(one for one in reversed(loaded) if hasattr(one, "TF_LoadSessionFromSavedModel"))
    for name, (result, arguments) in c_api._PROTOTYPES.items():
        function = next((getattr(one, name) for one in reversed(loaded) if hasattr(one, name)), None)
        if function is not None:
            function.restype, function.argtypes = result, arguments
            setattr(tf, name, function)
    c_api.library = server_loader.library = lambda: tf  # type: ignore[assignment]
    kept = np.load(file)
    feeds = {key[5:]: _strings(kept[key]) for key in kept.files if key.startswith("feed/")}
    try:
        with server_loader.ServedModel(model) as served:
            if any(array.dtype == object for array in feeds.values()) and not hasattr(tf, "TF_StringCopy"):
                print("answers not asked for, but it loads")
            else:
                answer = served.run(str(kept["signature"]), feeds)
                worst = max(difference(_strings(kept[f"answer/{key}"]), value) for key, value in answer.items())
                print(f"answers, off by {worst:.1g}" if worst < TOLERANCE else f"OFF BY {worst:.2g}")
    except TfslimError as error:
        print(str(error).replace(str(model), "")[:160])
    sys.stdout.flush()
    os._exit(0)  # what an old library does at exit is of no interest


def _strings(array: np.ndarray) -> np.ndarray:
    return array.astype(object) if array.dtype.kind == "S" else array


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        _try(*map(Path, sys.argv[2:]))
    else:
        sys.exit(min(main([Path(name) for name in sys.argv[1:]]), 1))
