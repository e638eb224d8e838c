"""Another team's pipeline: `python alone.py COMPONENTS ARGUMENTS`, in a process where this checkout cannot be imported.

COMPONENTS: a directory with a folder for each component.yaml. ARGUMENTS: of the pipeline, as JSON. Prints what the
pipeline gave, and the artifacts' metadata, as JSON.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

from kfp import components, dsl, local

FOLDER = Path(sys.argv[1])


def load(name):
    return components.load_component_from_file(str(FOLDER / name / "component.yaml"))


class Outputs(NamedTuple):
    verdict: str
    report: dsl.Markdown
    optimized: dsl.Model


@dsl.pipeline(name="another-teams-pipeline")
def pipeline(model: str, examples: str, base: str) -> Outputs:
    original = dsl.importer(artifact_uri=model, artifact_class=dsl.Model, reimport=True)
    data = dsl.importer(artifact_uri=examples, artifact_class=dsl.Dataset, reimport=True)
    frozen = load("freeze")(model=original.output, signatures=["serving_default"])
    quantized = load("quantize")(bundle=frozen.outputs["bundle"], encoding="float16")
    exported = load("reexport")(bundle=quantized.outputs["quantized"], warmup=3, data=data.output)
    validated = load("validate")(
        original=original.output,
        optimized=exported.outputs["model"],
        data=data.output,
        gates=["size_ratio<=0.8"],
        cost_batch_sizes=[1],
        measure_costs=False,
    )
    with dsl.If(validated.outputs["Output"] == "pass"):
        load("publish")(model=exported.outputs["model"], verdict=validated.outputs["verdict"], base=base)
    return Outputs(
        verdict=validated.outputs["Output"],
        report=validated.outputs["summary"],
        optimized=exported.outputs["model"],
    )


def main():
    for name in ("components.freeze", "pipelines", "tests", "benchmarks"):
        try:
            __import__(name)
        except ModuleNotFoundError:
            continue
        sys.exit(f"{name} can be imported here")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="the runs")
    given = pipeline(**json.loads(sys.argv[2])).outputs
    told = {"verdict": given["verdict"], "report": given["report"].path, "optimized": given["optimized"].metadata}
    sys.stdout.write(f"\n{json.dumps(told)}\n")


if __name__ == "__main__":
    main()
