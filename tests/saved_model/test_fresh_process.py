from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfslim_core.errors import DataError, ModelError
from tfslim_core.saved_model import fresh_process
from tfslim_core.saved_model.fresh_process import Conversation, ModelProcess, Request, answers
from tfslim_core.saved_model.server_loader import ServedModel

tf1 = tf.compat.v1
GUESSLANG = Path(__file__).parents[2] / ".cache/models/guesslang/data/model"
TEXTS = np.array([b"import os\nprint(1)" * 5, b"a\0b", b""], object)


@pytest.fixture(scope="module")
def switch(tmp_path_factory) -> str:
    """Prints on stdout and stderr, then adds 1; loops without end when it is fed a negative number."""
    path = str(tmp_path_factory.mktemp("model") / "switch")
    with tf1.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.int32, [None], name="x")
        printed = [tf.print("printed by the model", output_stream=stream) for stream in (sys.stdout, sys.stderr)]
        with tf1.control_dependencies(printed):
            start = tf.reduce_min(x)
        y = tf.while_loop(lambda i: i < 0, lambda i: tf.minimum(i, -1), [start]) + x + 1
        signature = tf1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder = tf1.saved_model.Builder(path)
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    return path


def count(*numbers: int) -> Request:
    return Request("serving_default", {"x": np.array(numbers, np.int32)})


def test_a_child_answers_as_the_loader_does_here():
    feeds = {"inputs": TEXTS}
    with ServedModel(GUESSLANG) as model:
        expected = model.run("serving_default", feeds)
    (answer,) = answers(GUESSLANG, [Request("serving_default", feeds)])
    assert not isinstance(answer, ModelError)
    assert answer.keys() == expected.keys()
    assert answer["classes"].tolist() == expected["classes"].tolist()
    np.testing.assert_allclose(answer["scores"], expected["scores"], rtol=1e-5)
    assert np.ptp(expected["scores"]) > 0.1


def test_an_error_comes_in_the_place_of_its_answer(switch):
    wrong_key = Request("serving_default", {"z": np.ones(1)})
    first, refused, unknown, last = answers(switch, [count(1), wrong_key, Request("nope", {}), count(2)])
    assert first["y"].tolist() == [3]
    assert isinstance(refused, ModelError)
    assert "takes the inputs: x; it was fed: z" in str(refused)
    assert isinstance(unknown, ModelError)
    assert "no signature 'nope'" in str(unknown)
    assert last["y"].tolist() == [5]


def test_a_model_that_does_not_load_raises(tmp_path):
    with pytest.raises(ModelError, match="no such directory"):
        answers(tmp_path / "missing", [count(1)])


def test_a_request_that_takes_too_long_does_not_stop_the_others(switch):
    late, fine = answers(switch, [count(-1), count(2)], timeout=4)
    assert isinstance(late, ModelError)
    assert "no answer within 4 s" in str(late)
    assert fine["y"].tolist() == [5]


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGKILL])
def test_a_child_that_dies_is_told_by_its_signal(switch, number):
    with ModelProcess(switch, [count(1)]) as process:
        child = process._child._process.pid
        threading.Timer(0.3, os.kill, (child, number)).start()
        with pytest.raises(ModelError, match=f"was killed by {number.name}") as told:
            process.time(count(-1), 1)
        assert "it said: printed by the model" in str(told.value)
        assert "\n" not in str(told.value)
        with pytest.raises(ModelError):
            process.peak_rss_bytes()
        with pytest.raises(ModelError):
            process.time(0, 1)


def test_a_process_is_timed_and_measured(switch):
    with ModelProcess(switch, [count(1), count(2)]) as process:
        assert 0 < process.load_seconds < 60
        assert process.first_request_ms is not None
        assert len(process.time(1, 7)) == 7
        assert len(process.time(count(3, 4), 2)) == 2
        assert 50e6 < process.peak_rss_bytes() < 4e9
        with pytest.raises(DataError, match="it was fed: nothing"):
            process.time(Request("serving_default", {}), 1)
    with pytest.raises(ModelError, match="was closed"):
        process.time(0, 1)


def test_nothing_of_the_child_reaches_the_terminal(switch, capfd):
    answers(switch, [count(1)])
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_the_child_ends_with_its_parent(switch):
    script = f"""
import os
import numpy as np
from tfslim_core.saved_model.fresh_process import ModelProcess, Request
process = ModelProcess({switch!r})
print(process._child._process.pid, flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    child = Path(f"/proc/{int(done.stdout)}")
    deadline = time.monotonic() + 10
    while child.exists() and "Z" not in child.joinpath("stat").read_text().split()[2] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.exists() or child.joinpath("stat").read_text().split()[2] == "Z"


def test_a_conversation_starts_one_child_and_ends_it(switch):
    with Conversation(switch) as conversation:
        assert conversation._child is None
        assert conversation.ask(count(1))["y"].tolist() == [3]
        child = conversation._child
        conversation.ask(count(2))
        assert conversation._child is child
    assert not child.alive


def test_the_child_does_not_import_tensorflow():
    script = f"import sys, {fresh_process.__name__}; print([m for m in sys.modules if m.startswith('tensorflow')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_child_is_up_in_about_a_second(switch):
    start = time.perf_counter()
    ModelProcess(switch).close()
    # Half a second on a quiet machine; importing the Python package would take five.
    assert time.perf_counter() - start < 3
