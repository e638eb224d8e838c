"""component.yaml and README.md of each component: current, what kfp takes, and enough by themselves."""

import importlib
import re

import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler, dsl
from kfp import components as kfp_components
from kfp.pipeline_spec import pipeline_spec_pb2
from typer.testing import CliRunner

import components.image
import components.shared
from components.__main__ import app
from components.catalog import COMPONENTS, HERE, TITLES, folder
from components.compiled import compiled
from components.pages import page
from tfslim_core import __version__


@pytest.fixture(params=COMPONENTS)
def name(request):
    return request.param


def test_every_folder_is_a_component():
    assert {path.parent.name for path in HERE.glob("*/component.py")} >= set(COMPONENTS)
    assert TITLES.keys() == COMPONENTS.keys()


def test_the_yaml_and_the_readme_are_current(name):
    assert compiled(name) == (folder(name) / "component.yaml").read_text(), "call: make docs"
    readme = (folder(name) / "README.md").read_text()
    assert page(name, readme) == readme, "call: make docs"


def test_the_yaml_is_what_kfp_loads(name):
    text = (folder(name) / "component.yaml").read_text()
    json_format.ParseDict(yaml.safe_load(text), pipeline_spec_pb2.PipelineSpec())  # an unknown field is an error
    loaded, made = kfp_components.load_component_from_text(text), COMPONENTS[name]
    assert loaded.description == made.description
    assert loaded.component_spec.inputs == made.component_spec.inputs
    assert loaded.component_spec.outputs == made.component_spec.outputs
    assert all(spec.description for spec in made.component_spec.inputs.values())
    assert all(spec.description for spec in (made.component_spec.outputs or {}).values())


def test_the_yaml_says_what_it_is(name):
    spec = yaml.safe_load((folder(name) / "component.yaml").read_text())
    assert spec["pipelineInfo"]["displayName"].startswith("tfslim: ")
    assert spec["pipelineInfo"]["description"].endswith(f"(tfslim {__version__})")
    (executor,) = spec["deploymentSpec"]["executors"].values()
    assert executor["container"]["image"] == f"tfslim:{__version__}"


def test_its_program_needs_nothing_of_this_checkout_but_the_core(name):
    spec = yaml.safe_load((folder(name) / "component.yaml").read_text())
    (executor,) = spec["deploymentSpec"]["executors"].values()
    program = executor["container"]["command"][-1]
    assert not re.search(r"\b(?:from|import) (?:components|pipelines|benchmarks|tests)\b", program)
    assert "pip install" not in " ".join(executor["container"]["command"])
    defined = {}
    exec(program, defined)
    here = components.shared.__name__
    shared = [key for key, value in vars(components.shared).items() if getattr(value, "__module__", "") == here]
    assert len(shared) > 5
    for function in shared:
        assert not re.search(rf"\b{function}\(", program) or callable(defined.get(function)), function


def test_the_example_in_the_readme_compiles(name, tmp_path, monkeypatch):
    monkeypatch.chdir(HERE.parent)
    (example,) = re.findall(r"```python\n(.*?)```", (folder(name) / "README.md").read_text(), flags=re.DOTALL)
    assert f'"components/{name}/component.yaml"' in example
    defined = {}
    exec(compile(example, "README.md", "exec"), defined)
    compiler.Compiler().compile(defined["pipeline"], str(tmp_path / "pipeline.yaml"))
    assert f"comp-{name.replace('_', '-')}" in yaml.safe_load((tmp_path / "pipeline.yaml").read_text())["components"]


def test_links_lead_somewhere():
    for readme in HERE.glob("**/README.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", readme.read_text()):
            assert (readme.parent / target).exists(), f"{readme}: {target}"


def test_the_image_can_be_named_when_compiling(monkeypatch):
    monkeypatch.setenv("TFSLIM_IMAGE", "images.example/tfslim@sha256:0")
    assert importlib.reload(components.image).IMAGE == "images.example/tfslim@sha256:0"
    monkeypatch.delenv("TFSLIM_IMAGE")
    assert f"tfslim:{__version__}" == importlib.reload(components.image).IMAGE


def test_one_command_compiles_all(tmp_path):
    done = CliRunner().invoke(app, ["compile", "--out", str(tmp_path / "yaml")])
    assert done.exit_code == 0, done.output
    for name in COMPONENTS:
        assert (tmp_path / "yaml" / name / "component.yaml").read_text() == compiled(name)
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(app, ["compile", "--out", str(tmp_path / "file")])
    assert done.exit_code == 1
    assert done.output.startswith("components: cannot write ")
    assert done.output.count("\n") == 1


def test_a_loaded_component_can_be_given_another_image():
    freeze = kfp_components.load_component_from_file(str(folder("freeze") / "component.yaml"))

    @dsl.pipeline(name="elsewhere")
    def pipeline(model: str):
        imported = dsl.importer(artifact_uri=model, artifact_class=dsl.Model)
        freeze(model=imported.output).set_container_image("images.example/tfslim:1")

    executors = pipeline.pipeline_spec.deployment_spec["executors"]
    assert executors["exec-freeze"]["container"]["image"] == "images.example/tfslim:1"
