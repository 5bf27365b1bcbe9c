"""Whether this machine computes each convolution of a training right in reduced precision.

Every distinct convolution of a step (``Convolution``: its shapes, steps, memory format) is computed once by
itself on random numbers, forward and backward, and compared with float32. Before each computation memory of
the sizes that it will take is filled with NaN and freed, so that what a kernel leaves unwritten shows. A norm
check in the training loop could not do this: what is left over in memory is mostly finite.

What fails is computed another way (``convolution.WAYS``): the fastest of those that are right. Verdicts are
remembered in the cache folder under all that they depend on: shapes, library, processor, threads.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from foveate.device import channels_last
from foveate.files import write_json
from foveate.train.tuning.convolution import WAYS, Convolution, Way

TOLERANCE = 0.05  # relative error of any output channel or tap; bfloat16's rounding makes 0.004 at most
_MOST_NUMBERS = 2**23  # of a map that is tried; larger batches are tried with fewer cases
_TRIES = 3  # of a weight gradient: some kernels are wrong only now and then
_ENVIRONMENT = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE")


@dataclass(frozen=True, slots=True)
class KernelVerdict:
    """How one convolution is computed.

    Attributes:
        way: ``library``, or the way that is taken instead.
        error: largest relative error of the library, None for NaN or infinity; see ``relative_error``.
    """

    way: Way
    error: float | None


class KernelCheck:
    """Checks convolutions and remembers the verdicts.

    Args:
        device: that computes.
        cache: folder that remembers verdicts; None remembers nothing.

    Attributes:
        seconds: spent on checking.
    """

    def __init__(self, device: torch.device, cache: Path | None = None) -> None:
        self.seconds = 0.0
        self._device = device
        self._file = None if cache is None else cache / "kernels" / f"{machine_key(device)}.json"

    def verdicts(self, shapes: Iterable[Convolution]) -> dict[Convolution, KernelVerdict]:
        """The verdict on each convolution; those not yet known are tried."""
        began, known, wanted = time.perf_counter(), self._known(), list(shapes)
        fresh = {shape.key: check(shape, self._device) for shape in wanted if shape.key not in known}
        if fresh and self._file is not None:
            content = {key: [item.way, item.error] for key, item in {**self._known(), **fresh}.items()}
            with suppress(OSError):  # a full disk costs the next training these seconds again
                write_json(self._file, content)
        self.seconds += time.perf_counter() - began
        known |= fresh
        return {shape: known[shape.key] for shape in wanted}

    def _known(self) -> dict[str, KernelVerdict]:
        with suppress(OSError, ValueError, TypeError, AttributeError):
            if self._file is not None:
                content = json.loads(self._file.read_text(encoding="utf-8"))
                return {
                    key: KernelVerdict(way, error) for key, (way, error) in content.items() if way in WAYS
                }
        return {}


def machine_key(device: torch.device) -> str:
    """Hash of what the choice of a kernel depends on besides the shapes."""
    parts = {
        "machine": [platform.machine(), processor_name(), torch.get_num_threads()],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "capabilities": sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True),
        "torch": torch.__version__,  # oneDNN and cuDNN come with it
        "settings": [os.environ.get(name) for name in _ENVIRONMENT],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def processor_name() -> str:
    """The processor's own name; where the system does not tell, its kind."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, StopIteration):
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def check(shape: Convolution, device: torch.device) -> KernelVerdict:
    """Compute a convolution in its precision and in float32, and take a right way for it.

    Args:
        shape: what is tried; of a very large batch only some cases.
        device: that computes.
    """
    shape = _affordable(shape)
    image, kernel = _random(shape.image, shape, device, 1), _random(shape.kernel, shape, device, 2)
    output = _shape_of_output(shape)
    gradient = _random(output, shape, device, 3)
    wide = [item.float() for item in (image, kernel, gradient)]
    true_output = shape.forward(*wide[:2])
    true_image, true_kernel = shape.image_gradient(*wide), shape.kernel_gradient("library", *wide)

    spoilt = max(
        relative_error(_poisoned(lambda: shape.forward(image, kernel), true_output), true_output, (1,)),
        relative_error(
            _poisoned(lambda: shape.image_gradient(image, kernel, gradient), true_image), true_image, (1,)
        ),
    )
    if spoilt > TOLERANCE:
        return KernelVerdict("float32", _finite(spoilt))

    def error_of(way: Way, tries: int) -> float:
        axes = (0, *range(2, kernel.ndim))
        found = (
            _poisoned(lambda: shape.kernel_gradient(way, image, kernel, gradient), true_kernel)
            for _ in range(tries)
        )
        return max(relative_error(each, true_kernel, axes) for each in found)

    if (error := error_of("library", _TRIES)) <= TOLERANCE:
        return KernelVerdict("library", error)
    seconds = {}
    for way in shape.ways():
        began = time.perf_counter()
        shape.kernel_gradient(way, image, kernel, gradient)
        seconds[way] = time.perf_counter() - began
    for way in sorted(seconds, key=seconds.__getitem__):
        if error_of(way, _TRIES) <= TOLERANCE:
            return KernelVerdict(way, _finite(error))
    return KernelVerdict("float32", _finite(error))


def relative_error(found: Tensor, true: Tensor, axes: Sequence[int]) -> float:
    """Largest L2 error of all, and of any slice along some axes, relative to the true norm.

    A slice's own norm counts, but at least a twentieth of what all slices have on average, since a tap that
    sees nothing but padding has a gradient of zero.

    Args:
        found, true: of one shape.
        axes: along which a whole slice may be wrong: channels, taps.

    Returns:
        Infinity where a number is not finite.
    """
    found, others = found.float(), [axis for axis in range(true.ndim) if axis not in axes]
    if not torch.isfinite(found).all():
        return float("inf")
    count, kept = true.numel(), range(len(axes))
    wrong, right = (found - true).square(), true.square()
    if others:  # once over all numbers; the rest is small
        wrong, right = wrong.sum(others), right.sum(others)
    floor = float(right.sum()) / count / 400 + 1e-30
    errors = [wrong.sum() / (right.sum() + 1e-30)]
    for axis in kept:
        rest = [other for other in kept if other != axis]
        share = count / wrong.shape[axis]
        sums = (wrong.sum(rest), right.sum(rest)) if rest else (wrong, right)
        errors.append((sums[0] / sums[1].clamp(min=floor * share)).max())
    return float(torch.stack(errors).max().sqrt())


def _poisoned(compute: Callable[[], Tensor], like: Tensor) -> Tensor:
    """What a computation gives if the memory that it takes held NaN before."""
    for dtype in (torch.bfloat16, torch.float32):
        used = [torch.full(like.shape, torch.nan, dtype=dtype, device=like.device) for _ in range(2)]
        del used
    return compute()


def _affordable(shape: Convolution) -> Convolution:
    """The same with so few cases that no map has more numbers than can be afforded."""
    largest = max(_count(shape.image), _count(_shape_of_output(shape)))
    cases = max(1, min(shape.image[0], shape.image[0] * _MOST_NUMBERS // largest))
    return replace(shape, image=(cases, *shape.image[1:]))


def _shape_of_output(shape: Convolution) -> tuple[int, ...]:
    sizes = zip(shape.image[2:], shape.kernel[2:], shape.stride, shape.padding, shape.dilation, strict=True)
    space = ((n + 2 * pad - step * (taps - 1) - 1) // stride + 1 for n, taps, stride, pad, step in sizes)
    return shape.image[0], shape.kernel[0], *space


def _count(sizes: Sequence[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def _random(sizes: Sequence[int], shape: Convolution, device: torch.device, seed: int) -> Tensor:
    """Normal numbers in the precision and memory format of a convolution; no one else's generator moves.

    Drawing as many as a large layer has would take longer than the layer: they repeat after a prime number.
    """
    drawn = torch.randn(65_537, generator=torch.Generator().manual_seed(seed))
    values = drawn.repeat(-(-_count(sizes) // len(drawn)))[: _count(sizes)].view(tuple(sizes))
    values = values.to(device, cast(torch.dtype, getattr(torch, shape.dtype)))
    return channels_last(values) if shape.channels_last else values


def _finite(error: float) -> float | None:
    return error if error < float("inf") else None
