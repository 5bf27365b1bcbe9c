"""From which probability a class or finding counts as present: operating points from validation cases.

Rules: ``youden`` takes the highest recall + specificity - 1 (Youden 1950, Cancer 3:32), ``f1`` the best F1,
``sensitivity`` the highest threshold that still reaches a stated sensitivity (so that specificity is the
highest possible), ``specificity`` the lowest that reaches a stated specificity. Candidates are the
probabilities that occur; of equals the highest is taken.

Multi-label: the finding is called present from its threshold on. Multi-class: the most probable class is the
answer whatever the thresholds say; they tell how one class could be told from the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from foveate.errors import UsageError
from foveate.evaluate.discrimination import Ranking
from foveate.evaluate.intervals import Bootstrap, Floats, ratio
from foveate.evaluate.measured import Measured
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.rates import Rates, pair
from foveate.evaluate.results.operating_point import OperatingPoint, Rule
from foveate.evaluate.results.probabilities import OperatingFigures
from foveate.evaluate.table import PredictionTable
from foveate.types import Track, quiet

FIGURES = ("sensitivity", "specificity", "ppv", "npv")


def choose_operating_points(
    table: PredictionTable, *, split: str = "val", rule: str = "youden", target: float = 0.9
) -> dict[str, OperatingPoint]:
    """Choose the operating point of each class or finding, on validation cases only.

    Args:
        table: predictions that hold the validation cases.
        split: the part to choose on.
        rule: ``youden``, ``f1``, ``sensitivity`` or ``specificity``.
        target: the sensitivity or specificity aimed at, in (0, 1).

    Returns:
        By class. A class without both present and absent cases is not in it.

    Raises:
        UsageError: the rule is unknown, the target is no share, the part is ``test``, or the table has no
            case of it.
    """
    if rule not in get_args(Rule):
        raise UsageError(f"unknown rule '{rule}'", fix=f"choose from: {', '.join(get_args(Rule))}")
    if not 0 < target < 1:
        raise UsageError(f"a target of {target:g} cannot be aimed at", fix="give one between 0 and 1")
    if split == "test":
        raise UsageError("thresholds chosen on test cases would flatter the test", fix="choose them on val")
    part = table.part(split)
    if not part.case_ids:
        raise UsageError(f"no prediction is of the part '{split}'", fix="predict its cases first")
    return _chosen(part, rule, target)


def choose_operating_thresholds(
    table: PredictionTable, *, split: str = "val", rule: str = "youden", target: float = 0.9
) -> dict[str, float]:
    """The thresholds that findings are decided by, chosen on validation cases only.

    Args, errors: as for ``choose_operating_points``.

    Returns:
        Threshold of each finding. A finding without both present and absent cases is not in it and keeps 0.5.
        Multi-class cohorts need none: empty.
    """
    if table.task == "multiclass":
        return {}
    points = choose_operating_points(table, split=split, rule=rule, target=target)
    return {name: point.threshold for name, point in points.items()}


def operating_points(
    table: PredictionTable,
    validation: PredictionTable,
    options: EvaluateOptions,
    bootstrap: Bootstrap,
    track: Track = quiet,
) -> dict[str, OperatingFigures]:
    """The block ``operating_points`` of ``metrics.json``: what points from validation cases reach on others.

    Args:
        table: N cases, usually of the test part.
        validation: other cases, to choose on.
        options: rule and target.
        bootstrap: of the intervals.
        track: shows progress.

    Returns:
        By class: the point itself, and the figures of the class against the rest. Empty without validation
        cases.
    """
    if not validation.case_ids:
        return {}
    points = _chosen(validation, options.threshold, options.target)
    places = [table.classes.index(name) for name in points]
    truth = table.truth[:, places]
    limits = np.array([point.threshold for point in points.values()])
    counted = _Decided(truth, table.probabilities[:, places] >= limits)
    measured = Measured.of(counted, table, bootstrap, track)
    exact = counted.intervals(table.patient_ids, bootstrap.level)
    known = (~np.isnan(truth)).sum(axis=0)
    return {
        name: OperatingFigures(
            chosen=chosen,
            **{
                figure: measured.tell(
                    figure,
                    k,
                    n=int(known[k]),
                    reason=counted.lacking(figure, k),
                    exact=pair(exact[figure][k]),
                )
                for figure in FIGURES
            },
        )
        for k, (name, chosen) in enumerate(points.items())
    }


def _chosen(part: PredictionTable, rule: str, target: float) -> dict[str, OperatingPoint]:
    """The operating point of each class that has both present and absent cases."""
    chosen = {
        name: _best_point(part.probabilities[:, k], part.truth[:, k], rule, target)
        for k, name in enumerate(part.classes)
    }
    return {name: point for name, point in chosen.items() if point is not None}


class _Decided:
    """The four shares of a table of decisions ``(N, M)``, as one function of case weights."""

    def __init__(self, truth: Floats, decided: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        present, absent = truth == 1, truth == 0
        counts = (present & decided, present & ~decided, absent & decided, absent & ~decided)
        self._counts = np.stack(counts).astype(np.float64)

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """``(B, M)`` each, for ``(B, N)`` case weights."""
        hit, missed, alarm, cleared = (weights @ count for count in self._counts)
        return {
            "sensitivity": ratio(hit, hit + missed),
            "specificity": ratio(cleared, cleared + alarm),
            "ppv": ratio(hit, hit + alarm),
            "npv": ratio(cleared, cleared + missed),
        }

    def intervals(self, patient_ids: Sequence[str], level: float) -> dict[str, Floats]:
        """Exact intervals ``(M, 2)`` of the four shares."""
        hit, missed, alarm, cleared = self._counts
        hits = np.concatenate([hit, cleared, hit, cleared], axis=1)
        asked = np.concatenate([hit + missed, cleared + alarm, hit + alarm, cleared + missed], axis=1)
        bounds = Rates.of(hits, asked, patient_ids).intervals(level)
        return dict(zip(FIGURES, np.split(bounds, len(FIGURES)), strict=True))

    def lacking(self, figure: str, k: int) -> str:
        """Why a figure is undefined; an empty text where it is not."""
        hit, missed, alarm, cleared = self._counts[:, :, k].sum(axis=1)
        needs = {
            "sensitivity": ("no positive case", hit + missed),
            "specificity": ("no negative case", cleared + alarm),
            "ppv": ("no predicted case", hit + alarm),
            "npv": ("every case is predicted", cleared + missed),
        }
        what, count = needs[figure]
        return "" if count else what


def _best_point(scores: Floats, truth: Floats, rule: str, target: float) -> OperatingPoint | None:
    """The candidate that the rule takes; None with only one kind of case."""
    ranking = Ranking.of(scores, truth)
    present, absent = int(ranking.positive.sum()), int((~ranking.positive).sum())
    if present == 0 or absent == 0:
        return None
    last = np.append(ranking.starts[1:], len(ranking.order)) - 1  # the last case of each group of equals
    hits, alarms = np.cumsum(ranking.positive)[last], np.cumsum(~ranking.positive)[last]
    sensitivity, specificity = hits / present, 1 - alarms / absent
    reason = None
    if rule == "youden":  # times present * absent, so that equals are equal
        place = int((hits * absent - alarms * present).argmax())
    elif rule == "f1":
        place = int((2 * hits / (present + hits + alarms)).argmax())
    elif rule == "sensitivity":
        place = int(np.argmax(sensitivity >= target - 1e-12))
    else:
        place = max(int((specificity >= target - 1e-12).sum()) - 1, 0)
        if specificity[place] < target - 1e-12:
            reason = f"no threshold reaches a specificity of {target:g}; the highest one is taken"
    return OperatingPoint(
        threshold=float(scores[ranking.order[last[place]]]),
        rule=rule,  # type: ignore[arg-type]
        target=target if rule in FIGURES else None,
        sensitivity=float(sensitivity[place]),
        specificity=float(specificity[place]),
        present=present,
        absent=absent,
        reason=reason,
    )
