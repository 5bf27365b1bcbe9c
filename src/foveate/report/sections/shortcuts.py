"""Shortcuts: does the model read its answer where nothing of the disease is?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from foveate.report.figures import drawing
from foveate.report.figures.shortcuts import tiles_figure
from foveate.report.files import Json, RunFiles, value_of
from foveate.report.sections.section import Chart, Section, reasons

NAMES = {
    "tile": "tile",
    "tiles": "tiles that were found",
    "border": "border of the image",
    "outside-organ": "outside the organ",
    "outside_organ": "outside the organ",
    "strokes": "strokes at the border",
    "outside-lesion": "outside the marked lesions",
    "organ-without-lesion": "organ away from the lesions",
    "inside-lesion": "inside of the lesions (should decide)",
    "scale": "scale of the files",
    "lesion-scale": "scale of the lesions",
}
_EXCHANGE = ("original", "same", "other", "effect")
_REGION = ("original", "removed", "removal", "lost", "gained")


def shortcuts(files: RunFiles) -> Section:
    """What was found, each region that was asked about, and what is told without the disease."""
    probes = files.probes
    if probes is None:
        return Section("shortcuts", "Shortcuts", "probe", None)
    several = len(probes["views"]) > 1
    rows = list(_tested(probes, several))
    content = {
        "part": probes["split"],
        "n": probes["n"],
        "patients": probes["patients"],
        "level": f"{100 * probes['bootstrap']['level']:g} %",
        "shortcuts": [{**item, "value": _effect(item)} for item in probes["shortcuts"]],
        "leaks": probes["leaks"],
        "asked": probes.get("asked") or (),
        "charts": [_chart(probes, view, several) for view in probes["views"]],
        "tested": rows,
        "regions": list(_regions(probes, several)),
        "attribution": list(_attribution(probes, several)),
        "alone": list(_alone(probes, several)),
        "not_tested": probes["not_tested"],
        "limited": reasons(
            ((row["name"], name, row["values"][name]) for row in rows for name in _EXCHANGE), undefined=False
        ),
    }
    return Section("shortcuts", "Shortcuts", "probe", content)


def _effect(item: Json) -> Any:
    low, high = item["interval"]
    return value_of({"value": item["effect"], "low": low, "high": high})


def _chart(probes: Json, view: str, several: bool) -> Chart:
    tiles = probes["views"][view]["tiles"]
    found = [
        item["where"]["box"]
        for item in probes["shortcuts"]
        if item["where"]["view"] == view and item["where"]["box"]
    ]
    label = f"How much each tile of {view} moves the answers"
    return Chart(drawing.svg(tiles_figure(tiles, found), label), view if several else "")


def _tested(probes: Json, several: bool) -> Iterator[dict[str, Any]]:
    for view, own in probes["views"].items():
        for row in own["tested"]:
            yield {
                "name": _name(row, view, several),
                "class": row["class"] or "all",
                "values": {name: value_of(row[name]) for name in _EXCHANGE},
                "p": row["p_corrected"],
                "found": row["found"],
            }


def _regions(probes: Json, several: bool) -> Iterator[dict[str, Any]]:
    """Removal and pasting of whole regions; of the class that the question was about, or over all."""
    for view, own in probes["views"].items():
        for row in own["regions"]:
            figures_of = row["all"] if row["class"] is None else row["by_class"][row["class"]]
            yield {
                "name": _name(row, view, several),
                "class": row["class"] or "all",
                "values": {name: value_of(figures_of.get(name)) for name in _REGION},
            }


def _attribution(probes: Json, several: bool) -> Iterator[dict[str, Any]]:
    for view, own in probes["views"].items():
        for place in ("border", "outside_organ"):
            found = own["attribution"].get(place, own["attribution"])
            values = {name: value_of(found.get(name)) for name in ("evidence", "area", "excess")}
            yield {
                "name": NAMES[place] + (f" ({view})" if several else ""),
                "explainer": own["attribution"].get("explainer") or "",
                "reason": found.get("reason"),
                "values": values,
            }


def _alone(probes: Json, several: bool) -> Iterator[dict[str, Any]]:
    yield {"name": "metadata and file properties", **_told(probes["metadata"])}
    for view, own in probes["views"].items():
        found = own["background"]
        where = NAMES.get(found.get("region", ""), "background")
        yield {"name": f"pixels: {where}" + (f" ({view})" if several else ""), **_told(found)}
        for kind, aspects in (own.get("masks") or {}).items():
            for aspect, told in aspects.items():
                yield {"name": f"{aspect} of the {kind}" + (f" ({view})" if several else ""), **_told(told)}


def _told(found: Json) -> dict[str, Any]:
    classes: Mapping[str, Json] = found.get("per_class") or {}
    return {
        "reason": found.get("reason"),
        "columns": found.get("strongest") or (),
        "macro": value_of(found.get("auroc_macro")),
        "network": value_of(found.get("network")),
        "difference": value_of(found.get("difference")),
        "telling": [(name, value_of(classes[name])) for name in found.get("telling") or ()],
    }


def _name(row: Json, view: str, several: bool) -> str:
    name = str(NAMES.get(row["name"], row["name"]))
    if row["box"]:
        top, left, bottom, right = (round(100 * edge) for edge in row["box"])
        name += f", {left}–{right} % across, {top}–{bottom} % down"
    return f"{view}: {name}" if several else name
