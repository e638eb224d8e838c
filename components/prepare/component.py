"""Before the stages: what is asked for is looked at, and made a list of candidates."""
# ruff: noqa: B006  # a default that a pipeline shows; nothing changes the lists

from kfp import dsl

from components.lightweight import component
from components.shared import call, log_notes


@component
def prepare(
    data: list[str],
    tuning: dsl.OutputPath(str),  # type: ignore[valid-type]  # kfp's way to write an output parameter
    encodings: list[str] = [],
    encoding: str = "",
    budget: list[str] = [],
    gates: list[str] = [],
    keep: int = 0,
) -> list[str]:
    """Checks what a pipeline is asked for, and makes a list of the encodings to try.

    Args:
        data: URIs of the datasets; the names of their files or directories tell them apart.
        encodings: Encodings to try, such as int8 and int6/block32, each a candidate.
        encoding: The one encoding to try, where there are no others.
        budget: Bounds within which the encodings are searched for, instead of naming them.
        gates: Checks that the validation will make.
        keep: How many versions will be kept.

    Returns:
        tuning: The first dataset's URI, on which a budget is measured.
        Output: The candidates; one empty string where the default or a budget decides.
    """
    from pathlib import Path

    from tfslim_core import api

    found = call(api.candidates, data, encodings=encodings, encoding=encoding, budget=budget, gates=gates, keep=keep)
    log_notes([f"{len(found)} candidate{'s' * (len(found) != 1)}: {', '.join(one or 'default' for one in found)}"])
    Path(tuning).parent.mkdir(parents=True, exist_ok=True)
    Path(tuning).write_text(data[0])
    return found
