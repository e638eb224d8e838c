"""What tensors of a checkpoint are for, by its object graph, which tells slots and optimizers exactly.

    nodes: each has children by name, the checkpoint keys of its own values, and for an optimizer: which node is which
    slot of which variable

A node is an optimizer's when it has slots, or the children that those of Keras have. What is reached through optimizers
alone is training state, but for the model's own variables, which newer optimizers list too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import trackable_object_graph_pb2

from tfslim_core.checkpoints.name_rules import AVERAGES, LOSS_SCALE, SETTINGS, SLOTS, STEPS
from tfslim_core.errors import ModelError

KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_ROOT = 0
# Children that only an optimizer has together: of Keras 3 and 2.11 and later, and of those before.
_OPTIMIZERS = (frozenset({"_iterations", "_learning_rate"}), frozenset({"iter", "learning_rate"}))
_INNER = frozenset({"inner_optimizer", "base_optimizer", "_optimizer"})
_SCALES = frozenset({"loss_scale", "_loss_scale", "current_loss_scale", "dynamic_scale", "step_counter", "good_steps"})
_MODEL_VARIABLES = "_trainable_variables"  # a list, in an optimizer, of what is not its own
_AVERAGES = "_model_variables_moving_average"
_AVERAGE_SLOT = "average"  # of the wrappers that average weights
_COUNTERS = frozenset({"iter", "iterations", "_iterations"})
_STEPS = frozenset({"step", "global_step"})


@dataclass(frozen=True)
class ObjectGraph:
    """An object graph, and which of its nodes are what kind of training state; the others are not in `kinds`."""

    proto: Any
    kinds: Mapping[int, str]

    def keys(self, nodes: Iterable[int]) -> set[str]:
        """The checkpoint keys of the nodes' values."""
        return {value.checkpoint_key for node in nodes for value in self.proto.nodes[node].attributes}

    def key_kinds(self) -> dict[str, str]:
        """The kind of each key that only training state has."""
        others = self.keys(set(range(len(self.proto.nodes))) - set(self.kinds))
        return {key: kind for node, kind in sorted(self.kinds.items()) for key in self.keys([node]) - others}

    def full_names(self) -> dict[str, str]:
        """The name that each key's variable had, where it had one."""
        values = (value for node in self.proto.nodes for value in node.attributes)
        return {value.checkpoint_key: value.full_name for value in values if value.full_name}

    def without(self, keys: Collection[str]) -> bytes:
        """The graph, serialized, without these keys, the nodes that were there for them alone, and the ways to them."""
        nodes = self.proto.nodes
        kept = _reached(nodes, [_ROOT], without=frozenset(self.kinds))
        holds = {i for i, node in enumerate(nodes) if any(a.checkpoint_key not in keys for a in node.attributes)}
        kept |= _ways_to(nodes, holds - kept, kept)  # what is left of an optimizer stays in its place
        number = {old: new for new, old in enumerate(sorted(kept | {_ROOT}))}
        made = trackable_object_graph_pb2.TrackableObjectGraph()
        for old in number:
            node = made.nodes.add()
            node.CopyFrom(nodes[old])
            _refill(node.children, (c for c in nodes[old].children if c.node_id in number))
            _refill(node.attributes, (a for a in nodes[old].attributes if a.checkpoint_key not in keys))
            ends = ("original_variable_node_id", "slot_variable_node_id")
            _refill(
                node.slot_variables, (s for s in nodes[old].slot_variables if {getattr(s, e) for e in ends} <= kept)
            )
            for child in node.children:
                child.node_id = number[child.node_id]
            for slot in node.slot_variables:
                for end in ends:
                    setattr(slot, end, number[getattr(slot, end)])
        data: bytes = made.SerializeToString(deterministic=True)
        return data


def read_object_graph(data: bytes, integers: Collection[str], where: str) -> ObjectGraph:
    """An object graph and what its nodes are for. integers: keys of whole numbers that stand alone.

    Raises:
        ModelError: it is damaged.
    """
    try:
        proto = trackable_object_graph_pb2.TrackableObjectGraph.FromString(data)
    except DecodeError:
        raise ModelError(f"{where}: the checkpoint's object graph is damaged") from None
    nodes = proto.nodes
    linked = [c.node_id for node in nodes for c in node.children]
    linked += [end for node in nodes for s in node.slot_variables for end in _ends(s)]
    if any(not 0 <= end < len(nodes) for end in linked):
        raise ModelError(f"{where}: the checkpoint's object graph is damaged: it leads to a node that is not there")
    if not nodes:
        return ObjectGraph(proto, {})
    return ObjectGraph(proto, _kinds(nodes, integers))


def _kinds(nodes: Any, integers: Collection[str]) -> dict[int, str]:
    optimizers = _optimizers(nodes)
    if _ROOT in optimizers:
        return {}  # an optimizer's own checkpoint: nothing in it is beside the point
    models = _reached(nodes, [_ROOT], without=optimizers)
    lists = [c.node_id for i in optimizers for c in nodes[i].children if c.local_name == _MODEL_VARIABLES]
    models |= {c.node_id for i in lists for c in nodes[i].children}
    found = dict.fromkeys(_reached(nodes, optimizers) - models, SLOTS)
    for i in sorted(optimizers):
        for child in nodes[i].children:
            _tell(found, nodes, child)
        for slot in nodes[i].slot_variables:
            kind = AVERAGES if slot.slot_name == _AVERAGE_SLOT else SLOTS
            for node in _reached(nodes, [slot.slot_variable_node_id]) - models:
                found[node] = kind
    for child in nodes[_ROOT].children:
        keys = [value.checkpoint_key for value in nodes[child.node_id].attributes]
        if child.local_name in _STEPS and keys and all(key in integers for key in keys):
            found[child.node_id] = STEPS
    return found


def _tell(found: dict[int, str], nodes: Any, child: Any) -> None:
    """Say what an optimizer's child is, which may be a list."""
    name, node = child.local_name, child.node_id
    if node not in found:
        return
    if name == _AVERAGES:
        found.update(dict.fromkeys(_reached(nodes, [node]) & found.keys(), AVERAGES))
    elif name in _COUNTERS:
        found[node] = STEPS
    elif name in _SCALES:
        found.update(dict.fromkeys(_reached(nodes, [node]) & found.keys(), LOSS_SCALE))
    elif nodes[node].attributes and found[node] == SLOTS:
        found[node] = SETTINGS


def _optimizers(nodes: Any) -> set[int]:
    names = [{child.local_name for child in node.children} for node in nodes]
    found = {
        i for i, node in enumerate(nodes) if node.slot_variables or any(known <= names[i] for known in _OPTIMIZERS)
    }
    found |= {i for i in range(len(nodes)) if {"current_loss_scale", "good_steps"} <= names[i]}
    for i, node in enumerate(nodes):
        inner = any(child.local_name in _INNER and child.node_id in found for child in node.children)
        if inner and names[i] & _SCALES:
            found.add(i)
    return found


def _ends(slot: Any) -> tuple[int, int]:
    return slot.original_variable_node_id, slot.slot_variable_node_id


def _reached(nodes: Any, start: Iterable[int], without: Collection[int] = ()) -> set[int]:
    """The nodes that children lead to, and the start; never into those of `without`."""
    found: set[int] = set()
    todo = list(start)
    while todo:
        node = todo.pop()
        if node not in found and node not in without:
            found.add(node)
            todo += [child.node_id for child in nodes[node].children]
    return found


def _ways_to(nodes: Any, wanted: Collection[int], known: Collection[int]) -> set[int]:
    """The wanted nodes and those that lead to them, as far as they are not known already."""
    above: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        for below in (*(c.node_id for c in node.children), *(s.slot_variable_node_id for s in node.slot_variables)):
            above.setdefault(below, []).append(i)
    found: set[int] = set()
    todo = list(wanted)
    while todo:
        node = todo.pop()
        if node not in found and node not in known:
            found.add(node)
            todo += above.get(node, [])
    return found


def _refill(holder: Any, kept: Iterable[Any]) -> None:
    """Put what is kept of a repeated field in the place of all of it."""
    copies = list(kept)
    del holder[:]
    holder.extend(copies)
