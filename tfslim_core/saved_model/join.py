"""Write several bundles as the tag sets of one SavedModel, with one checkpoint.

What bundles store alike is stored once: each MetaGraph restores its variables by keys of its own choice, and those of
equal tensors are made the same key. Asset files that are equal are one file; others of the same name get new names,
which the graph never sees, since the loader hands it the path.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tfslim_core import origins, storage
from tfslim_core.bundle import Bundle
from tfslim_core.errors import ModelError
from tfslim_core.saved_model.write import Servable, meta_graph_of, servable_of, write_meta_graphs
from tfslim_core.weights import Weight

_Form = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Shared:
    """Of a bundle's stored tensors, how many an earlier one has too, and the bytes of those."""

    tensors: int
    of: int
    bytes: int


def write_joined(bundles: Sequence[Bundle], directory: Path) -> list[Shared]:
    """Write the SavedModel into an empty directory; what each bundle shares with those before it.

    Raises:
        ModelError: two bundles have the same tags, or files of the same name in assets.extra/ that differ; a weight
            cannot be read; or what has to stay in the graphs is beyond protobuf's 2 GiB.
    """
    _refuse_equal_tags(bundles)
    servables = [servable_of(bundle) for bundle in bundles]
    forms = Counter(_form(weight) for servable in servables for weight in servable.tensors.values())
    tensors: dict[str, Weight] = {}
    known: dict[bytes, str] = {}
    shared, meta_graphs = [], []
    for bundle, servable in zip(bundles, servables, strict=True):
        shared.append(_share(servable, bundle.manifest.tags, forms, tensors, known))
        moved = _copy_assets(bundle, directory)
        meta_graphs.append(meta_graph_of(moved, servable))
    write_meta_graphs(meta_graphs, tensors, directory)
    return shared


def _refuse_equal_tags(bundles: Sequence[Bundle]) -> None:
    for tags, count in Counter(tuple(sorted(bundle.manifest.tags)) for bundle in bundles).items():
        if count > 1:
            raise ModelError(
                f"{count} bundles have the tags {{{','.join(tags)}}}; a SavedModel has one MetaGraph of each tag set: "
                "freeze each with tags of its own"
            )


def _share(
    servable: Servable,
    tags: Sequence[str],
    forms: Mapping[_Form, int],
    tensors: dict[str, Weight],
    known: dict[bytes, str],
) -> Shared:
    """Add what a servable stores to `tensors`, save what is there already. known: digest -> key."""
    keys: dict[str, str] = {}
    new: dict[str, bytes] = {}
    there: list[int] = []
    for key, weight in servable.tensors.items():
        # Nothing is read to be compared that has no counterpart.
        digest = _digest(weight) if forms[_form(weight)] > 1 else b""
        if digest and digest in known:
            keys[key] = known[digest]
            there.append(weight.nbytes)
        else:
            keys[key] = _free(key, tags, tensors)
            tensors[keys[key]] = weight
            if digest:
                new[keys[key]] = digest
    for key, digest in new.items():
        known.setdefault(digest, key)  # only now: within one servable, what is equal stays as it is
    servable.store_as(keys)
    return Shared(len(there), len(keys), sum(there))


def _free(key: str, tags: Sequence[str], taken: Mapping[str, Weight]) -> str:
    if key not in taken:
        return key
    name = f"{'+'.join(tags)}/{key}"
    while name in taken:
        name += "_"
    return name


def _form(weight: Weight) -> _Form:
    return weight.dtype.name, weight.shape


def _digest(weight: Weight) -> bytes:
    """Of dtype, shape and value, bit for bit."""
    value = weight.read()
    found = hashlib.sha256(repr(_form(weight)).encode())
    if value.dtype == object:
        for one in value.reshape(-1).tolist():
            found.update(len(one).to_bytes(8, "little") + one)
    else:
        found.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return found.digest()


def _copy_assets(bundle: Bundle, directory: Path) -> Bundle:
    """Copy a bundle's files beside those of earlier ones; the bundle, naming them as they are called there."""
    names = {asset.filename: _put(bundle, "assets", asset.filename, directory) for asset in bundle.manifest.assets}
    extra = bundle.files / "assets.extra"
    for path in sorted(extra.rglob("*")):
        if not path.is_dir() and path.name != origins.FILE:  # of one tag set alone
            _put(bundle, "assets.extra", path.relative_to(extra).as_posix(), directory)
    assets = [asset.model_copy(update={"filename": names[asset.filename]}) for asset in bundle.manifest.assets]
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"assets": assets}))


def _put(bundle: Bundle, folder: str, name: str, directory: Path) -> str:
    """Copy a file, under another name where another file has its own; the name."""
    source = storage.inside(bundle.files / folder, name, bundle.files)
    target = directory / folder / name
    number = 0
    while target.exists():
        if _same_content(source, target):
            return target.relative_to(directory / folder).as_posix()
        if folder == "assets.extra":
            raise ModelError(
                f"assets.extra/{name} of the bundle with the tags {{{','.join(bundle.manifest.tags)}}} is another file "
                "than that of a bundle before it; leave one of them out, since both serve all tag sets"
            )
        number += 1
        target = (directory / folder / name).with_name(f"{Path(name).stem}_{number}{Path(name).suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target.relative_to(directory / folder).as_posix()


def _same_content(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        return hashlib.file_digest(a, "sha256").digest() == hashlib.file_digest(b, "sha256").digest()
