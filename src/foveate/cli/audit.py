"""``foveate audit``: what is wrong with a cohort, on its own or as a test set for a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.target import Allow, RunOption, open_run, refuse_unused


def audit(
    context: typer.Context,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY|RUN|CSV", help="A study, a run, or with --bundle the manifest of a test set."
        ),
    ],
    run: RunOption = None,
    allow: Allow = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="A run or a bundle: does the test set hold patients or images that it learned from?"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="JSON for --bundle \\[default: beside the CSV].")
    ] = None,
) -> None:
    """Look for leakage, duplicates, contradictory labels and unusable images.

    Example: foveate audit study.yaml

    Example: foveate audit new-hospital.csv --bundle runs/study
    """
    from foveate.cli import terminal
    from foveate.files import write_json
    from foveate.stations.audit import audit as audit_run

    if bundle is not None:
        refuse_unused(context, "a test set is audited for a model", "target", "bundle", "allow", "out")
        from foveate.stations.contamination import audit_against

        written = out or target.with_suffix(".audit.json")
        found = audit_against(bundle, target, allow=allow or (), track=terminal.track)
        write_json(written, found.to_json())
    else:
        refuse_unused(context, "a study is audited", "target", "run", "allow")
        opened = open_run(target, run, allow)
        written = opened.folder / "audit.json"
        found = audit_run(opened, track=terminal.track)
    terminal.show_audit(found)
    terminal.say(f"audit: {written}")
    found.raise_if_stopped()
