"""How records become what a signature takes: which signature, which keys, and the arrays of one record."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.errors import DataError, ModelError, nearest
from tfslim_core.metrics import kind_of
from tfslim_core.saved_model.served_signatures import Signature, TensorSpec
from tfslim_core.validation.convert import Shape, from_array, from_nested
from tfslim_core.validation.records import Record
from tfslim_core.validation.slicing import Slicing, column

Array = NDArray[Any]
DEFAULT_SIGNATURE = "serving_default"
_SHOWN_KEYS, _SHOWN_LETTERS = 40, 100  # of keys in messages


@dataclass(frozen=True)
class Rows:
    """The arrays of one record.

    numbers: the record's number for each row. arrays: input key -> [rows, …]; inputs without a batch axis have one all
    the same. labels: [rows], each a number, bytes, or None where it has none; None where no label is named. slices:
    key of a slicing -> the slice of each row.
    """

    numbers: Sequence[int]
    arrays: Mapping[str, Array]
    labels: Array | None = None
    slices: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Feeding:
    """How the records of one dataset are fed.

    signature, inputs: its name and what it takes. label: the key that holds the label. whole: records go as they are to
    the lone string input, rather than by key. slicings: by what keys examples are told apart.
    """

    signature: str
    inputs: Mapping[str, TensorSpec]
    label: str | None = None
    whole: bool = False
    slicings: tuple[Slicing, ...] = ()

    @property
    def keys(self) -> frozenset[str] | None:
        """The keys that records are asked for; None where a record is fed whole."""
        beside = {self.label} if self.label else set()
        return None if self.whole else frozenset(self.inputs) | beside | {slicing.key for slicing in self.slicings}

    def rows(self, record: Record) -> Rows:
        """The arrays of a record.

        Raises:
            DataError: it lacks a key, or a value does not fit; names the key.
        """
        if record.signature and record.signature != self.signature:
            raise DataError(f"the record asks for signature {record.signature!r}, not {self.signature!r}")
        rows = 1 if record.rows is None else record.rows
        if not rows:
            raise DataError("it is a request without an example")
        arrays = {key: _with_rows(record, key, value, self.inputs[key], rows) for key, value in self._values(record)}
        numbers = range(record.number, record.number + rows) if record.counted else [record.number] * rows
        slices = {slicing.key: slicing.slices(record, rows) for slicing in self.slicings}
        return Rows(numbers, arrays, self._labels(record, rows), slices)

    def _values(self, record: Record) -> list[tuple[str, Any]]:
        lone = _lone_input(self.inputs)
        if record.unread and not self.whole:
            raise DataError(record.unread)
        if self.whole or record.values is None:
            if lone is None:
                raise DataError(f"it is a bare value; the signature takes the keys: {', '.join(self.inputs)}")
            return [(lone, record.whole)]
        missing = [key for key, spec in self.inputs.items() if key not in record.values and not spec.optional]
        if missing:
            raise DataError(f"it lacks {', '.join(missing)}; its keys are: {_listed(record.values)}")
        return [(key, record.values[key]) for key in self.inputs if key in record.values]

    def _labels(self, record: Record, rows: int) -> Array | None:
        """Numbers, bytes, and None for what is missing, null, NaN or an empty cell."""
        if self.label is None:
            return None
        values = column(record, self.label, rows)
        try:
            found = [_label(value) for value in values]
        except (TypeError, ValueError):
            raise DataError(f"the label {self.label!r} is neither a number nor a string") from None
        labels = np.empty(rows, object)
        labels[:] = found
        return labels


def _hint(signatures: Sequence[Signature], known: Iterable[str]) -> str:
    """Which keys of the data may be meant by inputs that they lack."""
    unused = sorted(set(known) - {key for signature in signatures for key in signature.inputs})
    alike = {key: near for signature in signatures for key in signature.inputs if (near := _nearest(key, unused))}
    told = [f"{near!r} for {key!r}" for key, near in alike.items() if key not in known]
    return f"; is {', '.join(told)} meant?" if told else ""


def _nearest(key: str, known: Sequence[str]) -> str | None:
    """The most similar name, upper and lower case being alike."""
    lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(key.lower(), lower, n=1, cutoff=0.5)
    return lower[found[0]] if found else None


def row_shape(spec: TensorSpec) -> Shape:
    """The shape of one example of an input, None where the rank is unknown."""
    return None if spec.shape is None else spec.shape[1:]


def has_batch_axis(spec: TensorSpec) -> bool:
    """Whether an input takes several examples at once."""
    return spec.shape != ()


def choose_signature(
    signatures: Mapping[str, Signature], wanted: str | None, records: Sequence[Record], where: str
) -> str:
    """The signature that the data feeds: `wanted`, else serving_default if it fits, else the one that does.

    records: the first of the data, of any dataset; one that fits is enough. where: the data's path, for messages.

    Raises:
        ModelError: there is no signature of that name, or none at all.
        DataError: none fits (shows all keys), or several do.
    """
    if wanted is not None and wanted not in signatures:
        raise ModelError(
            f"no signature {wanted!r}{nearest(wanted, signatures)} in the original (it has: {', '.join(signatures)})"
        )
    if not signatures:
        raise ModelError("the original has no signature")
    if wanted is not None or not records:
        return wanted or (DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures)))
    fitting = [name for name, signature in signatures.items() if fits(signature.inputs, records) is not None]
    if DEFAULT_SIGNATURE in fitting:
        return DEFAULT_SIGNATURE
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(f"{where} fits several signatures: {', '.join(fitting)}; choose one with --signature")
    takes = "; ".join(f"{name} takes {_takes(signature.inputs)}" for name, signature in signatures.items())
    known = {key for record in records for key in record.values or ()}
    raise DataError(
        f"{where}: no signature takes records with {_has(records)} ({takes}){_hint(list(signatures.values()), known)}"
    )


def feeding(
    signature: Signature,
    records: Sequence[Record],
    label: str | None,
    where: str,
    slicings: Sequence[Slicing] = (),
) -> Feeding:
    """How a dataset feeds a signature, judged by its first records: one that fits is enough.

    Raises:
        DataError: no record has the keys of the signature, or none the label or the key of a slicing; shows both sets.
    """
    fit = fits(signature.inputs, records)
    if fit is None:
        known = {key for record in records for key in record.values or ()}
        raise DataError(
            f"{where}: its records have {_has(records)}; signature {signature.name!r} takes "
            f"{_takes(signature.inputs)}{_hint([signature], known)}"
        )
    beside = [("label", label)] if label is not None else []
    for what, key in [*beside, *(("slice key", slicing.key) for slicing in slicings)]:
        if records and not any(key in (record.values or ()) for record in records):
            known = {key for record in records for key in record.values or ()}
            raise DataError(
                f"{where}: no record has the {what} {key!r}{nearest(key, known)}; they have {_has(records)}"
            )
    return Feeding(signature.name, signature.inputs, label, whole=fit == "whole", slicings=tuple(slicings))


def fits(inputs: Mapping[str, TensorSpec], records: Iterable[Record]) -> str | None:
    """How records can feed these inputs: "keys", "whole" (to the lone string input), or None. No record fits any."""
    required = {key for key, spec in inputs.items() if not spec.optional}
    lone = _lone_input(inputs)
    seen, whole = False, False
    for record in records:
        whole |= isinstance(record.whole, bytes) and lone is not None and kind_of(inputs[lone].dtype) == "string"
        if record.unread:
            continue
        seen = True
        if required <= set(record.values if record.values is not None else ([lone] if lone else [])) and inputs:
            return "keys"
    return "whole" if whole else (None if seen else "keys")


def _lone_input(inputs: Mapping[str, TensorSpec]) -> str | None:
    required = [key for key, spec in inputs.items() if not spec.optional]
    keys = required or list(inputs)
    return keys[0] if len(keys) == 1 else None


def _with_rows(record: Record, key: str, value: Any, spec: TensorSpec, rows: int) -> Array:
    shape = row_shape(spec) if has_batch_axis(spec) else ()
    try:
        if record.rows is not None:
            array = np.asarray(value)
            array = np.broadcast_to(array, (rows,)) if array.ndim == 0 else array
            array = from_array(array, spec.dtype, shape)
        elif record.values is None or value is record.whole:
            array = from_nested(value, spec.dtype, shape)[None]
        else:
            array = record.convert(value, spec.dtype, shape)[None]
    except DataError as error:
        raise DataError(f"{key!r}: {error}") from None
    if len(array) != rows:
        raise DataError(f"{key!r}: expected {rows} rows, found {len(array)}")
    return array


def _label(value: Any) -> Any:
    if isinstance(value, str | bytes):
        return (value.encode() if isinstance(value, str) else value) or None
    if value is None:
        return None
    number = float(value)
    return None if math.isnan(number) else int(value) if number.is_integer() else number


def _has(records: Sequence[Record]) -> str:
    keys = sorted({key for record in records for key in record.values or ()})
    return f"the keys: {_listed(keys)}" if keys else "no keys"


def _takes(inputs: Mapping[str, TensorSpec]) -> str:
    words = [f"{key} (optional)" if spec.optional else key for key, spec in inputs.items()]
    return f"the keys: {', '.join(words) or 'none'}"


def _listed(keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - _SHOWN_KEYS:,} more" if len(names) > _SHOWN_KEYS else ""
    return ", ".join(name[:_SHOWN_LETTERS] for name in names[:_SHOWN_KEYS]) + more or "none"
