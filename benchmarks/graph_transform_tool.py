"""The old recipe: TensorFlow's Graph Transform Tool, of which the code still ships, on a frozen graph.

The tool aborts or hangs on some graphs, so it runs in a process of its own: `python -m benchmarks.graph_transform_tool
BUNDLE OUT`. It knows a GraphDef alone; signatures, tags and the op that fills the tables are put back afterwards.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks import children

RECIPE = (
    "strip_unused_nodes",
    "remove_nodes(op=Identity)",
    "merge_duplicate_nodes",
    "fold_constants(ignore_errors=true)",
    "fold_batch_norms",
    "quantize_weights",
)
_STEP = "step: "


class OldToolError(Exception):
    """The tool made no model that serves; the message says why."""


def transform_in_child(bundle: Path, out: Path, timeout: float = 600) -> None:
    """Apply the recipe to a frozen bundle and write a SavedModel.

    Raises:
        OldToolError: it failed, died or took too long.
    """
    try:
        children.run("benchmarks.graph_transform_tool", str(bundle), str(out), timeout=timeout)
    except children.ChildError as error:
        raise OldToolError(f"{_step(error.stdout)}: {error}") from None


def transform(bundle: Path, out: Path) -> None:
    """The same in this process, which may not survive it."""
    import tensorflow as tf
    from tensorflow.python.util._pywrap_transform_graph import TransformGraphWithStringInputs

    from tfslim_core.bundle import read_bundle, roots
    from tfslim_core.saved_model.write import with_values

    frozen = read_bundle(bundle)
    manifest = frozen.manifest
    if frozen.variables or manifest.assets:
        raise SystemExit("the model keeps variables or asset files, which a GraphDef cannot hold")
    inputs, outputs = roots(manifest.signature_defs())
    wanted = [*_nodes(outputs), *([manifest.init_op] if manifest.init_op else [])]
    graph_def = _with_default_attributes(tf, with_values(frozen.graph))
    versions = graph_def.versions
    for call in RECIPE:
        print(f"{_STEP}{call}", flush=True)
        made = TransformGraphWithStringInputs(
            graph_def.SerializeToString(), ",".join(_nodes(inputs)).encode(), ",".join(wanted).encode(), call.encode()
        )
        graph_def = tf.compat.v1.GraphDef.FromString(made)
    graph_def.versions.CopyFrom(versions)  # the tool resets them
    print(f"{_STEP}write", flush=True)
    _write(tf, graph_def, manifest, out)


def _with_default_attributes(tf: Any, graph_def: Any) -> Any:
    """Attributes that were stripped as equal to their default make the tool abort."""
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    return graph.as_graph_def()


def _write(tf: Any, graph_def: Any, manifest: Any, out: Path) -> None:
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        tf.import_graph_def(graph_def, name="")
        builder = tf.compat.v1.saved_model.Builder(str(out))
        builder.add_meta_graph_and_variables(
            session,
            manifest.tags,
            manifest.signature_defs(),
            main_op=graph.get_operation_by_name(manifest.init_op) if manifest.init_op else None,
            strip_default_attrs=True,
        )
        builder.save()


def _nodes(tensors: list[str]) -> list[str]:
    return list(dict.fromkeys(tensor.partition(":")[0] for tensor in tensors))


def _step(stdout: str) -> str:
    steps = [line.removeprefix(_STEP) for line in stdout.splitlines() if line.startswith(_STEP)]
    return steps[-1] if steps else "before the first step"


if __name__ == "__main__":
    transform(Path(sys.argv[1]), Path(sys.argv[2]))
