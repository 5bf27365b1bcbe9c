"""For whom the figures hold: groups of cases, and patients instead of cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from foveate.evaluate.intervals import Value
from foveate.evaluate.subgroups import PER_CLASS as SHOWN
from foveate.report.files import Json, RunFiles, value_of
from foveate.report.sections.results import METRICS, PER_CLASS, sample
from foveate.report.sections.section import Section, reasons, within


def subgroups(files: RunFiles) -> Section:
    """The main figures by group, their gaps, and the figures of patients."""
    found = within(files.metrics, "subgroups")
    if files.metrics is None or found is None:
        return Section("subgroups", "Subgroups", "evaluate", None)
    content = {
        "columns": [column_of(name, column) for name, column in found.items()],
        "by_class": [called(key) for key in SHOWN],
        "patient": _patient(within(files.metrics, "per_patient") or {"reason": ""}),
        **sample(files.metrics),
    }
    return Section("subgroups", "Subgroups", "evaluate", content)


def column_of(name: str, found: Json) -> dict[str, Any]:
    """Rows of one column's groups, and its gaps."""
    groups = {group: part for group, part in found["groups"].items() if "metrics" in part}
    keys = list(dict.fromkeys(key for part in groups.values() for key in part["metrics"]))
    rows = [
        {
            "name": group,
            "n": part["n"],
            "patients": part["patients"],
            "reason": part["reason"],
            "values": [value_of(part["metrics"][key]) for key in keys] if group in groups else [],
        }
        for group, part in found["groups"].items()
    ]
    gaps = [_gap(found["gaps"][key]) for key in keys] if found["gaps"] else []
    figures = [
        *_figures(groups, keys),
        *(("gap", called(key), gap["value"]) for key, gap in zip(keys, gaps, strict=False)),
    ]
    return {
        "name": name,
        "reason": found["reason"],
        "names": [called(key) for key in keys],
        "rows": rows,
        "gaps": gaps,
        "per_class": {group: _by_class(part) for group, part in groups.items()},
        "limited": reasons(figures, undefined=False),
    }


def _gap(found: Json) -> dict[str, Any]:
    largest, smallest = found["largest"], found["smallest"]
    between = f"{largest} − {smallest}" if largest != smallest else ""
    return {"value": value_of(found), "between": between, "p": found["p_holm"]}


def _patient(found: Json) -> dict[str, Any]:
    """Figures of patients; nothing but a reason where there are none."""
    if "metrics" not in found:
        return {"reason": found["reason"]}
    return {
        "how": found["how"],
        "patients": found["patients"],
        "left_out": found["left_out"],
        "most_cases": found["most_cases"],
        "figures": [(called(key), value_of(value)) for key, value in found["metrics"].items()],
        "per_class": _by_class(found),
    }


def _by_class(found: Json) -> list[tuple[str, list[Value]]]:
    """For each class its figures, in the order of ``columns``."""
    return [(name, [value_of(value) for value in part.values()]) for name, part in found["per_class"].items()]


def _figures(groups: Mapping[str, Json], keys: list[str]) -> Iterator[tuple[str, str, Value]]:
    for group, part in groups.items():
        for key in keys:
            yield group, called(key), value_of(part["metrics"][key])


def called(key: str) -> str:
    """A figure's name on the page."""
    return METRICS[key][0] if key in METRICS else PER_CLASS.get(key, key)
