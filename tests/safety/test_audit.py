"""The audit names what reaches beyond a model, wherever it hides, and lets pass what a served model needs."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tests.saved_models import BASIC_PITCH, GUESSLANG, save_v1, save_v2
from tfslim_core import api
from tfslim_core._tf_private import registered_op
from tfslim_core.errors import ModelError
from tfslim_core.safety import audit, refuse_dangerous
from tfslim_core.safety.audit import audit_meta_graphs
from tfslim_core.safety.dangerous_ops import DANGEROUS, HARMLESS_VALUES, IDLE_WHEN_EMPTY
from tfslim_core.saved_model.c_api import library

tf1 = tf.compat.v1


def doubled():
    x = tf1.placeholder(tf.float32, [None], name="x")
    return {"serving_default": ({"x": x}, {"y": x * 2})}


def found(path):
    return {finding.op: finding for finding in audit(path).findings}


@pytest.mark.parametrize("model", [GUESSLANG, BASIC_PITCH], ids=["guesslang", "basic_pitch"])
def test_real_models_touch_nothing_but_themselves(model):
    result = audit(model)
    assert result.nodes > 600
    assert not result.refused
    assert {finding.op for finding in result.findings} == {"RestoreV2", "SaveV2", "MergeV2Checkpoints"}
    restore = next(finding for finding in result.findings if finding.op == "RestoreV2")
    assert restore.at_load
    assert restore.reached_by == ("restore op",)
    refuse_dangerous(model)


def test_a_file_written_by_the_init_op_is_found_and_told_first(tmp_path):
    model = save_v1(tmp_path / "m", doubled, init=lambda: tf.io.write_file(str(tmp_path / "x"), "hi"))
    writes = found(model)["WriteFile"]
    assert (writes.refused, writes.at_load, writes.kind) == (True, True, "writes files")
    assert writes.reached_by == ("init op",)
    assert writes.paths == (str(tmp_path / "x"),)
    with pytest.raises(ModelError, match=r"refused as untrusted: WriteFile 'WriteFile' \(init op\) writes a file"):
        refuse_dangerous(model)
    assert not (tmp_path / "x").exists()


def test_ops_in_functions_and_ops_that_nothing_runs_are_found(tmp_path):
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="path")])
    def inner(path):
        return tf.io.read_file(path)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="path")])
    def call(path):
        return {"y": tf.cond(tf.strings.length(path) > 3, lambda: inner(path), lambda: inner("/etc/hostname"))}

    module.call = call
    model = save_v2(tmp_path / "m", module, serving_default=call)
    reads = [one for one in audit(model).refused if one.op == "ReadFile"]
    assert reads
    assert all(one.function and one.reached_by == ("signature serving_default",) for one in reads)
    proto = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    node = proto.meta_graphs[0].graph_def.node.add(name="left", op="ImmutableConst")
    node.attr["memory_region_name"].s = b"/etc/passwd"
    (model / "saved_model.pb").write_bytes(proto.SerializeToString())
    left = found(model)["ImmutableConst"]
    assert (left.reached_by, left.refused, left.paths) == ((), True, ("/etc/passwd",))
    assert "run by nothing" in left.line()


def test_a_vocabulary_that_is_an_asset_is_harmless_and_any_other_file_is_not(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")

    def build(asset):
        def made():
            text = tf1.placeholder(tf.string, [None], name="text")
            path = tf.constant(str(words))
            if asset:
                tf1.add_to_collection(tf1.GraphKeys.ASSET_FILEPATHS, path)
            init = tf.lookup.TextFileInitializer(
                path, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            )
            return {"serving_default": ({"text": text}, {"id": tf.lookup.StaticHashTable(init, -1).lookup(text)})}

        return made

    own = save_v1(tmp_path / "own", build(True), init=tf1.tables_initializer, assets=True)
    assert not audit(own).refused
    assert found(own)["InitializeTableFromTextFileV2"].at_load
    other = found(save_v1(tmp_path / "other", build(False), init=tf1.tables_initializer))
    assert other["InitializeTableFromTextFileV2"].refused
    assert other["InitializeTableFromTextFileV2"].paths == (str(words),)


def test_a_vocabulary_of_a_tf2_model_goes_through_calls_and_is_its_own(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")
    module = tf.Module()
    module.table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        ),
        1,
    )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def call(text):
        return {"id": module.table.lookup(text)}

    module.call = call
    model = save_v2(tmp_path / "m", module, serving_default=call)
    fills = found(model)["InitializeTableFromTextFileV2"]
    assert (fills.refused, fills.reached_by) == (False, ("init op",))
    api.freeze(model, tmp_path / "bundle")
    assert not audit(tmp_path / "bundle").refused
    assert found(tmp_path / "bundle")["InitializeTableFromTextFileV2"].at_load


def test_an_asset_path_with_something_appended_is_not_the_asset(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("a\n")

    def build():
        path = tf.constant(str(words))
        tf1.add_to_collection(tf1.GraphKeys.ASSET_FILEPATHS, path)
        x = tf1.placeholder(tf.float32, [], name="x")
        return {"serving_default": ({"x": x}, {"y": tf.io.read_file(tf.strings.join([path, "/../../secret"]))})}

    reads = found(save_v1(tmp_path / "m", build, assets=True))["ReadFile"]
    assert reads.refused
    assert "StringJoin computes" in reads.why
    assert "/../../secret" in reads.paths


def test_a_checkpoint_that_is_not_the_models_is_refused(tmp_path):
    def build():
        x = tf1.placeholder(tf.float32, [], name="x")
        (other,) = tf.raw_ops.RestoreV2(prefix="/other", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32])
        return {"serving_default": ({"x": x}, {"y": x + other})}

    restores = found(save_v1(tmp_path / "m", build))["RestoreV2"]
    assert (restores.refused, restores.paths, restores.reached_by) == (
        True,
        ("/other",),
        ("signature serving_default",),
    )


@pytest.mark.parametrize(
    ("op", "attributes", "kind"),
    [
        ("NoSuchOpAnywhere", {}, "code"),
        ("XlaCallModule", {}, "code"),
        ("DatasetFromGraph", {}, "code"),
        ("EagerPyFunc", {"token": b"0"}, "Python"),
        ("RpcClient", {}, "network"),
        ("PrintV2", {"output_stream": b"file:///tmp/x"}, "writes files"),
        ("DebugIdentity", {"debug_urls": [b"grpc://there:1"]}, "network"),
        ("DecodeProtoV2", {"descriptor_source": b"/tmp/x"}, "reads files"),
        ("ImmutableConst", {"memory_region_name": b"gs://bucket/x"}, "network"),
    ],
)
def test_each_kind_is_refused(op, attributes, kind):
    assert one_node(op, attributes).refused[0].kind == kind


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("PrintV2", {}),
        ("PrintV2", {"output_stream": b"stdout"}),
        ("DebugIdentity", {}),
        ("DecodeProtoV2", {"descriptor_source": b"local://"}),
        ("FixedUnigramCandidateSampler", {}),
    ],
)
def test_what_touches_nothing_with_its_setting_is_noted_only(op, attributes):
    result = one_node(op, attributes)
    assert not result.refused
    assert len(result.findings) == 1


def test_a_function_with_the_name_of_an_op_is_refused(tmp_path):
    meta_graph = meta_graph_pb2.MetaGraphDef()
    meta_graph.graph_def.library.function.add().signature.name = "Identity"
    meta_graph.graph_def.node.add(name="n", op="Identity")
    (finding,) = audit_meta_graphs(tmp_path, [meta_graph]).refused
    assert "takes the name of an op" in finding.why


def test_functions_that_call_each_other_in_a_circle_are_walked_once(tmp_path):
    meta_graph = meta_graph_pb2.MetaGraphDef()
    for name, callee in (("a", "b"), ("b", "a")):
        function = meta_graph.graph_def.library.function.add()
        function.signature.name = name
        function.signature.input_arg.add(name="p", type=7)
        call = function.node_def.add(name="call", op="StatefulPartitionedCall", input=["p"])
        call.attr["f"].func.name = callee
        function.node_def.add(name="read", op="ReadFile", input=["p"])
    node = meta_graph.graph_def.node.add(name="n", op="StatefulPartitionedCall", input=["n"])
    node.attr["f"].func.name = "a"
    meta_graph.signature_def["s"].outputs["y"].name = "n:0"
    result = audit_meta_graphs(tmp_path, [meta_graph])
    assert [finding.reached_by for finding in result.refused] == [("signature s",)] * 2


def test_the_code_of_a_lambda_layer_is_mentioned(tmp_path):
    model = save_v1(tmp_path / "m", doubled)
    (model / "keras_metadata.pb").write_bytes(b'..{"class_name": "Lambda", "config": {}}..')
    assert not audit(model).refused
    assert found(model)["Lambda"].kind == "Python"


def registry():
    """All OpDefs that TensorFlow has."""

    class Buffer(ctypes.Structure):
        _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("free", ctypes.c_void_p))

    library().TF_GetAllOpList.restype = ctypes.POINTER(Buffer)
    buffer = library().TF_GetAllOpList().contents
    return op_def_pb2.OpList.FromString(ctypes.string_at(buffer.data, buffer.length)).op


# Argument names that sound of a place outside; and ops that have one and yet reach nothing, with the reason.
OUTSIDE = re.compile(
    r"file|path|dir(?!ection)|address|_url|db_uri|prefix|memory_region|log_?dir|descriptor_source|mlir_module"
    r"|call_target_name|graph_def|protocol|^module$|^token$|data_source|^target$"
)
NAMES = re.compile(
    r"File(?!system)|Directory|Rpc|PyFunc|Python|Recv|Send(?!TPU)|DataService|LMDB|Sql|Summary(?!V2)|Dump|TFRecord"
    r"|TextLine|Restore|^Save|Snapshot.|CustomCall|CallModule|Collective|RemoteCall|Heartbeat|WholeFile"
)
REACH_NOTHING = {
    "computes a summary, and writes none": """AudioSummary AudioSummaryV2 HistogramSummary ImageSummary MergeSummary
        ScalarSummary TensorSummary TensorSummaryV2 DebugNumericSummaryV2 BoostedTreesMakeStatsSummary
        StatsAggregatorSummary ExperimentalStatsAggregatorSummary""",
    "for TPUs or GPUs, with no kernel on a CPU": """RecvTPUEmbeddingActivations XlaRecvTPUEmbeddingActivations
        XlaRecvTPUEmbeddingActivationsV2 XlaRecvTPUEmbeddingDeduplicationData XlaRecvTPUEmbeddingDeduplicationDataV2
        XlaSendTPUEmbeddingGradients XlaSendTPUEmbeddingGradientsV2 XlaRecv XlaSend XlaRecvFromHost XlaSendToHost
        _XlaRecvAtHost _XlaRecvAtHostV2 _XlaSendFromHost _XlaSendFromHostV2 _NcclBroadcastRecv _NcclBroadcastSend
        _NcclReduceRecv _NcclReduceSend""",
    "makes a name and opens nothing": "ShardedFilename ShardedFilespec",
    "a state of a reader that is flagged itself": "ReaderRestoreState ReaderRestoreStateV2",
    "a name in the statistics of a dataset": "SetStatsAggregatorDataset ExperimentalSetStatsAggregatorDataset",
    "says whether its components are names, and opens none": "TensorSliceDataset",
    "counts paths of a beam search": "CTCBeamSearchDecoder CTCBeamSearchDecoderV2",
}


def test_every_op_that_sounds_of_the_outside_is_classified():
    waved = {op for ops in REACH_NOTHING.values() for op in ops.split()}
    unknown = []
    for op in registry():
        names = [argument.name for argument in (*op.input_arg, *op.attr)]
        if (any(map(OUTSIDE.search, names)) or NAMES.search(op.name)) and op.name not in DANGEROUS | dict.fromkeys(
            waved
        ):
            unknown.append((op.name, names))
    assert not unknown
    assert not waved & DANGEROUS.keys()


def test_the_table_names_arguments_that_the_ops_have():
    for name, danger in DANGEROUS.items():
        definition = registered_op(name)
        if definition is None:
            continue
        arguments = {argument.name for argument in (*definition.input_arg, *definition.attr)}
        assert set(danger.paths) <= arguments, name
    assert HARMLESS_VALUES.keys() | IDLE_WHEN_EMPTY <= DANGEROUS.keys()


def one_node(op, attributes):
    meta_graph = meta_graph_pb2.MetaGraphDef()
    node = meta_graph.graph_def.node.add(name="n", op=op)
    for name, value in attributes.items():
        if isinstance(value, list):
            node.attr[name].list.s.extend(value)
        else:
            node.attr[name].s = value
    return audit_meta_graphs(Path("m"), [meta_graph])


def test_a_path_in_a_variable_is_the_models_own_only_if_nothing_else_is_assigned(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("a\n")
    module = tf.Module()
    module.asset = tf.saved_model.Asset(str(words))

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="text")])
    def call(text):
        return {"y": text + tf.io.read_file(module.asset.asset_path)}

    module.call = call
    model = save_v2(tmp_path / "m", module, serving_default=call)
    assert not found(model)["ReadFile"].refused
    proto = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    graph_def = proto.meta_graphs[0].graph_def
    (variable,) = (node for node in graph_def.node if node.op == "VarHandleOp")
    other = graph_def.node.add(name="other", op="VarHandleOp")
    for name in ("dtype", "shape"):
        other.attr[name].CopyFrom(variable.attr[name])
    other.attr["shared_name"].s = variable.attr["shared_name"].s or variable.name.encode()
    value = graph_def.node.add(name="value", op="Const")
    value.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(b"/etc/passwd"))
    assign = graph_def.node.add(name="assign", op="AssignVariableOp", input=["other", "value"])
    assign.attr["dtype"].type = tf.string.as_datatype_enum
    (model / "saved_model.pb").write_bytes(proto.SerializeToString())
    assert found(model)["ReadFile"].refused
    assert found(model)["ReadFile"].paths == ("/etc/passwd",)
