"""What each view is worth: how the model fares with which views, and how much of its evidence each holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.intervals import Bootstrap, Value, ratio
from foveate.evaluate.means import SHARE, means
from foveate.evaluate.results.metrics import ViewsFigures
from foveate.evaluate.results.parts import ABSENT
from foveate.maps.heatmaps import Share
from foveate.report.figures import drawing
from foveate.report.files import RunFiles
from foveate.report.sections.results import METRICS, sample
from foveate.report.sections.section import Chart, Section, reasons

Floats = NDArray[np.float64]


def views(files: RunFiles) -> Section | None:
    """Figures by the views that cases have, and shares of the views; nothing where there is one view."""
    if len(files.views) < 2:
        return None
    metrics = files.metrics
    part = metrics.split if metrics else "test"
    rows = [share for share in files.shares if share.split == part]
    if metrics is None and not rows:
        return Section("views", "Views", "evaluate", None)
    classes = metrics.classes if metrics else tuple(dict.fromkeys(share.target for share in rows))
    drawn = Bootstrap(metrics.bootstrap.n, metrics.bootstrap.level) if metrics else Bootstrap()
    tables = {
        name: shares_of([row for row in rows if row.target == name], files.views, drawn) for name in classes
    }
    shown = {name: table for name, table in tables.items() if table}
    patterns, names = _patterns(metrics.by_views if metrics else {})
    content = {
        "names": [METRICS[key][0] if key in METRICS else key for key in names],
        "patterns": patterns,
        "limited": reasons(_pattern_values(patterns, names), undefined=False),
        "charts": [_chart(name, table) for name, table in shown.items()],
        "tables": shown,
        "withheld": sorted({row.withheld for row in rows}),
        "sampled": any(row.sampled for row in rows),
        "cases": len({row.case_id for row in rows}),
        "part": part,
        "level": sample(metrics)["level"] if metrics else f"{100 * drawn.level:g} %",
    }
    return Section("views", "Views", "explain", content)


def shares_of(
    rows: Sequence[Share], views: Sequence[str], bootstrap: Bootstrap
) -> dict[str, dict[str, Value]]:
    """Means over the cases that have a view, with intervals over patients.

    Args:
        rows: of one class.
        views: in the order of the page.
        bootstrap: of the intervals.

    Returns:
        For each view that any case has: ``attribution``, its share in the sum of the absolute Shapley values
        of a case's views; ``evidence``, its share in the positive evidence of their heat maps; ``value``,
        its Shapley value itself, signed, in units of the logit.
    """
    totals: dict[str, float] = {}
    for row in rows:
        totals[row.case_id] = totals.get(row.case_id, 0.0) + abs(row.value)
    found = {}
    for view in views:
        own = [row for row in rows if row.view == view]
        if own:
            whole = np.array([totals[row.case_id] for row in own])
            value = np.array([row.value for row in own])
            columns = {
                "attribution": ratio(np.abs(value), whole),
                "evidence": np.array([row.share for row in own]),
                "value": value,
            }
            bounds = {"attribution": SHARE, "evidence": SHARE}
            found[view] = means(columns, [row.patient_id for row in own], bootstrap, bounds=bounds)
    return found


def _chart(name: str, table: Mapping[str, Mapping[str, Value]]) -> Chart:
    counts = [part["evidence"].n for part in table.values()]
    label = f"Share of each view in the attribution for {name}"
    title = f"{name} ({max(counts)} cases)" if max(counts) != 1 else f"{name} (1 case)"
    return Chart(drawing.svg(drawing.shares_figure(table), label), title)


def _patterns(found: Mapping[str, ViewsFigures]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of the table by views, and the names of its figures."""
    names = list(dict.fromkeys(key for part in found.values() for key in part.metrics))
    rows = [
        {
            "views": [view for view in pattern.split("+") if view],
            "n": part.n,
            "patients": part.patients,
            "values": [part.metrics.get(key, ABSENT) for key in names],
        }
        for pattern, part in found.items()
    ]
    return rows, names


def _pattern_values(
    patterns: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> Iterator[tuple[str, str, Value]]:
    for row in patterns:
        for key, metric in zip(names, row["values"], strict=True):
            yield " + ".join(row["views"]), METRICS[key][0] if key in METRICS else key, metric
