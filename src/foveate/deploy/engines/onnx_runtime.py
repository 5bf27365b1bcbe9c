"""ONNX Runtime, in float32 on the processor."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from foveate.deploy.engines.facts import KEY, Facts
from foveate.deploy.engines.graph import Arrays, GraphEngine
from foveate.errors import InputRefused, UsageError


class OnnxRuntime(GraphEngine):
    """An ``.onnx`` file that ``foveate export`` wrote.

    Args:
        path: of the file.
        precision: ``f32``, the only one it has.

    Raises:
        InputRefused: it cannot be read, or is none of ours.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, precision: str = "f32") -> None:
        if precision != "f32":
            raise UsageError(f"onnxruntime does not compute in '{precision}'", fix="choose onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        if threads := int(os.environ.get("OMP_NUM_THREADS", 0)):
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no common class
            raise InputRefused(
                f"onnxruntime cannot read it: {error}", where=str(path), code="not-an-export"
            ) from error
        text = self._session.get_modelmeta().custom_metadata_map.get(KEY, "")
        self.facts = Facts.from_text(text, str(path))
        self._outputs = [each.name for each in self._session.get_outputs()]

    def run(self, inputs: dict[str, NDArray[np.float32]]) -> Arrays:
        """Run the graph."""
        return dict(zip(self._outputs, self._session.run(None, inputs), strict=True))
