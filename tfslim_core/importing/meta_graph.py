"""What a training MetaGraph says of its own interface."""

from __future__ import annotations

import json
from typing import Any

from tfslim_core.importing.from_graph import one_signature
from tfslim_core.importing.interface import Interface
from tfslim_core.saved_model.read import INIT_SIGNATURE


def declared_signatures(meta_graph: Any) -> dict[str, Any]:
    """Its signatures; else one of the `inputs` and `outputs` collections, JSON from key to tensor; else none."""
    named = {name: one for name, one in meta_graph.signature_def.items() if name != INIT_SIGNATURE}
    named = {name: one for name, one in named.items() if not name.startswith("__saved_model_") and one.outputs}
    if named:
        return named
    inputs, outputs = (_tensors(meta_graph, key) for key in ("inputs", "outputs"))
    return one_signature(Interface(inputs, outputs)) if inputs and outputs else {}


def _tensors(meta_graph: Any, key: str) -> dict[str, str]:
    if key not in meta_graph.collection_def:
        return {}
    found: dict[str, str] = {}
    for text in meta_graph.collection_def[key].bytes_list.value:
        try:
            mapping = json.loads(text)
        except (ValueError, UnicodeDecodeError):
            return {}
        if not isinstance(mapping, dict) or not all(isinstance(value, str) for value in mapping.values()):
            return {}
        found |= mapping
    if found:
        return found
    tensors = meta_graph.collection_def[key].node_list.value
    return {name.split(":")[0]: name for name in tensors}
