"""The parameters of the pipelines as a page shows them; `python -m pipelines.parameters` writes docs/pipelines.md."""

from __future__ import annotations

import json
from pathlib import Path

from kfp.dsl import base_component

from pipelines.retrain_and_slim import retraining
from pipelines.slim import slim
from pipelines.slim_many import slim_many

PAGE = Path(__file__).parents[1] / "docs/pipelines.md"
_KINDS = {"String": "text", "Integer": "whole number", "Float": "number", "Boolean": "true or false", "List": "list"}


def page(text: str) -> str:
    """The page's text with the tables made anew."""
    for pipeline in (slim, retraining(), slim_many):
        name = pipeline.name.removeprefix("tfslim-").replace("-", "_")
        start, end = f"<!-- parameters of {name} -->", f"<!-- end of the parameters of {name} -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}\n{_table(pipeline)}\n{end}{after}"
    return text


def _table(pipeline: base_component.BaseComponent) -> str:
    rows = ["| parameter | type | unless told | what it is |", "|---|---|---|---|"]
    for name, spec in (pipeline.component_spec.inputs or {}).items():
        default = "–" if spec.default in (None, "", []) else f"`{json.dumps(spec.default)}`"
        kind = _KINDS.get(spec.type.partition("[")[0], spec.type)
        what = " ".join((spec.description or "").split()).replace("|", "&#124;")
        rows.append(f"| `{name}` | {kind} | {default if spec.optional else '**needed**'} | {what} |")
    return "\n".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
