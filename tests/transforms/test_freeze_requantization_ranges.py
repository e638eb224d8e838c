import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests import old_tool
from tests.graphs import building, normal, op_counts, op_delta, reasons, run, values, view, whole_graph_def
from tfslim_core.errors import DataError, TransformError
from tfslim_core.graph import Graph, control_inputs
from tfslim_core.requantization_log import batches_of, measuring_nodes, read_log, record_ranges
from tfslim_core.transforms import apply
from tfslim_core.transforms.freeze_requantization_ranges import freeze_requantization_ranges
from tfslim_core.transforms.quantize_nodes import quantize_nodes

v1 = tf.compat.v1
raw = tf.raw_ops
NODE = "a/eightbit/requant_range"


def quantized(batch=None):
    """Two layers in eight bits, whose ranges are measured."""
    with building() as g:
        x = v1.placeholder(tf.float32, [batch, 6], "x")
        h = raw.MatMul(a=x, b=tf.constant(normal(6, 5)), name="a")
        h = raw.Relu(features=raw.BiasAdd(value=h, bias=tf.constant(normal(5)), name="b"))
        y = tf.exp(h * 0.1, name="y")
    float_graph = view(g, [x], [y])
    return float_graph, quantize_nodes(float_graph).graph


def line(low, high, node=NODE):
    return f";{node}__print__;__requant_min_max:[{low}][{high}]"


def log_of(path, *lines):
    file = path / "log.txt"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def frozen(outcome, node=NODE):
    return tuple(float(values(outcome.graph)[f"{node}/frozen_{end}"]) for end in ("min", "max"))


def test_measured_ranges_become_constants(tmp_path):
    _, graph = quantized()
    outcome = freeze_requantization_ranges(graph, min_max_log_file=log_of(tmp_path, line(-3.5, 4)))
    assert outcome.changes == 1
    assert frozen(outcome) == (-3.5, 4)
    assert op_delta(graph, outcome.graph) == {"RequantizationRange": -1, "Const": 2}
    assert reasons(outcome) == {name: "there is no range of it" for name in measuring_nodes(graph) if name != NODE}
    feeds = {"x:0": normal(3, 6, scale=0.3)}
    np.testing.assert_allclose(run(outcome.graph, feeds)[0], run(graph, feeds)[0], atol=0.03)


def test_what_is_between_the_lines_is_passed_over(tmp_path):
    _, graph = quantized()
    log = log_of(
        tmp_path,
        "2026-01-01 I tensorflow: hello",
        "",
        "W0000 " + line(-1, 2),
        line(-1, 2) + ";more",
        ";x__print__;[1][2]",
    )
    outcome = freeze_requantization_ranges(graph, min_max_log_file=log)
    assert frozen(outcome) == (-1, 2)
    assert log not in reasons(outcome)


def test_bad_lines_are_left_out_and_counted(tmp_path):
    _, graph = quantized()
    bad = [
        line("nan", 2),
        line(-1, "inf"),
        line(3, 2),
        line("one", 2),
        f";{NODE}__print__;__requant_min_max:[1]",
        f";{NODE}__print__;__requant_min_max:[-1][2",
        f"{NODE};__requant_min_max:[-1][2]",
    ]
    log = log_of(tmp_path, line(-1, 2), *bad)
    outcome = freeze_requantization_ranges(graph, min_max_log_file=log)
    assert frozen(outcome) == (-1, 2)
    assert reasons(outcome)[log] == f"{len(bad)} lines, the first is line 2, have no usable range"
    one = freeze_requantization_ranges(graph, min_max_log_file=log_of(tmp_path, line(-1, 2), line(3, 2)))
    assert reasons(one)[log] == "line 2 has no usable range"
    with pytest.raises(TransformError, match=r"has no line like.*; 7 lines, the first is line 1, have no usable range"):
        freeze_requantization_ranges(graph, min_max_log_file=log_of(tmp_path, *bad))


def test_a_log_without_a_line_of_use_is_an_error(tmp_path):
    _, graph = quantized()
    with pytest.raises(TransformError, match="has no line like"):
        freeze_requantization_ranges(graph, min_max_log_file=log_of(tmp_path, "nothing"))


def test_a_log_that_cannot_be_read_is_an_error(tmp_path):
    _, graph = quantized()
    with pytest.raises(TransformError, match=r"log .*/none cannot be read: No such file"):
        freeze_requantization_ranges(graph, min_max_log_file=str(tmp_path / "none"))
    with pytest.raises(TransformError, match="cannot be read: Is a directory"):
        freeze_requantization_ranges(graph, min_max_log_file=str(tmp_path))


def test_a_log_of_another_graph_is_an_error(tmp_path):
    _, graph = quantized()
    wrong = line(-1, 2, "a/eightbit/requant_rnge")
    with pytest.raises(TransformError, match=r"not in the graph; did you mean 'a/eightbit/requant_range'"):
        freeze_requantization_ranges(graph, min_max_log_file=log_of(tmp_path, wrong))
    with pytest.raises(TransformError, match=r"which is not in the graph.*\(2 such names\)"):
        freeze_requantization_ranges(graph, min_max_log_file=log_of(tmp_path, line(-1, 2), wrong, line(0, 1, "zz")))
    with pytest.raises(TransformError, match="which is a Dequantize node"):
        freeze_requantization_ranges(graph, min_max_log_file=log_of(tmp_path, line(0, 1, "mul")))


def test_exactly_one_file_is_needed(tmp_path):
    _, graph = quantized()
    with pytest.raises(TransformError, match="got none"):
        freeze_requantization_ranges(graph)
    with pytest.raises(TransformError, match="got both"):
        freeze_requantization_ranges(graph, min_max_log_file="a", data="b")
    for name in ("min_percentile", "max_percentile"):
        with pytest.raises(TransformError, match=f"{name}=-1 is not between 0 and 100"):
            freeze_requantization_ranges(graph, data="b", **{name: -1.0})


def test_the_call_syntax(tmp_path):
    _, graph = quantized()
    file = log_of(tmp_path, line(-1, 2))
    slim, _ = apply(graph, f'freeze_requantization_ranges(min_max_log_file="{file}", min_percentile=10)')
    assert NODE not in slim.nodes


@pytest.mark.parametrize(("low", "high", "expected"), [(1, 2, (0, 2)), (-2, -1, (-2, 0)), (0, 0, (0, 1e-15))])
def test_ranges_hold_zero_and_are_never_empty(tmp_path, low, high, expected):
    _, graph = quantized()
    outcome = freeze_requantization_ranges(graph, min_max_log_file=log_of(tmp_path, line(low, high)))
    np.testing.assert_allclose(frozen(outcome), expected, rtol=1e-6)
    assert np.isfinite(run(outcome.graph, {"x:0": normal(3, 6)})[0]).all()


def with_direct_ranges():
    """As the old tool makes it: the measured range goes straight to Requantize."""
    with building() as g:
        x = v1.placeholder(tf.float32, [None, 6], "x")
        raw.MatMul(a=x, b=tf.constant(normal(6, 5)), name="a")
    made = old_tool.transformed(old_tool.with_default_attributes(g.as_graph_def()), ["x"], ["a"], "quantize_nodes")
    return Graph.of(made, ["x:0"], ["a:0"])


@pytest.fixture(scope="module")
def old_graph():
    return with_direct_ranges()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    ranges=st.lists(
        st.tuples(st.floats(-100, 0, width=32), st.floats(0, 100, width=32)).filter(lambda r: r[0] < r[1]),
        min_size=1,
        max_size=45,
    ),
    percentiles=st.tuples(st.sampled_from([0, 1, 5, 12.5, 50, 90]), st.sampled_from([0, 1, 5, 12.5, 50, 90])),
)
def test_percentiles_are_those_of_the_old_tool(tmp_path_factory, old_graph, ranges, percentiles):
    file = log_of(tmp_path_factory.mktemp("log"), *(line(repr(low), repr(high)) for low, high in ranges))
    low, high = percentiles
    assume(np.floor(len(ranges) * low / 100 + 0.5) < len(ranges))  # there it reads beyond the end
    call = f'freeze_requantization_ranges(min_max_log_file="{file}", min_percentile={low}, max_percentile={high})'
    ours, _ = apply(old_graph, call)
    theirs = old_tool.transformed(old_tool.with_default_attributes(whole_graph_def(old_graph)), ["x"], ["a"], call)
    theirs = Graph.of(theirs, ["x:0"], ["a:0"])
    assert op_counts(ours) == op_counts(theirs)
    for end in ("min", "max"):
        assert values(ours)[f"{NODE}/frozen_{end}"] == values(theirs)[f"{NODE}/frozen_{end}"]


def test_what_is_part_of_the_interface_is_left(tmp_path):
    _, graph = quantized()
    graph = Graph.of(whole_graph_def(graph), graph.inputs, [*graph.outputs, f"{NODE}:1"])
    outcome = freeze_requantization_ranges(graph, min_max_log_file=log_of(tmp_path, line(-1, 2)))
    assert outcome.graph is graph
    assert reasons(outcome)[NODE] == "it is part of the interface"


def test_control_inputs_are_kept(tmp_path):
    _, graph = quantized()
    graph_def = whole_graph_def(graph)
    for node in graph_def.node:
        if node.name == NODE:
            node.input.append("^x")
        if node.name == "y":
            node.input.append(f"^{NODE}")
    graph = Graph.of(graph_def, graph.inputs, graph.outputs)
    slim = freeze_requantization_ranges(graph, min_max_log_file=log_of(tmp_path, line(-1, 2))).graph
    assert [control_inputs(slim.nodes[f"{NODE}/frozen_{end}"]) for end in ("min", "max")] == [["x"], ["x"]]
    assert control_inputs(slim.nodes["y"]) == [NODE]  # which therefore stays
    assert np.isfinite(run(slim, {"x:0": normal(3, 6)})[0]).all()


def test_names_that_are_taken_are_not_given_again(tmp_path):
    _, graph = quantized()
    graph_def = whole_graph_def(graph)
    graph_def.node.add(name=f"{NODE}/frozen_min", op="NoOp")
    graph = Graph.of(graph_def, graph.inputs, graph.outputs)
    slim = freeze_requantization_ranges(graph, min_max_log_file=log_of(tmp_path, line(-1, 2))).graph
    assert float(values(slim)[f"{NODE}/frozen_min_1"]) == -1


def test_a_loop_of_tensorflow_1_runs(tmp_path):
    with building() as g:
        v1.disable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, [4, 5], "x")

            def body(i, h):
                return i + 1, tf.matmul(h, tf.constant(normal(5, 5, scale=0.3)), name="inner")

            _, h = v1.while_loop(lambda i, _: i < 3, body, [0, x])
            y = tf.identity(h, name="y")
        finally:
            v1.enable_control_flow_v2()
    graph = quantize_nodes(view(g, [x], [y])).graph
    (node,) = measuring_nodes(graph)
    slim = freeze_requantization_ranges(graph, min_max_log_file=log_of(tmp_path, line(-2, 2, node))).graph
    assert not measuring_nodes(slim)
    feeds = {"x:0": normal(4, 5)}
    np.testing.assert_allclose(run(slim, feeds)[0], run(graph, feeds)[0], atol=0.05)


# From sample requests


def test_ranges_come_from_sample_requests(tmp_path):
    """Calibrate, freeze, and get what measuring gives, for requests like those of the sample."""
    float_graph, graph = quantized()
    sample = normal(200, 6)
    np.savez(tmp_path / "data.npz", x=sample)
    outcome = freeze_requantization_ranges(graph, data=str(tmp_path / "data.npz"), min_percentile=0, max_percentile=0)
    assert outcome.changes == len(measuring_nodes(graph)) == 3
    assert outcome.skipped == ()
    exact = sample @ values(float_graph)["Const"]
    low, high = frozen(outcome)
    np.testing.assert_allclose((low, high), (exact.min(), exact.max()), rtol=0.05)
    (wanted,), (found,) = run(float_graph, {"x:0": sample}), run(outcome.graph, {"x:0": sample})
    assert np.abs(found - wanted).max() < 0.05 * np.ptp(wanted)
    assert np.ptp(wanted) > 1
    cut = freeze_requantization_ranges(graph, data=str(tmp_path / "data.npz"))
    assert low < frozen(cut)[0] < frozen(cut)[1] < high


def test_the_log_of_a_run_and_a_recorded_one_agree(tmp_path, capfd):
    """What TensorFlow's Print writes is what is read, and what record_ranges gives of the same requests."""
    _, graph = quantized()
    call = 'insert_logging(op=RequantizationRange, show_name=true, message="__requant_min_max:")'
    logging, _ = apply(graph, call)
    requests = [{"x:0": normal(3, 6, seed=seed)} for seed in range(4)]
    capfd.readouterr()
    for feeds in requests:
        run(logging, feeds)
    printed = read_log(capfd.readouterr().err.splitlines())
    recorded = read_log(record_ranges(graph, requests))
    assert printed.bad == recorded.bad == ()
    assert set(printed.ranges) == set(recorded.ranges) == set(measuring_nodes(graph))
    for name in printed.ranges:
        np.testing.assert_allclose(printed.ranges[name], recorded.ranges[name], rtol=1e-4)
    log = log_of(tmp_path, *(line(*ends, name) for name, found in printed.ranges.items() for ends in found))
    assert freeze_requantization_ranges(graph, min_max_log_file=log).changes == 3


def test_an_example_is_a_request_unless_inputs_are_fixed_to_more(tmp_path):
    _, graph = quantized()
    np.savez(tmp_path / "data.npz", x=normal(7, 6))
    assert [len(batch["x:0"]) for batch in batches_of(graph, tmp_path / "data.npz")] == [1] * 7
    _, fixed = quantized(batch=3)
    assert [len(batch["x:0"]) for batch in batches_of(fixed, tmp_path / "data.npz")] == [3, 3]
    np.savez(tmp_path / "few.npz", x=normal(2, 6))
    with pytest.raises(DataError, match="has 2 examples; the graph takes 3 at a time"):
        list(batches_of(fixed, tmp_path / "few.npz"))


def test_data_that_does_not_fit_is_an_error(tmp_path):
    _, graph = quantized()
    file = tmp_path / "data.npz"

    def freeze():
        return freeze_requantization_ranges(graph, data=str(file))

    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        freeze()
    file.write_bytes(b"PK not a zip")
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        freeze()
    np.save(tmp_path / "one.npy", normal(3, 6))
    (tmp_path / "one.npy").rename(file)
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        freeze()
    np.savez(file, x=np.array([{}], object))
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        freeze()
    np.savez(file, X=normal(3, 6))
    with pytest.raises(DataError, match="'X' is no input of the graph"):
        freeze()
    np.savez(file)
    with pytest.raises(DataError, match="has no array for the input 'x:0'"):
        freeze()
    np.savez(file, x=normal(3, 7))
    with pytest.raises(DataError, match="the graph cannot be run on the data"):
        freeze()
    np.savez(file, **{"x:0": normal(3, 6)})
    assert freeze().changes == 3


def test_data_of_nan_gives_no_range(tmp_path):
    _, graph = quantized()
    np.savez(tmp_path / "data.npz", x=np.full([3, 6], np.nan, np.float32))
    with pytest.raises(DataError, match="cannot be run on the data"):
        freeze_requantization_ranges(graph, data=str(tmp_path / "data.npz"))


def test_a_graph_without_measured_ranges_is_left(tmp_path):
    float_graph, _ = quantized()
    np.savez(tmp_path / "data.npz", x=normal(3, 6))
    outcome = freeze_requantization_ranges(float_graph, data=str(tmp_path / "data.npz"))
    assert (outcome.graph, outcome.changes, outcome.skipped) == (float_graph, 0, ())
