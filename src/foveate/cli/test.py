"""``foveate test``: a model on another cohort, as a run of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate.cli.target import Allow
from foveate.cli.terminal import say

if TYPE_CHECKING:
    from foveate.evaluate.results.shift import Shift


def test(
    source: Annotated[Path, typer.Argument(metavar="RUN|BUNDLE", help="The run whose model is tested.")],
    manifest: Annotated[
        Path, typer.Option(help="CSV of the other cohort; columns as in the run's study, unless named here.")
    ],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the test \\[default: RUN-on-MANIFEST].")
    ] = None,
    set_apart: Annotated[
        bool,
        typer.Option("--set-apart", help="Leave out cases that the model learned from, instead of stopping."),
    ] = False,
    recalibrate: Annotated[
        float | None,
        typer.Option(min=0.05, max=0.8, help="Share of the patients to calibrate on; the rest is tested."),
    ] = None,
    boxes: Annotated[Path | None, typer.Option(help="CSV of true boxes of the other cohort.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the class.")] = None,
    patient: Annotated[str | None, typer.Option(help="Column that says which cases belong together.")] = None,
    case: Annotated[str | None, typer.Option(help="Column that names the cases.")] = None,
    allow: Allow = None,
) -> None:
    """Test a trained model on another cohort: every station but the training, and how the cohort differs.

    The folder it writes is a run folder: `foveate report`, `explain` and the like understand it.

    Example: foveate test runs/study --manifest other-hospital.csv -o runs/other-hospital
    """
    from foveate.cli import terminal
    from foveate.cli.run import whole_way
    from foveate.stations.run import Run
    from foveate.stations.test import begin_test, cohort_name
    from foveate.study.study import DataConfig

    base = Run.open(source).study.data if (source / "study.yaml").is_file() else DataConfig(manifest=manifest)
    named = {"label": label, "patient": patient, "case": case}
    changed = {name: text for name, text in named.items() if text is not None}
    places = {"manifest": manifest.absolute(), "boxes": boxes and boxes.absolute()}
    data = base.model_copy(update={**places, **changed})
    folder = out or source.with_name(f"{source.name}-on-{cohort_name(manifest)}")
    terminal.heading("Test", f"the model of {source} on {manifest}")
    run = begin_test(source, data, folder, set_apart=set_apart, recalibrate=recalibrate, track=terminal.track)
    whole_way(run.allowing(allow) if allow else run)


def show_shift(found: Shift) -> None:
    """Print what ``shift.json`` has to say in words."""
    for item in found.sentences:
        say(item.sentence)
    if not found.sentences:
        say("no difference is shown")
