"""A component as the YAML that any pipeline can load, whatever else it is made of."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml
from kfp import compiler

from components.catalog import COMPONENTS, TITLES
from tfslim_core import __version__


class _Dumper(yaml.SafeDumper):
    """Writes programs line by line, so that a change can be read."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def compiled(name: str) -> str:
    """The text of component.yaml: what kfp makes of it, with a title, a description and the version of tfslim."""
    component = COMPONENTS[name]
    with tempfile.TemporaryDirectory() as aside:
        file = Path(aside) / "component.yaml"
        compiler.Compiler().compile(component, str(file), pipeline_display_name=f"tfslim: {TITLES[name].lower()}")
        text = file.read_text()
    body = text.index("components:\n")  # after what kfp tells of it in comments
    spec = yaml.safe_load(text[body:])
    spec["pipelineInfo"]["description"] = f"{component.description} (tfslim {__version__})"
    (executor,) = spec["deploymentSpec"]["executors"].values()
    # Where kfp loads the component, its description is the first docstring in the program, else a helper's.
    executor["container"]["command"][-1] = f'"""{component.description}"""\n{executor["container"]["command"][-1]}'
    return text[:body] + yaml.dump(spec, Dumper=_Dumper, width=120)
