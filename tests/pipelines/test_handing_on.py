"""Every value that a pipeline is given reaches the tasks that ask for it."""

import pytest
from google.protobuf import json_format
from kfp import dsl

from pipelines.handing_on import task_of
from pipelines.options import PIPELINES, find_pipeline


@dsl.component(base_image="any")
def told(what: str, seed: int, label: str = "none") -> str:
    return f"{what} {seed} {label}"


def tasks(pipeline):
    return json_format.MessageToDict(pipeline.pipeline_spec)["root"]["dag"]["tasks"]


def test_a_task_gets_what_it_asks_for_and_its_own_before_that():
    @dsl.pipeline
    def outer(what: str, seed: int, more: str):
        given = dict(locals())
        task_of(told, given, what="mine")

    parameters = tasks(outer)["told"]["inputs"]["parameters"]
    assert parameters == {
        "what": {"runtimeValue": {"constant": "mine"}},
        "seed": {"componentInputParameter": "seed"},
    }


def test_an_input_that_nobody_gives_is_refused():
    with pytest.raises(TypeError, match="seed"):

        @dsl.pipeline
        def outer(what: str):
            task_of(told, dict(locals()))


@pytest.mark.parametrize("name", PIPELINES)
def test_no_input_of_a_pipeline_or_of_one_inside_of_it_is_lost_on_the_way(name):
    spec = json_format.MessageToDict(find_pipeline(name).pipeline_spec)
    graphs = [spec["root"], *(one for one in spec["components"].values() if "dag" in one)]
    assert len(graphs) > 5
    for graph in graphs:
        definitions = graph.get("inputDefinitions", {})
        given = {*definitions.get("parameters", {}), *definitions.get("artifacts", {})}
        for task in graph["dag"]["tasks"].values():
            inputs = task.get("inputs", {})
            for one in (*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()):
                given -= {one.get("componentInputParameter"), one.get("componentInputArtifact")}
        # Those of a loop or a branch have names of kfp's making; it hands in more than their tasks ask for.
        assert {one for one in given if not one.startswith("pipelinechannel--")} == set()
