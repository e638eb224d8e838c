"""What a graph needs of TensorFlow, against released registries and against what TensorFlow itself did."""

import json

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.saved_models import meta_graph, normal, save_v1, slimmed
from tfslim_core import compatibility, freeze, quantize, reexport, slim, stages
from tfslim_core.bundle import Source
from tfslim_core.compatibility.op_releases import op_releases, written_by
from tfslim_core.errors import ModelError, UsageError
from tfslim_core.inspection import inspect
from tfslim_core.ops import registered_op
from tfslim_core.quantization.encode_weights import Choice
from tfslim_core.quantization.harm import NO_HARM

tf1 = tf.compat.v1


def graph_of(*nodes, min_consumer=0, functions=()):
    made = tf1.GraphDef(node=nodes)
    made.versions.min_consumer = min_consumer
    for name, body in functions:
        made.library.function.add(signature={"name": name}, node_def=body)
    return made


def node(op, name="n", **attributes):
    made = tf1.NodeDef(op=op, name=name)
    for key, value in attributes.items():
        if isinstance(value, tf.DType):
            made.attr[key].type = value.as_datatype_enum
        elif isinstance(value, list):
            made.attr[key].list.type.extend(one.as_datatype_enum for one in value)
        elif isinstance(value, bytes):
            made.attr[key].s = value
        elif isinstance(value, bool):
            made.attr[key].b = value
        else:
            made.attr[key].i = value
    return made


# Releases in which TensorFlow's own release notes or history have them appear.
KNOWN = [
    (node("AddV2", T=tf.float32), (1, 5), "op AddV2"),
    (node("DecodeCompressed", compression_type=b"ZLIB"), (1, 6), "op DecodeCompressed"),
    (node("BatchMatMulV2", T=tf.float32), (1, 14), "op BatchMatMulV2"),
    (node("BatchMatMulV3", Ta=tf.float32, Tb=tf.float32, Tout=tf.float32), (2, 6), "op BatchMatMulV3"),
    (node("MatMul", T=tf.float32), (1, 3), ""),
    (node("MatMul", T=tf.float32, grad_a=False), (2, 16), "attribute 'grad_a' of op MatMul"),
    (node("MatMul", T=tf.int64), (1, 13), "T int64 of op MatMul"),
    (node("GatherV2", Tparams=tf.float32, Tindices=tf.int32, Taxis=tf.int32, batch_dims=1), (1, 14), "batch_dims"),
    (node("Neg", T=tf.int16), (2, 3), "T int16 of op Neg"),
    (node("StringJoin", N=0), (2, 13), "N 0 of op StringJoin"),
    (node("StringJoin", N=1), (1, 3), ""),
    (node("Const", dtype=tf.dtypes.as_dtype("int4")), (2, 15), "dtype int4 of op Const"),
    (node("Identity", T=tf.bfloat16), (1, 5), "T bfloat16 of op Identity"),
    (node("IdentityN", T=[tf.float32, tf.dtypes.as_dtype("float8_e5m2")]), (2, 12), "T float8_e5m2 of op IdentityN"),
]


@pytest.mark.parametrize(("asked", "release", "what"), KNOWN, ids=lambda one: getattr(one, "op", None) or str(one))
def test_the_newest_part_of_a_node_decides(asked, release, what):
    need = compatibility.needs_of(graph_of(asked))
    assert need.release == release
    assert what in need.what
    assert bool(need.what) == (release > op_releases().oldest)


def test_nodes_of_functions_count_and_calls_do_not():
    body = [node("BatchMatMulV3", "inner", Ta=tf.float32, Tb=tf.float32, Tout=tf.float32)]
    need = compatibility.needs_of(graph_of(node("body"), functions=[("body", body)]))
    assert (need.release, need.node) == ((2, 6), "inner")


def test_a_custom_op_and_hints_need_nothing():
    hints = node("MatMul", T=tf.float32, _output_shapes=1, _class=b"loc:@x")
    assert compatibility.needs_of(graph_of(node("OpOfSomebody", dtype=tf.dtypes.as_dtype("int4")), hints)).release == (
        1,
        3,
    )


def test_the_least_reader_that_a_graph_names_counts():
    assert compatibility.needs_of(graph_of(min_consumer=12)).release == (1, 3)
    assert compatibility.needs_of(graph_of(min_consumer=561)).release == (2, 4)


def test_the_table_has_every_op_of_this_tensorflow_and_each_attribute_that_came_later():
    table = op_releases()
    assert (table.oldest, table.newest) == ((1, 3), tuple(map(int, tf.__version__.split(".")[:2])))
    assert len(table.ops) > 1500
    for name, known in table.ops.items():
        definition = registered_op(name)
        if definition is None:  # of a library that only some builds of TensorFlow have
            continue
        attributes = {attribute.name: attribute for attribute in definition.attr}
        assert set(known.attributes) | set(known.values) <= set(attributes), name
        assert all(known.since < since <= table.newest for since in known.attributes.values()), name
    named = [name for name in dir(tf.raw_ops) if name[0].isupper()]
    assert len([name for name in named if name not in table.ops]) == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([asked for asked, _, _ in KNOWN]), max_size=8))
def test_a_graph_needs_what_the_most_demanding_of_its_nodes_needs(nodes):
    alone = [compatibility.needs_of(graph_of(one)).release for one in nodes]
    assert compatibility.needs_of(graph_of(*nodes)).release == max(alone, default=op_releases().oldest)


@pytest.mark.parametrize(("text", "found"), [("2.4", (2, 4)), ("2.10.1", (2, 10)), ("1.15", (1, 15)), ("3.0", (3, 0))])
def test_a_release_is_read(text, found):
    assert compatibility.release(text) == found


@pytest.mark.parametrize("text", ["2", "two", "2.x", "", "1.2", "0.12", "2.4;"])
def test_what_is_no_release_on_record_is_refused(text):
    with pytest.raises(UsageError, match="--min-runtime"):
        compatibility.release(text)


def test_who_wrote_a_model_is_told_by_its_version_or_else_its_producer():
    assert written_by("2.5.0", 716) == (2, 5)
    assert written_by("2.5.0-dev20210101", 640) == (2, 5)
    assert written_by("", 716) == (2, 5)
    assert written_by("unknown", 600) == (2, 5), "the first release that came after"
    assert written_by("", 0) is None
    assert written_by("", 10**6) == op_releases().newest


def source(version="", producer=0, runtime=""):
    facts = {"path": "", "digest": "", "bytes": 0, "live_parameters": 0, "nodes": 0}
    return Source(**facts, tensorflow_version=version, producer=producer, runtime=runtime)


def test_nothing_newer_than_the_original_unless_told():
    new = graph_of(node("BatchMatMulV3", "late", Ta=tf.float32, Tb=tf.float32, Tout=tf.float32))
    with pytest.raises(
        ModelError, match=r"TensorFlow 2\.6 or later \(op BatchMatMulV3 of node 'late'\).*no more than 2\.4"
    ):
        compatibility.refuse_newer(new, source("2.4.1", 561, "1.5"), None)
    for fine in (source("2.6.0"), source("2.4.1", 561, "2.7"), source(producer=808), source()):
        assert compatibility.refuse_newer(new, fine, None).release == (2, 6)
    assert compatibility.refuse_newer(new, source("2.4.1", 561), "2.6").release == (2, 6)
    with pytest.raises(ModelError, match=r"--min-runtime is 2\.5: leave out the transform or the encoding"):
        compatibility.refuse_newer(new, source("2.20.0"), "2.5")
    with pytest.raises(ModelError, match=r"--min-runtime is 2\.5: the original needs that too"):
        compatibility.refuse_newer(new, source("2.20.0", runtime="2.6"), "2.5")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    def build():
        x = tf1.placeholder(tf.float32, [None, 64], name="x")
        weights = tf1.get_variable("weights", initializer=normal(64, 256), use_resource=True)
        return {"serving_default": ({"x": x}, {"y": tf.matmul(x, weights)})}

    return save_v1(tmp_path_factory.mktemp("model") / "original", build)


def test_reexport_refuses_and_leaves_nothing_behind(model, tmp_path):
    freeze(model, tmp_path / "frozen")
    quantize(tmp_path / "frozen", tmp_path / "quantized", encoding="int4")
    with pytest.raises(ModelError, match=r"DecodeCompressed|BitwiseAnd|RightShift"):
        reexport(tmp_path / "quantized", tmp_path / "slim", min_runtime="1.4")
    with pytest.raises(UsageError, match="--min-runtime soon"):
        reexport(tmp_path / "quantized", tmp_path / "slim", min_runtime="soon")
    assert not (tmp_path / "slim").exists()
    report = reexport(tmp_path / "quantized", tmp_path / "slim", min_runtime="2.4")
    assert sum("needs TensorFlow 1." in note for note in report.notes) == 1
    assert json.loads(json.dumps(inspect(tmp_path / "slim", ["serve"]).to_json()))["needs"]["tensorflow"] < "2"


def test_slim_holds_the_result_to_it(model, tmp_path):
    with pytest.raises(ModelError, match=r"--min-runtime is 1\.3"):
        slim(model, tmp_path / "slim", encoding="int4", min_runtime="1.3")
    assert not (tmp_path / "slim").exists()


def test_inspect_names_the_node_that_asks_for_the_newest(model):
    needs = inspect(model, ["serve"]).needs
    assert (needs.tensorflow, needs.node) == ("2.16", "MatMul")
    assert "grad_" in needs.because


@pytest.mark.parametrize("encoding", ["int8", "int4", "int11", "int3.5", "palette4", "float16", "lossless", "sparse8"])
def test_no_encoding_asks_for_more_than_tensorflow_1_6(model, tmp_path, encoding):
    """All were loaded and run in each release from 1.6 to 2.21; what decodes them may not come to need a newer one."""

    def encoded(bundle):
        return stages.quantized(bundle, Choice(encoding), NO_HARM, lambda *_: None)

    need = compatibility.needs_of(meta_graph(slimmed(model, tmp_path, encoded).path).graph_def)
    assert need.release <= (1, 6), need
