import pytest

from tfslim_core import registry
from tfslim_core.errors import TransformError
from tfslim_core.graph import Graph
from tfslim_core.registry import Outcome, parse


@pytest.fixture(autouse=True)
def _toy_transforms(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})

    @registry.transform("remove_nodes")
    def remove_nodes(graph: Graph, *, op: tuple[str, ...], max_inputs: int = 1) -> Outcome:
        """Take nodes out.

        More.
        """
        return Outcome(graph)

    @registry.transform("quantize")
    def quantize(
        graph: Graph, *, share: float = 0.5, exact: bool = True, shape: str = "", low: float | None = None
    ) -> Outcome:
        """Store small."""
        return Outcome(graph)


def arguments(text):
    return [(call.transform.name, dict(call.arguments)) for call in parse(text)]


def test_names_alone_are_separated_by_any_space():
    assert arguments(" quantize\n\tquantize ") == [("quantize", {}), ("quantize", {})]


def test_an_empty_text_is_no_call():
    assert parse("") == []
    assert parse(" \n") == []
    assert parse([]) == []


def test_a_key_may_repeat_and_keeps_its_order():
    assert arguments("remove_nodes(op=B, op=A,op=C)") == [("remove_nodes", {"op": ("B", "A", "C")})]


def test_keys_may_be_separated_by_spaces_and_newlines():
    assert arguments("remove_nodes(op=B\n op=A max_inputs=2)") == [
        ("remove_nodes", {"op": ("B", "A"), "max_inputs": 2})
    ]


def test_values_have_the_types_of_the_signature():
    assert arguments('quantize(share=1e-2 exact=false, shape="1,-1,3", low=-1)') == [
        ("quantize", {"share": 0.01, "exact": False, "shape": "1,-1,3", "low": -1.0})
    ]


def test_a_quoted_value_may_hold_anything():
    assert arguments(r'remove_nodes(op="a:b, (\"c\")", op="")') == [("remove_nodes", {"op": ('a:b, ("c")', "")})]


def test_a_list_of_texts_is_read_one_after_the_other():
    assert arguments(["quantize", "remove_nodes(op=A) quantize"]) == [
        ("quantize", {}),
        ("remove_nodes", {"op": ("A",)}),
        ("quantize", {}),
    ]


@pytest.mark.parametrize("name", ["quantize", "quantize(share=1)"])
def test_any_transform_takes_ignore_errors(name):
    text = name.replace(")", ", ignore_errors=true)") if ")" in name else f"{name}(ignore_errors=true)"
    (call,) = parse(text)
    assert call.ignore_errors
    assert "ignore_errors" not in call.arguments
    assert not parse(name)[0].ignore_errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quantise", "no transform 'quantise'; did you mean 'quantize'?"),
        ("quantize(shares=1)", "quantize has no parameter 'shares'; did you mean 'share'? (it takes: share, exact"),
        ("quantize(share=a)", "share=a is not a value of type float"),
        ("quantize(exact=maybe)", "exact=maybe is not true or false"),
        ("quantize(share=1, share=2)", "share is given 2 times"),
        ("quantize(ignore_errors=yes)", "ignore_errors=yes is not true or false"),
        ("remove_nodes", "remove_nodes needs the parameter 'op', as in op=… (repeatable)"),
        ("remove_nodes(op='A')", "expected a value for op, found \"'A')\"; quote values with double quotes"),
        ("remove_nodes(op=A:0)", "expected a parameter of remove_nodes or ')', found ':0)'"),
        ("remove_nodes(op)", "expected '=' after op"),
        ("remove_nodes(op=A", "expected a parameter of remove_nodes or ')', found the end"),
        ('remove_nodes(op="A)', "expected a value for op"),
        ("quantize, quantize", "character 9: expected a transform's name, found ', quantize'"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(TransformError) as error:
        parse(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_call_prints_as_what_it_is_read_from():
    text = 'remove_nodes(op=A, op="b:c \\"d\\"", max_inputs=2, ignore_errors=true)'
    (call,) = parse(text)
    assert str(call) == text
    assert parse(str(call)) == [call]


def test_the_registry_knows_names_summaries_and_parameters():
    quantize, remove_nodes = registry.known()
    assert (remove_nodes.name, remove_nodes.summary) == ("remove_nodes", "Take nodes out.")
    assert [(p.name, p.kind, p.default, p.required, p.repeatable) for p in remove_nodes.parameters] == [
        ("op", str, None, True, True),
        ("max_inputs", int, 1, False, False),
    ]
    assert [str(p) for p in quantize.parameters] == ["share=0.5", "exact=true", "shape=…", "low=…"]


def test_two_transforms_cannot_have_one_name():
    with pytest.raises(ValueError, match="two transforms"):
        registry.transform("quantize")(lambda graph: Outcome(graph))
