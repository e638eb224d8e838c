"""What a pipeline is given goes on to its tasks by name, so that no list of inputs stands here more than once."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl
from kfp.dsl import base_component


def task_of(component: base_component.BaseComponent, given: Mapping[str, Any], **own: Any) -> dsl.PipelineTask:
    """A task of a component, or of a pipeline inside of this one. It gets `own`, and what else it asks for of `given`.

    given: what this pipeline is given, by name: `dict(locals())` in its first line. An input that neither has keeps its
    default; where it has none, kfp refuses to compile.
    """
    wanted = component.component_spec.inputs or {}
    return component(**{**{name: value for name, value in given.items() if name in wanted}, **own})
