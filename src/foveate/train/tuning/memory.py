"""How many cases of a step find room: what a step keeps for its way back is counted, not guessed.

It is counted at a smaller size, since what convolutions keep grows as the voxels do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from foveate.contract import Classifier, InputSpec
from foveate.parallel import free_memory

_COUNTED = 2  # cases: the fewest with which every layer can be trained
_COPIES = 5  # of the weights: themselves, gradients, two moments, their mean over epochs
_AGAIN = 2  # gradients of what is kept are at most as large
_SMALL = 2**15  # voxels, or pixels, of a view that are counted at
_LEAST = (8, 32, 32)  # sides of volumes and pictures below which networks may not go
_SHARE = 0.5  # of the free memory


@dataclass(frozen=True, slots=True)
class StepMemory:
    """What a step of a training needs, in bytes.

    Attributes:
        fixed: however many cases there are.
        case: of each case.
        free: what is there now, on the GPU if there is one; None if the system does not tell.
    """

    fixed: int
    case: int
    free: int | None

    def of(self, batch: int) -> int:
        """What a batch needs."""
        return self.fixed + batch * self.case

    def largest(self, most: int) -> int:
        """The largest batch of ``most``, its half, and so on, for which half of the free memory is enough."""
        while self.free is not None and most > _COUNTED and self.of(most) > _SHARE * self.free:
            most //= 2
        return most


def step_memory(build: Callable[[InputSpec], Classifier], spec: InputSpec) -> StepMemory:
    """Count what a step in float32 needs.

    Args:
        build: makes the network for a size.
        spec: what it will be fed.
    """
    small = replace(spec, size=_smaller(spec.size))
    model = build(small)
    weights = sum(item.nbytes for item in model.state_dict().values())
    each = _AGAIN * kept_bytes(model) * math.prod(spec.size) // (_COUNTED * math.prod(small.size))
    return StepMemory(_COPIES * weights, each, _free())


def kept_bytes(model: Classifier) -> int:
    """Bytes that a pass of two cases of zeros keeps for its way back, beside the weights; it is then spoilt.

    Args:
        model: on the processor.
    """
    weights = {item.untyped_storage().data_ptr() for item in model.state_dict().values()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    spec = model.input_spec
    zeros = torch.zeros((_COUNTED, spec.channels, *spec.size))
    with saved_tensors_hooks(note, lambda tensor: tensor):
        output = model.train()(dict.fromkeys(spec.views, zeros))  # while it is held, so is what was kept
    del output
    return sum(kept.values())


def _smaller(size: tuple[int, ...]) -> tuple[int, ...]:
    """Sides halved, the longest first, until there are few voxels."""
    sides, least = list(size), _LEAST[-len(size) :]
    while math.prod(sides) > _SMALL:
        able = [axis for axis, side in enumerate(sides) if side % 2 == 0 and side // 2 >= least[axis]]
        if not able:
            break
        sides[max(able, key=lambda axis: sides[axis])] //= 2
    return tuple(sides)


def _free() -> int | None:
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return free_memory()
