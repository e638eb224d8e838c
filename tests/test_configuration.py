"""slim.yaml: what it may hold, what wins, and what is said of what it may not."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tfslim_core import api
from tfslim_core.configuration import Configuration, settings
from tfslim_core.errors import UsageError


@pytest.fixture
def file(tmp_path):
    def write(content: str | bytes) -> Path:
        path = tmp_path / "slim.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_every_option_is_an_argument_of_slim():
    arguments = set(inspect.signature(api.slim).parameters) - {"model", "out", "overwrite", "progress"}
    assert set(Configuration.model_fields) == arguments


def test_without_a_file_there_are_the_flags():
    assert settings(None, {"encoding": "int8"}) == {"encoding": "int8"}


def test_flags_win_and_the_rest_comes_from_the_file(file):
    path = file("encoding: float16\nminimum_size: 10\ndata:\n  test: a.npz\nfail_on_bad_records: 0\n")
    assert settings(path, {"encoding": "int8", "data": {"other": "b.npz"}}) == {
        "encoding": "int8",
        "minimum_size": 10,
        "data": {"other": "b.npz"},
        "fail_on_bad_records": 0,
    }


def test_a_budget_and_what_it_is_searched_with(file):
    path = file('budget: ["top1_agreement>=0.99"]\nsearch_minutes: 5\nseed: 7\n')
    assert settings(path, {"seed": 8}) == {"budget": ["top1_agreement>=0.99"], "search_minutes": 5.0, "seed": 8}


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "{}", "encoding: null\n"])
def test_a_file_may_hold_nothing(file, content):
    assert settings(file(content), {}) == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("encodin: int8\n", "no option 'encodin'; did you mean 'encoding'? (there are: report, tags"),
        ("encoding: int8\nzzz: 1\n", "no option 'zzz' (there are: "),
        ("minimum-size: 3\n", "did you mean 'minimum_size'"),
        ("budgets: [a>=1]\n", "no option 'budgets'; did you mean 'budget'?"),
        ("search-minutes: 3\n", "did you mean 'search_minutes'"),
        ("sead: 3\n", "did you mean 'seed'"),
        ('budget: "top1_agreement>=0.99"\n', "budget: Input should be a valid list"),
        ("search_minutes: 0\n", "search_minutes: Input should be greater than 0"),
        ("seed: -1\n", "seed: Input should be greater than or equal to 0"),
        ("seed: 1.5\n", "seed: Input should be a valid integer"),
        ("- encoding\n", "has no options: give `option: value`"),
        ("false\n", "has no options"),
        ("int8\n", "has no options"),
        ("a: [\n", "is not YAML"),
        ("a: 1\n? [b]\n: 2\n", "is not YAML"),
        ("!!python/object/apply:os.getcwd []\n", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        ("minimum_size: many\n", "minimum_size: Input should be a valid integer"),
        ("minimum_size: -1\n", "minimum_size: Input should be greater than or equal to 0"),
        ("fail_on_bad_records: 2\n", "fail_on_bad_records: Input should be less than or equal to 1"),
        ("fail_on_bad_records: .nan\n", "fail_on_bad_records"),
        ("data: a.npz\n", "data: Input should be a valid dictionary"),
        ("data: {a: [b]}\n", "data.a: Input should be a valid string"),
        ("tags: serve\n", "tags: Input should be a valid list"),
        ("3: 4\n", "3: Keys should be strings"),
    ],
)
def test_what_may_not_be_there_is_told_in_one_line(file, content, words):
    path = file(content)
    with pytest.raises(UsageError) as caught:
        settings(path, {})
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert "Configuration" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"none\.yaml: cannot be read: No such file"):
        settings(tmp_path / "none.yaml", {})
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        settings(tmp_path, {})
