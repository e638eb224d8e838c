import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfslim_core.errors import DataError
from tfslim_core.validation.tfrecord import frame, frame_starts, read_frames

repeatable = settings(max_examples=50, deadline=None, derandomize=True)
RECORDS = st.lists(st.binary(max_size=40), max_size=8)


def test_the_checksum_is_tensorflows():
    # What tf.io.TFRecordWriter wrote for b"abc".
    assert frame(b"abc").hex() == "0300000000000000b099490e6162636e57f121"


@repeatable
@given(RECORDS)
def test_what_is_written_is_read(records):
    assert list(read_frames(io.BytesIO(b"".join(map(frame, records))))) == records


@repeatable
@given(RECORDS, st.integers(1, 60))
def test_ranges_have_every_record_once(records, every):
    data = b"".join(map(frame, records))
    starts = frame_starts(io.BytesIO(data), len(data), every)
    found = []
    for start, stop in zip(starts, [*starts[1:], None], strict=True):
        file = io.BytesIO(data)
        file.seek(start)
        found += read_frames(file, stop)
    assert found == records


@repeatable
@given(st.data())
def test_a_flipped_bit_or_a_cut_never_gives_a_wrong_record(data):
    records = [b"first", b"second", b"third"]
    whole = bytearray(b"".join(map(frame, records)))
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        whole[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del whole[at:]
    found = []
    try:
        for record in read_frames(io.BytesIO(bytes(whole))):
            found.append(record)
    except DataError:
        pass
    assert found == records[: len(found)]
    assert len(found) < 3


@pytest.mark.parametrize(("damage", "says"), [(b"\x00" * 12, "length"), (b"short", "header is cut off")])
def test_damage_is_named(damage, says):
    with pytest.raises(DataError, match=says):
        list(read_frames(io.BytesIO(damage)))
