"""Floats of fewer bits: float16 and bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfslim_core.encodings.output_error import Moments
from tfslim_core.encodings.scheme import Floats, Form, Nodes, NotEncodableError, Part, Sharing
from tfslim_core.graph import Input
from tfslim_core.weights import Array


@dataclass(frozen=True)
class Casts:
    """The nearest value of a narrower float, ties to even."""

    dtype: str
    bits: int = 16
    exact: bool = False
    by_row = frozenset({"codes"})
    sharings = ("tensor", "channel", "blockN")  # which make no difference

    @property
    def roles(self) -> Mapping[str, frozenset[str]]:
        """Only codes."""
        return {"codes": frozenset({self.dtype})}

    def problem(self, parts: Mapping[str, Form], form: Form) -> str:
        """The codes have the weight's shape."""
        return "" if parts["codes"].shape == form.shape else f"the codes have the shape {parts['codes'].shape}"

    def encode(self, value: Floats, sharing: Sharing, moments: Moments | None = None) -> Mapping[str, Array]:
        """Refuses what would become infinite."""
        del sharing, moments
        dtype = tf.as_dtype(self.dtype).as_numpy_dtype
        most = float(tf.as_dtype(self.dtype).max)
        if value.size and np.abs(value).max() > most:
            raise NotEncodableError(f"its largest value is beyond what {self.dtype} can hold ({most:g})")
        return {"codes": value.astype(dtype)}

    def decode(self, parts: Mapping[str, Array], form: Form) -> Array:
        """Exact."""
        del form
        return parts["codes"].astype(np.float32)

    def decoding_ops(self, nodes: Nodes, parts: Mapping[str, Part], form: Form) -> Input:
        """Cast."""
        del form
        return nodes.add("Cast", parts["codes"].source, SrcT=parts["codes"].dtype, DstT=tf.float32)
