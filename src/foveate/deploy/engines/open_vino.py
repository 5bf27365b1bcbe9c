"""OpenVINO on the processor: in bfloat16 where the processor has it, else in float32."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from foveate.deploy.engines.facts import FACTS, KEY, Facts, is_prepared
from foveate.deploy.engines.graph import Arrays, GraphEngine
from foveate.errors import InputRefused, UsageError

GRAPH, WEIGHTS = "model.xml", "model.bin"  # with the facts inside an .openvino file, a plain zip


class OpenVino(GraphEngine):
    """An ``.onnx`` or ``.openvino`` file that ``foveate export`` wrote.

    Args:
        path: of the file.
        precision: ``bf16`` or ``f32``; auto takes bf16 where the processor computes in it and the parity gate
            has found that it changes nothing that matters. Images are prepared in float32 all the same, where
            the file says what it prepared: their rounding would be most of bfloat16's error.

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
        parts = _parted(model) if self.precision == "bf16" else [model]
        precisions = ["f32", "bf16"] if len(parts) == 2 else [self.precision]
        self._parts = [
            _CompiledPart(core.compile_model(part, "CPU", _options(precision)))
            for part, precision in zip(parts, precisions, strict=True)
        ]

    def run(self, inputs: dict[str, NDArray[np.float32]]) -> Arrays:
        """Run the graph; what it prepared lies in the engine's own memory, until the next call."""
        found: dict[str, NDArray[np.float32]] = {}
        for part in self._parts:
            found |= part(inputs | found)
        return found


class _CompiledPart:
    """A compiled graph, from arrays by name to arrays by name."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._inputs = [port.get_any_name() for port in compiled.inputs]
        self._outputs = [port.get_any_name() for port in compiled.outputs]

    def __call__(self, values: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        given = {name: values[name] for name in self._inputs}
        found = self._compiled(given, share_inputs=True, share_outputs=True)
        own = ((name, np.asarray(found[index])) for index, name in enumerate(self._outputs))
        return {name: array if is_prepared(name) else array.copy() for name, array in own}


def _options(precision: str) -> dict[str, Any]:
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads := int(os.environ.get("OMP_NUM_THREADS", 0)):
        options["INFERENCE_NUM_THREADS"] = threads
    return options


def _parted(model: Any) -> list[Any]:
    """A model cut where its images are prepared, so that both parts can compute in their own precision.

    Returns:
        The part that prepares and the part that answers; the whole where the file does not hand out what it
        prepared.
    """
    ends = [end for end in model.get_results() if is_prepared(end.output(0).get_any_name())]
    if not ends:
        return [model]
    first = openvino.Model(ends, model.get_parameters(), "prepare").clone()
    begins = []
    for end in ends:
        source, name = end.input_value(0), end.output(0).get_any_name()
        begin = openvino.opset13.parameter(source.get_partial_shape(), source.get_element_type(), name)
        begin.output(0).set_names({name})
        for use in source.get_target_inputs():
            if use.get_node().get_type_name() != "Result":
                use.replace_source_output(begin.output(0))
        begins.append(begin)
    answers = [end for end in model.get_results() if not is_prepared(end.output(0).get_any_name())]
    parameters = [*begins, *model.get_parameters()]
    used = {
        value.get_node().get_friendly_name()
        for node in openvino.Model(answers, parameters, "all").get_ordered_ops()
        for value in node.input_values()
    }
    needed = [each for each in parameters if each.get_friendly_name() in used]
    return [first, openvino.Model(answers, needed, "answer")]


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
