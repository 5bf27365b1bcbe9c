"""``foveate init``: a study file for a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    manifest: Annotated[Path, typer.Argument(help="CSV that lists the cases.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Study to write.")] = Path("study.yaml"),
    patient: Annotated[
        str, typer.Option(help="Column that says which cases belong together.")
    ] = "patient_id",
    case: Annotated[str, typer.Option(help="Column that names the cases.")] = "case_id",
    label: Annotated[str | None, typer.Option(help="Column of the class (multi-class).")] = None,
    finding: Annotated[
        list[str] | None, typer.Option(help="0/1 column of a finding (multi-label); repeatable.")
    ] = None,
    view: Annotated[list[str] | None, typer.Option(help="Column of an image path; repeatable.")] = None,
    boxes: Annotated[Path | None, typer.Option(help="CSV of true bounding boxes.")] = None,
    model: Annotated[
        str, typer.Option(help="A name from `foveate models`, or timm:<name>.")
    ] = "timm:resnet18",
) -> None:
    """Write a study file for a manifest, after checking every row.

    Example: foveate init labels.csv --patient slide_image -o study.yaml
    """
    from foveate.cli import terminal
    from foveate.data.manifest.manifest import load_manifest
    from foveate.evaluate.sample import are_known, cases_in_words
    from foveate.study.study import Study

    cohort = load_manifest(
        manifest, label=label, findings=finding, views=view, boxes=boxes, patient=patient, case=case
    )
    data = {
        "manifest": manifest.resolve(),
        "label": label,
        "findings": finding,
        "views": view,
        "boxes": boxes.resolve() if boxes else None,
        "patient": patient,
        "case": case,
    }
    study = Study.for_cohort(cohort, name=out.stem, data=data, model=model)
    study.write(out)
    ids = [item.case_id for item in cohort.cases], [item.patient_id for item in cohort.cases]
    sample = cases_in_words(len(cohort.cases), len(set(ids[1])), are_known(*ids))
    terminal.say(f"{sample}, {len(cohort.classes)} classes, {cohort.task}")
    terminal.say(f"study: {out}   next: foveate run {out}")
