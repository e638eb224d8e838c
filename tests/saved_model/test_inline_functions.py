"""Inlined graphs compute what the calls did, with the same effects, and nothing of a call is left."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import function_pb2

from tests.saved_models import normal, save_v2, served, slimmed
from tfslim_core.errors import ModelError
from tfslim_core.graph import make_node
from tfslim_core.saved_model import inline_functions as module
from tfslim_core.saved_model.inline_functions import inline_functions

tf1 = tf.compat.v1
X = normal(4, 6)
CALLS = {"PartitionedCall", "StatefulPartitionedCall"}


def run(graph_def, fetches, feeds, turns=1):
    with tf1.Session(graph=tf.Graph()) as session:
        tf1.import_graph_def(graph_def, name="")
        init = [n.name for n in graph_def.node if n.name == "init"]
        if init:
            session.run(init)
        return [session.run(fetches, feeds) for _ in range(turns)]


def inlined(graph_def):
    functions = {f.signature.name: f for f in graph_def.library.function}
    result = inline_functions(graph_def.node, functions)
    made = tf1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    made.node.extend(result.nodes.values())
    return result, made


def check(graph_def, outputs, feeds, left=(), turns=1):
    """The same values of the tensors `outputs`, found where the result says they are now."""
    result, made = inlined(graph_def)
    wanted = run(graph_def, outputs, feeds, turns)
    found = run(made, [result.tensor(name) for name in outputs], feeds, turns)
    for before, after in zip(wanted, found, strict=True):
        for name, a, b in zip(outputs, before, after, strict=True):
            np.testing.assert_array_equal(b, a, err_msg=name)
    functions = {f.signature.name for f in graph_def.library.function}
    assert {n.op for n in made.node if n.op in CALLS or n.op in functions} == set(left)
    return made


def graph_of(build):
    with tf1.Graph().as_default() as graph:
        build()
    return graph.as_graph_def()


def test_calls_within_calls_and_ops_with_several_outputs(tmp_path):
    @tf.function
    def inner(x):
        values, places = tf.math.top_k(x, 2)
        left, middle, right = tf.split(x, 3, axis=1)
        return right, places, {"values": values, "left": left}, middle

    @tf.function
    def outer(x):
        right, places, more, middle = inner(x)
        again = inner(tf.concat([right, middle, more["left"]], 1))
        return places, again[2]["values"], again[0], middle, x

    def build():
        x = tf1.placeholder(tf.float32, [None, 6], name="x")
        for number, tensor in enumerate(outer(x)):
            tf.identity(tensor, f"y{number}")
        tf.add(outer(x * 2)[2], outer(x)[3], "sum")

    graph_def = graph_of(build)
    assert any(n.op in CALLS for n in graph_def.node)
    check(graph_def, ["y0:0", "y1:0", "y2:0", "y3:0", "y4:0", "sum:0"], {"x:0": X})
    calls = [n.name for n in graph_def.node if n.op in CALLS]
    check(graph_def, [f"{calls[0]}:{port}" for port in range(5)], {"x:0": X})


def function(name, arguments, results, nodes, ret, control_ret=(), attrs=(), stateful=False):
    """A FunctionDef. arguments, results: name -> dtype or the name of an attribute."""
    made = function_pb2.FunctionDef()
    made.signature.name = name
    made.signature.is_stateful = stateful
    for target, entries in ((made.signature.input_arg, arguments), (made.signature.output_arg, results)):
        for key, dtype in entries.items():
            if isinstance(dtype, str):
                target.add(name=key, type_attr=dtype)
            else:
                target.add(name=key, type=dtype.as_datatype_enum)
    for attr in attrs:
        made.signature.attr.add(name=attr, type="type")
    made.node_def.extend(nodes)
    made.ret.update(ret)
    for key in control_ret:
        made.control_ret[key] = key
        made.signature.control_output.append(key)
    return made


def typed(op, name, inputs, attribute="T"):
    node = make_node(op, name, inputs)
    node.attr["T"].placeholder = attribute
    return node


def scaled():
    """y = (x + x) * x for any dtype, and x itself."""
    nodes = [typed("AddV2", "twice", ["x", "x"]), typed("Mul", "y", ["twice:z:0", "x"])]
    return function("scaled", {"x": "T"}, {"y": "T", "same": "T"}, nodes, {"y": "y:z:0", "same": "x"}, attrs=["T"])


def placeholder(name, dtype=tf.float32):
    return make_node("Placeholder", name, [], dtype=dtype)


def test_a_node_whose_op_is_a_function_and_whose_dtype_the_caller_decides():
    graph_def = tf1.GraphDef()
    graph_def.library.function.append(scaled())
    graph_def.node.extend(
        [
            placeholder("x"),
            placeholder("n", tf.int32),
            make_node("scaled", "floats", ["x"], T=tf.float32),
            make_node("scaled", "ints", ["n"], T=tf.int32),
            make_node("Identity", "again", ["floats:1"], T=tf.float32),
        ]
    )
    result, made = inlined(graph_def)
    del made.library.function[:]  # TensorFlow's Python cannot import such a function
    outputs = [result.tensor(name) for name in ("floats:0", "ints:0", "ints:1", "again:0")]
    floats, ints, same, again = run(made, outputs, {"x:0": X, "n:0": np.arange(3)})[0]
    np.testing.assert_allclose(floats, 2 * X * X, rtol=1e-6)
    assert (ints.tolist(), same.tolist()) == ([0, 2, 8], [0, 1, 2])
    assert again.tolist() == X.tolist()
    assert [n.input[:] for n in made.node if n.name == "floats/twice"] == [["x", "x"]]


def test_a_function_that_calls_itself_stays_a_call():
    call = make_node("StatefulPartitionedCall", "again", ["less:z:0"])
    less = make_node("Sub", "less", ["x", "one:output:0"], T=tf.float32)
    one = make_node("Const", "one", [], dtype=tf.float32)
    one.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.float32(1)))
    graph_def = tf1.GraphDef()
    down = function("down", {"x": tf.float32}, {"y": tf.float32}, [one, less, call], {"y": "again:output:0"})
    outer = make_node("StatefulPartitionedCall", "call", ["x"])
    for node in (call, outer):
        node.attr["f"].func.name = "down"
        for key in ("Tin", "Tout"):
            node.attr[key].list.type.append(1)
    down.node_def[-1].CopyFrom(call)
    graph_def.library.function.append(down)
    graph_def.node.extend([placeholder("x"), outer])
    result, made = inlined(graph_def)
    assert [n.op for n in made.node] == ["Placeholder", "Const", "Sub", "StatefulPartitionedCall", "Identity"]
    assert result.tensor("call") == "call/output_0:0"


def counter(shared="counter"):
    node = make_node("VarHandleOp", "handle", [], dtype=tf.int32, shared_name=shared)
    node.attr["shape"].shape.SetInParent()
    return node


def counting_graph():
    """`call` adds 1 to a counter and returns its argument; `init` sets it to 0; `now` reads it."""
    one = make_node("Const", "one", [], dtype=tf.int32)
    one.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.int32(1)))
    zero = make_node("Const", "zero", [], dtype=tf.int32)
    zero.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.int32(0)))
    add = make_node("AssignAddVariableOp", "add", ["v", "one:output:0"], dtype=tf.int32)
    body = function(
        "count", {"x": tf.float32, "v": tf.resource}, {"y": tf.float32}, [one, add], {"y": "x"}, ["add"], stateful=True
    )
    call = make_node("StatefulPartitionedCall", "call", ["x", "handle"])
    call.attr["f"].func.name = "count"
    call.attr["Tin"].list.type.extend([tf.float32.as_datatype_enum, tf.resource.as_datatype_enum])
    call.attr["Tout"].list.type.append(tf.float32.as_datatype_enum)
    graph_def = tf1.GraphDef()
    graph_def.library.function.append(body)
    graph_def.node.extend(
        [
            placeholder("x"),
            counter(),
            zero,
            make_node("AssignVariableOp", "init", ["handle", "zero"], dtype=tf.int32),
            call,
            make_node("ReadVariableOp", "after", ["handle", "^call"], dtype=tf.int32),
            make_node("ReadVariableOp", "now", ["handle"], dtype=tf.int32),
        ]
    )
    return graph_def


def test_who_fetches_an_output_of_a_call_or_waits_for_it_gets_its_effects():
    check(counting_graph(), ["call:0", "after:0"], {"x:0": X}, turns=3)
    result, made = inlined(counting_graph())
    with tf1.Session(graph=tf.Graph()) as session:
        tf1.import_graph_def(made, name="")
        session.run("init")
        session.run(result.tensor("call"), {"x:0": X})
        assert session.run("now:0") == 1
        assert session.run("after:0", {"x:0": X}) == 2


def test_an_effect_waits_for_what_its_call_waited_for():
    graph_def = counting_graph()
    (call,) = (n for n in graph_def.node if n.name == "call")
    two = make_node("Const", "ten", [], dtype=tf.int32)
    two.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.int32(10)))
    graph_def.node.extend([two, make_node("AssignVariableOp", "set", ["handle", "ten"], dtype=tf.int32)])
    call.input.append("^set")
    check(graph_def, ["after:0"], {"x:0": X}, turns=3)
    assert run(graph_def, ["after:0"], {"x:0": X}, 3) == [[11], [11], [11]]


def test_a_call_without_effects_hands_on_what_it_waited_for():
    """after waits for call, call waits for set: still so when the body has nothing to wait with."""
    graph_def = counting_graph()
    ten = make_node("Const", "ten", [], dtype=tf.int32)
    ten.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.int32(10)))
    nothing = function("nothing", {"x": tf.float32}, {"y": tf.float32}, [], {"y": "x"})
    pure = make_node("PartitionedCall", "pure", ["x", "^set"])
    pure.attr["f"].func.name = "nothing"
    for key in ("Tin", "Tout"):
        pure.attr[key].list.type.append(1)
    graph_def.library.function.append(nothing)
    graph_def.node.extend(
        [
            ten,
            make_node("AssignVariableOp", "set", ["handle", "ten"], dtype=tf.int32),
            pure,
            make_node("ReadVariableOp", "then", ["handle", "^pure"], dtype=tf.int32),
        ]
    )
    check(graph_def, ["then:0"], {"x:0": X})
    assert run(graph_def, ["then:0"], {"x:0": X}) == [[10]]


def test_an_output_of_a_call_that_waited_also_waits():
    """Whoever fetches pure:0 runs `set`, though pure's body has no effect of its own."""
    graph_def = counting_graph()
    ten = make_node("Const", "ten", [], dtype=tf.int32)
    ten.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.int32(10)))
    graph_def.library.function.append(scaled())
    graph_def.node.extend(
        [
            ten,
            make_node("AssignVariableOp", "set", ["handle", "ten"], dtype=tf.int32),
            make_node("scaled", "pure", ["x", "^set"], T=tf.float32),
        ]
    )
    for port in (0, 1):
        result, made = inlined(graph_def)
        del made.library.function[:]
        with tf1.Session(graph=tf.Graph()) as session:
            tf1.import_graph_def(made, name="")
            session.run("init")
            session.run(result.tensor(f"pure:{port}"), {"x:0": X})
            assert session.run("now:0") == 10


@pytest.mark.parametrize("first", ["read", "write"])
def test_reading_in_a_call_and_writing_beside_it_keep_their_order(tmp_path, first):
    class Both(tf.Module):
        def __init__(self):
            super().__init__()
            self.v = tf.Variable(normal(200, 200))

        @tf.function
        def read(self):
            return tf.reduce_sum(tf.linalg.matmul(self.v, self.v))

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="by")])
        def __call__(self, by):
            if first == "read":
                before = self.read()
                self.v.assign(tf.zeros([200, 200]) + by)
                return {"sum": before}
            self.v.assign(tf.zeros([200, 200]) + by)
            return {"sum": self.read()}

    model = Both()
    original = save_v2(tmp_path / "m", model, serving_default=model.__call__)
    slim = slimmed(original, tmp_path)
    requests = [("serving_default", {"by": np.float32(by)}) for by in (1, 2, 3, 4)]
    wanted = [float(answer["sum"]) for answer in served(original, requests)]
    assert [float(answer["sum"]) for answer in served(slim.path, requests)] == wanted
    edges = {n.name: [text for text in n.input if text.startswith("^")] for n in slim.bundle.graph.nodes.values()}
    (write,) = (n.name for n in slim.bundle.graph.nodes.values() if n.op == "AssignVariableOp")
    reads = [n.name for n in slim.bundle.graph.nodes.values() if n.op == "ReadVariableOp"]
    assert reads
    for read in reads:
        assert (f"^{read}" in edges[write]) if first == "read" else (f"^{write}" in edges[read])


def test_a_branch_of_tensorflow_1_that_is_not_taken_has_no_effect():
    def build():
        tf1.disable_control_flow_v2()
        try:
            x = tf1.placeholder(tf.float32, [None, 6], name="x")
            count = tf1.get_variable("count", initializer=0, use_resource=True)
            tf.group(count.initializer, name="init")

            @tf.function
            def counted():
                count.assign_add(1)
                return tf.constant(5.0)

            tf.identity(tf1.cond(tf.reduce_sum(x) > 0, counted, lambda: tf.constant(7.0)), "y")
            with tf1.control_dependencies(["y"]):
                tf.identity(count.read_value(), "count_now")
        finally:
            tf1.enable_control_flow_v2()

    graph_def = graph_of(build)
    assert "Switch" in {n.op for n in graph_def.node}
    for sign in (1, -1):
        check(graph_def, ["y:0", "count_now:0"], {"x:0": sign * np.abs(X)}, turns=2)


def test_a_call_in_a_loop_of_tensorflow_1_runs_in_every_turn():
    def build():
        tf1.disable_control_flow_v2()
        try:
            x = tf1.placeholder(tf.float32, [None, 6], name="x")

            @tf.function
            def grown(y):
                return y * 2 + tf.constant(1.0), tf.constant(3.0)

            @tf.function
            def turn(i, y):
                y, three = grown(y)
                return i + 1, y + three

            tf.identity(tf1.while_loop(lambda i, y: i < 3, turn, [0, x])[1], "y")
        finally:
            tf1.enable_control_flow_v2()

    graph_def = graph_of(build)
    assert "Enter" in {n.op for n in graph_def.node}
    check(graph_def, ["y:0"], {"x:0": X})


def test_dtype_lists_and_lists_of_tensors_keep_their_ports():
    """IdentityN (a list of dtypes) and Unpack (a list of tensors) inside a function."""

    @tf.function
    def several(x):
        rows = tf.unstack(x, axis=1)
        a, b = tf.raw_ops.IdentityN(input=[rows[4], tf.cast(rows[1], tf.int32)])
        return b, rows[5], a

    def build():
        x = tf1.placeholder(tf.float32, [None, 6], name="x")
        for number, tensor in enumerate(several(x)):
            tf.identity(tensor, f"y{number}")

    check(graph_of(build), ["y0:0", "y1:0", "y2:0"], {"x:0": X * 9})


def test_a_small_library_that_unfolds_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MOST_NODES", 500)
    graph_def = tf1.GraphDef()
    graph_def.library.function.append(scaled())
    for level in range(12):
        called = f"level{level - 1}" if level else "scaled"
        nodes = [typed(called, "a", ["x"]), typed(called, "b", ["a:y:0"])]
        made = function(f"level{level}", {"x": "T"}, {"y": "T", "same": "T"}, nodes, {"y": "b:y:0", "same": "x"})
        made.signature.attr.add(name="T", type="type")
        graph_def.library.function.append(made)
    graph_def.node.extend([placeholder("x"), make_node("level11", "call", ["x"], T=tf.float32)])
    with pytest.raises(ModelError, match="unfolds into more than"):
        inlined(graph_def)


def test_functions_called_in_an_init_op_still_fill_the_table(tmp_path):
    class Words(tf.Module):
        def __init__(self):
            super().__init__()
            self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], [7, 8]), -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="key")])
        def __call__(self, key):
            return {"value": self.table.lookup(key)}

    model = Words()
    original = save_v2(tmp_path / "m", model, serving_default=model.__call__)
    slim = slimmed(original, tmp_path)
    request = [("serving_default", {"key": np.array([b"b", b"?", b"a"], object)})]
    assert served(slim.path, request)[0]["value"].tolist() == [8, -1, 7]
    assert not slim.bundle.graph.functions
