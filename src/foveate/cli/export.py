"""``foveate export``: a trained run as one file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer

from foveate.cli.target import RunOption, Target, open_run
from foveate.cli.terminal import console, new_table, say

if TYPE_CHECKING:
    from foveate.stations.export import Exported


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
    from foveate.cli import terminal
    from foveate.stations.export import export_run

    exported = export_run(open_run(target, run), to, out, int8=int8, track=terminal.track)
    show_export(exported)


def show_export(exported: Exported) -> None:
    """Print the parity of every engine, what int8 costs, and where the file is."""
    first = exported.parities[0]
    table = new_table(f"{first.cases} cases", "max |Δp|", "same decision", "maps correlate", "")
    for each in exported.parities:
        problems = each.problems()
        table.add_row(
            each.engine,
            f"{each.probability:.1e}",
            f"{each.same:.1%}",
            "–" if np.isnan(each.correlation) else f"{each.correlation:.5f}",
            "not used: " + "; ".join(problems) if problems else "ok",
        )
    console.print(table)
    if not exported.facts.explainer:
        say(
            "no maps of classes inside: the network names no feature for them, or no graph can hold the "
            "gradient that they take; `foveate explain` makes maps from the run"
        )
    if exported.facts.precision == "int8":
        before, after = exported.right
        say(f"int8: {after:.1%} of decisions right, {before:.1%} before")
    say(f"export: {exported.path} ({exported.path.stat().st_size / 1e6:.1f} MB)")
