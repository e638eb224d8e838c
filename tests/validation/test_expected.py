"""How many records there are, about, against the number that was written."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tfslim_core.validation.expected import expected_records
from tfslim_core.validation.sources import open_dataset

LINES = [json.dumps({"x": [number, 1.5], "text": "word " * (number % 7)}) for number in range(20_000)]


@pytest.fixture
def expected(tmp_path):
    return lambda pattern: expected_records(open_dataset("test", str(tmp_path / pattern)))


def test_rows_that_a_file_tells_are_exact(tmp_path, expected):
    np.savez(tmp_path / "a.npz", x=np.zeros((1234, 3)))
    np.savez_compressed(tmp_path / "b.npz", x=np.zeros((77, 3)))
    pq.write_table(pa.table({"x": list(range(1000))}), tmp_path / "c.parquet", row_group_size=100)
    assert expected("*.npz") == 1311
    assert expected("c.parquet") == 1000
    assert expected("*") == 2311


def test_lines_and_frames_are_judged_by_their_start(tmp_path, expected):
    (tmp_path / "a.jsonl").write_text("\n".join(LINES))
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{number},2\n" for number in range(50_000)))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("\n".join(LINES) + "\n")
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        for line in LINES:
            writer.write(line.encode())
    for name, count in (("a.jsonl", 20_000), ("b.jsonl.gz", 20_000), ("a.csv", 50_000), ("a.tfrecord", 20_000)):
        assert expected(name) == pytest.approx(count, rel=0.1), name


def test_small_files_are_counted_to_their_end(tmp_path, expected):
    for number in range(9):
        (tmp_path / f"{number}.jsonl").write_text("1\n2\n3")
    assert expected("*.jsonl") == 27


def test_nobody_knows_of_nothing(tmp_path, expected):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl.gz").write_bytes(b"not compressed")
    assert expected("empty.jsonl") is None
    assert expected("bad.jsonl.gz") is None
