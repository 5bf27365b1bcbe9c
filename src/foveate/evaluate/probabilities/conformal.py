"""Prediction sets that hold the truth with a stated probability: split conformal prediction.

A rule is fitted on validation cases, which the weights did not learn from. It scores how badly an answer
fits a case, and puts into the set of a new case every answer whose score does not exceed that of most
validation truths (Papadopoulos et al. 2002, ECML; Vovk et al. 2005). Scores of an answer ``y``:

* ``lac``: ``1 - p_y``; the smallest sets on average, which may be empty (Sadinle et al. 2019, J. Am. Stat.
  Assoc. 114:223).
* ``aps``: the probability of all answers that are more probable than ``y``, without ``y`` itself; sets that
  grow with the difficulty of the case and are never empty (Romano et al. 2020, NeurIPS, the form without
  randomization, section 1.2 there: the set stops at the answer that reaches the limit). It covers at least
  as often as asked, and more often where the most probable class is right more often than that.

Multi-class: the answers are the K classes. Multi-label: each finding is a question of its own with the
answers present and absent, so that a set says one of them, both (open) or neither (unlike anything seen).

What is promised: if validation and new patients are alike (exchangeable), a random case of a new patient
lies in its set with at least the stated probability, on average over cases: not in each class, and not for
a new scanner or hospital. Cases of one patient are not exchangeable with those of others, so each patient
counts the same however many cases it has (hierarchical conformal prediction: Lee, Barber and Willett 2023,
arXiv:2306.06342, section 3); with one case a patient this is the usual rule. If the validation cases also
chose the epoch, they fit a little too well; how often the sets hold on the test part is therefore measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from foveate.errors import UsageError
from foveate.types import Task

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]  # of intervals, whose import of scipy a single prediction need not wait for
Score = Literal["lac", "aps"]
CONFIDENCE = 0.9  # of a limit from few patients
FEWEST_PATIENTS = 3  # that a limit is extrapolated from
_SMALLEST = 1e-9  # score whose logarithm is taken


@dataclass(frozen=True, slots=True)
class SetRule:
    """Which answers go into the set of a case. Fitted on raw probabilities, and to be used on such.

    Attributes:
        task: multi-class or multi-label.
        score: ``lac`` or ``aps``.
        coverage: share of cases whose set shall hold the truth.
        limits: highest score of an answer in a set: one for multi-class, one per finding for multi-label;
            infinite where there were too few cases to promise the coverage: every answer is in the set then.
        cases: validation cases with known truth that each limit rests on.
        patients: number of patients that they belong to.
    """

    task: Task
    score: Score
    coverage: float
    limits: tuple[float, ...]
    cases: tuple[int, ...]
    patients: tuple[int, ...]

    @classmethod
    def fit(
        cls,
        probabilities: Floats,
        truth: Floats,
        patient_ids: Sequence[str],
        *,
        task: Task,
        coverage: float = 0.9,
        score: Score = "lac",
    ) -> Self:
        """Fit a rule on validation cases.

        Args:
            probabilities: ``(N, K)``.
            truth: ``(N, K)`` 1, 0, or NaN where unknown; unknown truth counts for nothing.
            patient_ids: of each case.
            task: multi-class (one true class a case) or multi-label.
            coverage: share of cases whose set shall hold the truth, in (0, 1).
            score: ``lac`` or ``aps``.

        Raises:
            UsageError: the coverage or the score is none.
        """
        if score not in get_args(Score) or not 0 < coverage < 1:
            raise UsageError(
                f"prediction sets by '{score}' with coverage {coverage} make no sense",
                fix="choose lac or aps, and a coverage between 0 and 1",
            )
        present, absent = _scores(np.asarray(probabilities, dtype=np.float64), task, score)
        if task == "multiclass":
            questions = [
                np.where((truth == 1).any(axis=1), np.where(truth == 1, present, 0).sum(axis=1), np.nan)
            ]
        else:
            questions = list(np.where(truth == 1, present, np.where(truth == 0, absent, np.nan)).T)
        patients = np.asarray(patient_ids, dtype=object)
        known = [~np.isnan(scores) for scores in questions]
        return cls(
            task,
            score,
            coverage,
            tuple(
                conformal_quantile(scores[kept], patients[kept], coverage)
                for scores, kept in zip(questions, known, strict=True)
            ),
            tuple(int(kept.sum()) for kept in known),
            tuple(len(set(patients[kept])) for kept in known),
        )

    def sets(self, probabilities: Floats) -> Bools:
        """The classes in the set of each case; multi-label: the findings whose presence is in it.

        Args:
            probabilities: ``(N, K)``.

        Returns:
            ``(N, K)``.
        """
        present, _ = _scores(np.asarray(probabilities, dtype=np.float64), self.task, self.score)
        return np.asarray(present <= np.array(self.limits))

    def absences(self, probabilities: Floats) -> Bools:
        """Multi-label: the findings whose absence is in the set; multi-class: the classes not in it.

        Args:
            probabilities: ``(N, K)``.

        Returns:
            ``(N, K)``. A finding that is in neither ``sets`` nor ``absences`` is unlike those seen, one in
            both is open.
        """
        if self.task == "multiclass":
            return ~self.sets(probabilities)
        _, absent = _scores(np.asarray(probabilities, dtype=np.float64), self.task, self.score)
        return np.asarray(absent <= np.array(self.limits))

    def texts(self, probabilities: Floats, classes: Sequence[str]) -> list[str]:
        """The set of each case in words: names joined by ``;``.

        Multi-label: the findings that may be present, with ``?`` where they may be absent as well, and with
        ``!`` where neither presence nor absence fits; the others are absent.
        """
        here, gone = self.sets(probabilities), self.absences(probabilities)
        if self.task == "multiclass":
            return [";".join(name for name, kept in zip(classes, row, strict=True) if kept) for row in here]
        marks = np.where(here & gone, "?", np.where(here | gone, "", "!"))
        shown = here | ~gone
        return [
            ";".join(name + mark for name, mark, kept in zip(classes, *row, strict=True) if kept)
            for row in zip(marks, shown, strict=True)
        ]

    def doubts(self, probabilities: Floats) -> list[str]:
        """Why the set of a case should make one abstain: ``set-empty``, ``set-large`` (several), or nothing.

        Multi-label cases are never abstained from as a whole: each finding speaks for itself (see ``texts``).
        """
        if self.task == "multilabel":
            return [""] * len(probabilities)
        sizes = self.sets(probabilities).sum(axis=1)
        return ["set-empty" if size == 0 else "set-large" if size > 1 else "" for size in sizes]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; a limit that is infinite is None."""
        return {
            "task": self.task,
            "score": self.score,
            "coverage": self.coverage,
            "limits": [limit if np.isfinite(limit) else None for limit in self.limits],
            "cases": list(self.cases),
            "patients": list(self.patients),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read what ``to_json`` wrote."""
        limits = tuple(np.inf if limit is None else float(limit) for limit in content["limits"])
        return cls(
            content["task"],
            content["score"],
            content["coverage"],
            limits,
            tuple(content["cases"]),
            tuple(content["patients"]),
        )


def conformal_quantile(scores: Floats, patient_ids: Sequence[str] | NDArray[Any], coverage: float) -> float:
    """The value that the score of a new patient's case stays within with a stated probability.

    Args:
        scores: ``(N,)``.
        patient_ids: ``(N,)``; each of P patients weighs ``1 / (P + 1)``, shared equally by its cases, and the
            new one as much, at infinity.
        coverage: the probability aimed at.

    Returns:
        The smallest score up to which the weights reach the coverage. With one case a patient it is the
        ``ceil((N + 1) coverage)``-th smallest; infinite where there are fewer patients than that, and where
        there is none.
    """
    if len(scores) == 0:
        return float("inf")
    _, index, counts = np.unique(
        np.asarray(patient_ids, dtype=object), return_inverse=True, return_counts=True
    )
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(1.0 / counts[index[order]])
    enough = np.flatnonzero(reached >= coverage * (len(counts) + 1) - 1e-9)  # sums of shares are inexact
    return float(scores[order[enough[0]]]) if len(enough) else float("inf")


def familiar_limit(
    scores: Floats, patient_ids: Sequence[str] | NDArray[Any], share: float
) -> tuple[float, bool]:
    """The score that a share of new patients' cases stays within, also of few patients.

    It is ``conformal_quantile``, which holds on average whatever the distribution, where patients are enough
    for their highest score to be a limit with 90 % confidence (``share**P <= 0.1``; Wilks 1941, Ann. Math.
    Stat. 12:91): 45 for 0.95. With fewer it is no lower than that, and at least the tolerance limit of a
    log-normal distribution, ``exp(m + k s)`` with mean ``m`` and standard deviation ``s`` of the logarithms
    of P patients' highest scores, and ``k`` such that, with 90 % confidence, the share lies below (a quantile
    of the noncentral
    t distribution: Owen 1968, Technometrics 10:445).

    Args:
        scores: ``(N,)``, above 0; NaN where unknown.
        patient_ids: ``(N,)``.
        share: aimed at.

    Returns:
        The limit, infinite with fewer than three patients or where nothing differs; and whether it is held by
        the order of the scores alone.
    """
    known = ~np.isnan(scores)
    scores, patients = scores[known], np.asarray(patient_ids, dtype=object)[known]
    limit = conformal_quantile(scores, patients, share)
    _, index = np.unique(patients, return_inverse=True)
    count = int(index.max(initial=-1)) + 1
    if count and share**count <= 1 - CONFIDENCE:
        return limit, True
    if count < FEWEST_PATIENTS:
        return float("inf"), False
    from scipy.stats import nct, norm

    logs = np.log(np.maximum([scores[index == place].max() for place in range(count)], _SMALLEST))
    spread, root = float(logs.std(ddof=1)), float(np.sqrt(count))
    if spread == 0:
        return float("inf"), False
    reach = float(nct.ppf(CONFIDENCE, count - 1, norm.ppf(share) * root)) / root
    seen = limit if np.isfinite(limit) else float(scores.max())
    return max(float(np.exp(logs.mean() + reach * spread)), seen), False


def share_within(patients: int, share: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Between which shares of new cases lies what stays within ``conformal_quantile``, with this confidence.

    It is right on average over validation parts; for the one at hand the share that stays within follows a
    beta distribution (Vovk 2012, ACML, section 2): ``Beta(k, P + 1 - k)`` with ``k = ceil((P + 1) share)``.
    """
    from scipy.special import betaincinv

    k = min(int(np.ceil((patients + 1) * share - 1e-9)), patients)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    low, high = (float(betaincinv(k, patients + 1 - k, tail)) for tail in tails)
    return low, high


def _scores(probabilities: Floats, task: Task, score: Score) -> tuple[Floats, Floats]:
    """How badly each class or finding, as present and as absent, fits: two ``(N, K)``, 0 is best.

    Multi-class: nothing is scored as absent; the second is NaN.
    """
    if task == "multilabel":
        if score == "lac":
            return 1 - probabilities, probabilities.copy()
        likelier = probabilities > 0.5
        return np.where(probabilities >= 0.5, 0, 1 - probabilities), np.where(likelier, probabilities, 0)
    nothing = np.full(probabilities.shape, np.nan)
    if score == "lac":
        return 1 - probabilities, nothing
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ahead = np.cumsum(np.take_along_axis(probabilities, order, axis=1), axis=1)
    ahead = np.concatenate([np.zeros((len(ahead), 1)), ahead[:, :-1]], axis=1)
    scores = np.empty_like(probabilities)
    np.put_along_axis(scores, order, ahead, axis=1)
    return scores, nothing
