"""For whom the figures hold: groups of cases, and patients instead of cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.metrics import PatientFigures, SubgroupColumn, SubgroupGap
from foveate.evaluate.results.parts import Unmade
from foveate.evaluate.subgroups import PER_CLASS as SHOWN
from foveate.report.files import RunFiles
from foveate.report.sections.results import METRICS, PER_CLASS, sample
from foveate.report.sections.section import Section, reasons


def subgroups(files: RunFiles) -> Section:
    """The main figures by group, their gaps, and the figures of patients."""
    if files.metrics is None or files.metrics.subgroups is None:
        return Section("subgroups", "Subgroups", "evaluate", None)
    content = {
        "columns": [column_of(name, column) for name, column in files.metrics.subgroups.items()],
        "by_class": [called(key) for key in SHOWN],
        "patient": _patient(files.metrics.per_patient or Unmade(reason="")),
        **sample(files.metrics),
    }
    return Section("subgroups", "Subgroups", "evaluate", content)


def column_of(name: str, found: SubgroupColumn) -> dict[str, Any]:
    """Rows of one column's groups, and its gaps."""
    figures = {group: part.metrics for group, part in found.groups.items() if part.metrics is not None}
    keys = list(dict.fromkeys(key for own in figures.values() for key in own))
    rows = [
        {
            "name": group,
            "n": part.n,
            "patients": part.patients,
            "reason": part.reason,
            "values": [figures[group][key] for key in keys] if group in figures else [],
        }
        for group, part in found.groups.items()
    ]
    gaps = {key: found.gaps[key] for key in keys} if found.gaps else {}
    values = [
        *((group, called(key), own[key]) for group, own in figures.items() for key in keys),
        *(("gap", called(key), gap) for key, gap in gaps.items()),
    ]
    return {
        "name": name,
        "reason": found.reason,
        "names": [called(key) for key in keys],
        "rows": rows,
        "gaps": [_gap(gap) for gap in gaps.values()],
        "per_class": {group: _by_class(found.groups[group].per_class) for group in figures},
        "limited": reasons(values, undefined=False),
    }


def _gap(found: SubgroupGap) -> dict[str, Any]:
    between = f"{found.largest} − {found.smallest}" if found.largest is not None else ""
    return {"value": found, "between": between, "p": found.p_holm}


def _patient(found: PatientFigures | Unmade) -> dict[str, Any]:
    """Figures of patients; nothing but a reason where there are none."""
    if isinstance(found, Unmade):
        return {"reason": found.reason}
    return {
        "how": found.how,
        "patients": found.patients,
        "left_out": found.left_out,
        "most_cases": found.most_cases,
        "figures": [(called(key), value) for key, value in found.metrics.items()],
        "per_class": _by_class(found.per_class),
    }


def _by_class(found: Mapping[str, Mapping[str, Value]]) -> list[tuple[str, list[Value]]]:
    """For each class its figures, in the order of ``columns``."""
    return [(name, list(part.values())) for name, part in found.items()]


def called(key: str) -> str:
    """A figure's name on the page."""
    return METRICS[key][0] if key in METRICS else PER_CLASS.get(key, key)
