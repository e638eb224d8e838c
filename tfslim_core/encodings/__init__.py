"""How weights are stored: NumPy encoders, and the few stock TensorFlow ops that decode to the same bits.

An encoding turns a float array into parts (codes, a scale) and back; what loses nothing takes any dtype. The parts are
arrays like any other and may be stored in a scheme themselves: codes of 4 bits are packed, two to a byte, or
compressed, whichever is smaller.

    w: float32 <- int4 { scale: float16,  codes: int8 <- bits4 { plane4: uint8 } }

Where the decoding ops are put (after a gather, at load, in the graph) is a placement's business; see
`quantization.placements`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np

from tfslim_core.encodings.byte_planes import BytePlanes
from tfslim_core.encodings.casts import Casts
from tfslim_core.encodings.compressed import Compressed, entropy
from tfslim_core.encodings.constants import Fill, Lookup, Range
from tfslim_core.encodings.integers import Integers
from tfslim_core.encodings.lossless import Way, ways
from tfslim_core.encodings.output_error import Moments
from tfslim_core.encodings.packed_bits import PackedBits
from tfslim_core.encodings.palettes import Palettes
from tfslim_core.encodings.scheme import Encoding, Form, Nodes, NotEncodableError, Part, Scheme, Sharing
from tfslim_core.encodings.sparse import Sparse
from tfslim_core.encodings.zigzag import Zigzag
from tfslim_core.errors import ModelError, TransformError, nearest
from tfslim_core.graph import Input, NameMaker
from tfslim_core.weights import Array, Encoded, Weight, in_memory

ENCODINGS: Mapping[str, Encoding] = {
    "float16": Casts("float16"),
    "bfloat16": Casts("bfloat16"),
    **{f"int{bits}": Integers(bits) for bits in (*range(8, 1, -1), *range(9, 13))},
    **{f"int{bits - less}": Integers(bits, less=less) for bits in range(4, 13) for less in (0.25, 0.5, 0.75)},
    "int2.5": Integers(3, less=0.5),
    **{f"uint{bits}": Integers(bits, affine=True) for bits in range(8, 1, -1)},
    **{f"palette{bits}": Palettes(bits) for bits in range(8, 0, -1)},
    "sparse": Sparse(),
    "sparse16": Sparse("float16"),
    "sparse8": Sparse("int8"),
}
LOSSLESS = "lossless"  # what a user may name besides: the smallest of the ways in which nothing is lost
_STORAGE: Mapping[str, Scheme] = {
    "zlib": Compressed(),
    "zigzag": Zigzag(),
    **{f"bits{bits}": PackedBits(bits) for bits in range(1, 8)},
    "fill": Fill(),
    "range": Range(),
    "lookup": Lookup(),
    **{f"bytes{count}": BytePlanes(count) for count in (2, 4, 8)},
}
_COMPRESSED_SHARE = 0.95  # of the bytes without; compressing less is not worth the time at load
_LEAST_COMPRESSED = 8 * 1024  # bytes; the nodes that open it weigh about 300
_LEAST_SAVED = 1024  # bytes; what is stored without loss weighs up to as much in nodes

__all__ = [
    "ENCODINGS",
    "LOSSLESS",
    "Moments",
    "NotEncodableError",
    "Sharing",
    "bits",
    "by_row",
    "decoded",
    "decoding",
    "decoding_rows",
    "encoded",
    "heeds_moments",
    "is_exact",
    "lossless",
    "named",
    "needs_moments",
]


def named(text: str) -> tuple[str, str]:
    """The name of an encoding that a user gives, and how its scales or codebooks are shared: "int4", "int4/block32",
    "uint8/tensor", "int6/input", "palette4/group16", "lossless".

    Raises:
        TransformError: there is none; the nearest is suggested.
    """
    name, slash, sharing = text.partition("/")
    if name not in ENCODINGS and name != LOSSLESS:
        known = (*ENCODINGS, LOSSLESS)
        listed = ", ".join(one for one in known if "." not in one)
        raise TransformError(f"no encoding {name!r}{nearest(name, known)} (there are: {listed}; int2.5 to int11.75)")
    sharings = ENCODINGS[name].sharings if name in ENCODINGS else ()
    if slash and not any(re.fullmatch(one.replace("N", r"[1-9]\d{0,5}"), sharing) for one in sharings):
        what = "codebooks" if name.startswith("palette") else "scales"
        there = f"there are {', '.join(f'/{one}' for one in sharings)}" if sharings else f"{name} has none"
        raise TransformError(f"no sharing of {what} {sharing!r} in {text!r}; {there}")
    return name, sharing


def is_exact(text: str) -> bool:
    """Whether the encoding that a user names loses nothing.

    Raises:
        TransformError: there is none.
    """
    name, _ = named(text)
    return name == LOSSLESS or ENCODINGS[name].exact


def bits(text: str) -> int:
    """Of the encoding that a user names: bits an element, without scales and codebooks and before any compression.

    Raises:
        TransformError: there is none.
    """
    return ENCODINGS[named(text)[0]].bits


def heeds_moments(text: str) -> bool:
    """Whether the encoding that a user names rounds otherwise where the moments of a weight's inputs are known.

    Raises:
        TransformError: there is none.
    """
    name, how = named(text)
    return isinstance(ENCODINGS.get(name), Integers | Palettes) and not how.startswith("group")


def needs_moments(text: str) -> bool:
    """Whether the encoding that a user names is another only where the moments of a weight's inputs are known.

    Raises:
        TransformError: there is none.
    """
    return named(text)[1] == "input"


def by_row(name: str) -> frozenset[str]:
    """Of a weight that is stored as `name`, the parts that have a row for each of its own, from which rows of it can be
    decoded; none where only the whole can.
    """
    return _scheme(name).by_row


def roles(name: str) -> tuple[str, ...]:
    """The parts of a weight that is stored as `name`."""
    return tuple(_scheme(name).roles)


def encoded(
    weight: Weight, name: str, sharing: Sharing, *, compress: bool = True, moments: Moments | None = None
) -> Weight:
    """The weight stored in an encoding. Its value is read now; it reads as the decoded value from then on.

    compress: codes are compressed where that pays. moments: of the inputs that the weight is multiplied with, for
    encodings that heed them.

    Raises:
        NotEncodableError: it is not float32, holds NaN or infinity, or values that the encoding cannot hold; or it is
            no smaller when nothing may be lost.
        TransformError: there is no such encoding.
    """
    base, how = named(name)
    if base == LOSSLESS:
        found = lossless(weight, compress=compress)
        if found is None:
            raise NotEncodableError("it would not be smaller without loss")
        return found
    if weight.dtype != np.float32:
        raise NotEncodableError(f"it is {weight.dtype.name}, not float32")
    encoding = ENCODINGS[base]
    value = np.asarray(weight.read(), np.float32)
    # NaN and infinity come through a minimum or a maximum; a whole array of booleans would not be small.
    finite = np.isfinite(value.min(initial=0)) and np.isfinite(value.max(initial=0))
    if not finite and not encoding.exact:
        raise NotEncodableError("it holds NaN or infinity")
    parts = encoding.encode(value, _shared_as_told(sharing, how, value.ndim), moments)
    del value  # the largest there is; packing takes memory of its own
    stored = {role: in_memory(part) for role, part in parts.items()}
    stored["codes"] = _smallest(parts["codes"], encoding.bits, compress)
    if how == "input" and compress:
        stored["scale"] = lossless(stored["scale"]) or stored["scale"]
    if isinstance(encoding, Sparse) and encoding.stored_as:
        stored["values"] = encoded(stored["values"], encoding.stored_as, Sharing((0,)), compress=compress)
    return decoded(Encoded(base, stored), _form(weight))


def lossless(weight: Weight, *, compress: bool = True) -> Weight | None:
    """The weight, of any dtype, stored in the fewest bytes from which it comes back bit for bit; its value is read now.

    None where that saves less than a twentieth of its bytes, or less than 1 KiB.
    """
    most = min(_COMPRESSED_SHARE * weight.nbytes, weight.nbytes - _LEAST_SAVED)
    if most <= 0 or weight.dtype == object or weight.encoded is not None:
        return None
    found = [
        decoded(Encoded(way.scheme, _parts(way, compress)), _form(weight))
        for way in ways(weight.read())
        if compress or way.scheme != "zlib"
    ]
    best = min(found, key=lambda one: one.stored_bytes, default=None)
    return best if best is not None and best.stored_bytes <= most else None


def _parts(way: Way, compress: bool) -> Mapping[str, Weight]:
    stored = {role: in_memory(part) for role, part in way.parts.items()}
    for role in way.codes:
        codes = way.parts[role]
        if (same := Fill().encode(codes)) is not None:
            value = {key: in_memory(part) for key, part in same.items()}
            stored[role] = decoded(Encoded("fill", value), _form(stored[role]))
        else:
            stored[role] = _smallest(codes, int(codes.max(initial=1)).bit_length(), compress)
    for role in way.values:
        stored[role] = lossless(stored[role], compress=compress) or stored[role]
    return stored


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


def footprint(weight: Weight) -> int:
    """Bytes that a weight takes in a servable: what is stored, and the nodes that decode it."""
    if weight.encoded is None:
        return weight.nbytes
    nodes = Nodes("w", NameMaker(()))
    decoding(nodes, weight.encoded, _form(weight), lambda roles, _: Input("/".join(roles), 0))
    return weight.stored_bytes + sum(int(node.ByteSize()) for node in nodes.made)


def decoding_rows(nodes: Nodes, name: str, parts: Mapping[str, Part], form: Form) -> Input:
    """Add the nodes that decode rows of what is stored as `name` in the scheme's parts, which are rows of theirs.

    form: of the whole.
    """
    return _scheme(name).decoding_ops(nodes, parts, form)


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
    if how == "input":
        return Sharing(tuple(range(rank)), inputs=True)
    if how.startswith("group"):
        return Sharing(sharing.axes, group=int(how.removeprefix("group")))
    return Sharing(sharing.axes, int(how.removeprefix("block")) if how.startswith("block") else sharing.block)


def _smallest(codes: Array, bits: int, compress: bool) -> Weight:
    """The codes as they are, packed or compressed, whichever takes the fewest bytes."""
    plain = _packed(codes, bits)
    if not compress or plain.stored_bytes < _LEAST_COMPRESSED:
        return plain
    if codes.dtype == np.int16:
        planes = {role: _smallest(plane, 8, compress) for role, plane in Zigzag().encode(codes).items()}
        return decoded(Encoded("zigzag", planes), _form(plain))
    if codes.itemsize > 1:
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
