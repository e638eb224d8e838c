"""Another library's functions are replaced for a while, or none is."""

import json
from contextlib import suppress

import pytest

from pipelines.replacing import replaced
from tfslim_core.errors import UsageError


def test_functions_and_methods_come_back_whatever_happens():
    loads, encode = json.loads, json.JSONEncoder.encode
    with (
        suppress(RuntimeError),
        replaced([(json, "loads", len), (json.JSONEncoder, "encode", lambda self, value: "mine")]) as there,
    ):
        assert there == [loads, encode]
        assert (json.loads("abc"), json.dumps([])) == (3, "mine")
        raise RuntimeError
    assert (json.loads, json.JSONEncoder.encode) == (loads, encode)


@pytest.mark.parametrize(("owner", "named"), [(json, "json.nothing"), (json.JSONEncoder, "json.encoder.JSONEncoder")])
def test_what_is_not_there_is_told_before_anything_is_replaced(owner, named):
    loads = json.loads
    with (
        pytest.raises(UsageError, match=rf"this version of json has no {named}"),
        replaced([(json, "loads", len), (owner, "nothing", len)]),
    ):
        pass
    assert json.loads is loads
