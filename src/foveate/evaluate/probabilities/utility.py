"""What a model is worth to those who act on it: decision curves, and predictive values elsewhere.

* Net benefit at a threshold probability t: ``TP / n - FP / n * t / (1 - t)``, in true positives per case. Who
  acts from t on says that missing a case is ``(1 - t) / t`` times as bad as a false alarm; treating all and
  treating none are the alternatives to the model (Vickers and Elkin 2006, Med. Decis. Making 26:565).
  Probabilities must mean what they say for that, so calibrated ones are taken where there are some.
* Predictive values at a stated prevalence, by Bayes' theorem from sensitivity and specificity: those of the
  cohort hold only where the class is as frequent as in it. Both rise with sensitivity and with specificity;
  their bounds are those at the lower and at the upper bounds of these two, which covers at least as often as
  two intervals hold together, and in simulation more often than asked.

Each class is set against the rest. The gain over the better alternative has a kink where the two are as good,
for which the corrections of ``bca`` are made badly: its interval is the percentile one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from foveate.errors import UsageError
from foveate.evaluate.intervals import Bootstrap, Floats, Value, ratio
from foveate.evaluate.measured import Measured
from foveate.evaluate.results.probabilities import DecisionCurve, DecisionCurves, ThresholdBenefit
from foveate.evaluate.table import PredictionTable
from foveate.types import Track, quiet

#: Threshold probabilities whose net benefit is told with an interval; the curves between are for drawing.
AT = (0.05, 0.1, 0.2, 0.3, 0.5)
CURVE = tuple(np.round(np.linspace(0.01, 0.99, 99), 2).tolist())


def decision_curves(table: PredictionTable, bootstrap: Bootstrap, track: Track = quiet) -> DecisionCurves:
    """The block ``decision_curves`` of ``metrics.json``.

    Args:
        table: cases with known truth.
        bootstrap: of the intervals.
        track: shows progress.

    Returns:
        Of the calibrated probabilities if every case has them, else of the raw ones.
    """
    calibrated = not np.isnan(table.calibrated).any()
    stated = table.calibrated if calibrated else table.probabilities
    measured = Measured.of(NetBenefit(stated, table.truth, AT), table, bootstrap, track)
    percentile = replace(measured, bootstrap=replace(bootstrap, method="percentile"))
    once = np.ones((1, len(table.case_ids)))
    drawn = [NetBenefit(stated, table.truth, [t])(once) for t in CURVE]
    known = (~np.isnan(table.truth)).sum(axis=0)

    def curve(figure: str, k: int) -> tuple[float | None, ...]:
        return tuple(float(step[figure][0, k]) if known[k] else None for step in drawn)

    def benefit(place: int, n: int) -> ThresholdBenefit:
        return ThresholdBenefit(
            model=measured.tell("model", place, n=n),
            treat_all=measured.tell("treat_all", place, n=n),
            gain=percentile.tell("gain", place, n=n),
        )

    return DecisionCurves(
        probabilities="calibrated" if calibrated else "raw",
        thresholds=CURVE,
        per_class={
            name: DecisionCurve(
                model=curve("model", k),
                treat_all=curve("treat_all", k),
                at={f"{t:g}": benefit(k * len(AT) + at, int(known[k])) for at, t in enumerate(AT)},
            )
            for k, name in enumerate(table.classes)
        },
    )


class NetBenefit:
    """Net benefit of a model and of its alternatives, as one function of case weights.

    Args:
        probabilities: ``(N, K)``.
        truth: ``(N, K)`` 1, 0, or NaN where unknown.
        thresholds: T of them, each within (0, 1); a case is acted on from it on.
    """

    def __init__(self, probabilities: Floats, truth: Floats, thresholds: Sequence[float]) -> None:
        limits = np.asarray(thresholds, dtype=np.float64)
        present, absent = (truth == 1)[..., None], (truth == 0)[..., None]
        worth = present - absent * limits / (1 - limits)
        acted = probabilities[..., None] >= limits
        shape = len(truth), truth.shape[1] * len(limits)
        self._all, self._acted = worth.reshape(shape), (worth * acted).reshape(shape)
        self._known = np.repeat(~np.isnan(truth), len(limits), axis=1).astype(np.float64)

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Figures for ``(B, N)`` case weights; NaN without any known truth.

        Returns:
            ``model``, ``treat_all``, and ``gain`` (of the model over the better one of treating all and
            treating none, whose net benefit is 0), each ``(B, K * T)``, class by class.
        """
        known = weights @ self._known
        model, all_ = ratio(weights @ self._acted, known), ratio(weights @ self._all, known)
        return {"model": model, "treat_all": all_, "gain": model - np.maximum(all_, 0)}


def predictive_values(sensitivity: Floats, specificity: Floats, prevalence: float) -> tuple[Floats, Floats]:
    """PPV and NPV where a class has another prevalence (Bayes; Altman and Bland 1994, BMJ 309:102).

    Args:
        sensitivity, specificity: of any equal shape.
        prevalence: within (0, 1).

    Returns:
        Both of that shape, NaN where undefined: no answer would be positive, or none negative.
    """
    found, missed = sensitivity * prevalence, (1 - sensitivity) * prevalence
    alarms, cleared = (1 - specificity) * (1 - prevalence), specificity * (1 - prevalence)
    return ratio(found, found + alarms), ratio(cleared, cleared + missed)


def predictive_value_intervals(
    sensitivity: Value, specificity: Value, prevalence: float, bootstrap: Bootstrap
) -> tuple[Value, Value]:
    """PPV and NPV of a class at another prevalence, with their intervals.

    Args:
        sensitivity, specificity: of the class.
        prevalence: within (0, 1).
        bootstrap: whose intervals these are.
    """
    both = [
        np.array([value.value, value.low, value.high], dtype=np.float64)
        for value in (sensitivity, specificity)
    ]
    reason = "; ".join(filter(None, (sensitivity.reason, specificity.reason)))

    def told(value: float, low: float, high: float) -> Value:
        n, patients, exact = sensitivity.n, sensitivity.patients, (float(low), float(high))
        return bootstrap.value(
            float(value),
            None,
            n=n,
            patients=patients,
            reason=reason,
            exact=None if np.isnan(low) else exact,
        )

    ppv, npv = predictive_values(both[0], both[1], prevalence)
    return told(*ppv), told(*npv)


def check_prevalence(prevalence: Mapping[str, float], classes: Sequence[str]) -> None:
    """Refuse what is stated for no class of a cohort, and what is no share.

    Raises:
        UsageError: it names the class.
    """
    for name, share in prevalence.items():
        if name not in classes or not 0 < share < 1:
            raise UsageError(
                f"a prevalence of {share} of '{name}' cannot be used here",
                fix=f"give shares between 0 and 1 for: {', '.join(classes)}",
            )
