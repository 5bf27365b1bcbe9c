"""The pipeline written as one file: ONNX, OpenVINO or torch, with all that is known of the model inside."""

from __future__ import annotations

import contextlib
import logging
import textwrap
import warnings
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from foveate.deploy.engines.facts import FACTS, KEY, Facts
from foveate.deploy.export.backward import with_backward_pass
from foveate.deploy.export.pipeline import Answers, Pipeline
from foveate.errors import MissingExtra, RunFailed

Format = Literal["onnx", "openvino", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".openvino", "torch": ".pt2"}
OPSET = 20  # the newest that OpenVINO and ONNX Runtime both know throughout
_NEEDS: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
_ODD = (67, 93, 41)  # sides of the example image; any will do, and none is a size of a model


def check_installed(to: Format) -> None:
    """Raise ``MissingExtra`` if what a format needs is not there."""
    for package in _NEEDS[to]:
        try:
            there = find_spec(package) is not None
        except ValueError:
            there = False
        if not there:
            raise MissingExtra("export")


def traced(pipeline: Pipeline, facts: Facts) -> tuple[ExportedProgram, list[str]]:
    """The pipeline as a program for any batch and image size, and the names of its outputs.

    Raises:
        RunFailed: the model does things that cannot be traced.
    """
    inputs = example(facts)
    free = [dict.fromkeys(range(each.ndim) if each.ndim > 2 else (0,), Dim.DYNAMIC) for each in inputs]
    try:
        with _quiet():
            if isinstance(pipeline.answers, Answers) and pipeline.answers.by_gradient:
                pipeline.answers = with_backward_pass(pipeline.answers, pipeline.prepare(inputs))
            names = list(pipeline(inputs))
            program = torch.export.export(pipeline, (inputs,), dynamic_shapes=(tuple(free),), strict=False)
    except Exception as error:  # torch.export has no common class of errors
        raise RunFailed(
            f"{facts.model} cannot be traced into a graph: {textwrap.shorten(str(error), 200)}",
            fix="use the run itself, which `foveate predict` takes as well",
            code="not-traceable",
        ) from error
    return program, names


def example(facts: Facts) -> tuple[Tensor, ...]:
    """Noise in the shape of two cases."""
    generator = torch.Generator().manual_seed(0)
    inputs: list[Tensor] = []
    sides = _ODD[: len(facts.preprocess.size)]
    for name in facts.input_names():
        if name in facts.views:
            inputs.append(torch.rand(2, 3, *sides, generator=generator))
        else:
            inputs.append(torch.tensor([[0.0, 1.0]] * 2))
    return tuple(inputs)


def to_onnx(program: ExportedProgram, names: list[str], facts: Facts) -> Any:
    """A program as an ONNX model (``onnx.ModelProto``).

    Raises:
        RunFailed: ONNX has no operation for something that the model does.
    """
    try:
        with _quiet():
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=facts.input_names(),
                output_names=names,
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise RunFailed(
            f"{facts.model} cannot be written as ONNX: {str(error).splitlines()[-1]}",
            fix="use --to torch, or the run itself",
            code="not-exportable",
        ) from error
    assert made is not None
    return made.model_proto


def write_torch(program: ExportedProgram, facts: Facts, path: Path) -> None:
    """Write a program as torch has it; the facts are a further file inside."""
    torch.export.save(program, path, extra_files={FACTS: facts.to_text()})


def write_onnx(model: Any, facts: Facts, path: Path) -> None:
    """Write an ONNX model, weights inside, after ONNX's own check."""
    import onnx

    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=facts.to_text())
    model.producer_name, model.producer_version = "foveate", facts.version
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def write_openvino(model: Any, facts: Facts, path: Path) -> None:
    """Write OpenVINO's own form: its two files and the facts in one plain zip."""
    import tempfile

    import openvino

    from foveate.deploy.engines.open_vino import GRAPH, WEIGHTS

    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, GRAPH)
        openvino.save_model(
            openvino.Core().read_model(model.SerializeToString()), graph, compress_to_fp16=False
        )
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as parts:
            parts.write(graph, GRAPH)
            parts.write(graph.with_suffix(".bin"), WEIGHTS)
            parts.writestr(FACTS, facts.to_text())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' remarks to themselves; what they get wrong the parity gate finds."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
