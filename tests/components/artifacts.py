"""Artifacts as kfp gives them to a component, and those of a validation."""

from __future__ import annotations

from types import SimpleNamespace

from kfp import dsl

from components.validate import validate


def artifact(kind, path):
    """One at a local path."""
    return kind(name=path.name, uri=str(path), metadata={})


def validation(folder, name, **arguments):
    """A validation's artifacts, below folder/name, and what it returned."""
    made = SimpleNamespace(
        verdict=artifact(dsl.Artifact, folder / name / "verdict"),
        report=artifact(dsl.HTML, folder / name / "page"),
        metrics=artifact(dsl.Metrics, folder / name / "numbers"),
        classes=artifact(dsl.ClassificationMetrics, folder / name / "classes"),
        summary=artifact(dsl.Markdown, folder / name / "summary"),
    )
    returned = validate.python_func(**vars(made), **arguments)
    return SimpleNamespace(returned=returned, **vars(made))
