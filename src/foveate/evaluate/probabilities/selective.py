"""What is gained by leaving out the answers that the model is least sure of, as functions of case weights.

Answers are ordered from the surest to the least sure. At a coverage ``c`` the surest share ``c`` of them is
kept; the risk is the share of wrong answers among those kept (Geifman and El-Yaniv 2017, NeurIPS). Answers
that are equally sure are kept or left out together: where a coverage cuts through them, the kept part
counts as wrong as the whole of them.

With more than 2,000 different values, neighbours are joined into 2,000 steps.

* AURC, the area under the risk-coverage curve: mean over answers of the risk of all that are at least as
  sure (Geifman, Uziel and El-Yaniv 2019, ICLR, equation 6). Leaving out at random has the error rate as its
  expected risk at every coverage, so an order is worth something if its AURC is below the error rate.
* Accuracy at a coverage: 1 - risk there.

Multi-class: one answer a case, as sure as its probability. Multi-label: one answer a case and finding, as
sure as its probability is far from the threshold, in logits; every figure is the mean over the findings for
which it is defined. Unknown truth is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import logit

from foveate.evaluate.intervals import Floats, Interval, mean_of_defined, ratio
from foveate.evaluate.rates import Rates
from foveate.evaluate.table import DEFAULT_THRESHOLD, PredictionTable

Bools = NDArray[np.bool_]
COVERAGES = (0.8, 0.9)  # at which accuracy is told
GRID = np.linspace(0.02, 1.0, 50)  # of the curve, for drawing
STEPS = 2000  # different values of sureness that are told apart
_EDGE = 1e-12  # probabilities of 0 and 1 have a finite logit
_ROUNDING = 1e-12


class Selective:
    """AURC and accuracy at coverages for one order of the answers, as one function of case weights.

    Args:
        sureness: ``(N, M)`` or ``(N,)``, higher for surer.
        right: ``(N, M)`` 1 where the answer is right, 0 where it is wrong, NaN where unknown.
    """

    def __init__(self, sureness: Floats, right: Floats) -> None:
        columns = sureness if sureness.ndim == 2 else sureness[:, None]
        columns = np.broadcast_to(columns, right.shape)
        self.cases = len(right)
        self._orders = [_Order(columns[:, m], right[:, m]) for m in range(right.shape[1])]

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """``aurc``, ``error`` and ``accuracy_at_<per cent>``, each ``(B,)``, for ``(B, N)`` case weights."""
        by_case = np.ascontiguousarray(weights.T)
        columns = [_figures(*order(by_case)) for order in self._orders]
        return {
            name: mean_of_defined(np.stack([found[name] for found in columns], axis=1)) for name in FIGURES
        }

    def curve(self) -> list[float | None]:
        """Risk at each coverage of ``GRID``, for drawing; None where it is undefined."""
        sums = [order(np.ones((self.cases, 1))) for order in self._orders]
        risks = np.array([[_risk_at(*column, at)[0] for column in sums] for at in GRID])
        return [None if np.isnan(risk) else float(risk) for risk in mean_of_defined(risks)]


def accuracy_name(coverage: float) -> str:
    """Name of the accuracy at a coverage: ``accuracy_at_80``."""
    return f"accuracy_at_{100 * coverage:.0f}"


FIGURES = ("aurc", "error", *(accuracy_name(coverage) for coverage in COVERAGES))


def edge_intervals(right: Floats, patient_ids: Sequence[str], level: float) -> dict[str, Interval]:
    """Intervals of ``FIGURES`` where every answer is right; none where one is wrong, or none is known.

    With an error rate of up to e, the AURC is at most ``e (1 - ln e)``: all wrong answers are the surest.

    Args:
        right: ``(N, M)`` 1 where the answer is right, 0 where it is wrong, NaN where unknown.
        patient_ids: of the N cases.
        level: coverage that they have at least.
    """
    if np.isnan(right).all() or (right == 0).any():
        return {}
    known = (~np.isnan(right)).sum(axis=1, keepdims=True)
    low = float(Rates.of(known, known, patient_ids).intervals(level)[0, 0])
    error = 1 - low
    return {"aurc": (0.0, error * (1 - float(np.log(error)))), "error": (0.0, error)} | {
        accuracy_name(coverage): (1 - error / coverage if error < coverage else 0.0, 1.0)
        for coverage in COVERAGES
    }


def answers(
    table: PredictionTable, decided: Bools, thresholds: Mapping[str, float] | None = None
) -> tuple[Floats, Floats]:
    """How sure each answer is, and whether it is right.

    Args:
        table: N cases over K classes.
        decided: ``(N, K)`` what the model decides, of ``table.decisions``.
        thresholds: of the findings (multi-label); 0.5 unless given.

    Returns:
        Two arrays, ``(N, 1)`` multi-class and ``(N, K)`` multi-label; right is NaN where truth is unknown.
    """
    if table.task == "multilabel":
        limits = np.array([(thresholds or {}).get(name, DEFAULT_THRESHOLD) for name in table.classes])
        given, limits = (logit(np.clip(part, _EDGE, 1 - _EDGE)) for part in (table.probabilities, limits))
        right = np.where(np.isnan(table.truth), np.nan, (table.truth == 1) == decided)
        return np.abs(given - limits), right
    right = np.where(decided, table.truth, 0.0).sum(axis=1, keepdims=True)
    return table.probabilities.max(axis=1, keepdims=True), right


class _Order:
    """Answers of one question from the surest to the least sure, sorted once for all replicates."""

    def __init__(self, sureness: Floats, right: Floats) -> None:
        known = np.flatnonzero(~np.isnan(right) & ~np.isnan(sureness))
        _, step = np.unique(-sureness[known], return_inverse=True)
        if step.max(initial=0) >= STEPS:
            step = step * STEPS // (int(step.max()) + 1)
        self.steps = int(step.max(initial=0)) + 1
        wrong = right[known] == 0
        place = (step + self.steps * wrong, known)  # right answers of each step, then wrong ones
        self._sums = csr_array((np.ones(len(known)), place), shape=(2 * self.steps, len(right)))

    def __call__(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weight of all answers, and of the wrong ones, that are at least as sure.

        Args:
            weights: ``(N, B)``.

        Returns:
            Two arrays ``(steps, B)``.
        """
        right, wrong = np.split(self._sums @ weights, 2)
        return np.cumsum(right + wrong, axis=0), np.cumsum(wrong, axis=0)


def _figures(kept: Floats, wrong: Floats) -> dict[str, Floats]:
    """Each of ``FIGURES`` ``(B,)`` of one question, from the sums ``(steps, B)`` of ``_Order``."""
    risks = np.divide(wrong, kept, out=np.zeros_like(kept), where=kept > 0)
    steps = np.diff(kept, axis=0, prepend=0)
    return {
        "aurc": ratio((steps * risks).sum(axis=0), kept[-1]),
        "error": ratio(wrong[-1], kept[-1]),
        **{accuracy_name(coverage): 1 - _risk_at(kept, wrong, coverage) for coverage in COVERAGES},
    }


def _risk_at(kept: Floats, wrong: Floats, coverage: float) -> Floats:
    """Share of wrong answers ``(B,)`` among the surest share of them; NaN where there is no answer."""
    wanted = coverage * kept[-1]
    place = np.minimum((kept < wanted * (1 - _ROUNDING)).sum(axis=0), len(kept) - 1)[None]
    (kept_to, wrong_to), (kept_from, wrong_from) = (
        [np.take_along_axis(sums, at, axis=0)[0] * (at[0] >= 0) for sums in (kept, wrong)]
        for at in (place, place - 1)
    )
    within = np.nan_to_num(ratio(wanted - kept_from, kept_to - kept_from))
    return ratio(wrong_from + within * (wrong_to - wrong_from), wanted)
