"""A program in another language reads what tfslim writes: TensorFlow's Java API, of another TensorFlow release."""

import base64
import hashlib
import json
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import GUESSLANG, normal, save_v1, save_v2, served, slimmed
from tfslim_core import compatibility, stages
from tfslim_core.quantization.encode_weights import Choice
from tfslim_core.quantization.harm import NO_HARM
from tfslim_core.saved_model.read import read_saved_model
from tfslim_core.saved_model.server_loader import ServedModel

HERE = Path(__file__).parent
JARS = Path(__file__).parents[2] / ".cache/java"
tf1 = tf.compat.v1


@dataclass(frozen=True)
class Case:
    """A slim model, and what it is asked."""

    slim: Path
    signature: str
    feeds: dict[str, np.ndarray]


def locked_jars() -> list[Path]:
    """The jars, each with the bytes that the lock names; the test is skipped where there are none."""
    if shutil.which("java") is None:
        pytest.skip("there is no java to run TensorFlow's Java API with (Debian: default-jdk-headless)")
    if platform.machine() != "x86_64":
        pytest.skip(f"jars.lock has TensorFlow for x86_64, not for {platform.machine()}")
    found = []
    for line in (HERE / "jars.lock").read_text().splitlines():
        digest, name = line.split()
        if not (JARS / name).exists():
            pytest.skip(f"{name} was not fetched; `make setup` does it where there is Maven (Debian: maven)")
        assert hashlib.sha256((JARS / name).read_bytes()).hexdigest() == digest, f"{name} is not the one in jars.lock"
        found.append(JARS / name)
    return found


def dense(folder: Path) -> Case:
    """Layers in int8, decoded at load, and an embedding whose rows are decoded after the gather."""

    def build():
        ids, x = tf1.placeholder(tf.int32, [None, 4], name="ids"), tf1.placeholder(tf.float32, [None, 64], name="x")
        table = tf1.get_variable("table", initializer=normal(3000, 64), use_resource=True)
        weights = tf1.get_variable("weights", initializer=normal(64, 512, seed=1), use_resource=True)
        hidden = tf.nn.relu(tf.matmul(tf.reduce_mean(tf.gather(table, ids), 1) + x, weights))
        return {"serving_default": ({"ids": ids, "x": x}, {"sum": tf.reduce_sum(hidden, 1), "hidden": hidden})}

    original = save_v1(folder / "dense", build)
    slim = slimmed(
        original, folder / "slim", lambda bundle: in_int8(in_int8(bundle, "rows", "table*"), None, "weights*")
    )
    assert {weight.placement for weight in slim.bundle.manifest.weights} >= {"rows", "load"}
    feeds = {"ids": np.array([[1, 2, 3, 4], [2999, 0, 7, 7]], np.int32), "x": normal(2, 64, seed=2)}
    return Case(slim.path, "serving_default", feeds)


def in_int8(bundle, placement, pattern):
    return stages.quantized(bundle, Choice("int8", include=(pattern,), placement=placement), NO_HARM, lambda *_: None)


def table(folder: Path) -> Case:
    """Words looked up in a table that is filled from an asset file, to strings and int64."""
    words = folder / "words.txt"
    words.write_text("".join(f"word{n}\n" for n in range(100)))

    class Words(tf.Module):
        def __init__(self):
            super().__init__()
            text = tf.lookup.TextFileInitializer(
                str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            )
            self.ids = tf.lookup.StaticHashTable(text, -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
        def look_up(self, text):
            return {"ids": self.ids.lookup(text), "loud": tf.strings.upper(text)}

    module = Words()
    original = save_v2(folder / "table", module, serving_default=module.look_up)
    feeds = {"text": np.array([b"word7", b"nothing", b"", "größe".encode()], object)}
    return Case(slimmed(original, folder / "slim").path, "serving_default", feeds)


def guesslang(folder: Path) -> Case:
    """A real classifier of source code: strings in, strings and floats out."""
    slim = slimmed(GUESSLANG, folder / "slim", lambda bundle: in_int8(bundle, None, "*"))
    texts = [b"def add(a, b):\n    return a + b\n", b"#include <stdio.h>\nint main() { return 0; }"]
    with ServedModel(GUESSLANG) as model:
        name = next(name for name, one in model.signatures.items() if "predict" in one.method_name)
        key = next(iter(model.signatures[name].inputs))
    return Case(slim.path, name, {key: np.array(texts, object)})


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    locked_jars()
    return {build.__name__: build(tmp_path_factory.mktemp(build.__name__)) for build in (dense, table, guesslang)}


@pytest.fixture(scope="module")
def answers(cases):
    """TensorFlow's version, and the answers of the Java API by case: arrays by output key."""
    found = ask(locked_jars(), [line for case in cases.values() for line in asking(case)])
    by_case = zip(cases, found["answers"], strict=True)
    return found["tensorflow"], {name: {key: array(o) for key, o in got.items()} for name, got in by_case}


def ask(jars, lines) -> dict:
    """What Reader.java prints."""
    done = subprocess.run(
        [
            *("java", f"-Dorg.bytedeco.javacpp.cachedir={JARS / 'native'}", "-cp", ":".join(map(str, jars))),
            str(HERE / "Reader.java"),
        ],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def asking(case: Case) -> list[str]:
    lines = [f"model {case.slim}"]
    for key, value in case.feeds.items():
        words = value.reshape(-1).tolist()
        if value.dtype == object:
            words = [base64.b64encode(word).decode() for word in words]
        dimensions = ",".join(map(str, value.shape)) or "-"
        lines.append(f"input {key} {value.dtype.name} {dimensions} {','.join(map(str, words))}")
    return [*lines, f"request {case.signature}"]


def array(output):
    """One output as an array: floats, strings as bytes, or integers."""
    read = {"DT_FLOAT": np.float32, "DT_STRING": base64.b64decode}.get(output["dtype"], int)
    made = np.empty(len(output["values"]), object)
    made[:] = [read(value) for value in output["values"]]
    return made.reshape(output["shape"])


@pytest.mark.parametrize("name", ["dense", "table", "guesslang"])
def test_the_java_api_answers_as_the_cpp_loader_does(name, cases, answers):
    case, found = cases[name], answers[1][name]
    (wanted,) = served(case.slim, [(case.signature, case.feeds)])
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key].shape == value.shape, key
        if value.dtype.kind == "f":
            # Sums in another order, by another release.
            np.testing.assert_allclose(found[key].astype(np.float32), value, rtol=1e-4, atol=1e-5, err_msg=key)
            assert np.ptp(value) > 0
        else:
            assert found[key].tolist() == value.tolist(), key


def test_the_reader_is_of_an_older_release_that_the_result_says_it_runs_on(cases, answers):
    release = compatibility.release(answers[0])
    assert release < compatibility.release(tf.__version__)
    for case in cases.values():
        graph_def = read_saved_model(case.slim, ["serve"], None).meta_graph.graph_def
        assert compatibility.needs_of(graph_def).release <= release


def test_the_comparison_can_fail(cases, answers):
    """Answers to other feeds are others."""
    case = cases["dense"]
    (other,) = served(case.slim, [(case.signature, {**case.feeds, "x": case.feeds["x"] + 1})])
    assert not np.allclose(other["sum"], answers[1]["dense"]["sum"].astype(np.float32), rtol=1e-4)
