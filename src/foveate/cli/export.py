"""``foveate export``: a trained run as one file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from foveate.cli.target import RunOption, Target, open_run


def export(
    target: Target,
    to: Annotated[Literal["onnx", "openvino", "torch"], typer.Option(help="Format of the file.")] = "onnx",
    run: RunOption = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Convolutions in 8-bit integers; what that costs is printed.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file \\[default: model.onnx, … in the run's folder]."),
    ] = None,
) -> None:
    """Write a run as one file, with preprocessing, calibration, thresholds and heat maps inside.

    The file is kept only if it answers the run's validation cases as the run does.

    Example: foveate export runs/study --to onnx
    """
    from foveate import terminal
    from foveate.export import export_run
    from foveate.terminal.export import show_export

    exported = export_run(open_run(target, run), to, out, int8=int8, track=terminal.track)
    show_export(exported)
