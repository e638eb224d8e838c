"""Packed data files: read by the extension, and a damaged or cut one loses its rest as one bad record."""

import bz2
import gzip
import lzma

import pytest
import zstandard

from tests.validation.test_sources import TEXT, example, read, rows
from tfslim_core.errors import DataError
from tfslim_core.validation.sources import open_dataset
from tfslim_core.validation.tfrecord import frame

PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
LINES = b"".join(b'{"x": [%d, %d]}\n' % (i, -i) for i in range(20_000))


@pytest.mark.parametrize("packing", PACKERS)
def test_a_packed_file_is_one_range_with_all_its_records(tmp_path, packing):
    cells = b"text\n" + b"".join(b'"a\n%d"\n' % i for i in range(50))
    contents = {
        f"a.jsonl{packing}": LINES,
        f"a.csv{packing}": cells,
        f"a.tfrecord{packing}": b"".join(frame(example(x=[float(i), 0.0])) for i in range(50)),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(PACKERS[packing](content))
        assert len(open_dataset("d", str(tmp_path / name), 64).ranges) == 1
    batches, letters, counted = read(tmp_path / f"a.jsonl{packing}", batch_size=256)
    assert rows(batches)[-1] == [19_999, -19_999]
    assert (letters, counted) == ([], 20_000)
    assert rows(read(tmp_path / f"a.csv{packing}", TEXT)[0], "text")[-1] == b"a\n49"
    assert rows(read(tmp_path / f"a.tfrecord{packing}")[0]) == [[i, 0] for i in range(50)]


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("damage", ["cut", "flipped", "not packed", "empty"])
def test_damage_is_one_bad_record_that_ends_the_file(tmp_path, packing, damage):
    packed = bytearray(PACKERS[packing](LINES))
    if damage == "flipped":
        packed[len(packed) // 2] ^= 255
    content = {"cut": packed[: len(packed) // 2], "flipped": packed, "not packed": LINES, "empty": b""}[damage]
    path = tmp_path / f"a.jsonl{packing}"
    path.write_bytes(content)
    batches, letters, counted = read(path, batch_size=256)
    told = sum(map(len, batches))
    assert told < 20_000
    if damage == "empty" and not letters:
        assert counted == 0  # an empty stream, as gzip and zstd have it
        return
    # What was damaged on the way may come out as other lines, before the checksum tells.
    assert letters[-1][0] == counted - 1
    assert letters[-1][1].startswith("the file cannot be read on: ")


def test_archives_are_not_unpacked(tmp_path):
    (tmp_path / "a.npz.xz").write_bytes(b"")
    with pytest.raises(DataError, match=r"those of .jsonl, .csv and .tfrecord with one of .gz .bz2 .xz .zst behind it"):
        open_dataset("d", str(tmp_path / "a.npz.xz"))
