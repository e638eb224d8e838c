from __future__ import annotations

import json

from pipelines.demo_data import LONGEST, counts, gather, roots, write_requests

TEXT = "def f(x):\n    return x + 1  # 'é'\n" * 10


def written(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_only_texts_of_known_kinds_and_no_text_twice(tmp_path):
    folder = written(
        tmp_path,
        a_py=TEXT,
        deep__b_py=TEXT + "1",
        same_py=TEXT,
        short_py="x = 1",
        latin_py="é".encode("latin-1") * 200,
        binary_h=b"\0" * 200,
        unknown_xyz=TEXT,
        c_JS=TEXT + "2",
    )
    found = gather([folder])
    assert len(found) == 3
    assert counts(found) == {"py": 2, "js": 1}


def test_a_character_that_is_cut_at_the_end_is_left_out(tmp_path):
    folder = written(tmp_path, a_py="x" * (LONGEST - 1) + "é" * 9)
    assert list(gather([folder]).values()) == ["x" * (LONGEST - 1)]


def test_the_choice_is_the_same_each_time_and_limited(tmp_path):
    folder = written(tmp_path, **{f"f{i}_py": TEXT + str(i) for i in range(20)})
    first = gather([folder], per_extension=5)
    assert len(first) == 5
    assert list(gather([folder], per_extension=5).items()) == list(first.items())


def test_folders_that_are_not_there_do_not_matter(tmp_path):
    assert gather([tmp_path / "nothing"]) == {}


def test_installed_packages_alone_are_enough():
    assert len(gather(roots()[:1])) >= 300


def test_requests_are_instances_by_key(tmp_path):
    write_requests(["a\n", "é"], "inputs", tmp_path / "x.jsonl")
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"inputs": "a\n"}, {"inputs": "é"}]
