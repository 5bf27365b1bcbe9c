"""What a device computes fast in: bfloat16 where it has it, channels last in memory."""

from __future__ import annotations

import torch
from torch import Tensor

_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, ARM


def native_bf16(device_type: str) -> bool:
    """Whether a kind of device computes in bfloat16 itself, rather than pretending to.

    Args:
        device_type: ``cpu``, ``cuda``, …
    """
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
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return values.contiguous(memory_format=formats.get(values.ndim, torch.contiguous_format))
