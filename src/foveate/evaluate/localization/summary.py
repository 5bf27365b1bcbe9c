"""Averages of the scores of all maps, with patient-clustered intervals: what ``localization.json`` holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.evaluate.intervals import Bootstrap, Floats, Interval, Value, ratio
from foveate.evaluate.localization.cases import IOBB_THRESHOLDS, IOU_THRESHOLDS, CaseScore
from foveate.evaluate.localization.published import published_beside
from foveate.evaluate.localization.strata import by_size
from foveate.evaluate.localization.wording import CONTROLS
from foveate.evaluate.means import DIFFERENCE, SHARE, means
from foveate.evaluate.rates import Rates, pair
from foveate.evaluate.results.bootstrap import IntervalFacts
from foveate.evaluate.results.localization import (
    BoxRuleFacts,
    Localization,
    LocalizationFigures,
    MarkedCases,
    MethodLocalization,
)

BOX_IOUS = (0.3, 0.5, 0.7)
"""The overlaps asked for by MaxBoxAccV2 (Choe et al. 2020); MaxBoxAcc asks for the middle one."""
VOLUMES = ("cell_hit", "plane_pointing", "plane_iou", "depth_error", "depth_error_mm")
"""Measures that only volumes have; of the last two, less is better."""
CHANCES = {"pointing_game": "chance", "cell_hit": "cell_chance", "plane_pointing": "plane_chance"}
"""By measure, the name of what a random point or cell scores in it."""
_MEANS = (
    "pointing_game",
    "iou",
    "iobb",
    "mask_iou",
    "dice",
    "pixel_ap",
    "energy_inside",
    "centre_inside",
    "half_inside",
)
_OUTLINES = ("mask_iou", "dice", "pixel_ap")
_BOXES_ONLY = "left out where the truth is known as boxes only"
_NOT_CHOSEN = "no validation case is marked, so that no threshold could be chosen"
_NOT_RECORDED = "not recorded for these maps"
_UNBOUNDED = ("false_positives", "depth_error", "depth_error_mm")  # all others lie between 0 and 1
_REASONS = {
    **dict.fromkeys(_OUTLINES, _BOXES_ONLY),
    "depth_error": "left out where the map has one slice, which points at no depth",
    "depth_error_mm": "left out where the map has one slice, or the distance of the slices is unknown",
}


@dataclass(frozen=True, slots=True)
class BoxThresholds:
    """Thresholds of the box accuracies, chosen on validation cases.

    Attributes:
        largest: position among the candidates of the best one for MaxBoxAcc.
        any: the same for each overlap of MaxBoxAccV2.
    """

    largest: int
    any: tuple[int, ...]


def choose_box_thresholds(largest: Floats, every: Floats) -> BoxThresholds:
    """Choose the thresholds at which most validation cases are localized; of equals the first.

    Args:
        largest: ``(N, T)`` IoU of the largest box of N validation cases at T thresholds.
        every: ``(N, T)`` best IoU of all boxes.
    """
    return BoxThresholds(
        largest=int((largest >= BOX_IOUS[1]).mean(axis=0).argmax()),
        any=tuple(int((every >= asked).mean(axis=0).argmax()) for asked in BOX_IOUS),
    )


def summarise_localization(
    rows: Sequence[CaseScore],
    *,
    split: str,
    explainer: str,
    rule: BoxRuleFacts,
    bootstrap: Bootstrap | None = None,
    threshold_chosen_on: str = "val",
    views: Sequence[str] = (),
    box_thresholds: Mapping[str, BoxThresholds] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Localization:
    """Average the scores of all cases, over all and by class, size of the truth, answer and view.

    Args:
        rows: one per case, class, view and method.
        split: the part they are of.
        explainer: name in the ``EXPLAINERS`` table.
        rule: how maps became boxes, with the threshold of each method.
        bootstrap: of the intervals; None takes 1,000 replicates at 95 %.
        threshold_chosen_on: the part on which the thresholds of the rule were chosen.
        views: the view that each row is of; where there are several, each is summarised as well.
        box_thresholds: by method, thresholds of the box accuracies.
        left_out: by method, why it could not be scored.

    Returns:
        What ``localization.json`` holds. Every average is a ``Value`` whose ``n`` counts rows: cases, or
        pairs of case and finding, or of case and view. The views of a case are of one patient, so their
        number makes no interval narrow.
    """
    drawn = bootstrap or Bootstrap()
    labels = list(dict.fromkeys(row.label for row in rows))
    named = list(dict.fromkeys(views))

    def summary(chosen: Sequence[CaseScore]) -> MarkedCases:
        return _summary(chosen, drawn, box_thresholds or {})

    own_views = dict(zip(map(id, rows), views, strict=True)) if len(named) > 1 else {}
    return Localization(
        split=split,
        explainer=explainer,
        rule=rule,
        threshold_chosen_on=threshold_chosen_on,
        iou_thresholds=IOU_THRESHOLDS,
        iobb_thresholds=IOBB_THRESHOLDS,
        box_ious=BOX_IOUS,
        bootstrap=IntervalFacts.of(drawn),
        left_out=dict(left_out or {}),
        published=published_beside(labels),
        overall=summary(rows),
        differences=_differences(rows, drawn),
        by_class={label: summary([row for row in rows if row.label == label]) for label in labels},
        by_size=by_size(rows, summary),
        by_answer=_by_answer(rows, summary),
        by_view={
            view: summary([row for row in rows if own_views[id(row)] == view])
            for view in (named if own_views else ())
        },
    )


def _differences(rows: Sequence[CaseScore], bootstrap: Bootstrap) -> dict[str, LocalizationFigures]:
    """By control, how much better the heat maps are, paired on the same cases, with its interval."""
    by_method: dict[str, list[CaseScore]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    heatmaps = by_method.get("heatmap", [])
    keys = [(row.case_id, row.label) for row in heatmaps]
    return {
        method: LocalizationFigures.model_validate(
            _averages(
                {
                    name: np.array(
                        [getattr(a, name) - getattr(b, name) for a, b in zip(heatmaps, own, strict=True)]
                    )
                    for name in _measures(rows)
                },
                [row.patient_id for row in heatmaps],
                bootstrap,
                {name: DIFFERENCE for name in _measures(rows) if name not in _UNBOUNDED},
            )
        )
        for method, own in by_method.items()
        if method in CONTROLS and [(row.case_id, row.label) for row in own] == keys
    }


def _measures(rows: Sequence[CaseScore]) -> tuple[str, ...]:
    """The measures that are told: of volumes some more."""
    return (*_MEANS, *(VOLUMES if any(not np.isnan(row.plane_iou) for row in rows) else ()))


def _by_answer(
    rows: Sequence[CaseScore], summary: Callable[[Sequence[CaseScore]], MarkedCases]
) -> dict[str, MarkedCases]:
    """Where the class was predicted, and where it was not; nothing where that is unknown."""
    parts = {answer: [row for row in rows if row.answer == answer] for answer in ("right", "wrong")}
    return {answer: summary(part) for answer, part in parts.items() if part}


def _summary(
    rows: Sequence[CaseScore], bootstrap: Bootstrap, thresholds: Mapping[str, BoxThresholds]
) -> MarkedCases:
    methods = list(dict.fromkeys(row.method for row in rows))
    by_method = {method: [row for row in rows if row.method == method] for method in methods}
    return MarkedCases(
        n=len({(row.case_id, row.label) for row in rows}),
        patients=len({row.patient_id for row in rows}),
        methods={
            method: _method(chosen, bootstrap, thresholds.get(method)) for method, chosen in by_method.items()
        },
    )


def _method(
    rows: Sequence[CaseScore], bootstrap: Bootstrap, thresholds: BoxThresholds | None
) -> MethodLocalization:
    """Every measure of one method, over one set of rows."""
    measures = _measures(rows)
    chances = [name for measure, name in CHANCES.items() if measure in measures]
    columns = {
        name: np.array([getattr(row, name) for row in rows], dtype=np.float64)
        for name in (*measures, *chances, "best_iou", "best_iobb")
    }
    groups = {
        "localization_accuracy": _reaching(columns.pop("best_iou"), columns["iou"], IOU_THRESHOLDS),
        "iobb_accuracy": _reaching(columns.pop("best_iobb"), columns["iobb"], IOBB_THRESHOLDS),
        "false_positives_iou": _counts([row.false_iou for row in rows], IOU_THRESHOLDS),
        "false_positives_iobb": _counts([row.false_iobb for row in rows], IOBB_THRESHOLDS),
    }
    flat = columns | {f"{group} {at}": column for group, own in groups.items() for at, column in own.items()}
    patients = [row.patient_id for row in rows]
    bounds = {name: SHARE for name in flat if not name.startswith(_UNBOUNDED)}
    values = _averages(flat, patients, bootstrap, bounds)
    nested = {group: {at: values.pop(f"{group} {at}") for at in own} for group, own in groups.items()}
    accuracies = _box_accuracies(rows, patients, bootstrap, thresholds)
    empty = sum(row.empty for row in rows)
    return MethodLocalization.model_validate({**values, **accuracies, **nested, "empty_maps": empty})


def _reaching(best: Floats, first: Floats, thresholds: Sequence[float]) -> dict[str, Floats]:
    """1 where a box reaches the threshold, by threshold; files of old have the first box only."""
    reached = np.where(np.isnan(best), first, best)
    return {str(at): (reached >= at).astype(np.float64) for at in thresholds}


def _counts(counts: Sequence[tuple[float, ...]], thresholds: Sequence[float]) -> dict[str, Floats]:
    """Counts by threshold, NaN where they were not recorded."""
    table = np.array([own or (np.nan,) * len(thresholds) for own in counts])
    return {str(at): table[:, t] for t, at in enumerate(thresholds)}


def _averages(
    columns: Mapping[str, Floats],
    patient_ids: Sequence[str],
    bootstrap: Bootstrap,
    bounds: Mapping[str, Interval],
) -> dict[str, Value]:
    """Mean of each column over its defined rows, with its interval."""
    reasons = {
        name: _REASONS.get(name, _NOT_RECORDED) for name, column in columns.items() if np.isnan(column).any()
    }
    return means(columns, patient_ids, bootstrap, bounds=bounds, reasons=reasons)


def _box_accuracies(
    rows: Sequence[CaseScore],
    patient_ids: Sequence[str],
    bootstrap: Bootstrap,
    thresholds: BoxThresholds | None,
) -> dict[str, Value]:
    """MaxBoxAcc and MaxBoxAccV2, at thresholds of the validation cases and at the best of these cases."""
    recorded = all(row.largest_ious for row in rows)
    names = ("max_box_acc", "max_box_acc_v2", "max_box_acc_at_best", "max_box_acc_v2_at_best")
    reasons = dict.fromkeys(names, "" if recorded else _NOT_RECORDED)
    if recorded and thresholds is None:
        reasons |= dict.fromkeys(names[:2], _NOT_CHOSEN)
    point, replicates = np.full((1, len(names)), np.nan), None
    exact: list[Interval | None] = [None] * len(names)
    if recorded:
        largest = np.array([row.largest_ious for row in rows]) >= BOX_IOUS[1]
        every = np.array([row.any_ious for row in rows])[..., None] >= np.array(BOX_IOUS)

        def accuracies(weights: Floats) -> dict[str, Floats]:
            return {"accuracies": _accuracies(weights, largest, every, thresholds)}

        point = accuracies(np.ones((1, len(rows))))["accuracies"]
        replicates = bootstrap.replicates(accuracies, patient_ids).get("accuracies")
        exact = _box_intervals(largest, every, patient_ids, bootstrap.level, thresholds)
    return {
        name: bootstrap.value(
            float(point[0, m]),
            None if replicates is None else replicates[:, m],
            n=len(rows),
            patients=len(set(patient_ids)),
            reason=reasons[name],
            exact=None if name.endswith("at_best") else exact[m],
            edge=exact[m],
        )
        for m, name in enumerate(names)
    }


def _box_intervals(
    largest: Any, every: Any, patient_ids: Sequence[str], level: float, thresholds: BoxThresholds | None
) -> list[Interval | None]:
    """Exact intervals of the four box accuracies, those at the best threshold as if it had been given.

    Of several overlaps the bounds are averaged: a box that overlaps by 0.7 does so by 0.5 as well.
    """
    best = BoxThresholds(
        int(largest.mean(axis=0).argmax()), tuple(int(t) for t in every.mean(axis=0).argmax(axis=0))
    )

    def bounds(chosen: BoxThresholds | None) -> list[Interval | None]:
        if chosen is None:
            return [None, None]
        several = every[:, list(chosen.any), np.arange(len(chosen.any))]
        hits = np.column_stack([largest[:, chosen.largest], several])
        found = Rates.of(hits, np.ones_like(hits), patient_ids).intervals(level)
        return [pair(found[0]), pair(found[1:].mean(axis=0))]

    return [*bounds(thresholds), *bounds(best)]


def _accuracies(weights: Floats, largest: Any, every: Any, thresholds: BoxThresholds | None) -> Floats:
    """The four box accuracies under case weights.

    Args:
        weights: ``(B, N)``.
        largest: ``(N, T)`` whether the largest box overlaps enough at each threshold.
        every: ``(N, T, 3)`` whether any box does, for each overlap asked for.
        thresholds: positions among the T; None leaves the first two undefined.

    Returns:
        ``(B, 4)``.
    """
    total = weights.sum(axis=1)
    first = ratio(weights @ largest, total[:, None])
    second = ratio(np.tensordot(weights, every, axes=1), total[:, None, None])
    best = (first.max(axis=1), second.max(axis=1).mean(axis=1))
    if thresholds is None:
        chosen = (np.full(len(weights), np.nan),) * 2
    else:
        at = second[:, list(thresholds.any), np.arange(len(thresholds.any))]
        chosen = (first[:, thresholds.largest], at.mean(axis=1))
    return np.stack([*chosen, *best], axis=1)
