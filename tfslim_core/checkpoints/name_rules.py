"""What tensors of a checkpoint are for, by their names: for checkpoints that have names and nothing else.

A slot is named after its variable: `dense/kernel/Adam` beside `dense/kernel`, below the scope of the optimizer where
there is one: `OptimizeLoss/dense/kernel/Adam`. A name alone proves nothing: the variable has to be there, with the same
shape. What only looks like training state is kept, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from tfslim_core.checkpoints.tensor_bundle import Stored

WEIGHTS, SLOTS, STEPS, SETTINGS, LOSS_SCALE, AVERAGES, BIASED = (
    "weights",
    "optimizer slots",
    "step counters",
    "optimizer settings",
    "loss scale",
    "moving averages",
    "bias of moving averages",
)
STATE = frozenset({SLOTS, STEPS, SETTINGS, LOSS_SCALE, BIASED})  # what inference has no use for

# Slots by the last part of their name. Several optimizers number theirs: Adam_2 and Adam_3 are another one's.
_SLOT = re.compile(
    r"(?:Adam|Adam_1|AdaMax|AMSGrad|NAdam|LazyAdam|Momentum|RMSProp|Adagrad|AdagradDA|Adadelta|Ftrl|ProximalAdagrad|"
    r"AdamWeightDecay|LAMB|LARS|LARSOptimizer|LAMBOptimizer|AdaBelief|adam_m|adam_v|lamb_m|lamb_v)(?:_\d+)?"
)
# Those of Keras' optimizers, which are words that a layer might use too: only below an optimizer's name.
_KERAS_SLOT = re.compile(
    r"(?:m|v|vhat|momentum|velocity|rms|mg|accumulator|linear|accum_grad|accum_var|avg_grad|accumulated_grad|"
    r"accumulated_delta_var|average_gradient|squared_gradient)(?:_\d+)?"
)
_KERAS_OPTIMIZER = re.compile(
    r"(?:Adam|AdamW|Adamax|Nadam|SGD|RMSprop|Adagrad|Adadelta|Ftrl|LAMB|LARS|AdamWeightDecay|Lion|Adafactor)(?:_\d+)?"
)
_KERAS_SETTING = re.compile(r"(?:learning_rate|decay|beta_1|beta_2|momentum|rho|epsilon)(?:_\d+)?")
_POWER = re.compile(r"beta[12]_power(?:_\d+)?")
_LOSS_SCALE = re.compile(
    r"(?:loss_scale|current_loss_scale|good_steps|num_good_steps|num_bad_steps|lr_scale_factor)(?:_\d+)?"
)
_INTEGERS = frozenset({"int32", "int64", "uint64"})
_AVERAGE = "ExponentialMovingAverage"


@dataclass(frozen=True)
class Use:
    """What a tensor is for. of: the variable it belongs to. doubt: why it is kept though its name sounds otherwise."""

    kind: str
    of: str = ""
    doubt: str = ""


def uses(tensors: Mapping[str, Stored]) -> dict[str, Use]:
    """What each tensor is for."""
    found = {name: _slot(name, stored, tensors) or Use(WEIGHTS) for name, stored in tensors.items()}
    has_slots = any(use.kind == SLOTS for use in found.values())
    for name, stored in tensors.items():
        if found[name] == Use(WEIGHTS):
            found[name] = _scalar(name, stored, tensors, has_slots)
    return found


def _slot(name: str, stored: Stored, tensors: Mapping[str, Stored]) -> Use | None:
    base, _, last = name.rpartition("/")
    if not base:
        return None
    if last == _AVERAGE:
        of = next(_variables(base, stored, tensors), "")
        return Use(AVERAGES, of) if of else Use(WEIGHTS, doubt="a moving average whose variable is not there")
    if _SLOT.fullmatch(last):
        of = next(_variables(base, stored, tensors), "")
        return Use(SLOTS, of) if of else Use(WEIGHTS, doubt="named as a slot, but no variable of its shape is there")
    if last == "biased" and f"{base}/local_step" in tensors and _alike(stored, tensors.get(base)):
        return Use(BIASED, base)
    if last == "local_step" and not stored.shape and f"{base}/biased" in tensors and base in tensors:
        return Use(BIASED, base)
    return _keras_slot(name, stored, tensors)


def _keras_slot(name: str, stored: Stored, tensors: Mapping[str, Stored]) -> Use | None:
    """`training/Adam/dense/kernel/m`, `Adam/dense/kernel/m`, `Adam/m/dense/kernel`, `dense/kernel/.../Adam/m`."""
    parts = name.split("/")
    for place, part in enumerate(parts[:-1]):
        if not _KERAS_OPTIMIZER.fullmatch(part):
            continue
        rest = parts[place + 1 :]
        for slot, base in ((rest[-1], rest[:-1]), (rest[0], rest[1:])):
            of = "/".join(base)
            if base and _KERAS_SLOT.fullmatch(slot) and of != name and _alike(stored, tensors.get(of)):
                return Use(SLOTS, of)
        before = "/".join(parts[:place])
        if len(rest) == 1 and _KERAS_SLOT.fullmatch(rest[0]) and _alike(stored, tensors.get(before)):
            return Use(SLOTS, before)
    return None


def _variables(base: str, stored: Stored, tensors: Mapping[str, Stored]) -> Iterator[str]:
    """Variables that a slot may belong to: of its name, or of that without scopes in front.

    TensorFlow calls those of partitioned variables that were made in a scope after the variable, with what it cut off
    of another name by mistake: `table/mizeLoss/table/part_0/Adam`.
    """
    bases = [base]
    if stored.entry.slices:
        parts = base.split("/")
        bases += ["/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
    for name in bases:
        while name:
            if _alike(stored, tensors.get(name)):
                yield name
            _, _, name = name.partition("/")


def _alike(one: Stored, other: Stored | None) -> bool:
    return other is not None and one.shape == other.shape


def _scalar(name: str, stored: Stored, tensors: Collection[str], has_slots: bool) -> Use:
    if stored.shape:
        return Use(WEIGHTS)
    *scopes, last = name.split("/")
    if last == "global_step" and stored.dtype.name in _INTEGERS:
        return Use(STEPS)
    known = has_slots or any(scope == "OptimizeLoss" for scope in scopes)
    if _POWER.fullmatch(last):
        return Use(SETTINGS) if known else Use(WEIGHTS, doubt="named as Adam's, but no slots of Adam are there")
    if _LOSS_SCALE.fullmatch(last):
        return Use(LOSS_SCALE) if known else Use(WEIGHTS, doubt="named as a loss scale, but no optimizer is there")
    below = bool(scopes) and bool(_KERAS_OPTIMIZER.fullmatch(scopes[-1]) or scopes[-1] == "OptimizeLoss")
    if below and (_KERAS_SETTING.fullmatch(last)):
        return Use(SETTINGS)
    if below and re.fullmatch(r"iter(?:ations?)?(?:_\d+)?", last) and stored.dtype.name in _INTEGERS:
        return Use(STEPS)
    return Use(WEIGHTS)
