"""Fold a graph together with the functions that it calls: constants go into them, are folded there, and come out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import tensorflow as tf

from tfslim_core.bound_constants import Bound, Unbound, arguments, bind, passed_on, unbind
from tfslim_core.call_sites import CallSite, Slots, call_site, changed_call, changed_function
from tfslim_core.calling_scope import Scope
from tfslim_core.folding import Folding
from tfslim_core.function_bodies import keep_bodies, with_body
from tfslim_core.function_library import FunctionLibrary
from tfslim_core.graph import Graph

_ROUNDS = 20
_VISITS = 20  # a library whose functions call each other twice is deep, not large: most visits per function


def fold_with_functions(graph: Graph, folding: Folding) -> tuple[Graph, int, dict[str, str]]:
    """The graph and its library folded, the number of changes, and reasons by node (`function/node` in functions)."""
    if not graph.functions:
        reasons: dict[str, str] = {}
        folded, changes = folding.fold(graph, reasons)
        return folded, changes, _current(reasons, folded)
    return _Program(graph, folding).run()


def _current(reasons: dict[str, str], graph: Graph) -> dict[str, str]:
    return {name: why for name, why in reasons.items() if name in graph.nodes and graph.nodes[name].op != "Const"}


class _Program:
    """A main graph, its library as it becomes, and what is known of them."""

    def __init__(self, graph: Graph, folding: Folding) -> None:
        self.graph, self.folding = graph, folding
        self.library = FunctionLibrary(graph)
        self.reasons: dict[str, dict[str, str]] = {}
        self.changes = 0
        self.visits = _VISITS * (len(graph.functions) + 10)
        self.known: dict[Any, tuple[Any, _Folded]] = {}

    def run(self) -> tuple[Graph, int, dict[str, str]]:
        start = replace(self.graph, rest=self.library.rest())
        main = self.fold(start, (), sole=True)
        for name in self.library.unsettled(main):
            self._fold_in_place(name)
        reasons = {
            f"{function}/{name}" if function else name: why
            for function, by_name in self.reasons.items()
            for name, why in by_name.items()
        }
        if main is start and not self.library.changed:
            return self.graph, 0, reasons
        result = main if main is start else replace(main, rest=self.graph.rest)
        if self.library.changed:
            result = replace(main, rest=self.graph.rest).replace(library=self.library.needed_by(main))
            keep_bodies(result, self.library.made)
        return result, self.changes, reasons

    def fold(
        self, graph: Graph, stack: tuple[str, ...], *, sole: bool, borrowed: frozenset[str] = frozenset()
    ) -> Graph:
        """The main graph, or a body that is called from `stack`, folded with the functions that it calls.

        sole: nothing else runs it. borrowed: constants that others hold too.
        """
        reasons: dict[str, str] = {}
        passes_on = True
        for _ in range(_ROUNDS):
            graph, folds = self.folding.fold(graph, reasons, borrowed, shapes=passes_on)
            self.changes += folds
            if not passes_on and not folds:
                break
            scope = Scope(graph, stack, sole=sole, borrowed=borrowed)
            if not graph.has_v1_control_flow:
                for node in graph.nodes.values():
                    if site := call_site(node):
                        self._fold_site(scope, site)
            if not scope.new and not scope.gone:
                break
            passes_on = bool(scope.gone)
            graph = replace(scope.finish(), rest=self.library.rest())
        self.reasons[stack[-1] if stack else ""] = _current(reasons, graph)
        return graph

    def _fold_in_place(self, name: str) -> None:
        """Fold a function that is not called where its arguments can be told."""
        body = self.library.body(name)
        if body is not None:
            new = self.fold(body, (name,), sole=True)
            if new is not body:
                self.library.set(name, with_body(self.library.functions[name], new))

    def _fold_site(self, scope: Scope, site: CallSite) -> None:
        found = [self.library.body(name) for name in site.functions if self.library.may_follow(name, scope.stack)]
        bodies = [body for body in found if body is not None and len(body.inputs) == len(site.sources)]
        if len(bodies) < len(site.functions) or self.visits <= 0:
            return
        if site.is_loop and len(bodies[1].outputs) != len(site.sources):
            return
        self.visits -= 1
        sole = scope.sole and all(map(self.library.is_sole, site.functions))
        slots = range(len(site.sources))
        passed = passed_on(bodies[1]) if site.is_loop else set(slots)
        while True:
            bound = {i: one for i in sorted(passed) if (one := scope.bound(site, i, self.folding.excluded))}
            if site.is_loop and len(bound) == len(slots):
                bound.popitem()
            folded = self._folded(scope, site, bodies, bound, sole=sole)
            others = [i for i in slots if i not in bound]
            more = {others[i] for i in passed_on(folded.after[1])} - passed if site.is_loop else set()
            if not more:
                break
            passed |= more
        done = unbind(site, bodies, folded.after, bound, lambda node: node in self.folding.excluded)
        if done.kept != tuple(slots) or done.weights or folded.changed:
            if not self._write(scope, site, done, sole=sole):
                return
            self.changes += len(slots) - len(done.kept) + len(done.weights)
        else:
            self.library.settled.update(site.functions)
        if site.is_loop:
            self.changes += scope.pass_on(site, passed, done.kept)

    def _folded(
        self, scope: Scope, site: CallSite, bodies: list[Graph], bound: dict[int, Bound], *, sole: bool
    ) -> _Folded:
        """The bodies with constants bound, folded; the same for each call that is alike."""
        names = [arguments(body) for body in bodies]
        reading = {
            i: sum(bool(body.readers_of(own[i])) for own, body in zip(names, bodies, strict=True)) for i in bound
        }
        lent = frozenset(i for i in bound if reading[i] > 1 or scope.is_lent(site, i))
        key = (
            tuple(id(self.library.functions[name]) for name in site.functions),
            tuple((i, one.same_as()) for i, one in bound.items()),
            (lent, sole, site.is_loop),
        )
        if key not in self.known:
            before, after = [], []
            for number, (name, body) in enumerate(zip(site.functions, bodies, strict=True)):
                before.append(bind(body, bound, is_loop_body=site.is_loop and number == 1))
                # Another call of the function may need its constants as they are.
                held = {names[number][i] for i in lent} | (set(body.weights) if bound and not sole else set())
                after.append(self.fold(before[-1], (*scope.stack, name), sole=sole, borrowed=frozenset(held)))
            functions = [self.library.functions[name] for name in site.functions]
            changed = any(new is not old for new, old in zip(after, before, strict=True))
            self.known[key] = ((functions, bound), _Folded(after, changed))
        return self.known[key][1]

    def _write(self, scope: Scope, site: CallSite, done: Unbound, *, sole: bool) -> bool:
        """Put the functions into the library and the call into the graph, unless that would copy too much."""
        added = arguments(done.bodies[0])[len(done.kept) :]
        slots = Slots(
            done.kept,
            tuple(tf.as_dtype(weight.dtype).as_datatype_enum for weight in done.weights),
            tuple(weight.shape for weight in done.weights),
        )
        functions = [
            changed_function(self.library.functions[name], body, slots, is_loop_body=site.is_loop and number == 1)
            for number, (name, body) in enumerate(zip(site.functions, done.bodies, strict=True))
        ]
        names = self.library.put(site.functions, functions, done.bodies, sole=sole)
        if names is None:
            return False
        sources = [scope.constant(w, f"{site.name}/{name}") for w, name in zip(done.weights, added, strict=True)]
        scope.new[site.name] = changed_call(site, slots, names, sources)
        return True


class _Folded(NamedTuple):
    """Bodies after folding, and whether that changed one."""

    after: list[Graph]
    changed: bool
