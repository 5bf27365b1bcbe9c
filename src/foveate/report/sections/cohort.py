"""What the model was made from: the data with their audit, the splits, the training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.results.audit import Audit, ClassCounts, Finding, ViewImages
from foveate.evaluate.results.external import ExternalTest
from foveate.evaluate.table import SEEN
from foveate.prepare.orientation import in_words
from foveate.report.figures import drawing
from foveate.report.files import RunFiles
from foveate.report.sections.section import Chart, Section, within
from foveate.study.settings import SplitConfig

IDS_SHOWN = 200  # of one finding; the file has the others


def data(files: RunFiles) -> Section:
    """How many of what, how the images look as numbers, and what the audit found."""
    audit = files.audit
    if audit is None:
        return Section("data", "Data and audit", "audit", None)
    classes = audit.tables.classes
    content = {
        "cases": audit.cases,
        "patients": audit.patients,
        "classes": _class_rows(classes),
        "unknown": any(row.negative for row in classes) and any(row.unknown for row in classes),
        "images": audit.tables.images,
        "lies": [line for row in audit.tables.images if (line := _lies(row))],
        "findings": [_finding(found) for found in audit.findings],
        "allowed": audit.allowed,
        "test": files.test,
    }
    return Section("data", "Data and audit", "audit", content)


def _class_rows(rows: Sequence[ClassCounts]) -> list[dict[str, object]]:
    """Cases and patients per class, with the share of the most frequent class for the bar."""
    most = max((row.positive for row in rows), default=0) or 1
    return [{**row.model_dump(by_alias=False), "share": row.positive / most} for row in rows]


def _lies(row: ViewImages) -> str:
    """How the images of a view lie and were taken, as far as their files tell."""
    known = {
        "columns, rows and slices lead to": row.orientations,
        "plane": row.planes,
        "unit": row.units if set(row.units) - {"stored"} else {},
        "side": row.lateralities,
        "view position": row.view_positions,
    }
    told = [
        f"{what} {', '.join(f'{name} ({count})' for name, count in counts.items())}"
        for what, counts in known.items()
        if counts
    ]
    return f"{row.view}: {'; '.join(told)}" if told else ""


def _finding(found: Finding) -> dict[str, object]:
    return {
        "code": found.code,
        "severity": found.weight,
        "message": found.message,
        "ids": found.case_ids[:IDS_SHOWN],
        "more": max(0, len(found.case_ids) - IDS_SHOWN),
    }


def splits(files: RunFiles) -> Section:
    """Which part holds how many cases of each class."""
    if files.splits is None:
        return Section("splits", "Splits", "split", None)
    config, folds = files.splits.config, files.splits.folds
    parts = count_parts(files, folds[config.fold])
    if files.test:
        parts = {name: part for name, part in parts.items() if part.cases}
    names = list(dict.fromkeys(name for part in parts.values() for name in part.classes))
    rows: list[tuple[str, list[int | None]]] = [("cases", [part.cases for part in parts.values()])]
    if files.patients_known:
        rows.append(("patients", [part.patients for part in parts.values()]))
    totals = len(rows)
    rows += [(name, [part.classes.get(name) for part in parts.values()]) for name in names]
    content = {
        "how": _test_in_words(files.test) if files.test else _split_in_words(config, len(folds)),
        "test": files.test,
        "parts": list(parts),
        "rows": [(name, counts, _shares(counts)) for name, counts in rows],
        "totals": totals,
        "warnings": list(files.splits.warnings),
    }
    return Section("splits", "What was tested" if files.test else "Splits", "split", content)


def _test_in_words(test: ExternalTest) -> str:
    """What became of the cases of an external test."""
    told = f"Nothing of this cohort was trained on; the model is that of {test.of}."
    if test.recalibrate is not None:
        told += (
            f" {100 * test.recalibrate:g} % of the patients, drawn by class, are the validation part, on "
            "which calibration, thresholds and prediction sets were fitted anew."
        )
    if test.set_apart:
        told += " Cases that the model learned from, and the others of their patients, were set apart (seen)."
    return told


@dataclass(frozen=True, slots=True)
class PartCounts:
    """One part of the split.

    Attributes:
        cases: how many it has.
        patients: how many they belong to, or None if the run's files do not tell.
        classes: cases by class, empty if the run's files do not tell.
    """

    cases: int
    patients: int | None = None
    classes: Mapping[str, int] = field(default_factory=dict)


def count_parts(files: RunFiles, fold: Mapping[str, str]) -> dict[str, PartCounts]:
    """Cases, patients and classes of each part.

    Truth and patients stand in the predictions. A part that was not predicted (usually the training part) is
    what the audit counted in all minus the other parts, if all of them are known and of the same manifest.

    Args:
        files: the run.
        fold: part by case id.
    """
    sizes = Counter(fold.values())
    named = ("train", "val", "test", *((SEEN,) if files.test else ()))
    parts = {name: PartCounts(sizes[name]) for name in named}
    if files.predictions is not None:
        for name in parts:
            found = files.predictions.part(name)
            if set(found.case_ids) == {case_id for case_id, part in fold.items() if part == name}:
                positives = dict(zip(found.classes, (found.truth == 1).sum(axis=0).tolist(), strict=True))
                parts[name] = PartCounts(sizes[name], len(set(found.patient_ids)), positives)
    unknown = [name for name, part in parts.items() if part.patients is None]
    if len(unknown) == 1 and files.audit and _same_cohort(files, len(fold)):
        parts[unknown[0]] = _rest(
            files.audit, sizes[unknown[0]], [parts[n] for n in parts if n != unknown[0]]
        )
    return parts


def _same_cohort(files: RunFiles, cases: int) -> bool:
    audit, split, table = files.audit, files.splits, files.predictions
    if not audit or not split or not table:
        return False
    classes = tuple(row.name for row in audit.tables.classes)
    same_manifest = audit.manifest_sha256 == split.manifest_sha256
    return same_manifest and audit.cases == cases and classes == table.classes


def _rest(audit: Audit, cases: int, others: Sequence[PartCounts]) -> PartCounts:
    """What the audit counted in all, minus the other parts."""
    leaks = "patient-in-two-splits" in audit.codes
    patients = audit.patients - sum(part.patients or 0 for part in others)
    positives = {
        row.name: row.positive - sum(part.classes[row.name] for part in others)
        for row in audit.tables.classes
    }
    return PartCounts(cases, None if leaks else patients, positives)


def _shares(counts: Sequence[int | None]) -> list[float]:
    """Share of each part, or nothing where a count is not known."""
    known = [count for count in counts if count is not None]
    total = sum(known)
    return [count / total for count in known] if len(known) == len(counts) and total else []


def _split_in_words(config: SplitConfig, folds: int) -> str:
    """How the parts were made."""
    if columns := config.columns:
        chosen = columns[config.fold if len(columns) > 1 else 0]
        return f"Taken from the manifest’s column “{chosen}”."
    together = " Copies of one image stay in one part." if config.keep_twins_together else ""
    test = (
        f"fold {config.fold + 1} of {folds} is the test part"
        if folds > 1
        else f"{100 * config.test:g} % for testing"
    )
    drawn = f"Drawn by patient and stratified by class with seed {config.seed}: {test}"
    return f"{drawn}, {100 * config.val:g} % of the others for validation.{together}"


def training(files: RunFiles) -> Section | None:
    """Loss, validation figures and learning rate over epochs; none for an external test, which has none."""
    if files.test:
        return None
    columns = files.training
    if columns is None:
        return Section("training", "Training", "train", None)
    monitor = str(within(files.study, "train", "monitor") or "val_loss")
    best = best_epoch(columns, monitor)
    charts = [_line_chart(title, names, columns, best) for title, names in _training_lines(columns).items()]
    words = "validation loss" if monitor == "val_loss" else monitor.replace("_", " ")
    content = {"charts": charts, "monitor": words, "epochs": len(columns.get("epoch", ())), "best": best}
    content["brought"] = _brought(files)
    content["averaged"] = bool(within(files.study, "train", "ema_decay"))
    if best is not None:
        content |= {"best_epoch": columns["epoch"][best], "best_value": columns[monitor][best]}
    return Section("training", "Training", "train", content)


def _brought(files: RunFiles) -> str:
    """What all images were brought to before the model saw them."""
    trained = files.run.stations.get("train") if files.run else None
    computed = trained.computed if trained else None
    return in_words(computed.orientation, computed.spacing) if computed else ""


def best_epoch(columns: Mapping[str, NDArray[np.float64]], monitor: str) -> int | None:
    """Position of the epoch that was kept; None where the figure was never defined.

    It is the one with the best figure, of several such the one with the lowest validation loss.
    """
    values = columns.get(monitor)
    if values is None or not np.isfinite(values).any():
        return None
    best = np.nanmin(values) if monitor.endswith("loss") else np.nanmax(values)
    losses = np.nan_to_num(columns.get("val_loss", np.zeros(len(values))), nan=np.inf)
    return int(np.where(values == best, losses, np.inf).argmin())


def _training_lines(columns: Mapping[str, object]) -> dict[str, list[str]]:
    """Columns that share a chart, by its title; columns that no reader asks for are left to the CSV."""
    groups = {
        "Loss": ["train_loss", "val_loss"],
        "Validation": ["balanced_accuracy", "auroc_macro"],
        "Learning rate": ["lr"],
    }
    present = {title: [name for name in names if name in columns] for title, names in groups.items()}
    return {title: names for title, names in present.items() if names}


def _line_chart(
    title: str, names: Sequence[str], columns: Mapping[str, NDArray[np.float64]], best: int | None
) -> Chart:
    series = {name.replace("_", " "): columns[name] for name in names}
    return Chart(
        drawing.svg(drawing.lines_figure(columns["epoch"], series, best), f"{title} over epochs"), title
    )
