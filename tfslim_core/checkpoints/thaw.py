"""A frozen or slimmed model as a checkpoint that training goes on from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfslim_core import storage
from tfslim_core.bundle import Bundle
from tfslim_core.checkpoints.object_graph import KEY, read_object_graph
from tfslim_core.checkpoints.smaller import write_state
from tfslim_core.checkpoints.tensor_bundle import Stored, check_copy, open_bundle, write_copy
from tfslim_core.checkpoints.trainable import Thawable, Variable, Which, thawable
from tfslim_core.checkpoints.training_graph import training_meta_graph
from tfslim_core.errors import ModelError
from tfslim_core.one_line import one_line
from tfslim_core.saved_model.freed_memory import give_back_freed_memory
from tfslim_core.saved_model.sample_check import TOLERANCE, Sample, difference
from tfslim_core.saved_model.write import write_checkpoint
from tfslim_core.weights import Array, Weight

NAME = "model.ckpt"
tf1 = tf.compat.v1


@dataclass(frozen=True)
class Thawed:
    """What was made. variables: each with what became of its value. gone: variables that are no more -> why. errors: of
    the answers, by "signature/output". replaced, left: with a checkpoint as the pattern, its tensors that got a value,
    and those that stayed as they were.
    """

    prefix: Path
    variables: Sequence[Variable]
    gone: Mapping[str, str]
    errors: Mapping[str, float] = field(default_factory=dict)
    replaced: Sequence[str] = ()
    left: Sequence[str] = ()
    notes: Sequence[str] = ()


def thaw(
    bundle: Bundle,
    aside: Path,
    target: Path,
    which: Which,
    include: Sequence[str],
    exclude: Sequence[str],
    sample: Callable[[], Sample],
) -> Thawed:
    """Write checkpoint and MetaGraph into the empty directory `aside`, which becomes `target`.

    Raises:
        ModelError: nothing becomes a variable, or the result does not answer as the model does.
        UsageError: a pattern that fits nothing.
    """
    give_back_freed_memory()
    found = thawable(bundle, which, include, exclude)
    for asset in bundle.manifest.assets:
        file = storage.inside(bundle.files / "assets", asset.filename, bundle.files)
        (aside / "assets" / asset.filename).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, aside / "assets" / asset.filename)
    meta_graph = training_meta_graph(bundle, found.graph, found.variables, target.absolute() / "assets")
    _write(bundle, found.variables, aside / NAME)
    (aside / f"{NAME}.meta").write_bytes(meta_graph.SerializeToString(deterministic=True))
    write_state(aside, NAME)
    errors, notes = _checked(meta_graph, aside, bundle, sample())
    notes = [*found.notes, *notes]
    if bundle.manifest.assets:
        notes.append(f"the graph names its assets where they are now, {target.absolute() / 'assets'}")
    return Thawed(target / NAME, found.variables, found.gone, errors, notes=notes)


def thaw_like(
    bundle: Bundle, aside: Path, target: Path, which: Which, include: Sequence[str], exclude: Sequence[str], like: str
) -> Thawed:
    """Write a checkpoint of the structure of another one, the prefix `like`, with the model's values in it.

    A tensor gets the value of the variable that came from its key, or that has the name which the object graph gives
    it, where dtype and shape are the same; others stay as they are.

    Raises:
        ModelError: none of its tensors gets a value, or it is damaged.
    """
    give_back_freed_memory()
    found = thawable(bundle, which, include, exclude)
    with storage.scratch_directory() as scratch:
        pattern = open_bundle(like, scratch)
        names: dict[str, str] = {}
        if KEY in pattern.tensors:
            data = tf.train.load_checkpoint(pattern.prefix).get_tensor(KEY)
            names = read_object_graph(data, (), pattern.prefix).full_names()
        values = dict(_values(pattern.tensors, names, found))
        if not values:
            some = ", ".join(list(pattern.tensors)[:3])
            raise ModelError(f"{like} has no tensor of the name, dtype and shape of a variable; it has: {some}, …")
        write_checkpoint(scratch / "values", values)
        made = open_bundle(str(scratch / "values"), scratch)
        tensors = [made.tensors.get(name, stored) for name, stored in pattern.tensors.items()]
        prefix = aside / Path(like).name
        write_copy(tensors, str(prefix), pattern.header)
        check_copy(tensors, str(prefix))
    write_state(aside, prefix.name)
    left = [name for name in pattern.tensors if name not in values and name != KEY]
    return Thawed(target / prefix.name, found.variables, found.gone, {}, sorted(values), left, found.notes)


def _values(tensors: Mapping[str, Stored], names: Mapping[str, str], found: Thawable) -> Iterator[tuple[str, Weight]]:
    """The tensors of a checkpoint that a variable has a value for."""
    wholes = dict(_wholes(found.variables))
    for name, stored in tensors.items():
        for key in dict.fromkeys((name, names.get(name, name))):
            weight = wholes.get(key)
            if weight is not None and weight.shape == stored.shape and tf.as_dtype(weight.dtype) == stored.dtype:
                yield name, weight
                break


def _wholes(variables: Sequence[Variable]) -> Iterator[tuple[str, Weight]]:
    """The variables' values by the key that they came from, and by name; a partitioned one put together."""
    parts: dict[str, list[Variable]] = {}
    for variable in variables:
        if variable.part:
            parts.setdefault(variable.key, []).append(variable)
        else:
            yield variable.name, variable.weight
            yield variable.origin, variable.weight
    for key, some in parts.items():
        shape = tuple(int(size) for size in some[0].part.split(" ")[:-1])
        yield key, Weight(some[0].weight.dtype, shape, _Joined(some, shape))


@dataclass(frozen=True)
class _Joined:
    """The value of a partitioned variable."""

    parts: Sequence[Variable]
    shape: tuple[int, ...]

    def __call__(self) -> Array:
        whole = np.zeros(self.shape, self.parts[0].weight.dtype)
        for part in self.parts:
            places = part.part.split(" ")[-1].split(":")
            starts = [None if text == "-" else tuple(map(int, text.split(","))) for text in places]
            whole[tuple(slice(None) if at is None else slice(at[0], at[0] + at[1]) for at in starts)] = (
                part.weight.read()
            )
        return whole


def _write(bundle: Bundle, variables: Sequence[Variable], prefix: Path) -> None:
    """The checkpoint of names; parts of a variable under its name."""
    tensors = dict(bundle.variables)
    slices: dict[str, str] = {}
    keys: dict[str, str] = {}
    for variable in variables:
        one = f"{variable.key} {variable.part}" if variable.part else variable.key
        tensors[one] = variable.weight
        keys[one], slices[one] = variable.key, variable.part
    write_checkpoint(prefix, tensors, keys=keys, slices=slices)


def _checked(meta_graph: Any, folder: Path, bundle: Bundle, sample: Sample) -> tuple[dict[str, float], list[str]]:
    """How far the answers of the restored graph are from the model's, and what gradients do not reach.

    Raises:
        ModelError: they differ, or the graph cannot be restored.
    """
    signatures = bundle.manifest.signature_defs()
    errors: dict[str, float] = {}
    copy = type(meta_graph)()
    copy.CopyFrom(meta_graph)
    _find_assets(copy, folder / "assets", bundle)
    try:
        with tf.Graph().as_default() as live:
            saver = tf1.train.import_meta_graph(copy)
            notes = _without_gradient(live, signatures)
            with tf1.Session() as session:
                saver.restore(session, str(folder / NAME))
                session.run(tf1.get_collection(tf1.GraphKeys.TABLE_INITIALIZERS))
                for request, wanted in zip(sample.requests, sample.answers, strict=True):
                    name, signature = request.signature, signatures[request.signature]
                    fed = {signature.inputs[key].name: value for key, value in request.feeds.items()}
                    asked = {key: info.name for key, info in signature.outputs.items() if info.name and key in wanted}
                    for key, value in session.run(asked, fed).items():
                        if (name, key) not in sample.random:
                            off = difference(wanted[key], np.asarray(value))
                            errors[f"{name}/{key}"] = max(errors.get(f"{name}/{key}", 0.0), off)
    except (tf.errors.OpError, ValueError, TypeError) as error:
        raise ModelError(f"the thawed model cannot be restored or run: {one_line(error)}") from None
    for place, off in errors.items():
        if off > TOLERANCE:
            raise ModelError(f"thawing changed the answers: {place} is off by {off:.2g} (relative L2)")
    notes += [f"signature {name!r} was not checked: {why}" for name, why in sample.unchecked.items()]
    return errors, notes


def _find_assets(meta_graph: Any, folder: Path, bundle: Bundle) -> None:
    """Have the graph look for its assets where they are as long as the result has not its name."""
    paths = {asset.tensor.split(":")[0]: folder / asset.filename for asset in bundle.manifest.assets}
    for node in meta_graph.graph_def.node:
        if node.name in paths:
            node.attr["value"].tensor.string_val[:] = [str(paths[node.name]).encode()]


def _without_gradient(live: Any, signatures: Mapping[str, Any]) -> list[str]:
    """What training would not change: the trainable variables that no gradient of a float output reaches."""
    trained = tf1.trainable_variables()
    names = dict.fromkeys(info.name for s in signatures.values() for info in s.outputs.values() if info.name)
    outputs = [live.get_tensor_by_name(name) for name in names]
    outputs = [tensor for tensor in outputs if tensor.dtype.is_floating]
    if not trained or not outputs:
        return []
    try:
        with live.as_default():
            gradients = tf.gradients(outputs, trained)
    except (LookupError, TypeError, ValueError) as error:
        return [f"no gradient can be computed: {one_line(error)}"]
    lost = [variable.op.name for variable, found in zip(trained, gradients, strict=True) if found is None]
    if not lost:
        return []
    return [
        f"no gradient of an output reaches {len(lost)} of {len(trained)} trainable variables: {', '.join(lost[:5])}"
    ]
