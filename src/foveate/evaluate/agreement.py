"""Agreement between answers and truth beyond what chance would give, as functions of case weights.

* Kappa ``1 - sum w O / sum w E``: the disagreements O that were observed over those E that independent
  answers with the same totals would give, each counted ``w``. Plain: w = 1 off the diagonal (Cohen 1960,
  Educ. Psychol. Meas. 20:37). Linear and quadratic: w = |i - j| and (i - j)^2, so that a neighbour is less
  wrong (Cohen 1968, Psychol. Bull. 70:213); that means something only where the classes have an order, so
  both are told with the order that was taken.
* MCC: the correlation of answers with truth (Matthews 1975, Biochim. Biophys. Acta 405:442), for K classes
  the R_K of Gorodkin 2004, Comput. Biol. Chem. 28:367.

Multi-class: one table of K classes. Multi-label: one of absent and present for each finding. Kappa is
undefined where truth and answers are all of one and the same class, MCC where either is all of one class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from foveate.evaluate.intervals import Bootstrap, Floats, mean_of_defined, ratio
from foveate.evaluate.measured import Measured
from foveate.evaluate.table import PredictionTable
from foveate.types import Track, quiet

ORDERED = ("kappa_linear", "kappa_quadratic")
_UNDEFINED = {
    "kappa": "truth and answers are all of one class",
    "mcc": "all truth, or every answer, is of one class",
}


def agreement(
    table: PredictionTable, decided: NDArray[np.bool_], bootstrap: Bootstrap, track: Track = quiet
) -> dict[str, Any]:
    """The block ``agreement`` of ``metrics.json``.

    Args:
        table: cases with known truth.
        decided: ``(N, K)`` what the model decides.
        bootstrap: of the intervals.
        track: shows progress.

    Returns:
        Multi-class: ``metrics`` and the ``order`` of the classes that the weighted kappas take; with two
        classes they are the plain one and left out. Multi-label: ``metrics``, averaged over the findings for
        which they are defined, and ``per_class``.
    """
    measured = Measured.of(Agreement(table, decided), table, bootstrap, track)
    if table.task == "multiclass":
        told = (*_UNDEFINED, *(ORDERED if len(table.classes) > 2 else ()))
        reasons = _UNDEFINED | dict.fromkeys(ORDERED, _UNDEFINED["kappa"])
        metrics = {
            name: measured.tell(name, 0, reason=_if_undefined(measured, name, 0, reasons)) for name in told
        }
        return {"order": list(table.classes), "metrics": metrics}
    known = (~np.isnan(table.truth)).sum(axis=0)
    return {
        "metrics": {name: measured.tell(f"{name}_macro") for name in _UNDEFINED},
        "per_class": {
            label: {
                name: measured.tell(
                    name, k, n=int(known[k]), reason=_if_undefined(measured, name, k, _UNDEFINED)
                )
                for name in _UNDEFINED
            }
            for k, label in enumerate(table.classes)
        },
    }


class Agreement:
    """Kappas and MCC of a table of decisions, as one function of case weights.

    Args:
        table: N cases over K classes; unknown truth counts for nothing.
        decided: ``(N, K)`` what the model decides.
    """

    def __init__(self, table: PredictionTable, decided: NDArray[np.bool_]) -> None:
        classes = len(table.classes)
        if table.task == "multiclass":
            self._size, tables = classes, 1
            case = np.flatnonzero(~np.isnan(table.truth).any(axis=1))
            cell = table.truth[case].argmax(axis=1) * classes + decided[case].argmax(axis=1)
        else:
            self._size, tables = 2, classes
            case, finding = np.nonzero(~np.isnan(table.truth))
            cell = 4 * finding + 2 * (table.truth[case, finding] == 1) + decided[case, finding]
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
        steps = np.abs(np.subtract.outer(np.arange(self._size), np.arange(self._size))).astype(np.float64)
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
    by_truth, by_answer = tables.sum(axis=-1), tables.sum(axis=-2)
    expected = (by_truth[..., :, None] * by_answer[..., None, :] * costs).sum(axis=(-2, -1))
    return 1 - ratio((tables * costs).sum(axis=(-2, -1)) * by_truth.sum(axis=-1), expected)


def mcc(tables: Floats) -> Floats:
    """Matthews correlation coefficient of ``(..., C, C)`` counts of truth by answer; NaN where undefined."""
    by_truth, by_answer = tables.sum(axis=-1), tables.sum(axis=-2)
    total, right = by_truth.sum(axis=-1), np.trace(tables, axis1=-2, axis2=-1)
    together = right * total - (by_truth * by_answer).sum(axis=-1)
    spread = (total**2 - (by_truth**2).sum(axis=-1)) * (total**2 - (by_answer**2).sum(axis=-1))
    return ratio(together, np.sqrt(spread))


def _if_undefined(measured: Measured, name: str, at: int, reasons: dict[str, str]) -> str:
    return reasons[name] if np.isnan(measured.point[name][at]) else ""
