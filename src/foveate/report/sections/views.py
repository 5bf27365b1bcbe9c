"""What each view is worth: how the model fares with which views, and how much of its evidence each holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.metrics import ViewsFigures
from foveate.evaluate.results.parts import ABSENT
from foveate.evaluate.results.views import ShareMeans
from foveate.report.figures import drawing
from foveate.report.files import RunFiles
from foveate.report.sections.results import METRICS
from foveate.report.sections.section import Chart, Section, reasons


def views(files: RunFiles) -> Section | None:
    """Figures by the views that cases have, and shares of the views; nothing where there is one view."""
    if len(files.views) < 2:
        return None
    metrics = files.metrics
    part = metrics.split if metrics else "test"
    shares = files.view_shares.parts.get(part) if files.view_shares else None
    if metrics is None and shares is None:
        return Section("views", "Views", "evaluate", None)
    by_class = shares.classes if shares else {}
    shown = {
        name: {view: by_class[name][view] for view in files.views if view in by_class[name]}
        for name in (metrics.classes if metrics else by_class)
        if name in by_class
    }
    patterns, names = _patterns(metrics.by_views if metrics else {})
    content = {
        "names": [METRICS[key][0] if key in METRICS else key for key in names],
        "patterns": patterns,
        "limited": reasons(_pattern_values(patterns, names), undefined=False),
        "charts": [_chart(name, table) for name, table in shown.items()],
        "tables": shown,
        "shares": shares,
        "part": part,
        "level": f"{100 * files.view_shares.bootstrap.level:g} %" if files.view_shares else "",
    }
    return Section("views", "Views", "explain", content)


def _chart(name: str, table: Mapping[str, ShareMeans]) -> Chart:
    counts = [part.evidence.n for part in table.values()]
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
