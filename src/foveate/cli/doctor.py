"""``foveate doctor``: what this machine offers."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path


def doctor() -> None:
    """Say what this machine offers: versions, precision, devices, decoders.

    Example: foveate doctor
    """
    from foveate.cli import terminal

    terminal.show_doctor(examine())


def examine() -> dict[str, dict[str, str]]:
    """Versions, compute and decoders of this machine, in words, by section."""
    from foveate.stations.run import versions

    return {"versions": versions(), "compute": _compute(), "decoders": _decoders(), "disk": _disk()}


def _compute() -> dict[str, str]:
    import torch

    from foveate.device import native_bf16
    from foveate.stations.run import device

    rows = {name: str(value) for name, value in device().items()}
    rows["threads"] = str(torch.get_num_threads())
    rows["instructions"] = torch.backends.cpu.get_cpu_capability()
    rows["AMX"] = "yes" if "amx_tile" in _cpu_flags() else "no"
    rows["bf16 in hardware"] = (
        "yes: training uses it where it is right" if native_bf16("cpu") else "no: training uses float32"
    )
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    rows["GPU"] = ", ".join(names) or "none"
    return rows


def _decoders() -> dict[str, str]:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID, AllTransferSyntaxes

    rows = {}
    for syntax in AllTransferSyntaxes:
        try:
            decoder = get_decoder(UID(syntax))
        except NotImplementedError:
            continue
        rows[UID(syntax).name] = "yes" if decoder.is_available else "no"
    return rows


def _disk() -> dict[str, str]:
    rows = {}
    for name, folder in (("working folder", Path.cwd()), ("temporary folder", Path(tempfile.gettempdir()))):
        rows[name] = f"{shutil.disk_usage(folder).free / 2**30:.1f} GiB free"
    return rows


def _cpu_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.is_file() else ""
    return {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}
