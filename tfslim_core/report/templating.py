"""What the pages are made with: templates, their filters, and one style and script for all."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from tfslim_core.report import formats, headline, metrics, words
from tfslim_core.report.svg import visible


@cache
def environment() -> Environment:
    """Templates of this package; every name in a page is escaped, and what does not show is written out."""
    made = Environment(
        loader=PackageLoader("tfslim_core.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) else value,
    )
    made.filters.update(
        against=formats.against,
        breakable=breakable,
        count=formats.count,
        magnitude=formats.magnitude,
        milliseconds=formats.milliseconds,
        number=formats.number,
        per_second=formats.per_second,
        ratio=formats.ratio,
        seconds=formats.seconds,
        share=formats.share,
        signed=formats.signed,
        size=formats.size,
    )
    made.globals.update(
        between=metrics.between,
        change=headline.change,
        check_interval=metrics.check_interval,
        label_name=metrics.label_name,
        ratio=formats.ratio,
        result=words.result,
        signed=formats.signed,
    )
    return made


def page_parts() -> dict[str, Markup | str]:
    """Style and script, which each page holds in itself, and the script's hash for its policy."""
    script = _source("sort.js")
    return {
        "script": Markup(script),
        # The one script that may run is this one, whatever a name in the page may try.
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": Markup(_source("report.css")),
    }


def _source(name: str) -> str:
    loader = environment().loader
    assert loader is not None
    return loader.get_source(environment(), name)[0]


def breakable(name: str) -> Markup:
    """A node's name or a check that a narrow column breaks between its parts and not within a word."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[/:])|(?=[<>=]=)", visible(name)))
