"""The variables that a model's constants were: kept from freezing on, so that training can go on under their names.

A bundle has the record in its manifest. A SavedModel has it in assets.extra/tfslim_variables.json, where loaders look
for nothing: what a variable was is by then a variable again, or a constant in the graph where it is small.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from pydantic import TypeAdapter, ValidationError
from tensorflow.core.framework import variable_pb2

from tfslim_core import storage
from tfslim_core.errors import ModelError

if TYPE_CHECKING:
    from tfslim_core.bundle import Manifest, VariableEntry
    from tfslim_core.graph import Graph

FILE = "tfslim_variables.json"
_TRAINABLE = "trainable_variables"  # TensorFlow 1's collection


@dataclass(frozen=True)
class Fate:
    """What a step did to constants.

    changed: those that went, or have another value. moved: those that others stand for, by the name of the other one.
    """

    changed: tuple[str, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict)


def fate(before: Graph, after: Graph) -> Fate:
    """What became of the constants of `before`."""
    changed: list[str] = []
    moved: dict[str, str] = {}
    for node in before.of_ops(("Const",)):
        name, other = node.name, after.nodes.get(node.name)
        if name in before.weights:
            same = after.weights.get(name) is before.weights[name]
        else:
            same = other is node or (other is not None and other.attr["value"] == node.attr["value"])
        if same:
            continue
        # What only handed it on is a constant of its value where constants were folded.
        copies = [] if other is not None else [n for n in _handed_on(before, name) if _is_constant(after, n)]
        moved |= dict.fromkeys(copies, name)
        if not copies:
            changed.append(name)
    return Fate(tuple(changed), moved)


def _handed_on(graph: Graph, name: str) -> list[str]:
    found = [name]
    for source in found:
        found += [reader.node for reader in graph.readers_of(source) if graph.nodes[reader.node].op == "Identity"]
    return found[1:]


def _is_constant(graph: Graph, name: str) -> bool:
    return name in graph.nodes and graph.nodes[name].op == "Const"


def with_fate(origins: Mapping[str, VariableEntry], fate: Fate, step: str) -> dict[str, VariableEntry]:
    """The record after a step of that name."""
    made = dict(origins)
    for name in fate.changed:
        if name in made and made[name].changed[-1:] != [step]:
            made[name] = made[name].model_copy(update={"changed": [*made[name].changed, step]})
    for new, old in fate.moved.items():
        if old in origins:
            made.pop(old, None)
            made[new] = origins[old].model_copy(update={"name": origins[old].name or old})
    return made


def trainable_names(meta_graph: Any) -> dict[str, bool]:
    """Which variables are trained, by name, as far as the model tells."""
    found: dict[str, bool] = {}
    for node in meta_graph.object_graph_def.nodes:
        if node.WhichOneof("kind") == "variable" and node.variable.name:
            found[node.variable.name.removesuffix(":0")] = node.variable.trainable
    if _TRAINABLE in meta_graph.collection_def:
        trained = _names(meta_graph.collection_def[_TRAINABLE])
        known = {
            name for key in ("variables", "model_variables") for name in _names(meta_graph.collection_def.get(key))
        }
        found |= {name: name in trained for name in known | trained}
    return found


def _names(collection: Any) -> set[str]:
    """The variables of a collection; what cannot be read tells nothing."""
    found = set()
    for data in collection.bytes_list.value if collection is not None else ():
        try:
            found.add(variable_pb2.VariableDef.FromString(data).variable_name.removesuffix(":0"))
        except DecodeError:
            continue
    return found


def frozen_origins(
    handles: Iterable[Any],
    graph: Graph,
    keys: Mapping[str, tuple[str, str]],
    trainable: Mapping[str, bool],
    full_names: Mapping[str, str],
    earlier: Mapping[str, VariableEntry],
) -> dict[str, VariableEntry]:
    """The record of a model that was just frozen, by the constants' names.

    handles: the variables' nodes. graph: the frozen one. keys: of the checkpoint, with the part that it is of a
    partitioned variable, by node. full_names: of variables, by key. earlier: what a slimmed model's record says, by
    shared name or constant.
    """
    from tfslim_core.bundle import VariableEntry

    found = dict(earlier)
    for node in handles:
        if graph.nodes[node.name].op != "Const":
            continue
        name = node.attr["shared_name"].s.decode(errors="replace") or node.name
        if name in earlier:
            found[node.name] = earlier[name] if earlier[name].name else earlier[name].model_copy(update={"name": name})
            if node.name != name:
                found.pop(name, None)
            continue
        if earlier:
            continue
        key, part = keys.get(node.name, (name, ""))
        full = full_names.get(key, "")
        if full and re.fullmatch(rf"{re.escape(full)}_\d+", name):
            name = full  # another of its name was there, and this one got a number
        known = trainable.get(name, trainable.get(node.name))
        found[node.name] = VariableEntry(
            name="" if name == node.name else name, key="" if key == name else key, part=part, trainable=known
        )
    return found


def read_origins(folder: Path) -> dict[str, VariableEntry]:
    """The record of a SavedModel that tfslim wrote; of another one it is empty.

    Raises:
        ModelError: it is damaged, or leads outside of the model.
    """
    from tfslim_core.bundle import VariableEntry

    if not (folder / "assets.extra" / FILE).exists():
        return {}
    file = storage.inside(folder / "assets.extra", FILE, folder)
    try:
        return TypeAdapter(dict[str, VariableEntry]).validate_python(json.loads(file.read_bytes())["variables"])
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(f"{file} is damaged; remove it if the variables' names do not matter") from None


def write_origins(folder: Path, manifest: Manifest) -> None:
    """Write the record of a bundle into a SavedModel, where there is one."""
    from tfslim_core.bundle import Stored

    file = folder / "assets.extra" / FILE
    file.unlink(missing_ok=True)  # that of the model it was made from
    stored = {entry.name: entry for entry in manifest.weights if entry.placement != "none"}
    told = {}
    for name, entry in sorted(manifest.variables.items()):
        weight = stored.get(name)
        if weight is not None:
            rows = None
            if weight.placement == "rows":
                rows = Stored(encoding=weight.encoding.partition("/")[0], dtype=weight.dtype, shape=weight.shape)
            entry = entry.model_copy(update={"encoding": weight.encoding, "rows": rows})
        told[name] = entry.model_dump(exclude_defaults=True)
    if not told:
        return
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"variables": told}, separators=(",", ":"), ensure_ascii=False) + "\n")
