"""OpenVINO on the processor: in bfloat16 where the processor has it, else in float32."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from foveate.engines.facts import FACTS, KEY, Facts
from foveate.engines.graph import Arrays, GraphEngine
from foveate.errors import InputRefused, UsageError

GRAPH, WEIGHTS = "model.xml", "model.bin"  # with the facts inside an .openvino file, a plain zip


class OpenVino(GraphEngine):
    """An ``.onnx`` or ``.openvino`` file that ``foveate export`` wrote.

    Args:
        path: of the file.
        precision: ``bf16`` or ``f32``; auto takes bf16 where the processor computes in it and the parity gate
            has found that it changes nothing that matters.

    Raises:
        InputRefused: it cannot be read, or is none of ours.
        UsageError: the processor has no such precision.
    """

    name = "openvino"

    def __init__(self, path: Path, precision: str = "auto") -> None:
        core = openvino.Core()
        able = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision not in ("auto", "f32", "bf16") or (precision == "bf16" and not able):
            raise UsageError(f"openvino does not compute in '{precision}' here", fix="choose openvino:f32")
        try:
            model, text = _read(core, path)
        except (RuntimeError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise InputRefused(
                f"openvino cannot read it: {error}", where=str(path), code="not-an-export"
            ) from error
        self.facts = Facts.from_text(text, str(path))
        tested = f"{self.name}:bf16" in self.facts.passed
        self.precision = "bf16" if precision == "bf16" or (precision == "auto" and able and tested) else "f32"
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads := int(os.environ.get("OMP_NUM_THREADS", 0)):
            options["INFERENCE_NUM_THREADS"] = threads
        self._compiled = core.compile_model(model, "CPU", options)
        self._outputs = [port.get_any_name() for port in self._compiled.outputs]

    def run(self, inputs: dict[str, NDArray[np.float32]]) -> Arrays:
        """Run the graph."""
        found = self._compiled(inputs, share_inputs=True)
        return {name: np.asarray(found[index]) for index, name in enumerate(self._outputs)}


def _read(core: Any, path: Path) -> tuple[Any, str]:
    """The model, and its facts as text (empty if it is none of ours)."""
    if path.suffix == ".onnx":
        model = core.read_model(path)
        place = ["framework", KEY]
        return model, str(model.get_rt_info(place).astype(str)) if model.has_rt_info(place) else ""
    with zipfile.ZipFile(path) as parts:
        weights = np.frombuffer(parts.read(WEIGHTS), dtype=np.uint8)
        model = core.read_model(parts.read(GRAPH), openvino.Tensor(weights))
        return model, parts.read(FACTS).decode("utf-8")
