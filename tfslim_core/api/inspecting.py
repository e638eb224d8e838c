"""inspect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfslim_core import storage
from tfslim_core.api.arguments import Location, local
from tfslim_core.staging import in_buckets

if TYPE_CHECKING:
    from tfslim_core.inspection import Inspection


@in_buckets(reads=["model"], writes=["html"])
def inspect(
    model: Location, *, tags: Sequence[str] = ("serve",), html: Location | None = None, overwrite: bool = False
) -> Inspection:
    """What is in a SavedModel or a bundle, what it costs, and what slimming would save. Nothing is run.

    html: a file for a page that shows it, with a map of the bytes.

    Raises:
        ModelError: it is neither, or it is damaged.
        OutputExistsError: the page exists and `overwrite` is false.
    """
    from tfslim_core.inspection import inspect as inspected

    if html is None:
        return inspected(local(model), tags)
    from tfslim_core.report.inspection_page import inspection_html

    target = local(html)
    storage.check_free(target, overwrite=overwrite)
    found = inspected(local(model), tags)
    with storage.whole_file(target, overwrite=overwrite) as aside:
        aside.write_text(inspection_html(found), encoding="utf-8")
    return found
