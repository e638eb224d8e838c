"""kfp's local runner, watched: which task of which loop begins, says something and ends, and none left when it ends.

kfp (its version is pinned, and a test runs all of this) tells of tasks in its log alone, where the lines of tasks that
run beside each other mix and some go missing, waits between tries of a task that cannot get better here, takes a
container that is gone for one that succeeded, and leaves the processes of its tasks behind when it is interrupted. So
four of its functions are replaced while a pipeline runs.
"""

from __future__ import annotations

import builtins
import io
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

from kfp.compiler import pipeline_spec_builder
from kfp.local import graph_utils, logging_utils, status, subprocess_task_handler
from kfp.local.orchestrator import task_executor
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines.guard import Guard
from pipelines.replacing import replaced
from pipelines.steps import Step

_ITEM = "-loop-item"
_CHANNEL = "pipelinechannel--"
_DONE = "executor_output.json"  # what each task writes last
_PATIENCE = 5.0  # seconds that a task has to end when it is told to


class Watch:
    """What goes on in a run. told: called with a step when it begins, says something or ends, from any thread.

    guard: hears of each process.
    """

    def __init__(
        self,
        spec: pipeline_spec_pb2.PipelineSpec,
        work: Path,
        log: IO[str],
        told: Callable[[Step], None],
        guard: Guard,
    ) -> None:
        self.steps: list[Step] = []
        self._spec = spec
        self._work = work
        self._log = log
        self._told = told
        self._lock = threading.RLock()
        self._mine = threading.local()
        self._processes: set[subprocess.Popen[str]] = set()
        self._guard = guard
        self._stopped = False
        self._inside = dict(_leaves(spec))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take the place of kfp's own functions; they and all that the runner changes in Python come back."""
        root = logging.getLogger()
        level, handlers, printing = root.level, root.handlers[:], builtins.print
        out = _Output(self)
        root.handlers[:] = [logging.StreamHandler(out)]
        root.setLevel(logging.INFO)
        try:
            with (
                replaced(
                    [
                        (task_executor, "execute_single_task", self._watched),
                        (subprocess_task_handler, "run_local_subprocess", self._process),
                        # Both change what is common to all threads, and put back what another has put there.
                        (logging_utils, "indented_print", nullcontext),
                        (logging_utils, "local_logger_context", nullcontext),
                    ]
                ) as (self._execute, *_),
                redirect_stdout(out),
                redirect_stderr(out),
                self._stopping(),
            ):
                yield
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
            builtins.print = printing
            self._kill()
            self._log.flush()

    def tell_skipped(self) -> None:
        """Add a step for each task that never began: one behind a gate that stayed shut, or after one that failed."""
        begun = {step.component for step in self.steps}
        for component, path in self._inside.items():
            if component not in begun:
                step = Step(path[-1], component, inside=path[:-1], skipped=True)
                self.steps.append(step)
                self._told(step)

    def said(self, text: str) -> None:
        """Take what the runner or a task in this thread prints."""
        with self._lock:
            *lines, self._mine.rest = (getattr(self._mine, "rest", "") + text).split("\n")
            for line in lines:
                self._line(line)

    def _line(self, line: str) -> None:
        step: Step | None = getattr(self._mine, "step", None)
        with self._lock:
            self._log.write(f"[{step.title}] {line}\n" if step else f"{line}\n")
            if step is not None and step.add(line):
                self._told(step)

    def _watched(self, **call: Any) -> tuple[dict[str, Any], status.Status]:
        if self._stopped:
            return {}, status.Status.FAILURE
        task = pipeline_spec_pb2.PipelineTaskSpec()
        task.CopyFrom(call["task_spec"])
        task.ClearField("retry_policy")
        component = task.component_ref.name
        path = self._inside[component]
        step = Step(
            path[-1],
            component,
            inside=path[:-1],
            items=_items(call["io_store"]),
            folder=self._work / call["pipeline_resource_name"] / component.removeprefix("comp-"),
        )
        self._tell_final_status(task)
        started = time.monotonic()
        with self._lock:
            self.steps.append(step)
            self._told(step)
        self._mine.step = step
        ended = status.Status.FAILURE
        try:
            outputs, ended = self._execute(**{**call, "task_spec": task})
            if ended == status.Status.SUCCESS and not step.imports and not (step.folder / _DONE).is_file():
                self._line("tfslim: the task ended without a result; its container or process died")
                outputs, ended = {}, status.Status.FAILURE
            return outputs, ended
        except RuntimeError as error:  # a task of a kind that the runner does not run
            self._line(f"tfslim: {error}")
            raise
        finally:
            self._mine.step = None
            with self._lock:
                step.seconds = time.monotonic() - started
                step.failed = ended != status.Status.SUCCESS
                step.stopped = step.failed and self._stopped
                self._told(step)

    def _tell_final_status(self, task: pipeline_spec_pb2.PipelineTaskSpec) -> None:
        """Give an exit task the step that failed and why, as a cluster would, instead of the graph around it."""
        failed = next((step for step in self.steps if step.failed), None)
        for given in task.inputs.parameters.values():
            if failed is not None and given.HasField("task_final_status"):
                final = {
                    "state": "FAILED",
                    "pipeline_job_resource_name": self._spec.pipeline_info.name,
                    "pipeline_task_name": failed.title,
                    "error": {"code": 1, "message": failed.reason},
                }
                given.ClearField("task_final_status")
                given.runtime_value.constant.CopyFrom(pipeline_spec_builder.to_protobuf_value(final))

    def _process(self, full_command: list[str], env_vars: Mapping[str, str] | None = None) -> int:
        """Run a task as the leader of a process group of its own, so that all that it starts can be ended with it."""
        with self._lock:
            if self._stopped:
                return 1
            process = subprocess.Popen(
                full_command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                bufsize=1,
                env={**os.environ, **(env_vars or {})},
                start_new_session=True,
            )
            self._processes.add(process)
            self._guard.begins(process.pid)
        try:
            with process:
                assert process.stdout is not None
                for line in process.stdout:
                    self._line(line.rstrip("\n"))
                return process.wait()
        finally:
            _signal_group(process, signal.SIGKILL)  # what it left behind
            with self._lock:
                self._processes.discard(process)
                self._guard.ended(process.pid)

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """End all tasks when this process is asked to end; kfp would go on with those that wait in a loop."""

        def stop(number: int, frame: FrameType | None) -> None:
            del number, frame
            self._stopped = True
            threading.Thread(target=self._kill).start()
            raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _kill(self) -> None:
        with self._lock:
            left = list(self._processes)
        for process in left:
            _signal_group(process, signal.SIGTERM)
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and any(process.poll() is None for process in left):
            time.sleep(0.05)
        for process in left:
            _signal_group(process, signal.SIGKILL)


class _Output(io.TextIOBase):
    """Takes all that is printed while a pipeline runs."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._watch.said(text)
        return len(text)


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _leaves(spec: pipeline_spec_pb2.PipelineSpec) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Component -> the names of the graphs that it is in and its task's own, in an order in which they can run."""

    def below(dag: pipeline_spec_pb2.DagSpec, path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
        exits = {name for name, task in dag.tasks.items() if task.trigger_policy.strategy == 2}
        order = graph_utils.topological_sort_tasks(dag.tasks)[::-1]
        for name in sorted(order, key=lambda one: one in exits):
            component = dag.tasks[name].component_ref.name
            inner = spec.components[component]
            if inner.WhichOneof("implementation") == "dag":
                yield from below(inner.dag, (*path, name))
            else:
                yield component, (*path, name)

    yield from below(spec.root.dag, ())


def _items(store: Any) -> tuple[str, ...]:
    """What the loops around a task are at, the outermost first; a loop over one thing says nothing."""
    found: list[str] = []
    while store is not None:
        given: Mapping[str, Any] = store._parent_input_data
        for key, item in given.items():
            items = [_short(one) for one in _over(store, key)] if key.endswith(_ITEM) else []
            if len(items) > 1:
                found.insert(0, _short(item) if items.count(_short(item)) == 1 else _whole(item))
        store = store._parent
    return tuple(found)


def _short(item: Any) -> str:
    """The last name of a path or an address, of a mapping of that in its base; anything else as it is."""
    text = _whole(item)
    return text.rstrip("/").rpartition("/")[2] if text.startswith("/") or "://" in text else text


def _whole(item: Any) -> str:
    return str(item.get("base", item) if isinstance(item, dict) else item)


def _over(store: Any, key: str) -> Sequence[Any]:
    name = key.removesuffix(_ITEM)
    for one in (name, name.removeprefix(_CHANNEL)):
        try:
            items: Sequence[Any] = store.get_parent_input(one)
            return items
        except ValueError:
            continue
    return ()
