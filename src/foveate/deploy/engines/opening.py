"""One way to ask any trained model: a run, a bundle, or a file that ``foveate export`` wrote.

    engine = open_engine("model.onnx")
    answer, = engine.predict([engine.read(case)])

| engine | runs | needs torch |
|---|---|---|
| ``bundle`` | a run or bundle | yes |
| ``openvino`` | ``.onnx`` and ``.openvino`` | no |
| ``onnxruntime`` | ``.onnx`` | no |
| ``torch`` | ``.pt2`` | yes |

``auto`` takes the first of them that is installed and can run the file. ``openvino`` computes in bfloat16
where the processor has it and the parity gate of ``foveate export`` has seen that nothing that matters
changes; ``openvino:f32`` forbids it.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from foveate.deploy.engines.engine import Engine
from foveate.errors import InputRefused, MissingExtra, UsageError

# Engine → module and class, the package it needs, and what it runs; the fastest first.
ENGINES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "openvino": ("foveate.deploy.engines.open_vino", "OpenVino", "openvino", (".onnx", ".openvino")),
    "onnxruntime": ("foveate.deploy.engines.onnx_runtime", "OnnxRuntime", "onnxruntime", (".onnx",)),
    "torch": ("foveate.deploy.engines.exported_torch", "ExportedTorch", "torch", (".pt2",)),
    "bundle": ("foveate.deploy.engines.bundled", "Bundled", "torch", ("",)),
}


def open_engine(path: str | Path, engine: str = "auto") -> Engine[Any]:
    """Open whatever was trained.

    Args:
        path: a run folder, a bundle, or an exported file.
        engine: a name in ``ENGINES``, or ``auto``; ``openvino:f32`` and ``openvino:bf16`` fix its precision.

    Raises:
        InputRefused: there is no such file, or it is no model of ours.
        UsageError: no such engine, or one that does not run this kind of file.
        MissingExtra: what would run it is not installed.
    """
    path = Path(path)
    name, _, option = engine.partition(":")
    if name not in (*ENGINES, "auto"):
        raise UsageError(f"there is no engine '{name}'", fix=f"choose from: auto, {', '.join(ENGINES)}")
    if not path.exists():
        raise InputRefused("there is no such file or folder", where=str(path), code="no-such-file")
    suffix = path.suffix if path.is_file() else ""
    able = [each for each, (*_, suffixes) in ENGINES.items() if suffix in suffixes]
    if not able or (name != "auto" and name not in able):
        raise UsageError(
            f"{'no engine' if name == 'auto' else f'the engine {name}'} runs this",
            where=str(path),
            fix=f"choose from: auto, {', '.join(able)}" if able else "give a run, .onnx, .openvino or .pt2",
        )
    usable = [each for each in able if name in ("auto", each) and _installed(ENGINES[each][2])]
    if not usable:
        raise MissingExtra("export")
    module, cls, *_ = ENGINES[usable[0]]
    maker = getattr(importlib.import_module(module), cls)
    opened: Engine[Any] = maker(path, option) if option else maker(path)
    return opened


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # what tests put into sys.modules to hide a package
        return False
