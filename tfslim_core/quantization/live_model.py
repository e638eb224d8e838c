"""A bundle's graph in one live session, in which weights can be changed without building anything anew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import tensorflow as tf

from tfslim_core.bundle import Bundle
from tfslim_core.graph import NodeDef, make_node
from tfslim_core.saved_model.freed_memory import give_back_freed_memory
from tfslim_core.saved_model.write import INLINE_BYTES, inline_constant, reading
from tfslim_core.weights import Array

Answer = Mapping[str, Array]


class LiveModel:
    """A context manager; `changeable` names the weights that can be set.

    They hold their own values until they are set. All weights are in memory, and none but small ones in a protobuf,
    which holds 2 GiB at most.
    """

    def __init__(self, bundle: Bundle, changeable: Collection[str]) -> None:
        self._bundle = bundle
        self._signatures = bundle.manifest.signature_defs()
        variables = {*changeable, *_large(bundle)}
        graph_def, self._setters = _with_variables(bundle, variables)
        give_back_freed_memory()
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(graph_def, name="")
        self._session = tf.compat.v1.Session(graph=graph)
        for name in sorted(variables):
            self.set(name, bundle.graph.weights[name].read)
        for name, weight in bundle.variables.items():
            self.set(name, weight.read)
        paths = {a.tensor: str(bundle.files / "assets" / a.filename) for a in bundle.manifest.assets}
        for target in bundle.graph.targets:
            self._session.run(graph.get_operation_by_name(target), paths)

    def __enter__(self) -> LiveModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The session itself may live on until Python collects it; its variables need not.
        self._session.run([self._operation(setter.forget) for setter in self._setters.values() if setter.forget])
        self._session.close()

    def set(self, name: str, value: Array | Callable[[], Array]) -> None:
        """Give the weight `name` another value of its shape and dtype.

        A function that computes the value is called when the memory of the value before it is free.
        """
        setter = self._setters[name]
        if callable(value):
            if setter.forget:
                self._session.run(self._operation(setter.forget))
            value = value()
        self._session.run(self._operation(setter.set), {setter.feed: value})

    def _operation(self, name: str) -> Any:
        return self._session.graph.get_operation_by_name(name)

    def run(self, signature: str, feeds: Mapping[str, Array]) -> Answer:
        """What the signature answers; composite outputs are left out."""
        definition = self._signatures[signature]
        fed = {definition.inputs[key].name: value for key, value in feeds.items()}
        answer: Answer = self._session.run({k: info.name for k, info in definition.outputs.items() if info.name}, fed)
        return answer

    def tensors(self, signature: str) -> list[str]:
        """The names of what the signature answers with."""
        return [info.name for info in self._signatures[signature].outputs.values() if info.name]

    def fetch(self, signature: str, feeds: Mapping[str, Array], tensors: Sequence[str]) -> list[Array]:
        """The values that tensors of the graph have when the signature is asked.

        Raises:
            tf.errors.OpError: one of them has no value.
        """
        inputs = self._signatures[signature].inputs
        fetched: list[Array] = self._session.run(list(tensors), {inputs[key].name: feeds[key] for key in feeds})
        return fetched


@dataclass(frozen=True)
class _Setter:
    """The ops that set a variable and make it forget its value (a ref variable has none), and the tensor to feed."""

    set: str
    forget: str
    feed: str


def _large(bundle: Bundle) -> list[str]:
    """The weights that are no constants here."""
    return [name for name, weight in bundle.graph.weights.items() if weight.nbytes >= INLINE_BYTES]


def _with_variables(bundle: Bundle, changeable: Collection[str]) -> tuple[Any, dict[str, _Setter]]:
    """The GraphDef, and how to set each changeable weight and each variable."""
    graph = bundle.graph
    names = graph.fresh_names()
    nodes: list[NodeDef] = []
    setters: dict[str, _Setter] = {}

    def add_setter(name: str, variable: str, dtype: tf.DType, ref: bool = False) -> None:
        value = make_node("Placeholder", names(f"{name}/value"), [], dtype=dtype)
        op, attribute = ("Assign", "T") if ref else ("AssignVariableOp", "dtype")
        setter = make_node(op, names(f"{name}/set"), [variable, value.name], **{attribute: dtype})
        nodes.extend((value, setter))
        forget = ""
        if not ref:
            forget = names(f"{name}/forget")
            nodes.append(make_node("DestroyResourceOp", forget, [variable], ignore_lookup_error=True))
        setters[name] = _Setter(setter.name, forget, f"{value.name}:0")

    for name, node in graph.nodes.items():
        if name not in changeable:
            nodes.append(inline_constant(node, graph.weights[name]) if name in graph.weights else node)
            continue
        dtype = tf.as_dtype(graph.weights[name].dtype)
        handle = make_node("VarHandleOp", names(f"{name}/handle"), [], dtype=dtype, shared_name=name)
        handle.attr["shape"].shape.CopyFrom(tf.TensorShape(graph.weights[name].shape).as_proto())
        nodes += [handle, *reading(node, handle.name, dtype, graph, names)]
        add_setter(name, handle.name, dtype)
    for name, weight in bundle.variables.items():
        add_setter(name, name, tf.as_dtype(weight.dtype), ref=graph.nodes[name].op != "VarHandleOp")
    graph_def = tf.compat.v1.GraphDef()
    graph_def.CopyFrom(graph.rest)
    graph_def.node.extend(nodes)
    return graph_def, setters
