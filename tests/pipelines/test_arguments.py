"""Arguments of a pipeline as people write them."""
# ruff: noqa: B006  # kfp reads the defaults

from pathlib import Path

import pytest
from kfp import dsl

from pipelines.arguments import absolute, parameters, parse
from tfslim_core.errors import UsageError


@dsl.component(base_image="none", install_kfp_package=False)
def takes_all(
    text: str,
    number: int = 1,
    share: float = 0.5,
    flag: bool = False,
    items: list[str] = [],
    pairs: dict[str, int] = {},
):
    pass


KNOWN = parameters(takes_all)


def test_the_required_come_first():
    assert list(KNOWN) == ["text", "number", "share", "flag", "items", "pairs"]
    assert [name for name, one in KNOWN.items() if one.required] == ["text"]


def test_values_get_their_types():
    given = ["text=a=b", "number=7", "share=1", "flag=true", 'items=["x", "y"]', 'pairs={"a": 1}']
    assert parse(given, KNOWN, complete=True) == {
        "text": "a=b",
        "number": 7,
        "share": 1.0,
        "flag": True,
        "items": ["x", "y"],
        "pairs": {"a": 1},
    }


def test_text_stays_text():
    assert parse(["text=5"], KNOWN, complete=True) == {"text": "5"}


def test_a_list_grows_with_each_item():
    assert parse(["items=a>=1", "items=b"], KNOWN, complete=False) == {"items": ["a>=1", "b"]}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["tex=a"], r"no argument 'tex'; did you mean 'text'\? \(there are: text, number,"),
        (["text"], "'text' has no '='; write NAME=VALUE"),
        (["text=a", "text=b"], "'text' is given twice"),
        (["number=1.5"], r"'number' takes a whole number, not '1\.5'"),
        (["number=true"], "'number' takes a whole number, not 'true'"),
        (["share=much"], "'share' takes a number, not 'much'"),
        (["flag=1"], "'flag' takes true or false, not '1'"),
        (["items=[1"], "'items' takes a JSON list"),
        (["pairs=[]"], "'pairs' takes a JSON object"),
        (["number=1"], "missing: --arg text=…"),
    ],
)
def test_what_does_not_fit_is_told(given, says):
    with pytest.raises(UsageError, match=says):
        parse(given, KNOWN, complete=True)


def test_items_that_are_objects_are_json():
    assert parse(['items={"model": "m"}', 'items={"model": "n"}'], KNOWN, complete=False) == {
        "items": [{"model": "m"}, {"model": "n"}]
    }
    with pytest.raises(UsageError, match="'items' takes a JSON object"):
        parse(['items={"model"'], KNOWN, complete=False)


def test_paths_are_found_from_everywhere_and_addresses_stay():
    here = Path.cwd()
    given = {"model": "m", "data": ["d", "gs://b/d", "/d"], "base": "", "gates": ["x>=1"], "models": [{"base": "b"}]}
    assert absolute(given) == {
        "model": f"{here}/m",
        "data": [f"{here}/d", "gs://b/d", "/d"],
        "base": "",
        "gates": ["x>=1"],
        "models": [{"base": f"{here}/b"}],
    }
