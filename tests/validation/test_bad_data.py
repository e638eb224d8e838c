"""Bad data as users have it: each kind is told in one line, and what is right beside it is validated all the same."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.validation import tiny_models
from tests.validation.test_sources import example, signature
from tfslim_core.errors import DataError
from tfslim_core.validation import sources
from tfslim_core.validation.feeding import choose_signature, feeding
from tfslim_core.validation.job import validate
from tfslim_core.validation.paired_models import open_served_model
from tfslim_core.validation.tfrecord import frame

WEIGHTS = np.random.default_rng(5).normal(size=(4, 3))
ROWS = np.random.default_rng(1).normal(size=(400, 4)).astype(np.float32)
GOOD = [{"x": row.tolist()} for row in ROWS]
TEXTS = [{"text": f"text {number}", "ids": number} for number in range(400)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Pairs: numbers [?, 4] to three scores; texts and int64 as they come."""
    folder = tmp_path_factory.mktemp("models")
    echoes = {"serving_default": {"text": (tiny_models.DT["object"], [-1]), "ids": (tiny_models.DT["int64"], [-1])}}
    return {
        "x": [tiny_models.linear(folder / name, WEIGHTS) for name in "ab"],
        "text": [tiny_models.echo(folder / name, echoes) for name in "cd"],
    }


def lines(path: Path, records, encoding="utf-8", start=b"", end=b"\n"):
    texts = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_bytes(start + b"".join(text.encode(encoding) + end for text in texts))
    return path


def run(models, path, **options):
    """(result of the dataset, lines of the dead letters, reasons)."""
    out = path.parent / "out"
    out.mkdir()
    kind = "text" if "text" in path.name else "x"
    found = validate(*models[kind], {"test": str(path)}, out=out, measure_costs=False, **options)
    file = out / "dead_letters.jsonl"
    told = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return found.verdict.datasets["test"], told, found.verdict.reasons


LISTED = "the line is a list of records; a .jsonl file has each on a line of its own"
RANGE = "'ids': expected int64, found fractions or numbers out of its range"
BAD_LINES = {
    "x-another-length": (GOOD, {"x": [1, 2, 3]}, "'x': expected shape [4], found [3]"),
    "x-ragged": (GOOD, {"x": [[1, 2], [3]]}, "'x': its lists differ in length, or mix lists and values"),
    "x-strings": (GOOD, {"x": ["a", "b", "c", "d"]}, "'x': expected numbers, found strings"),
    "x-null": (GOOD, {"x": None}, "'x': expected numbers, found null"),
    "x-null-within": (GOOD, {"x": [1, None, 3, 4]}, "'x': expected numbers, found null"),
    "x-object": (GOOD, {"x": {"a": 1}}, "'x': expected numbers, found objects"),
    "x-too-large": (GOOD, {"x": [1e300, 0, 0, 0]}, "'x': expected float32, found numbers out of its range"),
    "x-cut": (GOOD, '{"x": [1, 2,', "the line is not JSON: Expecting value"),
    "x-twice": (GOOD, '{"x": [1, 2, 3, 4], "x": [4, 3, 2, 1]}', "the line is not JSON: it has the key 'x' twice"),
    "x-list": (GOOD, [{"x": [1, 2, 3, 4]}], LISTED),
    "x-other-key": (GOOD, {"y": 1}, "it lacks x; its keys are: y"),
    "x-odd-key": (GOOD, '{"\\ud800": 1}', "it lacks x; its keys are: \\ud800"),
    "text-overflow": (TEXTS, {"text": "a", "ids": 2**63}, RANGE),
    "text-beyond": (TEXTS, {"text": "a", "ids": 10**30}, "'ids': expected whole numbers, found numbers beyond 64 bits"),
    "text-fraction": (TEXTS, {"text": "a", "ids": 0.5}, RANGE),
    "text-surrogate": (TEXTS, '{"text": "\\ud800", "ids": 1}',
                       "'text': its text has half a character (a lone surrogate), which UTF-8 cannot hold"),
    "text-number": (TEXTS, {"text": 5, "ids": 1}, "'text': expected strings, found int"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["x", "text"])
def test_a_bad_line_is_a_dead_letter_with_its_error_and_no_other_is_lost(models, tmp_path, name):
    cases = {key: case for key, case in BAD_LINES.items() if key.startswith(name)}
    good = next(iter(cases.values()))[0]
    # One bad line after each 20th good one.
    records = []
    for number, (_, bad, _) in enumerate(cases.values()):
        records += [*good[20 * number : 20 * number + 20], bad]
    result, letters, reasons = run(
        models, lines(tmp_path / f"{name}.jsonl", [*records, *good[20 * len(cases) :]]), fail_on_bad_records=0.05
    )
    assert (result.examples, result.bad_records) == (len(good), len(cases))
    assert [letter["record"] for letter in letters] == [20 + 21 * number for number in range(len(cases))]
    assert [letter["error"] for letter in letters] == [error for _, _, error in cases.values()]
    assert all(letter["input"] is not None for letter in letters if "list of records" not in letter["error"])
    assert not any("not compared" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bom", {"start": b"\xef\xbb\xbf"}),
        ("crlf", {"end": b"\r\n"}),
        ("blank lines", {"end": b"\n\n  \n"}),
        ("no last end", {"end": b"\n"}),
    ],
)
def test_lines_in_other_dress_are_lines(models, tmp_path, name, options):
    path = lines(tmp_path / f"x {name}.jsonl", GOOD[:40], **options)
    if name == "no last end":
        path.write_bytes(path.read_bytes().rstrip())
    result, letters, _ = run(models, path)
    assert (result.examples, letters) == (40, [])


def test_nan_and_infinity_are_inputs_like_others(models, tmp_path):
    odd = [{"x": [number] * 4} for number in (float("nan"), float("inf"))]
    result, _, _ = run(models, lines(tmp_path / "x.jsonl", [*GOOD, *odd]))
    assert (result.examples, result.bad_records) == (402, 0)
    assert result.outputs["y"].nan_mismatches == 0


def test_strings_need_not_be_utf8_where_the_format_can_hold_them(models, tmp_path):
    np.savez(tmp_path / "text.npz", text=np.array([b"\xff\xfe%d" % i for i in range(40)]), ids=np.arange(40))
    result, letters, _ = run(models, tmp_path / "text.npz")
    assert (result.examples, letters) == (40, [])


def test_records_lost_with_a_damaged_file_count_as_bad_where_their_number_is_known(models, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.concatenate([ROWS] * 10))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "x.npz").write_bytes(data)
    wanted = r"of 4,000 records are bad.*Bad CRC-32 for file 'x.npy'; [\d,]+ records are lost"
    with pytest.raises(DataError, match=wanted):
        run(models, tmp_path / "x.npz")


def test_what_could_not_be_read_is_told_with_the_verdict(models, tmp_path):
    records = b"".join(frame(example(x=row.tolist())) for row in ROWS)
    path = tmp_path / "x.tfrecord.gz"
    path.write_bytes(gzip.compress(records)[:-600])
    result, letters, reasons = run(models, path)
    assert result.bad_records == len(letters) == 1
    assert letters[0]["error"].startswith("the file cannot be read on: Compressed file ended")
    told = f"Dataset 'test': what could not be read was not compared: {path} from record {result.examples} on."
    assert told in reasons


def test_parquet_with_nulls_and_nested_lists(models, tmp_path):
    values = [None if place % 50 == 7 else row.tolist() for place, row in enumerate(ROWS)]
    values[9] = [None, 1.0, 2.0, 3.0]
    pq.write_table(pa.table({"x": values}), tmp_path / "x.parquet")
    result, letters, _ = run(models, tmp_path / "x.parquet", fail_on_bad_records=0.1)
    assert (result.examples, result.bad_records) == (391, 9)
    assert {letter["error"] for letter in letters} == {"'x': expected numbers, found null"}
    pq.write_table(pa.table({"x": [[row.tolist()] for row in ROWS]}), tmp_path / "nested x.parquet")
    (tmp_path / "out").rename(tmp_path / "first")
    with pytest.raises(DataError, match=r"400 of 400 records are bad.*'x': expected shape \[4\], found \[1, 4\]"):
        run(models, tmp_path / "nested x.parquet")


def test_very_many_bad_records_are_counted_and_only_the_first_told_one_by_one(models, tmp_path):
    path = lines(tmp_path / "x.jsonl", [*GOOD, *["[1, 2]"] * 10_030, "nonsense"])
    found, told, _ = run(models, path, fail_on_bad_records=1)
    assert (found.examples, found.bad_records) == (400, 10_031)
    assert [line["record"] for line in told] == [*range(400, 10_401), 10_430]
    assert [line.get("records") for line in told[-3:]] == [None, 30, None]


def test_columns_of_one_name_are_refused(models, tmp_path):
    table = pa.table([pa.array(ROWS.tolist()), pa.array(ROWS[::-1].tolist())], names=["x", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: there are two columns 'x'; each needs a name of its own"):
        run(models, tmp_path / "a.parquet")


def test_keys_that_do_not_match_show_both_sets_and_what_is_near():
    records = [sources.Record(0, {"Image": 1, "lengths": 2, "other": 3}, None)]
    dtype = np.dtype(np.float32)
    served = signature(image=(dtype, (None,)), length=(dtype, (None,)))
    wanted = (
        "the keys: Image, lengths, other.*takes the keys: image, length.*"
        "; is 'Image' for 'image', 'lengths' for 'length' meant"
    )
    with pytest.raises(DataError, match=wanted):
        choose_signature({"serving_default": served}, None, records, "data")
    with pytest.raises(DataError, match=wanted):
        feeding(served, records, None, "data")


def test_a_file_that_may_not_be_read_is_told(tmp_path):
    for name in ("a.jsonl", "a.npz", "a.parquet", "a.tfrecord", "a.csv.gz"):
        path = lines(tmp_path / name, GOOD)
        path.chmod(0)
        with AsNobody(tmp_path), pytest.raises(DataError, match=r"cannot be read: Permission denied"):
            sources.open_dataset("d", str(path))


class AsNobody:
    """Root may read everything; nobody may not."""

    def __init__(self, folder):
        for one in (folder, *folder.parents):
            if os.geteuid() == 0 and str(one).startswith("/tmp/"):
                one.chmod(0o755)

    def __enter__(self):
        self.user = os.geteuid()
        if self.user == 0:
            os.seteuid(65534)

    def __exit__(self, *_):
        os.seteuid(self.user)


def shorten(path):
    lines(path, GOOD[:10])


@pytest.mark.parametrize(
    ("happens", "says"),
    [(shorten, "was changed while it was validated"), (os.unlink, "cannot be read: No such file or directory")],
)
def test_a_file_that_changes_or_goes_before_it_is_read_is_told(tmp_path, happens, says):
    path = lines(tmp_path / "x.jsonl", GOOD)
    dataset = sources.open_dataset("d", str(path))
    fed = feeding(signature(x=(np.dtype(np.float32), (None, 4))), sources.first_records(dataset), None, "d")
    happens(path)
    with pytest.raises(DataError, match=says):
        list(sources.read_shard("d", dataset.ranges, fed, 32))


def test_a_file_that_changes_during_the_run_is_an_error_of_one_line(models, tmp_path):
    path = lines(tmp_path / "x.jsonl", GOOD)
    _changing.append(path)
    with pytest.raises(DataError, match=r"^\S+/x.jsonl was changed while it was validated; run again"):
        run(models, path, open_model=open_and_change)


_changing: list[Path] = []


def open_and_change(place, tags):
    """Models are loaded when the first batch is there, and the file is read on when they are."""
    os.utime(_changing[0], (1, 1))
    return open_served_model(place, tags)
