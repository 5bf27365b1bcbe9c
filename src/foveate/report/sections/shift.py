"""Of an external test: how its cohort differs from the one that the model comes from, and how it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.parts import Unmade
from foveate.evaluate.results.shift import (
    CategoryShift,
    ColumnShifts,
    LabelShift,
    NumberShift,
    PerformanceShift,
    Quartiles,
    Recalibration,
    Shift,
    UncomparedColumns,
)
from foveate.report.files import RunFiles
from foveate.report.sections.results import METRICS
from foveate.report.sections.section import Section
from foveate.report.sections.subgroups import column_of

_SHOWN = 12  # columns of a kind


@dataclass(frozen=True, slots=True)
class ColumnRow:
    """A column of metadata, or a fact about images, in both cohorts.

    Attributes:
        name: of the column.
        source, new: in words.
        figure: how far they are apart.
        meaning: of the figure, in a few words.
        p: corrected; None where it is undefined.
    """

    name: str
    source: str
    new: str
    figure: Value
    meaning: str
    p: float | None


def shift(files: RunFiles) -> Section | None:
    """Performance, labels, images, metadata and novelty beside those at home; None for a run of its own."""
    if files.test is None:
        return None
    found = files.shift
    if found is None:
        return Section("shift", "External test: how this cohort differs", "test", None)
    content = {
        "test": files.test,
        "level": f"{100 * found.level:g} %",
        "source": found.source,
        "new": found.new,
        "sentences": [item.sentence for item in found.sentences],
        "performance": list(_performance(found.performance)),
        "labels": list(_labels(found.labels)),
        "kinds": [
            _kind("Images", found.images),
            _kind("Other columns of the manifests", found.metadata),
        ],
        "novelty": _novelty(found.novelty),
        "wrong": found.by_shift.wrong,
        "groups": [column_of(name, column) for name, column in found.by_shift.groups.items()],
        "by_class": ["AUROC", "Sensitivity"],
        "reasons": _reasons(found),
        "recalibration": _recalibration(found.recalibration),
        "unusable": files.test.unusable,
    }
    return Section("shift", "External test: how this cohort differs", "test", content)


def _performance(found: PerformanceShift | Unmade) -> Iterator[Mapping[str, Any]]:
    """A row for each figure: here, at home, and the difference."""
    for key, own in {}.items() if isinstance(found, Unmade) else found.metrics.items():
        yield {
            "name": METRICS[key][0] if key in METRICS else key.replace("_", " "),
            "new": own.new,
            "source": own.source,
            "difference": own.difference,
            "p": own.p,
            "reweighted": own.reweighted,
        }


def _labels(found: LabelShift | Unmade) -> Iterator[Mapping[str, Any]]:
    for name, own in {}.items() if isinstance(found, Unmade) else found.classes.items():
        yield {
            "name": name,
            "source": own.source,
            "new": own.new,
            "difference": own.difference,
            "p": own.p_holm,
        }


def _kind(title: str, found: ColumnShifts | UncomparedColumns) -> Mapping[str, Any]:
    """The columns of one kind, those that differ most first."""
    compared = found if isinstance(found, ColumnShifts) else None
    columns = compared.columns if compared else {}
    order = sorted(columns, key=lambda name: (columns[name].p is None, -columns[name].far))
    return {
        "title": title,
        "reason": found.reason if isinstance(found, Unmade) else None,
        "rows": [_column(name, columns[name]) for name in order[:_SHOWN]],
        "more": max(0, len(order) - _SHOWN),
        "together": compared.together.auroc if compared else None,
        "columns": compared.together.columns if compared else (),
        "left_out": _by_reason(found.left_out),
    }


def _by_reason(left_out: Mapping[str, str]) -> list[str]:
    """Names with the reason that they share, said once."""
    names: dict[str, list[str]] = {}
    for name, why in left_out.items():
        names.setdefault(why, []).append(name)
    return [f"{', '.join(own)} ({why})" for why, own in names.items()]


def _column(name: str, own: NumberShift | CategoryShift) -> ColumnRow:
    if isinstance(own, NumberShift):
        meaning = "chance of a larger one here"
        return ColumnRow(name, _spread(own.source), _spread(own.new), own.larger, meaning, own.p_holm)
    most = own.values[own.most]
    source, new = (f"{own.most}: {share:.0%}" for share in (most.source, most.new))
    return ColumnRow(name, source, new, own.difference, f"difference of {own.most}", own.p_holm)


def _spread(values: Quartiles | None) -> str:
    """Median, and quartiles in brackets."""
    return "–" if values is None else f"{values[1]:.4g} ({values[0]:.4g} to {values[2]:.4g})"


def _novelty(found: NumberShift | Unmade) -> Mapping[str, Any] | None:
    if isinstance(found, Unmade):
        return None
    source, new = _spread(found.source), _spread(found.new)
    return {"larger": found.larger, "p": found.p, "source": source, "new": new}


def _reasons(found: Shift) -> dict[str, str]:
    """Why a part of the comparison is not there."""
    parts = {"performance": found.performance, "labels": found.labels, "novelty": found.novelty}
    return {name: part.reason for name, part in parts.items() if isinstance(part, Unmade)}


def _recalibration(found: Recalibration | None) -> Mapping[str, Any] | None:
    if not found:
        return None
    figures = {
        "log loss": found.log_loss,
        "calibration error (ECE)": found.ece,
        "Brier score": found.brier,
    }
    rows = [
        {"name": name, "came": own.came, "fitted": own.fitted, "change": own.change}
        for name, own in figures.items()
    ]
    return {"cases": found.cases, "patients": found.patients, "rows": rows}
