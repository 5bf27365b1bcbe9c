"""The command that draws phantoms; the package registers it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    *,
    kind: Annotated[
        Literal["ct", "liver-mri", "paired", "chest", "cells"], typer.Option(help="What to draw.")
    ] = "ct",
    patients: Annotated[
        int | None, typer.Option(min=5, help="Number of patients; slides of cells \\[default: 60; cells 30].")
    ] = None,
    cases: Annotated[
        int | None,
        typer.Option(min=1, help="Images per patient or slide, of chest and cells \\[default: 2; cells 8]."),
    ] = None,
    slices: Annotated[
        int | None,
        typer.Option(min=1, help="Labelled slices of a ct \\[default: 4]; of a volume of liver-mri [16]."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=32, help="Pixels per side \\[default: 128; liver-mri 64, cells 96].")
    ] = None,
    format: Annotated[
        Literal["nifti", "dicom", "png"] | None, typer.Option(help="Of the images of ct \\[default: nifti].")
    ] = None,
    difficulty: Annotated[float, typer.Option(min=0, max=1, help="0 easy … 1 hard.")] = 0.5,
    shortcut: Annotated[bool, typer.Option(help="Plant a burned-in marker that predicts the class.")] = False,
    missing: Annotated[
        float | None,
        typer.Option(min=0, max=0.8, help="Share of views left out, of liver-mri and paired \\[default: 0]."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Classes of liver-mri, separated by commas \\[default: all seven].")
    ] = None,
    carriers: Annotated[
        Literal["all", "contrast"] | None,
        typer.Option(help="Phases of liver-mri that tell the class \\[default: all]."),
    ] = None,
    rule: Annotated[
        Literal["grid", "xor"] | None,
        typer.Option(help="Of paired: four classes, or two that neither view tells \\[default: grid]."),
    ] = None,
    fields: Annotated[bool, typer.Option("--fields", help="Of cells: several in an image.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same phantom.")] = 0,
) -> None:
    """Draw a cohort of imaginary patients whose truth is known, to try things on.

    Example: foveate phantom phantom --kind paired --patients 100 --missing 0.2
    """
    from foveate.cli import terminal
    from foveate.data.phantom import draw_phantom

    named = tuple(name.strip() for name in classes.split(",")) if classes else None
    given = {
        "patients": patients, "cases": cases, "slices": slices, "size": size, "format": format,
        "missing": missing, "classes": named, "carriers": carriers, "rule": rule, "fields": fields or None,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    options |= {"difficulty": difficulty, "shortcut": shortcut, "seed": seed}
    manifest = draw_phantom(kind, out, options, track=terminal.track)
    terminal.say(f"manifest: {manifest}")
    if (boxes := out / "boxes.csv").is_file():
        terminal.say(f"boxes: {boxes}")
