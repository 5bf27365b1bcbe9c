"""Where the model looked: single cases, and how well heat maps point at the true region."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from foveate.evaluate.intervals import Value
from foveate.report import figures
from foveate.report.cases import SheetMaker
from foveate.report.files import Json, RunFiles, value_of
from foveate.report.overlays import Legend, gradient
from foveate.report.sections.section import Chart, Section, reasons, within

LOCALIZATION = {
    "pointing_game": ("Pointing game", "the strongest evidence lies inside the true region"),
    "energy_inside": ("Energy inside", "share of all evidence that lies inside the true region"),
    "iou": ("IoU", "overlap of the box found with the true box"),
    "iobb": ("IoBB", "share of the box found that lies inside the true box"),
    "mask_iou": ("Mask IoU", "overlap of the region found with the true outline"),
}
METHODS = {"heatmap": "Heat map", "centre": "Always the centre", "random": "Random map"}


def localization(files: RunFiles) -> Section:
    """How well heat maps point at the true region, beside two controls."""
    found = files.localization
    if found is None:
        return Section("localization", "Localization", "localize", None)
    methods = {name: part for name, part in found["overall"]["methods"].items()}
    present = [name for name in METHODS if name in methods]
    order = within(files.metrics, "classes") or found["by_class"]
    scored = {name: found["by_class"][name] for name in order if name in found["by_class"]}
    content = {
        "reason": "" if present else str(found.get("reason") or "nothing could be scored"),
        "explainer": found["explainer"],
        "part": found["split"],
        "n": found["overall"]["n"],
        "patients": found["overall"]["patients"],
        "rule": _rule_in_words(found),
        "names": [METHODS[name] for name in present],
        "measures": _measures(methods, present),
        "accuracy": _accuracies(methods, present),
        "chart": _overlap_chart(methods, present),
        "by_class": [_class_row(name, part, present) for name, part in scored.items()],
        "by_view": [_class_row(name, part, present) for name, part in (found.get("by_view") or {}).items()],
        "limited": reasons(_class_values(scored, present), undefined=False),
        "empty": within(methods, "heatmap", "empty_maps"),
    }
    return Section("localization", "Localization", "localize", content)


def _measures(methods: Json, present: Sequence[str]) -> list[dict[str, object]]:
    """One row per measure, with a figure for each method and what a random point would score."""
    return [
        {
            "key": key,
            "name": name,
            "meaning": meaning,
            "values": [value_of(methods[method].get(key)) for method in present],
            "chance": value_of(methods["heatmap"].get("chance")).value if key == "pointing_game" else None,
        }
        for key, (name, meaning) in LOCALIZATION.items()
        if any(key in methods[method] for method in present)
    ]


def _accuracies(methods: Json, present: Sequence[str]) -> list[tuple[str, list[Value]]]:
    """Localization accuracy of each method by IoU threshold."""
    by_method = [methods[method].get("localization_accuracy", {}) for method in present]
    thresholds = sorted({at for found in by_method for at in found}, key=float)
    return [(at, [value_of(found.get(at)) for found in by_method]) for at in thresholds]


def _overlap_chart(methods: Json, present: Sequence[str]) -> Chart | None:
    if not present:
        return None
    curves = {
        METHODS[method]: {at: value_of(raw) for at, raw in methods[method]["localization_accuracy"].items()}
        for method in present
    }
    return Chart(
        figures.svg(figures.overlap_figure(curves), "Share of cases localized over the IoU asked for")
    )


def _class_row(name: str, part: Json, present: Sequence[str]) -> dict[str, object]:
    shown = [
        [value_of(within(part, "methods", method, key)) for method in present]
        for key in ("pointing_game", "iou")
    ]
    return {"name": name, "n": part["n"], "patients": part["patients"], "values": shown}


def _class_values(scored: Json, present: Sequence[str]) -> Iterator[tuple[str, str, Value]]:
    for name, part in scored.items():
        for method in present:
            for key in ("pointing_game", "iou"):
                words = f"{LOCALIZATION[key][0]}, {METHODS[method].lower()}"
                yield name, words, value_of(within(part, "methods", method, key))


def _rule_in_words(found: Json) -> str:
    """How a heat map became a box."""
    rule = found["rule"]
    threshold = rule.get("threshold")
    shares = (
        {name: float(share) for name, share in threshold.items()} if isinstance(threshold, Mapping) else {}
    )
    cuts = ", ".join(
        f"{METHODS.get(name, name).lower()} at {100 * share:g} %" for name, share in shares.items()
    )
    kept = (
        "the largest connected region is kept"
        if rule.get("keep") == "largest"
        else "every connected region is kept"
    )
    chosen = found["threshold_chosen_on"]
    where = "chosen on validation cases only" if chosen == "val" else f"chosen on {chosen}"
    return (
        f"Evidence below a share of the map’s maximum is cut off ({cuts or threshold}; {where}), and {kept}."
    )


def cases(files: RunFiles) -> Section:
    """Sheets of the surest right and wrong answers."""
    metrics, table = files.metrics, files.predictions
    title = "Cases"
    if files.heatmaps is None or table is None:
        return Section("cases", title, "explain" if table is not None else "predict", None)
    part = table.part(str(within(metrics, "split") or "test"))
    if not part.case_ids:
        return Section("cases", title, "predict", None)
    found = within(metrics, "per_class") or {}
    thresholds = {name: row["threshold"] for name, row in found.items() if row.get("threshold") is not None}
    sheets = SheetMaker(files, part, part.decisions(thresholds)).sheets()
    explained = {entry.case_id for entry in files.heatmaps} & set(part.case_ids)
    content = {
        "sheets": sheets,
        "explainers": sorted({entry.explainer for entry in files.heatmaps}),
        "bar": gradient(Legend(-1.0, 1.0, -1.0, 1.0, empty=False)),
        "boxes": files.boxes is not None,
        "explained": len(explained),
        "n": len(part.case_ids),
        "left_out": part.classes[len(sheets) :],
    }
    return Section("cases", title, "explain", content)
