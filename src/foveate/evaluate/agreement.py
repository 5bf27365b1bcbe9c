"""Agreement between answers and truth beyond what chance would give, as functions of case weights.

* Kappa ``1 - sum w O / sum w E``: the disagreements O that were observed over those E that independent
  answers with the same totals would give, each counted ``w``. Plain: w = 1 off the diagonal (Cohen 1960,
  Educ. Psychol. Meas. 20:37). Linear and quadratic: w = |i - j| and (i - j)^2, so that a neighbour is less
  wrong (Cohen 1968, Psychol. Bull. 70:213); that means something only where the classes have an order, so
  both are told only where one is stated.
* MCC: the correlation of answers with truth (Matthews 1975, Biochim. Biophys. Acta 405:442), for K classes
  the R_K of Gorodkin 2004, Comput. Biol. Chem. 28:367.

Multi-class: one table of K classes. Multi-label: one of absent and present for each finding. Kappa is
undefined where truth and answers are all of one and the same class, MCC where either is all of one class.

Where every answer is right, the replicates of patients do not differ. Kappas and MCC are then at least what
they were if as many answers were wrong as the exact interval of the accuracy allows, each of them by the
dearest disagreement, the expected ones being as observed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from foveate.errors import UsageError
from foveate.evaluate.averages import average_interval
from foveate.evaluate.classwise import exact_intervals
from foveate.evaluate.intervals import Bootstrap, Floats, Interval, Value, mean_of_defined, ratio
from foveate.evaluate.measured import Measured
from foveate.evaluate.results.metrics import AgreementFigures
from foveate.evaluate.table import PredictionTable
from foveate.types import Track, quiet

ORDERED = ("kappa_linear", "kappa_quadratic")
_UNDEFINED = {
    "kappa": "truth and answers are all of one class",
    "mcc": "all truth, or every answer, is of one class",
}


def agreement(
    table: PredictionTable,
    decided: NDArray[np.bool_],
    bootstrap: Bootstrap,
    track: Track = quiet,
    *,
    order: Sequence[str] | None = None,
) -> AgreementFigures:
    """The block ``agreement`` of ``metrics.json``.

    Args:
        table: cases with known truth.
        decided: ``(N, K)`` what the model decides.
        bootstrap: of the intervals.
        track: shows progress.
        order: of the classes, such as grades from the mildest to the gravest; None where they have none.

    Returns:
        Multi-class: the weighted kappas are left out without an order of the classes, and with two classes,
        where they are the plain one. Multi-label: averages over the findings for which a figure is defined.

    Raises:
        UsageError: the order is not one of these classes, each once.
    """
    ranks = _ranks(table, order)
    statistic = Agreement(table, decided, ranks)
    measured = Measured.of(statistic, table, bootstrap, track)
    edges = _edges(statistic, table, decided, bootstrap.level)
    if table.task == "multiclass":
        told = (*_UNDEFINED, *(ORDERED if order and len(table.classes) > 2 else ()))
        return AgreementFigures(
            order=None if order is None else tuple(order),
            metrics={name: _told(measured, name, 0, edges) for name in told},
        )
    known = (~np.isnan(table.truth)).sum(axis=0)
    per_class = [
        {name: _told(measured, name, k, edges, n=int(known[k])) for name in _UNDEFINED}
        for k in range(len(table.classes))
    ]
    metrics = {}
    for name in _UNDEFINED:
        exact = average_interval([found[name] for found in per_class], measured.replicates.get(name))
        metrics[name] = measured.tell(f"{name}_macro", exact=exact)
    return AgreementFigures(metrics=metrics, per_class=dict(zip(table.classes, per_class, strict=True)))


class Agreement:
    """Kappas and MCC of a table of decisions, as one function of case weights.

    Args:
        table: N cases over K classes; unknown truth counts for nothing.
        decided: ``(N, K)`` what the model decides.
        ranks: place of each class in their order; None takes that of the table.
    """

    def __init__(
        self, table: PredictionTable, decided: NDArray[np.bool_], ranks: Sequence[int] | None = None
    ) -> None:
        classes = len(table.classes)
        if table.task == "multiclass":
            self._size, tables = classes, 1
            case = np.flatnonzero(~np.isnan(table.truth).any(axis=1))
            cell = table.truth[case].argmax(axis=1) * classes + decided[case].argmax(axis=1)
        else:
            self._size, tables = 2, classes
            case, finding = np.nonzero(~np.isnan(table.truth))
            cell = 4 * finding + 2 * (table.truth[case, finding] == 1) + decided[case, finding]
        self.steps = _steps(range(self._size) if ranks is None else ranks)
        shape = (tables * self._size**2, len(table.case_ids))
        self._cells = csr_array((np.ones(len(case)), (cell, case)), shape=shape)

    def confusion(self, weights: Floats) -> Floats:
        """``(B, T, C, C)`` tables of truth (rows) by answer, for ``(B, N)`` case weights."""
        counts: Floats = (self._cells @ weights.T).T
        return counts.reshape(len(weights), -1, self._size, self._size)

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """``kappa``, ``kappa_linear``, ``kappa_quadratic`` and ``mcc``, each ``(B, T)``, for case weights.

        ``kappa_macro`` and ``mcc_macro``, ``(B,)``, are averaged over the T tables: one, or that of each
        finding.
        """
        tables = self.confusion(weights)
        steps = self.steps
        plain, correlation = kappa(tables, np.minimum(steps, 1)), mcc(tables)
        return {
            "kappa": plain,
            "kappa_linear": kappa(tables, steps),
            "kappa_quadratic": kappa(tables, steps**2),
            "mcc": correlation,
            "kappa_macro": mean_of_defined(plain),
            "mcc_macro": mean_of_defined(correlation),
        }


def kappa(tables: Floats, costs: Floats) -> Floats:
    """Cohen's kappa.

    Args:
        tables: ``(..., C, C)`` counts of truth by answer.
        costs: ``(C, C)`` of each disagreement, 0 on the diagonal.

    Returns:
        ``(...)``, NaN where no disagreement is to be expected.
    """
    cases = tables.sum(axis=(-2, -1))
    return 1 - ratio((tables * costs).sum(axis=(-2, -1)) * cases, expected_cost(tables, costs))


def expected_cost(tables: Floats, costs: Floats) -> Floats:
    """What independent answers with the same totals would cost, times the number of cases squared."""
    by_truth, by_answer = tables.sum(axis=-1), tables.sum(axis=-2)
    return np.asarray((by_truth[..., :, None] * by_answer[..., None, :] * costs).sum(axis=(-2, -1)))


def mcc(tables: Floats) -> Floats:
    """Matthews correlation coefficient of ``(..., C, C)`` counts of truth by answer; NaN where undefined."""
    by_truth, by_answer = tables.sum(axis=-1), tables.sum(axis=-2)
    total, right = by_truth.sum(axis=-1), np.trace(tables, axis1=-2, axis2=-1)
    together = right * total - (by_truth * by_answer).sum(axis=-1)
    spread = (total**2 - (by_truth**2).sum(axis=-1)) * (total**2 - (by_answer**2).sum(axis=-1))
    return ratio(together, np.sqrt(spread))


def _edges(
    statistic: Agreement, table: PredictionTable, decided: NDArray[np.bool_], level: float
) -> dict[str, list[Interval | None]]:
    """By figure and table, the interval where every answer is right; None where one is wrong."""
    counts = statistic.confusion(np.ones((1, len(table.case_ids))))[0]
    perfect = np.trace(counts, axis1=1, axis2=2) == counts.sum(axis=(1, 2))
    error = 1 - exact_intervals(table, decided, level)["accuracy"][:, 0]
    steps = statistic.steps
    found: dict[str, list[Interval | None]] = {}
    for name, costs in (("kappa", np.minimum(steps, 1)), *zip(ORDERED, (steps, steps**2), strict=True)):
        expected = ratio(expected_cost(counts, costs), counts.sum(axis=(1, 2)) ** 2)
        worst = np.maximum(1 - ratio(error * costs.max(), expected), -1.0)
        found[name] = [
            (float(bound), 1.0) if right else None for bound, right in zip(worst, perfect, strict=True)
        ]
    return found | {"mcc": found["kappa"]}


def _ranks(table: PredictionTable, order: Sequence[str] | None) -> list[int] | None:
    """Place of each class in the stated order."""
    if order is None:
        return None
    if table.task != "multiclass" or sorted(order) != sorted(table.classes):
        raise UsageError(
            f"{', '.join(order)} is no order of these classes",
            where="evaluate.order",
            fix=f"name each once: {', '.join(table.classes)}; or leave it out where they have no order",
        )
    return [list(order).index(name) for name in table.classes]


def _steps(ranks: Sequence[int]) -> Floats:
    """How far apart each two classes lie in their order, ``(C, C)``."""
    places = np.asarray(ranks, dtype=np.float64)
    return np.asarray(np.abs(places[:, None] - places[None, :]))


def _told(
    measured: Measured,
    name: str,
    at: int,
    edges: Mapping[str, Sequence[Interval | None]],
    n: int | None = None,
) -> Value:
    reason = _UNDEFINED.get(name, _UNDEFINED["kappa"]) if np.isnan(measured.point[name][at]) else ""
    return measured.tell(name, at, n=n, reason=reason, edge=edges[name][at])
