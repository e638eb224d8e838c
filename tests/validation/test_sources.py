import base64
import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfslim_core.errors import DataError, ModelError
from tfslim_core.saved_model.served_signatures import Signature, TensorSpec, proto_module
from tfslim_core.validation.batches import Batch, Batcher
from tfslim_core.validation.feeding import Rows, choose_signature, feeding
from tfslim_core.validation.records import Letter, split_place
from tfslim_core.validation.sources import first_records, open_dataset, read_shard, shards
from tfslim_core.validation.tfrecord import frame

F32, I64, STRING = map(np.dtype, (np.float32, np.int64, object))


def signature(name="serving_default", **inputs):
    """Inputs as key=(dtype, shape) or (dtype, shape, optional)."""
    specs = {key: TensorSpec(f"{key}:0", *spec[:2], optional=len(spec) > 2) for key, spec in inputs.items()}
    return Signature(name, "predict", specs, {})


NUMBERS = signature(x=(F32, (None, 2)))
TEXT = signature(text=(STRING, (None,)))


def read(path, served=NUMBERS, label=None, batch_size=3, range_bytes=1 << 20):
    """(batches, letters as (record's number, error), records counted)."""
    dataset = open_dataset("d", str(path), range_bytes)
    fed = feeding(served, first_records(dataset), label, str(path))
    items = [item for shard in shards(dataset) for item in read_shard("d", shard, fed, batch_size)]
    batches = [item for item in items if isinstance(item, Batch)]
    letters = [(split_place(item.place)[1], item.error) for item in items if isinstance(item, Letter)]
    counted = sum(count for batch in batches for count in batch.finished.values())
    return [batch for batch in batches if len(batch)], letters, counted


def rows(batches, key="x"):
    return np.concatenate([batch.feeds[key] for batch in batches]).tolist()


def jsonl(path: Path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def example(**features):
    proto = proto_module("example.example_pb2").Example()
    for key, values in features.items():
        kind = (
            {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])] if values else "float_list"
        )
        getattr(proto.features.feature[key], kind).value.extend(values)
    return proto.SerializeToString()


def tfrecord(path: Path, *records):
    path.write_bytes(b"".join(map(frame, records)))
    return path


def test_jsonl_rows_become_batches(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"x": [1, 2], "id": 9}, "", {"x": [3, 4]}, {"x": [5, 6]}, {"x": [7, 8]})
    batches, letters, counted = read(path)
    assert [len(batch) for batch in batches] == [3, 1]
    assert rows(batches) == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert batches[0].feeds["x"].dtype == np.float32
    assert [split_place(place) for place in batches[0].places] == [(0, 0), (0, 1), (0, 2)]
    assert (letters, counted) == ([], 4)


def test_bare_values_and_b64_feed_a_lone_input(tmp_path):
    coded = {"b64": base64.b64encode(b"\xff").decode()}
    batches, letters, _ = read(jsonl(tmp_path / "a.jsonl", '"plain"', coded, {"text": "named"}), TEXT)
    assert rows(batches, "text") == [b"plain", b"\xff", b"named"]
    assert letters == []


def test_bad_records_are_told_with_their_number_and_the_rest_goes_on(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"x": [1, 2]}, "{not json", {"x": [1]}, {"y": 1}, "[1, 2]", "3", {"x": [3, 4]})
    batches, letters, counted = read(path)
    assert rows(batches) == [[1, 2], [1, 2], [3, 4]]
    assert counted == 7
    assert [number for number, _ in letters] == [1, 2, 3, 5]
    assert letters[0][1].startswith("the line is not JSON")
    assert letters[1][1] == "'x': expected shape [2], found [1]"
    assert letters[2][1] == "it lacks x; its keys are: y"


def test_inputs_with_a_default_may_be_missing_but_never_mix_in_a_batch(tmp_path):
    served = signature(x=(F32, (None, 1)), keep=(F32, (None,), True))
    batches, letters, _ = read(jsonl(tmp_path / "a.jsonl", {"x": [1]}, {"x": [2], "keep": 0.5}, {"x": [3]}), served)
    assert sorted(sorted(batch.feeds) for batch in batches) == [["keep", "x"], ["x"]]
    assert letters == []


def test_variable_lengths_are_grouped_and_never_padded(tmp_path):
    served = signature(x=(F32, (None, None)))
    lines = [{"x": [i] * (1 + i % 3)} for i in range(20)]
    batches, _, _ = read(jsonl(tmp_path / "a.jsonl", *lines), served, batch_size=4)
    assert sum(map(len, batches)) == 20
    for batch in batches:
        for place, row in zip(batch.places, batch.feeds["x"], strict=True):
            assert row.tolist() == lines[split_place(place)[1]]["x"]


def test_many_different_lengths_do_not_pile_up():
    batcher = Batcher("d", {"x": TensorSpec("x:0", F32, (None, None))}, 2)
    given = 0
    for number in range(200):
        given += sum(map(len, batcher.add(Rows([number], {"x": np.zeros((1, number), np.float32)}), 0)))
        assert number + 1 - given <= 32
    assert given + sum(map(len, batcher.rest())) == 200


def test_inputs_without_a_batch_axis_have_one_value_per_batch(tmp_path):
    served = signature(x=(F32, (None, 1)), scale=(F32, ()))
    lines = [{"x": [i], "scale": i % 2} for i in range(6)]
    batches, _, _ = read(jsonl(tmp_path / "a.jsonl", *lines), served, batch_size=3)
    assert [(batch.feeds["scale"].tolist(), len(batch)) for batch in batches] == [(0, 3), (1, 3)]
    assert batches[0].row(1).feeds["scale"].shape == ()
    assert batches[0].describe(1) == {"x": [2.0], "scale": 0.0}


def test_a_fixed_batch_axis_sets_the_size_of_batches(tmp_path):
    batches, letters, _ = read(jsonl(tmp_path / "a.jsonl", *([[1, 2]] * 5)), signature(x=(F32, (2, 2))), batch_size=32)
    assert [len(batch) for batch in batches] == [2, 2]
    assert letters == [(4, "too few records are left for the signature's fixed batch of 2")]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 10**12), max_size=30), st.integers(1, 80))
def test_ranges_of_jsonl_have_every_record_once(tmp_path_factory, values, every):
    path = jsonl(tmp_path_factory.mktemp("ranges") / "a.jsonl", *({"x": value} for value in values))
    served = signature(x=(I64, (None,)))
    batches, letters, counted = read(path, served, range_bytes=every)
    found = sorted(
        (place, value) for batch in batches for place, value in zip(batch.places, batch.feeds["x"], strict=True)
    )
    assert [value for _, value in found] == values
    assert (letters, counted) == ([], len(values))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("every", [1 << 20, 64])
def test_npz_rows_are_read_in_ranges(tmp_path, save, every):
    x, names = np.arange(40.0).reshape(20, 2), np.array([f"n{i}" for i in range(20)])
    save(tmp_path / "a.npz", x=x, fortran=np.asfortranarray(x), text=names, label=np.arange(20), other=np.zeros(20))
    served = signature(x=(F32, (None, 2)), fortran=(F32, (None, 2)), text=(STRING, (None,)))
    batches, letters, counted = read(tmp_path / "a.npz", served, label="label", range_bytes=every)
    assert rows(batches) == rows(batches, "fortran") == x.tolist()
    assert rows(batches, "text") == [name.encode() for name in names.tolist()]
    assert [label for batch in batches for label in batch.labels.tolist()] == list(range(20))
    assert (letters, counted) == ([], 20)


def test_ranges_of_an_npz_do_not_read_what_is_before_them(tmp_path):
    x = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=np.zeros(1000), z=x + 1)
    served = signature(x=(F32, (None, 2)), z=(F32, (None, 2)))
    taken = []
    unpack = zipfile.ZipExtFile.read

    def noted(self, count=-1):
        data = unpack(self, count)
        taken.append(len(data))
        return data

    with mock.patch.object(zipfile.ZipExtFile, "read", noted):
        batches, letters, counted = read(tmp_path / "a.npz", served, range_bytes=800)
    assert (rows(batches), rows(batches, "z")) == (x.tolist(), (x + 1).tolist())
    assert (letters, counted) == ([], 1000)
    assert sum(taken) < 3 * (tmp_path / "a.npz").stat().st_size
    # A header that promises more rows than there are is no reason to take them from what comes next.
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(data.replace(b"(1000, 2)", b"(3000, 2)").replace(b"(1000,)", b"(3000,)"))
    batches, letters, _ = read(tmp_path / "b.npz", served, range_bytes=8000)
    assert letters
    assert set(map(tuple, rows(batches))) <= set(map(tuple, x.tolist()))


def test_npz_takes_bytes_and_arrays_without_an_axis(tmp_path):
    np.savez(tmp_path / "a.npz", text=np.array([b"a", b"bc"]), scale=np.float32(2))
    batches, _, _ = read(tmp_path / "a.npz", signature(text=(STRING, (None,)), scale=(F32, ())))
    assert [batch.feeds["text"].tolist() for batch in batches] == [[b"a", b"bc"]]
    assert batches[0].feeds["scale"] == 2


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, "equally long in all arrays; it is: x 3, y 4"),
        ({"x": np.array([{}, 1], object)}, "pickled objects, which are not read"),
    ],
)
def test_npz_files_that_cannot_be_data_are_refused(tmp_path, arrays, says):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=says):
        read(tmp_path / "a.npz")


def test_a_damaged_npz_loses_its_rest_as_one_bad_record(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(1000, 2)))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[9000] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    batches, letters, counted = read(tmp_path / "a.npz")
    (letter,) = letters
    lost = 1000 - sum(map(len, batches))
    assert letter[1].startswith("the archive cannot be read on: Bad CRC-32")
    assert letter[1].endswith(f"; {lost:,} records are lost")
    assert counted == 1000
    (tmp_path / "b.npz").write_bytes(data[:5000])
    with pytest.raises(DataError, match="cut off"):
        read(tmp_path / "b.npz")


def test_tf_examples_are_matched_by_name_and_shaped_by_the_signature(tmp_path):
    served = signature(x=(F32, (None, None, 2)), ids=(I64, (None, 1)), text=(STRING, (None,)))
    path = tfrecord(
        tmp_path / "a.tfrecord",
        example(x=[1.0, 2.0, 3.0, 4.0], ids=[7], text=[b"a"], extra=[1]),
        example(x=[], ids=[8], text=[b"b"]),
        example(x=[1.0], ids=[8], text=[b"b"]),
    )
    batches, letters, counted = read(path, served)
    assert [batch.feeds["x"].tolist() for batch in batches] == [[[[1, 2], [3, 4]]], [[]]]
    assert batches[0].feeds["ids"].tolist() == [[7]]
    assert letters == [(2, "'x': expected values for shape [?, 2], found 1 values")]
    assert counted == 3


def test_tf_examples_go_serialized_to_a_lone_string_input(tmp_path):
    records = [example(a=[1.0]), example(a=[2.0])]
    batches, _, _ = read(tfrecord(tmp_path / "a.tfrecord", *records), TEXT)
    assert rows(batches, "text") == records
    # A feature of the input's name is the input.
    batches, _, _ = read(tfrecord(tmp_path / "b.tfrecord", example(text=[b"hi"])), TEXT)
    assert rows(batches, "text") == [b"hi"]


def _field(number, content):
    return bytes([number << 3 | 2, len(content)]) + content


def test_prediction_logs_are_requests(tmp_path):
    tensor = proto_module("framework.tensor_pb2").TensorProto(dtype=1, float_val=[1, 2, 3, 4])
    for size in (2, 2):
        tensor.tensor_shape.dim.add(size=size)
    entry = _field(2, _field(1, b"x") + _field(2, tensor.SerializeToString()))

    def log(name):
        return _field(6, _field(1, _field(1, _field(3, name)) + entry))

    path = tfrecord(tmp_path / "a.tfrecord", log(b"serving_default"), log(b""), log(b"other"), _field(5, b""))
    batches, letters, counted = read(path)
    assert rows(batches) == [[1, 2], [3, 4]] * 2
    assert counted == 4
    assert letters[0] == (2, "the record asks for signature 'other', not 'serving_default'")
    assert "session_run_log" in letters[1][1]

    examples = [example(a=[1.0]), example(a=[2.0])]
    request = _field(2, _field(1, b"".join(_field(1, one) for one in examples)))
    batches, _, _ = read(tfrecord(tmp_path / "b.tfrecord", _field(2, _field(1, request))), TEXT)
    assert rows(batches, "text") == examples


def test_what_is_no_tf_example_goes_serialized_to_a_lone_string_input_alone(tmp_path):
    protos = proto_module("example.example_pb2")
    sequence = protos.SequenceExample()
    sequence.context.feature["id"].int64_list.value.append(7)
    sequence.feature_lists.feature_list["token"].feature.add().float_list.value.extend([1, 2])
    # An ExampleListWithContext, as of ranking, which reads as a request to classify nothing.
    ranking = _field(1, example(a=[1.0])) * 2 + _field(2, example(b=[2.0]))
    for name, record in (("a", sequence.SerializeToString()), ("b", ranking), ("c", b"\xff\xd8 a picture")):
        path = tfrecord(tmp_path / f"{name}.tfrecord", *[record] * 3)
        batches, letters, counted = read(path, TEXT)
        assert (rows(batches, "text"), letters, counted) == ([record] * 3, [], 3)
        batches, letters, counted = read(path)
        assert (batches, [number for number, _ in letters], counted) == ([], [0, 1, 2], 3)
        assert "no tf.Example" in letters[0][1] or "PredictionLog" in letters[0][1]


def test_a_request_without_an_example_is_a_bad_record(tmp_path):
    tensor = proto_module("framework.tensor_pb2").TensorProto(dtype=1)
    for size in (0, 2):
        tensor.tensor_shape.dim.add(size=size)
    request = _field(1, _field(2, _field(1, b"x") + _field(2, tensor.SerializeToString())))
    _, letters, counted = read(tfrecord(tmp_path / "a.tfrecord", _field(6, request)))
    assert (letters, counted) == ([(0, "it is a request without an example")], 1)
    empty = _field(2, _field(1, _field(2, _field(1, b""))))
    full = _field(2, _field(1, _field(2, _field(1, _field(1, example(a=[1.0]))))))
    batches, letters, counted = read(tfrecord(tmp_path / "b.tfrecord", full, empty), TEXT)
    assert (rows(batches, "text"), counted) == ([example(a=[1.0])], 2)
    assert letters == [(1, "a PredictionLog with a classify_log has no example")]


def test_a_frame_that_is_cut_or_has_no_length_ends_the_file_as_one_bad_record(tmp_path):
    data = b"".join(frame(example(x=[float(i), 0.0])) for i in range(9))
    damaged = bytearray(data)
    damaged[4 * len(data) // 9 + 2] ^= 1
    for name, content in (("cut", data[:-3]), ("flipped", damaged)):
        path = tmp_path / f"{name}.tfrecord"
        path.write_bytes(content)
        batches, letters, counted = read(path)
        assert len(letters) == 1
        assert letters[0][0] == sum(map(len, batches)) == counted - 1
        assert "the file is not read on" in letters[0][1]


def test_a_frame_whose_data_alone_is_damaged_ends_the_file_and_is_told(tmp_path):
    frames = [frame(example(x=[float(i), 0.0])) for i in range(9)]
    frames[4] = frames[4][:20] + b"?" + frames[4][21:]
    for name, pack in (("a.tfrecord", bytes), ("a.tfrecord.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack(b"".join(frames)))
        batches, letters, counted = read(tmp_path / name)
        assert rows(batches) == [[i, 0] for i in range(4)]
        assert letters == [(4, "a frame's data does not have its checksum (CRC); the file is not read on")]
        assert counted == 5


def test_packed_files_are_read_and_a_cut_one_is_one_bad_record(tmp_path):
    lines = b"".join(b'{"x": [%d, 0]}\n' % i for i in range(5000))
    packed = gzip.compress(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    assert len(rows(read(tmp_path / "a.jsonl.gz")[0])) == 5000
    (tmp_path / "b.jsonl.gz").write_bytes(packed[:-2000])
    batches, letters, _ = read(tmp_path / "b.jsonl.gz")
    assert 0 < len(rows(batches)) < 5000
    assert "cannot be read on" in letters[-1][1]
    (tmp_path / "c.tfrecord.gz").write_bytes(gzip.compress(frame(example(x=[1.0, 2.0]))))
    assert rows(read(tmp_path / "c.tfrecord.gz")[0]) == [[1, 2]]


def test_csv_cells_are_scalars(tmp_path):
    (tmp_path / "a.csv").write_text('x,text,label\n1,"a, ""b""\nc",0\nfoo,d,1\n2,e\n3,f,1\n')
    served = signature(x=(F32, (None,)), text=(STRING, (None,)))
    batches, letters, _ = read(tmp_path / "a.csv", served, label="label")
    assert rows(batches, "text") == [b'a, "b"\nc', b"f"]
    assert batches[0].labels.tolist() == [b"0", b"1"]
    assert [number for number, _ in letters] == [1, 2]
    assert letters[1][1] == "the row has 2 cells, the header 3"


@pytest.mark.parametrize("every", [1, 1 << 20])
def test_parquet_lists_are_tensors(tmp_path, every):
    table = pa.table({"x": [[1.0, 2.0]] * 6 + [None], "text": [b"a"] * 7, "label": list(range(7)), "other": [1] * 7})
    pa.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    served = signature(x=(F32, (None, 2)), text=(STRING, (None,)))
    batches, letters, counted = read(tmp_path / "a.parquet", served, label="label", range_bytes=every)
    assert rows(batches) == [[1, 2]] * 6
    assert len(letters) == 1
    assert counted == 7


def test_labels_are_numbers_or_names_or_missing(tmp_path):
    lines = [
        {"x": [1, 2], "y": 3},
        {"x": [1, 2], "y": 4.0},
        {"x": [1, 2]},
        {"x": [1, 2], "y": 0.5},
        {"x": [1, 2], "y": "a"},
        {"x": [1, 2], "y": None},
        {"x": [1, 2], "y": {"a": 1}},
        {"x": [1, 2], "y": [1, 2]},
    ]
    batches, letters, _ = read(jsonl(tmp_path / "a.jsonl", *lines), label="y")
    assert [batch.labels.tolist() for batch in batches] == [[3, 4, None], [0.5, b"a", None]]
    assert [error for _, error in letters] == [
        "the label 'y' is neither a number nor a string",
        "expected one value for 'y', found 2",
    ]


def test_keys_that_do_not_match_are_refused_with_both_sets(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"X": [1, 2], "id": 1}, {"X": [1, 2]})
    with pytest.raises(DataError) as error:
        read(path)
    assert "its records have the keys: X, id; signature 'serving_default' takes the keys: x" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no record has the label 'lable'; did you mean 'label'"):
        read(jsonl(tmp_path / "b.jsonl", {"x": [1, 2], "label": 1}), label="lable")


def test_a_glob_reads_files_in_order_and_small_files_share_batches(tmp_path):
    for name in ("b", "a"):
        jsonl(tmp_path / f"{name}.jsonl", [ord(name), 0])
    batches, _, _ = read(tmp_path / "*.jsonl")
    assert rows(batches) == [[97, 0], [98, 0]]
    assert len(batches) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [("no.jsonl", "no such file"), ("*.npz", "matches no file"), ("a.txt", "extension"), ("", "is a directory")],
)
def test_paths_that_lead_to_no_data_are_refused(tmp_path, name, says):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match=says):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl", "a.tfrecord", "a.csv"])
def test_an_empty_file_has_no_records_and_no_errors(tmp_path, name):
    (tmp_path / name).write_text("")
    assert read(tmp_path / name) == ([], [], 0)


def choose(wanted, records, *signatures):
    return choose_signature({served.name: served for served in signatures}, wanted, records, "data")


def test_the_signature_is_the_named_one_or_the_default_or_the_one_that_fits(tmp_path):
    records = first_records(open_dataset("d", str(jsonl(tmp_path / "a.jsonl", {"x": 1}))))
    default, fitting = signature(z=(F32, (None,))), signature("a", x=(F32, (None,)))
    also, everything = signature("b", x=(F32, (None,))), signature(x=(F32, (None,)))
    assert choose(None, records, everything, fitting) == "serving_default"
    assert choose("a", records, everything, fitting) == "a"
    assert choose(None, records, default, fitting) == "a"
    assert choose(None, [], fitting, default) == "serving_default"
    with pytest.raises(DataError, match="several signatures: a, b; choose one with --signature"):
        choose(None, records, default, fitting, also)
    with pytest.raises(DataError, match=r"the keys: x \(serving_default takes the keys: z\)"):
        choose(None, records, default)
    with pytest.raises(ModelError, match="did you mean 'a'"):
        choose("aa", records, default, fitting)


def test_neither_beam_nor_tensorflow_is_imported_for_reading():
    script = """import sys, tfslim_core.metrics, tfslim_core.gate, tfslim_core.validation.sources
sys.exit(any(name.partition(".")[0] in ("apache_beam", "tensorflow") for name in sys.modules))"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_portions_for_workers_depend_on_the_data_alone(tmp_path):
    lines = b'{"x": [1, 2]}\n'
    for name, many in (("a.jsonl", 10), ("b.jsonl", 300_000)):
        (tmp_path / name).write_bytes(lines * many)
    assert len(shards(open_dataset("d", str(tmp_path / "a.jsonl")))) == 1
    portions = shards(open_dataset("d", str(tmp_path / "b.jsonl")))
    assert len(portions) == 5  # of at least 1 MiB
    assert [part.file for shard in portions for part in shard] == [str(tmp_path / "b.jsonl")] * 5
    # Of much data there are 16, or more of at most 32 MiB.
    with (tmp_path / "c.jsonl").open("wb") as file:
        file.truncate(64 << 20)
    assert len(shards(open_dataset("d", str(tmp_path / "c.jsonl")))) == 16
    with (tmp_path / "c.jsonl").open("wb") as file:
        file.truncate(1 << 30)
    assert len(shards(open_dataset("d", str(tmp_path / "c.jsonl")))) == 32
