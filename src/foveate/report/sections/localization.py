"""How well heat maps point at the true region, beside controls and beside what their grid allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from foveate.evaluate.intervals import Value
from foveate.evaluate.localization.summary import CHANCES
from foveate.evaluate.localization.wording import CONTROLS, MEASURES, METHODS, verdict
from foveate.evaluate.results.localization import Localization, MarkedCases, MethodLocalization
from foveate.evaluate.results.parts import ABSENT
from foveate.report.figures.drawing import svg
from foveate.report.figures.localization import bench_figure, overlap_figure
from foveate.report.files import RunFiles
from foveate.report.sections.section import Chart, Section, reasons

Methods = Mapping[str, MethodLocalization]
LOCALIZATION = {
    "cell_hit": ("Cell hit", "the hottest cell of the map’s grid holds the true region"),
    "plane_pointing": ("Pointing in the plane", "the strongest evidence, seen along the depth, lies inside"),
    "depth_error": ("Depth error, slices", "from the strongest evidence to the nearest true slice"),
    "depth_error_mm": ("Depth error, mm", "the same in millimetres"),
    "plane_iou": ("IoU in the plane", "overlap of the boxes without their slices"),
    "pointing_game": ("Pointing game", "the strongest evidence lies inside the true region"),
    "energy_inside": ("Energy inside", "share of all evidence that lies inside the true region"),
    "pixel_ap": ("Pixel AP", "area under precision–recall of the pixels"),
    "iou": ("IoU", "overlap of the box found with the true box"),
    "iobb": ("IoBB", "share of the box found that lies inside the true box"),
    "mask_iou": ("Mask IoU", "overlap of the region found with the true outline"),
    "dice": ("Dice", "the same overlap, counting what both share twice"),
    "centre_inside": ("Centre inside", "the box found holds the centre of the true box"),
    "half_inside": ("Half inside", "at least half of what was found is true"),
    "max_box_acc": ("MaxBoxAcc", "largest box with IoU ≥ 0.5"),
    "max_box_acc_v2": ("MaxBoxAccV2", "best of all boxes, mean over IoU ≥ 0.3, 0.5, 0.7"),
    "max_box_acc_at_best": ("MaxBoxAcc, at best", "with the threshold best for these very cases"),
    "max_box_acc_v2_at_best": ("MaxBoxAccV2, at best", "with the thresholds best for these very cases"),
}
_DISTANCES = ("depth_error", "depth_error_mm")  # of no scale from 0 to 1, and less is better
_CHARTED = (
    "cell_hit",
    "plane_pointing",
    "plane_iou",
    "pointing_game",
    "energy_inside",
    "pixel_ap",
    "iou",
    "dice",
)
_RULES = {
    "two_thresholds": "The map is scaled to 0–255 and cut at 60 and, separately, at 180; every connected "
    "region of both is kept.",
    "top": "The hottest 5 % of the pixels are taken, and the largest connected region is kept.",
    "patch": "The window of one cell of the map’s grid with the largest mean is taken.",
}


def localization(files: RunFiles) -> Section:
    """How well heat maps point at the true region, beside what they must beat and what they could reach."""
    found = files.localization
    if found is None:
        return Section("localization", "Localization", "localize", None)
    methods = found.overall.methods
    present = [name for name in METHODS if name in methods]
    shown = [methods[name] for name in present]
    order = files.metrics.classes if files.metrics else found.by_class
    scored = {name: found.by_class[name] for name in order if name in found.by_class}
    groups = _groups(found, scored)
    content = {
        "reason": "" if present else found.reason or "nothing could be scored",
        "explainer": found.explainer,
        "part": found.split,
        "n": found.overall.n,
        "patients": found.overall.patients,
        "rule": rule_in_words(found),
        "verdicts": [said for measure in MEASURES if (said := verdict(found, measure))],
        "names": [METHODS[name] for name in present],
        "measures": _measures(methods, present),
        "accuracy": _accuracy(shown, "localization_accuracy", "false_positives_iou"),
        "accuracy_iobb": _accuracy(shown, "iobb_accuracy", "false_positives_iobb"),
        "charts": _charts(methods, present),
        "groups": [(title, kind, note, _rows(parts, present)) for title, kind, note, parts in groups],
        "published": _published(found, scored),
        "left_out": [(METHODS[name], why) for name, why in found.left_out.items()],
        "limited": reasons(_class_values(scored, present), undefined=False),
        "empty": methods["heatmap"].empty_maps if "heatmap" in methods else 0,
    }
    return Section("localization", "Localization", "localize", content)


def _measures(methods: Methods, present: Sequence[str]) -> list[dict[str, object]]:
    """One row per measure, with a figure for each method and what a random point would score."""
    return [
        {
            "key": key,
            "name": name,
            "meaning": meaning,
            "values": [methods[method].figure(key) or ABSENT for method in present],
            "chance": (methods["heatmap"].figure(CHANCES.get(key, "")) or ABSENT).value,
            "share": key not in _DISTANCES,
        }
        for key, (name, meaning) in LOCALIZATION.items()
        if any(methods[method].figure(key) for method in present)
    ]


def _accuracy(
    methods: Sequence[MethodLocalization], key: str, wrong: str
) -> list[tuple[str, list[tuple[Value, float | None]]]]:
    """By threshold, accuracy and mean false positives of each method."""
    thresholds = sorted({at for own in methods for at in getattr(own, key)}, key=float)
    return [
        (at, [(own.at(key, at) or ABSENT, (own.at(wrong, at) or ABSENT).value) for own in methods])
        for at in thresholds
    ]


def _charts(methods: Methods, present: Sequence[str]) -> list[Chart]:
    """The main measures on one scale, and the share of cases localized over the overlap asked for."""
    if "heatmap" not in present:
        return []
    values = {
        LOCALIZATION[key][0]: {method: methods[method].figure(key) or ABSENT for method in present}
        for key in _CHARTED
        if (methods["heatmap"].figure(key) or ABSENT).value is not None
    }
    control = _best_control(methods, present)
    shown = [name for name in ("heatmap", control, "ceiling") if name in present]
    curves = {METHODS[method]: methods[method].localization_accuracy for method in shown}
    return [
        Chart(
            svg(bench_figure(values, METHODS), "Main measures of heat maps, their ceiling and the controls")
        ),
        Chart(svg(overlap_figure(curves), "Share of cases localized over the IoU asked for")),
    ]


def _best_control(methods: Methods, present: Sequence[str]) -> str:
    """The control with the highest mean IoU: the one to beat."""
    controls = [name for name in CONTROLS if name in present]
    return max(controls, key=lambda name: (methods[name].iou or ABSENT).value or 0.0, default="")


def _groups(
    found: Localization, scored: dict[str, MarkedCases]
) -> Iterator[tuple[str, str, str, dict[str, MarkedCases]]]:
    """Title, kind, a note and the parts of each way to divide the cases that has more than one part."""
    sizes = found.by_size
    bounds = {
        name: f"{name}, {100 * low:.3g} to {100 * high:.3g} %"
        for name, (low, high) in (sizes.bounds or {}).items()
    }
    strata = {bounds.get(name, name): part for name, part in (sizes.strata or {}).items()}
    answers = {f"{name} answer": part for name, part in found.by_answer.items()}
    divided = (
        ("Per class", "class", "", scored),
        ("By size of the true region", "size", f"Groups are {sizes.rule}.", strata),
        ("Right and wrong answers", "answer", "Wrong answers count in every figure above.", answers),
        ("Per view", "view", "", found.by_view),
    )
    return (item for item in divided if len(item[3]) > 1)


def _of(part: MarkedCases, method: str) -> MethodLocalization:
    return part.methods.get(method) or MethodLocalization()


def _rows(parts: Mapping[str, MarkedCases], present: Sequence[str]) -> list[dict[str, object]]:
    """A row for each part and main measure, with a figure for each method."""
    scored = [
        key
        for key in MEASURES
        if any(found.figure(key) for part in parts.values() for found in part.methods.values())
    ]
    return [
        {
            "name": name,
            "n": part.n,
            "key": key,
            "measure": LOCALIZATION[key][0],
            "first": key == scored[0],
            "values": [_of(part, method).figure(key) or ABSENT for method in present],
        }
        for name, part in parts.items()
        for key in scored
    ]


def _published(found: Localization, scored: Mapping[str, MarkedCases]) -> dict[str, object] | None:
    """Published figures beside this run's own, finding by finding."""
    published = found.published
    if not published:
        return None
    columns = [key.split() for key in dict.fromkeys(key for row in published.rows.values() for key in row)]
    return {
        "source": published.source,
        "same_rule": found.rule.kind == published.rule,
        "columns": [f"{'IoU' if key.startswith('loc') else 'IoBB'} ≥ {at}" for key, at in columns],
        "rows": [
            (
                name,
                scored[name].n,
                [
                    (_of(scored[name], "heatmap").at(key, at) or ABSENT, row.get(f"{key} {at}"))
                    for key, at in columns
                ],
            )
            for name, row in published.rows.items()
            if name in scored
        ],
    }


def _class_values(
    scored: Mapping[str, MarkedCases], present: Sequence[str]
) -> Iterator[tuple[str, str, Value]]:
    for name, part in scored.items():
        for method in present:
            for key in MEASURES:
                if value := _of(part, method).figure(key):
                    yield name, f"{LOCALIZATION[key][0]}, {METHODS[method].lower()}", value


def rule_in_words(found: Localization) -> str:
    """How a heat map became a box."""
    rule = found.rule
    if rule.kind in _RULES:
        return _RULES[rule.kind]
    shares = rule.threshold if isinstance(rule.threshold, dict) else {}
    cuts = ", ".join(
        f"{METHODS.get(name, name).lower()} at {100 * share:g} %" for name, share in shares.items()
    )
    kept = (
        "the largest connected region is kept" if rule.keep == "largest" else "every connected region is kept"
    )
    chosen = found.threshold_chosen_on
    where = "chosen on validation cases only" if chosen == "val" else f"chosen on {chosen}"
    return (
        f"Evidence below a share of the map’s maximum is cut off ({cuts or rule.threshold}; {where}), "
        f"and {kept}."
    )
