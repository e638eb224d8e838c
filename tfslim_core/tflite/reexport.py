"""Write a bundle as a TFLite model, compared with the bundle's own answers before it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tfslim_core import storage
from tfslim_core.bundle import Bundle, copy_files
from tfslim_core.errors import ModelError
from tfslim_core.graph import Graph, Input, parse_input
from tfslim_core.saved_model.fresh_process import ModelProcess, Request
from tfslim_core.saved_model.sample_check import Sample, differences, take_sample
from tfslim_core.saved_model.served_signatures import Signature, TensorSpec, read_signatures, signatures_in
from tfslim_core.saved_model.write import write_saved_model
from tfslim_core.tflite.converter import Quantization, convert
from tfslim_core.tflite.files import MODEL_FILE
from tfslim_core.tflite.interpreter import LiteModel
from tfslim_core.tflite.serving_metadata import describe_signatures
from tfslim_core.tflite.signatures import read_lite_signatures
from tfslim_core.weights import Array

ROUNDING = 0.01  # relative L2; TFLite's kernels add in another order, and a model may amplify that
MOST_BYTES = 2**31 - 1  # offsets in the file are signed
_FIRST = "serving_default"
_WARMUP = "tf_serving_warmup_requests"
_CALIBRATING = 128  # requests of one example or batch that int8 is scaled by

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class LiteReexport:
    """What was made. errors: by "signature/output", relative L2. notes: for the reader."""

    errors: Mapping[str, float]
    sample: Sample
    notes: list[str]


def write_tflite(
    bundle: Bundle,
    directory: Path,
    quantize: Quantization,
    given: Mapping[str, Sequence[Mapping[str, Array]]],
    progress: Progress,
) -> LiteReexport:
    """Write `model.tflite` and assets.extra/ into an empty directory.

    given: real requests by signature, which answers are compared on and int8 is scaled by; made-up ones stand in where
    there are none, for comparing only.

    Raises:
        ModelError: TFLite lacks an op, cannot hold a signature, or gives other answers.
    """
    signatures = bundle.manifest.signature_defs()
    same = _same(bundle.graph, signatures)
    converted = [name for name in _by_importance(signatures) if same[name] == name]
    numbers = {name: f"{number:04d}" for number, name in enumerate(converted)}
    file = directory / MODEL_FILE
    _refuse_too_large(bundle, quantize)
    with storage.scratch_directory() as aside:
        write_saved_model(bundle, aside)
        wanted = read_signatures(aside, bundle.manifest.tags)
        for name in converted:
            _refuse_what_tflite_lacks(wanted[name], signatures[name])
        progress("ask the model as it was", 0, 0)
        sample = take_sample(aside, bundle.manifest.tags, sorted(signatures), given)
        requests = [Request(numbers[name], one) for name in converted for one in given.get(name, ())]
        if quantize == "int8" and (lacking := [name for name in converted if not given.get(name)]):
            raise ModelError(
                f"int8 needs requests for each signature, and there are none for {', '.join(lacking)}: keep the one "
                "that the data feeds (tfslim freeze --signatures NAME), or take dynamic"
            )
        progress("convert", 0, 0)
        _call_signatures(aside / "saved_model.pb", numbers)
        convert(aside, file, bundle.manifest.tags, list(numbers.values()), quantize, requests)
    reached = describe_signatures(file, signatures, {name: numbers[other] for name, other in same.items()})
    notes = _notes(signatures, wanted, reached, sample)
    check_interface(wanted, {name: one.signature for name, one in read_lite_signatures(file).items()})
    progress("check the answers", 0, 0)
    ModelProcess(file).close()  # it loads, even where no request could be made up
    errors = {
        f"{signature}/{key}": error
        for (signature, key), error in differences(sample, directory, bundle.manifest.tags).items()
    }
    _refuse_other_answers(errors, quantize)
    notes.append(_xnnpack(file))
    copy_files(bundle.files, directory, [])
    if len(reached) < len(signatures) and (warmup := directory / "assets.extra" / _WARMUP).exists():
        warmup.unlink()
        notes.append(f"assets.extra/{_WARMUP} was left out: it may ask for a signature that the server cannot reach")
    return LiteReexport(errors, sample, notes)


def requests_of(bundle: Bundle, data: Mapping[str, str], signature: str | None) -> dict[str, list[Mapping[str, Array]]]:
    """The first examples of the data, one in a request, by the signature that they feed.

    Raises:
        DataError: the data cannot be read or does not fit.
        ModelError: there is no such signature.
    """
    if not data:
        return {}
    from tfslim_core.validation.sample import requests_for

    found = requests_for(signatures_in(bundle.meta_graph()), data, signature, batch_size=1)
    return {found.signature: found.feeds[:_CALIBRATING]}


def check_interface(wanted: Mapping[str, Signature], found: Mapping[str, Signature]) -> None:
    """Compare a TFLite model's signatures with those that it was made from.

    Raises:
        ModelError: a name, a key, a dtype or a shape differs.
    """
    if set(found) != set(wanted):
        raise ModelError(f"TFLite's converter made the signatures {sorted(found)} of {sorted(wanted)}")
    for name, signature in wanted.items():
        # Where no request may have another size, an output's unknown one is just what it was not told.
        sized = all(spec.shape is not None and None not in spec.shape for spec in signature.inputs.values())
        for what in ("inputs", "outputs"):
            before: Mapping[str, TensorSpec] = getattr(signature, what)
            after: Mapping[str, TensorSpec] = getattr(found[name], what)
            for key in sorted({*before, *after}):
                a, b = before.get(key), after.get(key)
                if a is None or b is None or a.dtype != b.dtype or not _fits(a.shape, b.shape, sized):
                    raise ModelError(
                        f"TFLite's converter made {_told(b)} of the {what[:-1]} {key!r} of signature {name!r}, which "
                        f"is {_told(a)}; serve the SavedModel"
                    )


def _fits(before: tuple[int | None, ...] | None, after: tuple[int | None, ...] | None, sized: bool) -> bool:
    """Whether two shapes are one, as far as both are known; a size that any request may have stays so.

    sized: requests have one size alone.
    """
    if before is None or after is None:
        return True
    pairs = zip(before, after, strict=False)
    return len(before) == len(after) and all(a == b or b is None or (sized and a is None) for a, b in pairs)


def _by_importance(signatures: Iterable[str]) -> list[str]:
    return sorted(signatures, key=lambda name: (name != _FIRST, name))


def _same(graph: Graph, signatures: Mapping[str, Any]) -> dict[str, str]:
    """Signature -> the first that computes the same of the same inputs: the one that is converted, for all of them."""
    first: dict[tuple[tuple[tuple[str, Input], ...], ...], str] = {}
    return {
        name: first.setdefault(tuple(_sources(graph, infos) for infos in (one.inputs, one.outputs)), name)
        for name, one in ((name, signatures[name]) for name in _by_importance(signatures))
    }


def _sources(graph: Graph, infos: Mapping[str, Any]) -> tuple[tuple[str, Input], ...]:
    """Each key, and the tensor that it stands for behind Identity nodes, which only name it."""
    return tuple((key, _source(graph, parse_input(info.name))) for key, info in sorted(infos.items()))


def _source(graph: Graph, tensor: Input) -> Input:
    node = graph.nodes.get(tensor.node)
    while node is not None and node.op == "Identity" and len(node.input) == 1:
        tensor = parse_input(node.input[0])
        node = graph.nodes.get(tensor.node)
    return tensor


def _call_signatures(file: Path, names: Mapping[str, str]) -> None:
    """Keep only some signatures of a SavedModel, under other names: the converter takes them in their order."""
    proto = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    definitions = proto.meta_graphs[0].signature_def
    kept = {
        new: meta_graph_pb2.SignatureDef.FromString(definitions[old].SerializeToString()) for old, new in names.items()
    }
    definitions.clear()
    for name, definition in kept.items():
        definitions[name].CopyFrom(definition)
    file.write_bytes(proto.SerializeToString(deterministic=True))


def _refuse_too_large(bundle: Bundle, quantize: Quantization) -> None:
    share = {"none": 1, "float16": 2, "dynamic": 4, "int8": 4}[quantize]
    size = sum(weight.nbytes for weight in bundle.graph.weights.values()) // share
    if size > MOST_BYTES:
        raise ModelError(
            f"the weights take {size:,} bytes, and a TFLite file holds at most 2 GiB: store them in fewer bits "
            "(--tflite-quantize dynamic), or serve the SavedModel"
        )


def _refuse_what_tflite_lacks(signature: Signature, definition: Any) -> None:
    for what in ("inputs", "outputs"):
        for key, info in sorted(getattr(definition, what).items()):
            if info.WhichOneof("encoding") != "name":
                raise ModelError(
                    f"TFLite has no sparse or composite tensors, and the {what[:-1]} {key!r} of signature "
                    f"{signature.name!r} is one; keep signatures without them (tfslim freeze --signatures NAME)"
                )


def _refuse_other_answers(errors: Mapping[str, float], quantize: Quantization) -> None:
    for place, error in errors.items():
        if error == float("inf"):
            raise ModelError(f"TFLite gives NaN, infinity or another shape for {place!r}; serve the SavedModel")
        if quantize == "none" and error > ROUNDING:
            raise ModelError(
                f"TFLite gives other answers: {place!r} is off by {error:.2g} (relative L2), and rounding explains "
                f"{ROUNDING:g} at most; serve the SavedModel"
            )


def _notes(
    signatures: Mapping[str, Any], wanted: Mapping[str, Signature], reached: Sequence[str], sample: Sample
) -> list[str]:
    found = []
    if lost := sorted(set(signatures) - set(reached)):
        found.append(
            f"TensorFlow Serving reaches {', '.join(reached) or 'no signature'} of this file, not {', '.join(lost)}: "
            "it runs a TFLite model's first subgraph alone"
        )
    for name in reached:
        found += [
            f"TensorFlow Serving flattens strings: the input {key!r} of signature {name!r} has {len(spec.shape)} "
            "dimensions and cannot be served there"
            for key, spec in wanted[name].inputs.items()
            if spec.dtype == object and spec.shape is not None and len(spec.shape) != 1
        ]
    for name, signature in sorted(wanted.items()):
        found += [
            f"the input {key!r} of signature {name!r} has a default, which TFLite has not: it must be fed"
            for key, spec in signature.inputs.items()
            if spec.optional
        ]
    return found


def _xnnpack(file: Path) -> str:
    """Whether TFLite's fast kernels take part. The file has just been run in a process of its own."""
    with LiteModel(file) as lite:
        parts, _ = lite.delegated()
    return f"XNNPACK computes {parts} part{'s' * (parts != 1)} of the graph" if parts else "XNNPACK takes no part"


def _told(spec: TensorSpec | None) -> str:
    if spec is None:
        return "nothing"
    shape = "of unknown rank" if spec.shape is None else str(["?" if n is None else n for n in spec.shape])
    return f"{spec.dtype.name.replace('object', 'string')} {shape}".replace("'", "")
