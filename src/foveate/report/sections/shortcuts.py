"""Shortcuts: does the model read its answer where nothing of the disease is?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.parts import ABSENT
from foveate.evaluate.results.probes import Alone, AskedRegion, EvidenceShares, Probes, Shortcut
from foveate.report.figures import drawing
from foveate.report.figures.shortcuts import tiles_figure
from foveate.report.files import RunFiles
from foveate.report.sections.section import Chart, Section, reasons

NAMES = {
    "tile": "tile",
    "tiles": "tiles that were found",
    "border": "border of the image",
    "outside-organ": "outside the organ",
    "strokes": "strokes at the border",
    "outside-lesion": "outside the marked lesions",
    "organ-without-lesion": "organ away from the lesions",
    "inside-lesion": "inside of the lesions (should decide)",
    "scale": "scale of the files",
    "lesion-scale": "scale of the lesions",
}


def shortcuts(files: RunFiles) -> Section:
    """What was found, each region that was asked about, and what is told without the disease."""
    probes = files.probes
    if probes is None:
        return Section("shortcuts", "Shortcuts", "probe", None)
    rows = list(_tested(probes))
    content = {
        "part": probes.split,
        "n": probes.n,
        "patients": probes.patients,
        "level": f"{100 * probes.bootstrap.level:g} %",
        "shortcuts": [(item, _effect(item)) for item in probes.shortcuts],
        "leaks": probes.leaks,
        "asked": probes.asked,
        "charts": [_chart(probes, view) for view in probes.views],
        "tested": rows,
        "regions": list(_regions(probes)),
        "attribution": list(_attribution(probes)),
        "alone": [_told(probes, *model) for model in probes.models()],
        "not_tested": probes.not_tested,
        "limited": reasons(
            ((row["name"], name, value) for row in rows for name, value in row["values"].items()),
            undefined=False,
        ),
    }
    return Section("shortcuts", "Shortcuts", "probe", content)


def _effect(item: Shortcut) -> Value:
    low, high = item.interval
    return Value(item.effect, low, high, 0, 0)


def _chart(probes: Probes, view: str) -> Chart:
    found = [
        item.where.box for item in probes.shortcuts if item.where.view == view and item.where.box is not None
    ]
    label = f"How much each tile of {view} moves the answers"
    svg = drawing.svg(tiles_figure(probes.views[view].tiles, found), label)
    return Chart(svg, view if len(probes.views) > 1 else "")


def _tested(probes: Probes) -> Iterator[dict[str, Any]]:
    for view, own in probes.views.items():
        for row in own.tested:
            yield {
                "name": _name(row, view, probes),
                "class": row.label or "all",
                "values": {
                    "original": row.original,
                    "same": row.same,
                    "other": row.other,
                    "effect": row.effect,
                },
                "p": row.p_corrected,
                "found": row.found,
            }


def _regions(probes: Probes) -> Iterator[dict[str, Any]]:
    """Removal and pasting of whole regions; of the class that the question was about, or over all."""
    for view, own in probes.views.items():
        for row in own.regions:
            found = row.figures
            yield {
                "name": _name(row, view, probes),
                "class": row.label or "all",
                "values": [
                    value or ABSENT
                    for value in (found.original, found.removed, found.removal, found.lost, found.gained)
                ],
            }


def _attribution(probes: Probes) -> Iterator[dict[str, Any]]:
    for view, own in probes.views.items():
        shares = own.attribution
        for place, found in (("border", shares.border), ("outside-organ", shares.outside_organ)):
            found = found or EvidenceShares(reason=shares.reason)
            yield {
                "name": NAMES[place] + _of(view, probes),
                "explainer": shares.explainer or "",
                "reason": found.reason,
                "values": [value or ABSENT for value in (found.evidence, found.area, found.excess)],
            }


def _told(probes: Probes, what: str, view: str | None, found: Alone) -> dict[str, Any]:
    if what == "background":
        what = f"pixels: {NAMES.get(found.region or '', 'background')}"
    return {
        "name": "metadata and file properties" if view is None else what + _of(view, probes),
        "reason": found.reason,
        "columns": found.strongest or (),
        "macro": found.auroc_macro or ABSENT,
        "network": found.network or ABSENT,
        "difference": found.difference or ABSENT,
        "telling": list(found.told.items()),
    }


def _of(view: str, probes: Probes) -> str:
    """Which view, where there are several."""
    return f" ({view})" if len(probes.views) > 1 else ""


def _name(row: AskedRegion, view: str, probes: Probes) -> str:
    name = NAMES.get(row.name, row.name)
    if row.box:
        top, left, bottom, right = (round(100 * edge) for edge in row.box)
        name += f", {left}–{right} % across, {top}–{bottom} % down"
    return f"{view}: {name}" if len(probes.views) > 1 else name
