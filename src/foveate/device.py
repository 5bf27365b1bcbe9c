"""What a device computes fast in: bfloat16, channels last, memory that stays with the process.

Importing this costs no torch.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, ARM
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h of glibc
_LARGEST, _STEP = 2**31 - 1, 64 * 2**20  # bytes


def native_bf16(device_type: str) -> bool:
    """Whether a kind of device computes in bfloat16 itself, rather than pretending to.

    Args:
        device_type: ``cpu``, ``cuda``, …
    """
    import torch

    if device_type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        has = torch.cpu.get_capabilities()
        return any(has.get(name, False) for name in _BF16_INSTRUCTIONS)
    return False


def channels_last(values: Tensor) -> Tensor:
    """The same numbers with channels last in memory, which processors and GPUs convolve fastest.

    Args:
        values: of any number of axes; with fewer than four they stay as they are.
    """
    import torch

    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return values.contiguous(memory_format=formats.get(values.ndim, torch.contiguous_format))


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library hold on to what is freed, instead of giving it back after each layer.

    On Linux, large tensors are otherwise mapped and faulted in anew every time they are made, which took 10
    to 14 % of a ResNet-18's training where it was measured. The process then keeps the most that it ever
    needed, there 10 to 19 % more, as gaps are not always filled. It is for the whole process, and for good.

    Returns:
        Whether it was done; only glibc can.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST), (_TOP_PAD, _STEP))
    return all([mallopt(key, value) == 1 for key, value in settings])
