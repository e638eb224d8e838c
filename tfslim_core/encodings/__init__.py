"""How weights are stored: NumPy encoders, and the few stock TensorFlow ops that decode to the same bits.

An encoding turns a float array into parts (codes, a scale) and back. The parts are arrays like any other and may be
stored in a scheme themselves: codes of 4 bits are packed, two to a byte, or compressed, whichever is smaller.

    w: float32 <- int4 { scale: float16,  codes: int8 <- bits4 { plane4: uint8 } }

Where the decoding ops are put (after a gather, at load, in the graph) is a placement's business; see
`quantization.placements`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np

from tfslim_core.encodings.casts import Casts
from tfslim_core.encodings.compressed import Compressed, entropy
from tfslim_core.encodings.integers import Integers
from tfslim_core.encodings.packed_bits import PackedBits
from tfslim_core.encodings.scheme import Encoding, Form, Nodes, NotEncodableError, Part, Scheme, Sharing
from tfslim_core.errors import ModelError, TransformError, nearest
from tfslim_core.graph import Input
from tfslim_core.weights import Array, Encoded, Weight, in_memory

ENCODINGS: Mapping[str, Encoding] = {
    "float16": Casts("float16"),
    "bfloat16": Casts("bfloat16"),
    **{f"int{bits}": Integers(bits) for bits in range(8, 1, -1)},
    **{f"uint{bits}": Integers(bits, affine=True) for bits in range(8, 1, -1)},
}
_STORAGE: Mapping[str, Scheme] = {
    "zlib": Compressed(),
    **{f"bits{bits}": PackedBits(bits) for bits in range(1, 8)},
}
_COMPRESSED_SHARE = 0.95  # of the bytes without; compressing less is not worth the time at load
_LEAST_COMPRESSED = 8 * 1024  # bytes; the nodes that open it weigh about 300

__all__ = ["ENCODINGS", "NotEncodableError", "Sharing", "decoded", "decoding", "encoded", "named"]


def named(text: str) -> tuple[Encoding, str]:
    """The encoding that a user names, and how its scales are shared: "int4", "int4/block32", "uint8/tensor".

    Raises:
        TransformError: there is none; the nearest is suggested.
    """
    name, slash, sharing = text.partition("/")
    if name not in ENCODINGS:
        raise TransformError(f"no encoding {name!r}{nearest(name, ENCODINGS)} (there are: {', '.join(ENCODINGS)})")
    if slash and not (sharing in ("tensor", "channel") or re.fullmatch(r"block[1-9]\d{0,5}", sharing)):
        raise TransformError(f"no sharing of scales {sharing!r} in {text!r}; there are /tensor, /channel and /blockN")
    return ENCODINGS[name], sharing


def encoded(weight: Weight, name: str, sharing: Sharing, *, compress: bool = True) -> Weight:
    """The weight stored in an encoding. Its value is read now; it reads as the decoded value from then on.

    compress: codes are compressed where that pays.

    Raises:
        NotEncodableError: it is not float32, holds NaN or infinity, or values that the encoding cannot hold.
        TransformError: there is no such encoding.
    """
    if weight.dtype != np.float32:
        raise NotEncodableError(f"it is {weight.dtype.name}, not float32")
    encoding, how = named(name)
    value = np.asarray(weight.read(), np.float32)
    # NaN and infinity come through a minimum or a maximum; a whole array of booleans would not be small.
    if not np.isfinite(value.min(initial=0)) or not np.isfinite(value.max(initial=0)):
        raise NotEncodableError("it holds NaN or infinity")
    parts = encoding.encode(value, _shared_as_told(sharing, how, value.ndim))
    del value  # the largest there is; packing takes memory of its own
    stored = {role: in_memory(part) for role, part in parts.items()}
    stored["codes"] = _smallest(parts["codes"], encoding.bits, compress)
    return decoded(Encoded(name.partition("/")[0], stored), Form(weight.dtype, weight.shape))


def decoded(stored: Encoded, form: Form) -> Weight:
    """The array of that form that is stored as `stored`.

    Raises:
        ModelError: these are not the encoding's parts.
    """
    scheme = _scheme(stored.encoding)
    forms = {role: _form(part) for role, part in stored.parts.items()}
    found = {role: part.dtype.name for role, part in forms.items()}
    if found.keys() != scheme.roles.keys() or any(found[role] not in dtypes for role, dtypes in scheme.roles.items()):
        raise ModelError(f"{stored.encoding} has the parts {', '.join(scheme.roles)}; found: {found}")
    if problem := scheme.problem(forms, form):
        raise ModelError(f"{stored.encoding} of {form.dtype.name}{form.shape}: {problem}")

    def read() -> Array:
        return scheme.decode({role: part.read() for role, part in stored.parts.items()}, form)

    return Weight(form.dtype, form.shape, read, stored)


def decoding(nodes: Nodes, stored: Encoded, form: Form, leaf: Callable[[tuple[str, ...], Weight], Input]) -> Input:
    """Add the nodes that decode all of it; the last gives the value.

    leaf: where a part that is stored as it is comes from; called with the roles that lead to it.
    """

    def source(roles: tuple[str, ...], part: Weight) -> Input:
        if part.encoded is None:
            return leaf(roles, part)
        return whole(roles, part.encoded, _form(part))

    def whole(roles: tuple[str, ...], some: Encoded, wanted: Form) -> Input:
        parts = {role: Part(source((*roles, role), part), _form(part)) for role, part in some.parts.items()}
        return _scheme(some.encoding).decoding_ops(nodes, parts, wanted)

    return whole((), stored, form)


def leaves(stored: Encoded, roles: tuple[str, ...] = ()) -> Mapping[tuple[str, ...], Weight]:
    """What is stored as it is, by the roles that lead to it."""
    found: dict[tuple[str, ...], Weight] = {}
    for role, part in stored.parts.items():
        found |= {(*roles, role): part} if part.encoded is None else leaves(part.encoded, (*roles, role))
    return found


def _scheme(name: str) -> Scheme:
    scheme = ENCODINGS.get(name) or _STORAGE.get(name)
    if scheme is None:
        raise ModelError(f"a weight is stored as {name!r}, which this tfslim does not know")
    return scheme


def _form(weight: Weight) -> Form:
    return Form(weight.dtype, weight.shape)


def _shared_as_told(sharing: Sharing, how: str, rank: int) -> Sharing:
    if how == "tensor":
        return Sharing(tuple(range(rank)))
    return Sharing(sharing.axes, int(how.removeprefix("block")) if how.startswith("block") else sharing.block)


def _smallest(codes: Array, bits: int, compress: bool) -> Weight:
    """The codes as they are, packed or compressed, whichever takes the fewest bytes."""
    plain = _packed(codes, bits)
    if not compress or plain.stored_bytes < _LEAST_COMPRESSED or codes.itemsize > 1:
        return plain
    most = _COMPRESSED_SHARE * plain.stored_bytes
    if entropy(codes) / 8 * codes.size > most:
        return plain
    # Huffman codes are of whole bits, at least one a symbol: several codes in one symbol where they are few bits.
    choices = [_compressed(codes)] + [_packed(codes, width, zipped=True) for width in (4, 2, 1) if bits <= width]
    best = min(choices, key=lambda choice: choice.stored_bytes)
    return best if best.stored_bytes <= most else plain


def _packed(codes: Array, bits: int, *, zipped: bool = False) -> Weight:
    if bits >= 8:
        return in_memory(codes)
    parts = PackedBits(bits).encode(codes)
    planes = {role: _compressed(part) if zipped else in_memory(part) for role, part in parts.items()}
    return decoded(Encoded(f"bits{bits}", planes), Form(codes.dtype, codes.shape))


def _compressed(value: Array) -> Weight:
    chunks = {role: in_memory(part) for role, part in Compressed().encode(value).items()}
    return decoded(Encoded("zlib", chunks), Form(value.dtype, value.shape))
