"""Arguments of a pipeline as people write them."""
# ruff: noqa: B006  # kfp reads the defaults

import json
import re
from pathlib import Path

import pytest
from kfp import dsl

from pipelines.arguments import Parameter, absolute, check_elsewhere, check_here, parameters, parse
from tfslim_core.errors import UsageError


@dsl.component(base_image="none", install_kfp_package=False)
def takes_all(
    text: str,
    number: int = 1,
    share: float = 0.5,
    flag: bool = False,
    items: list[str] = [],
    objects: list[dict] = [],
    pairs: dict[str, int] = {},
):
    pass


KNOWN = parameters(takes_all)


def test_the_required_come_first():
    assert list(KNOWN) == ["text", "number", "share", "flag", "items", "objects", "pairs"]
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
    assert parse(['items=["a"]', "items=b", 'items=["{c}"]', "items={d}"], KNOWN, complete=False) == {
        "items": ["a", "b", "{c}", "{d}"]
    }


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["tex=a"], r"no argument 'tex'; did you mean 'text'\? \(there are: text, number,"),
        (["text"], "'text' has no '='; write NAME=VALUE"),
        (["text=a", "text=b"], "'text' is given twice"),
        (["number=1.5"], r"'number' takes a whole number, not '1\.5'"),
        (["number=true"], "'number' takes a whole number, not 'true'"),
        (["share=much"], "'share' takes a number, not 'much'"),
        (["share=NaN"], "'share' takes a finite number, not 'NaN'"),
        (["share=1e999"], "'share' takes a finite number"),
        (["flag=1"], "'flag' takes true or false, not '1'"),
        (["items=[1"], "'items' takes a JSON list"),
        (["items=[1]"], "'items' is a list of texts; one item is 1"),
        (["items="], "'items' is a list of texts; one item is \"\""),
        (['objects=["a"]'], "'objects' is a list of JSON objects; one item is \"a\""),
        (["pairs=[]"], "'pairs' takes a JSON object"),
        (["number=1"], "missing: --arg text=…"),
        (["text="], "missing: --arg text=…"),
    ],
)
def test_what_does_not_fit_is_told(given, says):
    with pytest.raises(UsageError, match=says):
        parse(given, KNOWN, complete=True)


def test_items_that_are_objects_are_json():
    assert parse(['objects={"model": "m"}', 'objects={"model": "n"}'], KNOWN, complete=False) == {
        "objects": [{"model": "m"}, {"model": "n"}]
    }
    with pytest.raises(UsageError, match="'objects' takes a JSON object"):
        parse(['objects={"model"'], KNOWN, complete=False)


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ([{"model": "m", "data": ["d"]}], "item 0 has model, data; each is"),
        ([{}], "item 0 has nothing"),
        ([{"model": "m", "data": "d", "base": "b"}], 'item 0 is {"model": "m", "data": "d", "base": "b"}; each is'),
        ([{"model": "m", "data": [], "base": "b"}], "item 0 is"),
        ([{"model": "m", "data": ["d"], "base": 1}], "item 0 is"),
        ([{"model": one, "data": ["d"], "base": "b"} for one in "mn"], "two have the base b; give each its own"),
    ],
)
def test_models_have_what_slim_asks_for(models, says):
    known = {"models": Parameter("models", "List", required=True, items="Dict")}
    with pytest.raises(UsageError, match=re.escape(says)):
        parse([f"models={json.dumps(models)}"], known, complete=True)


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


def test_what_is_here_is_looked_at_first(tmp_path):
    (tmp_path / "a.npz").touch()
    check_here({"data": [f"{tmp_path}/a.npz", f"{tmp_path}/*.npz", "gs://b/c"], "base": f"{tmp_path}/new/base"})
    for given, says in [
        ({"data": [f"{tmp_path}/b.npz"]}, f"argument 'data': {tmp_path}/b.npz: no such file or directory"),
        ({"models": [{"data": [f"{tmp_path}/b.npz"]}]}, "argument 'data'"),
        ({"base": f"{tmp_path}/a.npz"}, f"argument 'base': {tmp_path}/a.npz: {tmp_path}/a.npz is no directory"),
        ({"report_to": f"{tmp_path}/a.npz/b"}, f"argument 'report_to': {tmp_path}/a.npz/b: {tmp_path}/a.npz is no"),
    ]:
        with pytest.raises(UsageError, match=f"^{re.escape(says)}"):
            check_here(given)


def test_a_relative_path_means_nothing_elsewhere():
    check_elsewhere({"data": ["gs://b/c", "/mounted/d"], "base": "gs://b/s", "report_to": "", "label": "x"})
    with pytest.raises(UsageError, match="argument 'base': 'serving' is relative to a directory of this machine"):
        check_elsewhere({"base": "serving"})
