"""Transform lists as old answers and the old tool's own documentation give them, word for word."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.graphs import building
from tfslim_core import api
from tfslim_core.drop_in import SIGNATURE, as_bundle, plain_graph
from tfslim_core.errors import GraphError, TransformError

v1 = tf.compat.v1
RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(2, 16, 16, 3)).astype(np.float32)

# Those that change answers by design come with the largest error allowed, relative L2.
EXACT, EIGHT_BITS = 1e-5, 0.1
LISTS = {
    "recipe": (
        [
            "remove_nodes(op=Identity)",
            "merge_duplicate_nodes",
            "strip_unused_nodes",
            "fold_constants(ignore_errors=true)",
            "fold_batch_norms",
        ],
        EXACT,
    ),
    "quantize": (["quantize_nodes", "quantize_weights"], EIGHT_BITS),
    "deployment": (
        """
          strip_unused_nodes(type=float, shape="1,16,16,3")
          remove_nodes(op=Identity, op=CheckNumerics)
          fold_constants(ignore_errors=true)
          fold_batch_norms
          fold_old_batch_norms""",
        EXACT,
    ),
    "size": ("round_weights(num_steps=256)", 0.02),
    "eight bits": (
        'add_default_attributes strip_unused_nodes(type=float, shape="1,16,16,3") '
        "remove_nodes(op=Identity, op=CheckNumerics) fold_constants(ignore_errors=true) fold_batch_norms "
        "fold_old_batch_norms quantize_weights quantize_nodes strip_unused_nodes sort_by_execution_order",
        EIGHT_BITS,
    ),
    "mobile": (
        "strip_unused_nodes fold_constants(clear_output_shapes=true) fold_batch_norms fuse_resize_pad_and_conv "
        "fuse_resize_and_conv fuse_pad_and_conv quantize_weights(minimum_size=512) obfuscate_names",
        0.02,
    ),
    "a device": ('set_device(device="/cpu:0", if_default=true) remove_device', EXACT),
    "attributes": (
        'remove_attribute(attribute_name=_output_shapes) remove_attribute(attribute_name="_class", op_name=Const)',
        EXACT,
    ),
    "controls": ("remove_control_dependencies inline_partitionedcall sparsify_gather backport_concatv2", EXACT),
}


@pytest.fixture(scope="module")
def graph_def():
    """Convolution, batch norm, relu, pool, dense, softmax, as TensorFlow 1 froze them: reads, and a noted shape."""

    def weight(name, *shape, scale=0.3):
        value = tf.constant(RANDOM.normal(0, scale, shape).astype(np.float32), name=name)
        return tf.identity(value, name=f"{name}/read")

    with building() as graph:
        x = v1.placeholder(tf.float32, [None, 16, 16, 3], name="input")
        y = tf.nn.conv2d(tf.debugging.check_numerics(x, "input"), weight("conv/w", 3, 3, 3, 8), 2, "SAME", name="conv")
        statistics = (weight("gamma", 8) + 1, weight("beta", 8), weight("mean", 8), weight("var", 8) ** 2 + 0.1)
        y, *_ = v1.nn.fused_batch_norm(y, *statistics, is_training=False)
        y = tf.nn.max_pool2d(tf.nn.relu(y), 2, 2, "VALID")
        y = tf.reshape(tf.concat([y, y * 0.5], 3), [-1, 4 * 4 * 16])
        y = v1.nn.bias_add(tf.matmul(y, weight("dense/w", 256, 5, scale=0.05)), weight("dense/b", 5), name="logits")
        tf.nn.softmax(y, name="output")
        tf.abs(y, name="left_over")
    return graph.as_graph_def(add_shapes=True)


def answers(graph_def):
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        with v1.Session(graph=graph) as session:
            return session.run("output:0", {"input:0": X})


@pytest.mark.parametrize(("transforms", "allowed"), LISTS.values(), ids=LISTS)
def test_known_lists_work_word_for_word(graph_def, transforms, allowed):
    wanted = answers(graph_def)
    assert wanted.std(axis=0).max() > 0.05
    made = api.transform_graph(graph_def, ["input"], ["output"], transforms)
    found = answers(made)
    assert np.linalg.norm(found - wanted) <= allowed * np.linalg.norm(wanted)
    assert made.versions == graph_def.versions
    if "fold_batch_norms" in str(transforms):
        assert not [node.name for node in made.node if "BatchNorm" in node.op]


def test_eight_bits_are_a_quarter_of_the_size(graph_def):
    small = api.transform_graph(graph_def, ["input"], ["output"], "strip_unused_nodes quantize_weights")
    large = api.transform_graph(graph_def, ["input"], ["output"], "strip_unused_nodes")
    sizes = [sum(n.attr["value"].tensor.ByteSize() for n in g.node if n.op == "Const") for g in (small, large)]
    assert sizes[0] < 0.4 * sizes[1]


def test_names_of_nodes_and_of_tensors_are_both_taken(graph_def):
    plain, tensors, spaced = (
        api.transform_graph(graph_def, inputs, outputs, "strip_unused_nodes merge_duplicate_nodes")
        for inputs, outputs in ((["input"], ["output"]), (["input:0"], ["output:0"]), ([" input "], [" output"]))
    )
    assert plain == tensors == spaced


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        (["inputs"], ["output"], "no node for the input 'inputs'; did you mean 'input'?"),
        (["input"], ["outputs:0"], "no node for the output 'outputs:0'; did you mean 'output'?"),
        (["input"], ["output:1"], "the output 'output:1' does not exist: 'output' has 1 outputs"),
    ],
)
def test_a_name_that_is_not_there_is_told_with_the_nearest(graph_def, inputs, outputs, words):
    with pytest.raises(GraphError) as error:
        api.transform_graph(graph_def, inputs, outputs, "strip_unused_nodes")
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("transforms", "words"),
    [
        ("fold_batch_norm", "did you mean 'fold_batch_norms'?"),
        ("remove_nodes(ops=Identity)", "remove_nodes has no parameter 'ops'; did you mean 'op'?"),
        ("obfuscate_name", "did you mean 'obfuscate_names'?"),
        ("quantize_weights(minimum_size=many)", "minimum_size=many is not a value of type int"),
        ("remove_nodes(op='Identity')", "quote values with double quotes"),
    ],
)
def test_unknown_transforms_and_parameters_name_the_nearest(graph_def, transforms, words):
    with pytest.raises(TransformError) as error:
        api.transform_graph(graph_def, ["input"], ["output"], transforms)
    assert words in str(error.value)


def test_an_output_without_a_tensor_is_run_for_its_effect():
    with building() as graph:
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([b"a"], [3.0]), 0.0)
        x = v1.placeholder(tf.string, [None], name="x")
        table.lookup(x, name="y")
        tf.group(v1.tables_initializer(), name="init")
    found = next(node.name for node in graph.as_graph_def().node if "LookupTableFind" in node.op)
    made = api.transform_graph(graph.as_graph_def(), ["x"], [found, "init"], "strip_unused_nodes fold_constants")
    with tf.Graph().as_default() as again:
        tf.import_graph_def(made, name="")
        with v1.Session(graph=again) as session:
            session.run("init")
            assert session.run(f"{found}:0", {"x:0": [b"a", b"b"]}).tolist() == [3.0, 0.0]


def test_a_plain_graph_as_a_bundle(graph_def):
    bundle = as_bundle(plain_graph(graph_def, ["input"], ["output", "logits"]), Path("a.pb"))
    signature = bundle.manifest.signature_defs()[SIGNATURE]
    assert [d.size for d in signature.inputs["input:0"].tensor_shape.dim] == [-1, 16, 16, 3]
    assert {key: info.name for key, info in signature.outputs.items()} == {
        "output:0": "output:0",
        "logits:0": "logits:0",
    }
