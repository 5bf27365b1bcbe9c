"""Whether labels, metadata and what images are like differ between two cohorts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.stats import rankdata

from foveate.evaluate.comparing.hypothesis import holm
from foveate.evaluate.delong import few_patients_interval
from foveate.evaluate.intervals import Bootstrap, Floats, Value, ratio
from foveate.evaluate.metadata_model import (
    MOST_VALUES,
    Columns,
    best_columns,
    cross_scores,
    encode,
    how_well_told,
)
from foveate.evaluate.results.shift import (
    CategoryShift,
    ColumnShifts,
    NumberShift,
    Quartiles,
    ShareShift,
    TestedShift,
    TogetherShift,
    ValueShares,
)
from foveate.evaluate.shift.cohorts import Bools, Cohorts

DRAWS = 999  # exchanges of patients between the cohorts
MOST_CASES = 3000  # of each cohort that the trees see
UNKNOWN = "unknown"
Tested = TypeVar("Tested", bound=TestedShift)


def number_shift(values: Floats, cohorts: Cohorts, bootstrap: Bootstrap) -> NumberShift:
    """Whether numbers are larger, or smaller, in the new cohort.

    Args:
        values: ``(N,)``, NaN where unknown; unknown ones are left out.
        cohorts: of the cases.
        bootstrap: of the intervals, and seed of the permutations.
    """
    known = ~np.isnan(values)
    cohorts, values = cohorts.only(known), values[known]
    source, new = (_quartiles(values[side]) for side in (~cohorts.new, cohorts.new))
    if not cohorts.both_sides():
        larger = cohorts.value(np.nan, None, bootstrap, reason="one of the cohorts has no value")
        return NumberShift(source=source, new=new, larger=larger, p=None)
    order = _Larger(values, cohorts.new)
    drawn = bootstrap.replicates(order, cohorts.names)
    few = few_patients_interval(values, cohorts.new.astype(np.float64), cohorts.patients, bootstrap.level)
    larger = cohorts.value(
        float(order(np.ones((1, len(values))))["larger"][0]), drawn.get("larger"), bootstrap, exact=few
    )
    p = _exchange_p(values, cohorts, bootstrap.seed)
    return NumberShift(source=source, new=new, larger=larger, p=p)


def category_shift(texts: Sequence[str], cohorts: Cohorts, bootstrap: Bootstrap) -> CategoryShift:
    """Whether values occur in other shares in the new cohort.

    Args:
        texts: ``(N,)``; an empty one counts as unknown, which is a value too.
        cohorts: of the cases.
        bootstrap: of the intervals, and seed of the permutations.
    """
    names, index = np.unique([text or UNKNOWN for text in texts], return_inverse=True)
    is_value = index[:, None] == np.arange(len(names))
    source, new = (is_value[side].mean(axis=0) for side in (~cohorts.new, cohorts.new))
    most = int(np.abs(new - source).argmax())
    exchanged = cohorts.exchanged(DRAWS, bootstrap.seed)
    distances = np.abs(_differences(is_value.astype(np.float64), exchanged)).sum(axis=1) / 2
    distance = float(np.abs(new - source).sum() / 2)
    return CategoryShift(
        values={
            str(name): ValueShares(source=float(source[place]), new=float(new[place]))
            for place, name in enumerate(names)
        },
        distance=distance,
        most=str(names[most]),
        difference=cohorts.share_difference(is_value[:, most], bootstrap),
        p=_share_as_far(distances, distance),
    )


def label_shift(
    truth: Floats, classes: Sequence[str], cohorts: Cohorts, bootstrap: Bootstrap
) -> dict[str, ShareShift]:
    """Whether classes or findings are rarer or more frequent in the new cohort.

    Args:
        truth: ``(N, K)`` 1, 0, or NaN where unknown; a class counts over the cases of which it is known.
        classes: K names.
        cohorts: of the cases.
        bootstrap: of the intervals, and seed of the permutations.

    Returns:
        By class.
    """
    told: dict[str, ShareShift] = {}
    for place, name in enumerate(classes):
        known = ~np.isnan(truth[:, place])
        own, has = cohorts.only(known), truth[known, place] == 1
        if not own.both_sides():
            difference = own.value(np.nan, None, bootstrap, reason="one of the cohorts does not say")
            told[name] = ShareShift(source=None, new=None, difference=difference, p=None)
            continue
        source, new = (float(has[side].mean()) for side in (~own.new, own.new))
        exchanged = own.exchanged(DRAWS, bootstrap.seed)
        far = np.abs(_differences(has[:, None].astype(np.float64), exchanged)[:, 0])
        told[name] = ShareShift(
            source=source,
            new=new,
            difference=own.share_difference(has, bootstrap),
            p=_share_as_far(far, abs(new - source)),
        )
    return _corrected(told)


def column_shifts(columns: Columns, cohorts: Cohorts, bootstrap: Bootstrap) -> ColumnShifts:
    """Every column of two cohorts, one by one and together.

    Args:
        columns: by name N texts; empty where unknown. Columns of numbers are compared as numbers.
        cohorts: of the cases.
        bootstrap: of the intervals, and seed of trees and permutations.
    """
    told: dict[str, NumberShift | CategoryShift] = {}
    left_out: dict[str, str] = {}
    for name, texts in columns.items():
        numbers = _as_numbers(texts)
        if len(set(texts)) < 2:
            left_out[name] = "the same everywhere"
        elif numbers is not None:
            told[name] = number_shift(numbers, cohorts, bootstrap)
        elif len(set(texts)) > MOST_VALUES:
            left_out[name] = f"more than {MOST_VALUES} different texts"
        else:
            told[name] = category_shift(texts, cohorts, bootstrap)
    together = _together({name: columns[name] for name in told}, cohorts, bootstrap)
    return ColumnShifts(columns=_corrected(told), left_out=left_out, together=together)


@dataclass(frozen=True, slots=True)
class _Larger:
    """The chance that a new case has the larger number, as a function of case weights."""

    values: Floats
    new: Bools

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """``larger`` ``(B,)`` for ``(B, N)`` weights."""
        order = np.argsort(self.values, kind="stable")
        weights, new = weights[:, order], self.new[order]
        starts = np.flatnonzero(np.r_[True, np.diff(self.values[order]) > 0])
        ours = np.add.reduceat(weights * new, starts, axis=1)
        theirs = np.add.reduceat(weights * ~new, starts, axis=1)
        below = np.cumsum(theirs, axis=1) - theirs
        won = (ours * (below + theirs / 2)).sum(axis=1)
        return {"larger": ratio(won, ours.sum(axis=1) * theirs.sum(axis=1))}


def _differences(is_value: Floats, new: Bools) -> Floats:
    """``(B, V)`` share of values in the new cohort less that in the source, for ``(B, N)`` memberships."""
    ours, count = new @ is_value, new.sum(axis=1, keepdims=True)
    return ratio(ours, count) - ratio(is_value.sum(axis=0) - ours, len(is_value) - count)


def _exchange_p(values: Floats, cohorts: Cohorts, seed: int) -> float:
    """How often the chance of a larger number lies as far from one half if patients change cohort."""
    ranks = rankdata(values)
    exchanged = np.vstack([cohorts.new[None], cohorts.exchanged(DRAWS, seed)])
    ours = exchanged.sum(axis=1)
    won = exchanged @ ranks - ours * (ours + 1) / 2
    far = np.abs(ratio(won, ours * (len(ranks) - ours)) - 0.5)
    return _share_as_far(far[1:], float(far[0]))


def _share_as_far(drawn: Floats, observed: float) -> float:
    return float((1 + (drawn >= observed - 1e-12).sum()) / (1 + len(drawn)))


def _together(columns: Columns, cohorts: Cohorts, bootstrap: Bootstrap) -> TogetherShift:
    """How well all columns together tell the cohorts apart, on patients that the trees have not seen."""
    keep = np.zeros(len(cohorts.new), dtype=bool)
    chance = np.random.default_rng(bootstrap.seed)
    for side in (cohorts.new, ~cohorts.new):
        keep[chance.permutation(np.flatnonzero(side))[:MOST_CASES]] = True
    own = cohorts.only(keep)
    features = encode(
        {
            name: [text for text, kept in zip(texts, keep, strict=True) if kept]
            for name, texts in columns.items()
        }
    )
    few = min(len(set(own.patients[side].tolist())) for side in (own.new, ~own.new))
    if not features.columns or few < 2:
        reason = "no column that differs" if few >= 2 else "fewer than two patients in one of the cohorts"
        return TogetherShift(auroc=Value(None, None, None, int(keep.sum()), 0, reason), p=None, columns=())
    truth = own.new.astype(np.float64)[:, None]
    scores = cross_scores(features.values, truth, own.names, seed=bootstrap.seed)
    told = how_well_told(scores, truth, own.names, ["new"], bootstrap)
    return TogetherShift(
        auroc=told.per_class["new"],
        p=told.p.get("new"),
        columns=best_columns(features, truth, seed=bootstrap.seed),
    )


def _corrected(told: dict[str, Tested]) -> dict[str, Tested]:
    """The same with p-values corrected for how many there are."""
    p = holm(np.array([np.nan if own.p is None else own.p for own in told.values()]))
    return {
        name: own.model_copy(update={"p_holm": None if np.isnan(each) else float(each)})
        for (name, own), each in zip(told.items(), p, strict=True)
    }


def _as_numbers(texts: Sequence[str]) -> Floats | None:
    """Numbers, NaN where empty; None if some text is none, or all are empty."""
    try:
        values = np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return None
    return values if np.isfinite(values).any() and not np.isinf(values).any() else None


def _quartiles(values: Floats) -> Quartiles | None:
    """Lower quartile, median and upper quartile."""
    if not len(values):
        return None
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return low, middle, high
