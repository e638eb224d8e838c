"""CSV files in ranges: each row once, whatever stands in its cells, and what is wrong with a row told."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.validation.test_sources import I64 as WHOLE
from tests.validation.test_sources import TEXT, read, rows, signature
from tfslim_core.errors import DataError
from tfslim_core.validation.csv_rows import read_rows, row_starts
from tfslim_core.validation.records import BadRecord, Range

CELLS = st.text(st.sampled_from('ab ,"\n\r\t;\u00e9\u2028\U0001f600'), max_size=6)


def ranges(path, every):
    starts = [int(start) for start in row_starts(str(path), every)]
    return [
        Range(number, str(path), *ends) for number, ends in enumerate(zip(starts, [*starts[1:], None], strict=True))
    ]


def in_ranges(path, every):
    return [item for part in ranges(path, every) for item in read_rows(part, 1, None)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(CELLS, CELLS), max_size=12),
    st.integers(1, 60),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.booleans(),
)
def test_ranges_have_every_row_once(tmp_path_factory, pairs, every, end, quoting, marked):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    if quoting == csv.QUOTE_MINIMAL:  # its writer leaves such cells without quotes, which no reader takes for one
        pairs = [tuple(cell.replace("\r", "") for cell in pair) for pair in pairs]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=quoting).writerows([("one", "two"), *pairs])
    path.write_bytes((b"\xef\xbb\xbf" if marked else b"") + text.getvalue().encode())
    found = [tuple(item.values.values()) for item in in_ranges(path, every)]
    assert found == pairs
    assert all(len(list(read_rows(part, 1, None))) for part in ranges(path, every)[1:])


def test_files_without_quotes_are_cut_at_lines_and_others_where_rows_begin(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "".join(f"line {i}\n" for i in range(100)))
    assert len(ranges(tmp_path / "a.csv", 100)) > 5
    (tmp_path / "b.csv").write_text('text\n"' + "a line\n" * 100 + '"\nlast\n')
    first, second = ranges(tmp_path / "b.csv", 10)
    assert [len(list(read_rows(part, 1, None))) for part in (first, second)] == [1, 1]
    # A quote within a cell that is not quoted is a character like others.
    (tmp_path / "c.csv").write_text("text\n" + 'six" tall\n' * 100)
    batches, letters, counted = read(tmp_path / "c.csv", TEXT, range_bytes=50)
    assert rows(batches, "text") == [b'six" tall'] * 100
    assert (letters, counted) == ([], 100)
    # Lines as old Macintoshes ended them.
    (tmp_path / "d.csv").write_bytes(b"text\r" + b"line\r" * 100)
    assert len(rows(read(tmp_path / "d.csv", TEXT, range_bytes=50)[0], "text")) == 100


def test_a_cell_that_is_not_utf8_loses_its_row_alone(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,ids\na,1\ncaf\xe9,2\n\xc3\xa9,3\n")
    batches, letters, _ = read(
        tmp_path / "a.csv", signature(text=(TEXT.inputs["text"].dtype, (None,)), ids=(WHOLE, (None,)))
    )
    assert rows(batches, "text") == [b"a", "\u00e9".encode()]
    assert letters == [(1, "a cell is not UTF-8: unexpected end of data")]


def test_a_quote_that_is_never_closed_ends_the_file(tmp_path):
    (tmp_path / "a.csv").write_text('text,other\nfine,1\n"open,2\nlost,3\n')
    *_, bad = in_ranges(tmp_path / "a.csv", 1 << 20)
    assert isinstance(bad, BadRecord)
    assert (bad.number, bad.ends) == (1, True)
    assert bad.error == "a quote is opened here and never closed; the file is not read on"
    # Cut into ranges it is told as well, where it is.
    assert [item.ends for item in in_ranges(tmp_path / "a.csv", 8) if isinstance(item, BadRecord)] == [True]


def test_text_after_a_closing_quote_loses_its_line_alone(tmp_path):
    (tmp_path / "a.csv").write_text('text\n"a"b\n' + "".join(f'"{i}"\n' for i in range(40)))
    for every in (1 << 20, 20):
        batches, letters, counted = read(tmp_path / "a.csv", TEXT, range_bytes=every)
        assert rows(batches, "text") == [str(i).encode() for i in range(40)]
        assert [error for _, error in letters] == ["the line is not CSV: ',' expected after '\"'"]
        assert counted == 41


def test_long_texts_are_cells(tmp_path):
    (tmp_path / "a.csv").write_text(f"text\n{'x' * 300_000}\n")
    assert len(rows(read(tmp_path / "a.csv", TEXT)[0], "text")[0]) == 300_000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a,b,a\n1,2,3\n", "the header has 'a' twice"),
        (b"caf\xe9\n1\n", "the header is not CSV in UTF-8"),
        (b'"a\n', "not CSV"),
    ],
)
def test_a_header_that_names_no_columns_is_refused(tmp_path, content, says):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=says) as error:
        read(tmp_path / "a.csv")
    assert "\n" not in str(error.value)
