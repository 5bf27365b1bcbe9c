"""Convolutions in 8-bit integers, their ranges learned from training images (ONNX Runtime's static way)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from foveate.deploy.engines.facts import Facts
from foveate.deploy.engines.graph import ReadCase, inputs_of


def quantized(model: Any, facts: Facts, cases: Sequence[ReadCase]) -> Any:
    """An ONNX model with its convolutions quantized; preprocessing, head and maps stay in float32.

    Weights are quantized per channel, activations by the smallest and largest value seen.

    Args:
        model: ``onnx.ModelProto``.
        facts: of the model.
        cases: training cases, for the ranges.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """One case after the other."""

        def __init__(self) -> None:
            self.left: Iterator[ReadCase] = iter(cases)

        def get_next(self) -> dict[str, Any] | None:
            case = next(self.left, None)
            return None if case is None else inputs_of(facts, [case])

    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        plain.write_bytes(model.SerializeToString())
        logging.disable(logging.WARNING)  # it recommends a step that the exporter has done
        quantize_static(
            plain,
            small,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            activation_type=QuantType.QUInt8,  # what OpenVINO has fast kernels for
            per_channel=True,
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
        logging.disable(logging.NOTSET)
        return onnx.load(small)
