"""Values of data files as arrays that a signature takes; nothing is rounded, cut or padded on the way.

Each function takes (value, dtype, shape): dtype as in TensorSpec, strings being object arrays of bytes; shape of one
example, None for an unknown dimension and for an unknown rank. Each raises DataError where the value does not fit.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfslim_core.errors import DataError
from tfslim_core.metrics import kind_of

Array = NDArray[Any]
Dtype = np.dtype[Any]
Shape = tuple[int | None, ...] | None


def from_nested(value: Any, dtype: Dtype, shape: Shape) -> Array:
    """JSON's way: numbers, strings and booleans in nested lists; `{"b64": …}` holds bytes."""
    if dtype.kind == "O":
        array = np.array(_strings(value), object)
        if not all(isinstance(item, bytes) for item in array.flat):
            raise DataError("its lists differ in length")
    else:
        try:
            array = np.asarray(value)
        except (ValueError, OverflowError):
            raise DataError("its lists differ in length, or mix lists and values") from None
        array = cast(array, dtype)
    check_shape(array.shape, shape)
    return array


def from_flat(value: list[Any], dtype: Dtype, shape: Shape) -> Array:
    """tf.Example's way: values row by row; one unknown dimension is inferred from how many there are."""
    array = np.array(value, object) if dtype.kind == "O" else cast(np.asarray(value), dtype)
    if dtype.kind == "O" and not all(isinstance(item, bytes) for item in value):
        raise DataError(f"expected strings, found {_kind_word(np.asarray(value))}")
    if shape is None:
        return array
    unknown = [axis for axis, size in enumerate(shape) if size is None]
    known = math.prod(size for size in shape if size is not None)
    wrong = DataError(f"expected values for shape {shape_words(shape)}, found {len(value)} values")
    if not unknown:
        if known != len(value):
            raise wrong
        return array.reshape([size or 0 for size in shape])
    if len(unknown) > 1:
        raise DataError(f"shape {shape_words(shape)} has more than one unknown dimension; flat values cannot tell them")
    if not known or len(value) % known:
        raise wrong
    return array.reshape([len(value) // known if size is None else size for size in shape])


def from_text(value: str, dtype: Dtype, shape: Shape) -> Array:
    """CSV's way: one scalar, written out; an empty cell is no value, save for strings."""
    if shape is not None and any(size not in (1, None) for size in shape):
        raise DataError(f"one cell cannot hold shape {shape_words(shape)}")
    kind, text = kind_of(dtype), value.strip()
    try:
        parsed: Any
        if kind == "string":
            parsed = value.encode()
        elif kind == "bool":
            parsed = {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        elif "_" in text:  # which Python takes in numbers, and nobody else
            raise ValueError
        elif kind == "integer":
            parsed = int(text) if text.lstrip("+-").isdecimal() else _whole(text)
        else:
            parsed = float(text)
    except (ValueError, KeyError):
        raise DataError(f"expected {_WORDS[kind]}, found {value[:40]!r}") from None
    array = np.array(parsed, object) if dtype.kind == "O" else cast(np.asarray(parsed), dtype)
    return array.reshape([1] * len(shape or ()))


def from_array(value: Array, dtype: Dtype, shape: Shape) -> Array:
    """Arrays of several examples, first axis the batch: [rows, …]; strings as S, U or object arrays.

    numpy writes bfloat16 as two bytes without a name; where the input is bfloat16 they are taken for it.
    """
    if value.dtype == np.dtype("V2") and dtype.name == "bfloat16":
        value = value.view(dtype)
    if dtype.kind == "O":
        if kind_of(value.dtype) != "string":
            raise DataError(f"expected strings, found {value.dtype}")
        flat = [item.encode() if isinstance(item, str) else item for item in value.reshape(-1).tolist()]
        strings: Array = np.empty(len(flat), object)
        strings[:] = flat
        array = strings.reshape(value.shape)
    else:
        array = cast(value, dtype)
    check_shape(array.shape[1:], shape)
    return array


def cast(array: Array, dtype: Dtype) -> Array:
    """The array in another dtype, where that keeps its meaning: numbers to floats, whole numbers that fit to integers.

    Raises:
        DataError: text for numbers, numbers for booleans, a fraction for an integer, a number out of range, a complex
            number for a real one; times, and what has fields.
    """
    if array.dtype == dtype:
        return array
    found, wanted = kind_of(array.dtype), kind_of(dtype)
    mixed = "string" in (found, wanted) or (found == "bool") != (wanted == "bool")
    if _has_no_numbers(array.dtype, dtype) or (mixed and array.size):
        raise DataError(f"expected {_WORDS[wanted]}, found {_kind_word(array)}")
    with np.errstate(all="ignore"):
        result = array.astype(dtype)
        # A number that wraps around comes back as it was, with another sign on the way.
        same = np.array_equal(result.astype(array.dtype), array) and np.array_equal(result < 0, array < 0)
        if wanted == "integer" and not same:
            raise DataError(f"expected {dtype.name}, found fractions or numbers out of its range")
        # Two comparisons rather than isfinite, which integers of any size pass.
        if wanted == "float" and dtype.kind != "c" and array.size:
            grown = np.isinf(result.astype(np.float64)) & ~np.isinf(array.astype(np.float64))
            if grown.any():
                raise DataError(f"expected {dtype.name}, found numbers out of its range")
    return result


def check_shape(found: tuple[int, ...], shape: Shape) -> None:
    """Refuse another shape than the expected one.

    Raises:
        DataError: shows both.
    """
    fits = shape is None or (
        len(shape) == len(found) and all(size in (None, have) for size, have in zip(shape, found, strict=True))
    )
    if shape is not None and not fits:
        raise DataError(f"expected shape {shape_words(shape)}, found {shape_words(found)}")


def shape_words(shape: tuple[int | None, ...]) -> str:
    """A shape for messages: [?, 3]."""
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _strings(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise DataError("its text has half a character (a lone surrogate), which UTF-8 cannot hold") from None
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        return [_strings(item) for item in value]
    if isinstance(value, Mapping) and set(value) == {"b64"}:
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise DataError('{"b64": …} does not hold base64') from None
    raise DataError(f"expected strings, found {type(value).__name__}")


def _has_no_numbers(found: Dtype, wanted: Dtype) -> bool:
    """Whether numpy would make numbers of what is none: objects, times, fields, complex numbers for real ones."""
    narrowed = found.kind == "c" and wanted.kind != "c"
    return found.kind in "OMm" or issubclass(found.type, np.void) or narrowed


def _whole(text: str) -> int:
    """A whole number that is written as a float, as tables with gaps do: 1.0."""
    number = float(text)
    if not number.is_integer() or abs(number) >= 2**53:  # beyond which floats skip whole numbers
        raise ValueError
    return int(number)


def _kind_word(array: Array) -> str:
    if array.dtype.kind in "Mmc" or issubclass(array.dtype.type, np.void):
        return f"values of the dtype {array.dtype}"
    if array.dtype.kind != "O":
        return _WORDS[kind_of(array.dtype)]
    kinds = {type(item) for item in array.flat}
    if type(None) in kinds:
        return "null"
    if kinds <= {int, float}:
        return "numbers beyond 64 bits"
    if dict in kinds:
        return "objects"
    return f"values of type {kinds.pop().__name__}" if len(kinds) == 1 else "values of several kinds"


_WORDS = {"float": "numbers", "integer": "whole numbers", "bool": "booleans", "string": "strings"}
