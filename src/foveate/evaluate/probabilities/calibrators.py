"""Corrections that make probabilities mean what they say, fitted on validation cases.

* ``temperature`` (Guo et al. 2017, ICML, section 4.2): logits are divided by a temperature that minimizes the
  log loss. Multi-class: one for all classes, which changes no decision. Multi-label: one per finding, which
  leaves a probability of 0.5 where it is; where the training loss weighed rare findings, Platt's method can
  also move them as a whole.
  # NOTE[DIFF] Truths count as ``(N + 1) / (N + K)`` and the other classes as ``1 / (N + K)`` of N cases, for
  findings as in Platt's method, where Guo et al. take 1 and 0: of few cases, all or nearly all of them right,
  the temperature would else be so low that the first wrong answer costs more than all was worth.
* ``platt`` (Platt 1999, section 2.2): ``sigmoid(slope * score + intercept)`` of least log loss, with his
  targets ``(n+ + 1) / (n+ + 2)`` and ``1 / (n- + 2)`` in place of 1 and 0. The slope is kept at 0 or above,
  so that the order of the cases is never turned round.
* ``isotonic`` (Zadrozny and Elkan 2002, KDD): the rising curve of least squared error, straight between its
  steps and flat outside. It needs many cases: below about a thousand it fits chance (Niculescu-Mizil and
  Caruana 2005, ICML).

Multi-class Platt and isotonic correct each class against the rest and divide by the sum over the classes
(Zadrozny and Elkan 2002, section 4). The score of a class is the log odds of its raw probability.

``auto`` is temperature scaling for multi-class and Platt's method for multi-label cohorts. How much of a
correction is kept is decided in ``shrinking``.

Nothing is fitted on fewer than 20 cases, on fewer than 5 with or without the class (multi-class temperature
scaling asks for no class), or where the scores say nothing about the truth; the reason is kept, and the
calibrated probability is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, logsumexp, softmax

from foveate.types import Task

Floats = NDArray[np.float64]
Method = Literal["temperature", "platt", "isotonic", "none"]
AUTO: Mapping[Task, Method] = {"multiclass": "temperature", "multilabel": "platt"}

MIN_CASES, MIN_EACH = 20, 5
_WIDEST = 7.0  # natural logarithm of the highest temperature that is looked for, and of its inverse


@dataclass(frozen=True, slots=True)
class Fit:
    """One correction.

    Attributes:
        parameters: ``{"temperature"}``, ``{"slope", "intercept"}`` or ``{"scores", "values"}`` (raw and
            corrected probabilities along the isotonic curve); None where nothing was fitted.
        cases: validation cases with known truth.
        reason: why nothing was fitted, or kept, or None.
        share: how far the parameters go from no correction (0) to the one that fits best (1).
        check: what decided that: cross-validated log loss without any correction (``raw``), with this one
            (``kept``) and with the one that fits best (``whole``), the standard ``error`` of kept less raw,
            and the number of ``patients``; None where nothing was decided.
    """

    parameters: Mapping[str, Any] | None
    cases: int
    reason: str | None = None
    share: float = 1.0
    check: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Calibrator:
    """From logits to calibrated probabilities.

    Attributes:
        task: multi-class or multi-label.
        method: of the corrections; ``none`` has none.
        fits: one for multi-class temperature scaling, else one for each class or finding.
    """

    task: Task
    method: Method
    fits: tuple[Fit, ...]

    @classmethod
    def fit(
        cls, logits: Floats, truth: Floats, *, task: Task, method: Method | Literal["auto"] = "auto"
    ) -> Self:
        """Fit on validation cases.

        Args:
            logits: ``(N, K)`` raw scores.
            truth: ``(N, K)`` 1, 0, or NaN where unknown; unknown truth counts for nothing.
            task: multi-class or multi-label.
            method: of the corrections.
        """
        method = AUTO[task] if method == "auto" else method
        if method == "none":
            return cls(task, method, ())
        if task == "multiclass" and method == "temperature":
            return cls(task, method, (_shared_temperature(logits, truth),))
        scores, fit = _log_odds(logits, task), _FITS[method]
        fits = tuple(_one(fit, scores[:, k], truth[:, k]) for k in range(scores.shape[1]))
        return cls(task, method, fits)

    def blended(self, share: float) -> Calibrator:
        """A part of the correction: 0 changes no probability, 1 is all of it.

        Args:
            share: of the way in inverse temperature, in slope and intercept, or in probability (isotonic).
        """
        return replace(self, fits=tuple(_blended(fit, share) for fit in self.fits))

    @property
    def fitted(self) -> bool:
        """Whether there is anything to apply; multi-class corrections only work together."""
        done = [fit.parameters is not None for fit in self.fits]
        return bool(done) and (all(done) if self.task == "multiclass" else any(done))

    def apply(self, logits: Floats) -> Floats:
        """Calibrated probabilities.

        Args:
            logits: ``(N, K)`` raw scores.

        Returns:
            ``(N, K)``; multi-class rows sum to 1. NaN where nothing was fitted. A case to which every class
            is impossible gets ``1 / K`` each.
        """
        logits = np.asarray(logits, dtype=np.float64)
        if not self.fitted:
            return np.full(logits.shape, np.nan)
        if len(self.fits) == 1 and self.task == "multiclass":
            return np.asarray(softmax(logits / _parameters(self.fits[0])["temperature"], axis=1))
        scores = _log_odds(logits, self.task)
        single = np.stack([_corrected(fit, scores[:, k]) for k, fit in enumerate(self.fits)], axis=1)
        if self.task == "multilabel":
            return single
        total = single.sum(axis=1, keepdims=True)
        even = np.full(single.shape, 1 / single.shape[1])
        np.divide(single, total, out=even, where=total > 0)
        return even

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, for ``bundle.json``."""
        return {"task": self.task, "method": self.method, "fits": [asdict(fit) for fit in self.fits]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote."""
        return cls(content["task"], content["method"], tuple(Fit(**fit) for fit in content["fits"]))


def _one(fit: Callable[[Floats, Floats], Fit], scores: Floats, truth: Floats) -> Fit:
    """Fit one class against the rest, if there are cases enough."""
    known = ~np.isnan(truth)
    cases, present = int(known.sum()), int((truth == 1).sum())
    if cases < MIN_CASES:
        return Fit(None, cases, f"{cases} validation cases are fewer than {MIN_CASES}")
    if (rarer := min(present, cases - present)) < MIN_EACH:
        kind = "with" if rarer == present else "without"
        return Fit(None, cases, f"validation cases {kind} it: {rarer} of {cases}, fewer than {MIN_EACH}")
    return fit(scores[known], truth[known])


def _shared_temperature(logits: Floats, truth: Floats) -> Fit:
    """One temperature for all classes."""
    known = ~np.isnan(truth).any(axis=1)
    if (cases := int(known.sum())) < MIN_CASES:
        return Fit(None, cases, f"{cases} validation cases are fewer than {MIN_CASES}")
    logits, classes = np.asarray(logits[known], dtype=np.float64), truth.shape[1]
    targets = (cases * truth[known] + 1) / (cases + classes)
    return _least(
        lambda temperature: -float((targets * log_softmax(logits / temperature, axis=1)).sum()),
        lead=float((targets * (logits - logits.mean(axis=1, keepdims=True))).sum()),
        cases=cases,
    )


def _temperature(scores: Floats, truth: Floats) -> Fit:
    """The temperature of one finding."""
    targets = _targets(truth)
    return _least(
        lambda temperature: float(
            (np.logaddexp(0, scores / temperature) - targets * scores / temperature).sum()
        ),
        lead=float(((targets - 0.5) * scores).sum()),
        cases=len(scores),
    )


def _targets(truth: Floats) -> Floats:
    """What truths ``(N,)`` are taken for: ``(n+ + 1) / (n+ + 2)`` and ``1 / (n- + 2)`` (Platt 1999)."""
    present = truth.sum()
    absent = len(truth) - present
    return np.asarray(np.where(truth == 1, (present + 1) / (present + 2), 1 / (absent + 2)))


def _least(loss: Callable[[float], float], *, lead: float, cases: int) -> Fit:
    """The temperature of least loss; the loss is convex in its inverse.

    Args:
        loss: of a temperature.
        lead: minus the slope of the loss where the inverse is 0; up to 0, hotter is always better.
        cases: that the loss rests on.
    """
    if lead <= 0:
        return Fit(None, cases, "the scores of the validation cases say nothing about the truth")
    from scipy.optimize import minimize_scalar  # where something is fitted: bundles are opened without

    bounds, options = (-_WIDEST, _WIDEST), {"xatol": 1e-9}
    found = minimize_scalar(
        lambda t: loss(float(np.exp(t))), bounds=bounds, method="bounded", options=options
    )
    return Fit({"temperature": float(np.exp(found.x))}, cases)


def _platt(scores: Floats, truth: Floats) -> Fit:
    """Slope and intercept, on scores of unit spread so that the search is well scaled."""
    from scipy.optimize import minimize

    targets, present = _targets(truth), truth.sum()
    absent = len(truth) - present
    spread = float(scores.std()) or 1.0

    def loss(line: Floats) -> tuple[float, Floats]:
        """Cross-entropy of (slope, intercept), and its gradient."""
        value = line[0] * scores / spread + line[1]
        error = expit(value) - targets
        gradient = np.array([error @ scores / spread, error.sum()])
        return float((np.logaddexp(0, value) - targets * value).sum()), gradient

    start = np.array([0.0, np.log((present + 1) / (absent + 1))])
    options = {"gtol": 1e-8, "ftol": 1e-15}
    bounds = [(0, None), (None, None)]
    slope, intercept = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    ).x.tolist()
    return Fit({"slope": slope / spread, "intercept": intercept}, len(scores))


def _isotonic(scores: Floats, truth: Floats) -> Fit:
    """The corners of the rising curve, over the raw probability."""
    from sklearn.isotonic import IsotonicRegression

    curve = IsotonicRegression(y_min=0, y_max=1).fit(expit(scores), truth)
    corners = {"scores": curve.X_thresholds_.tolist(), "values": curve.y_thresholds_.tolist()}
    return Fit(corners, len(scores))


_FITS: Mapping[Method, Callable[[Floats, Floats], Fit]] = {
    "temperature": _temperature,
    "platt": _platt,
    "isotonic": _isotonic,
}


def _corrected(fit: Fit, scores: Floats) -> Floats:
    """Calibrated probabilities ``(N,)`` of one class or finding, before any division by their sum."""
    if fit.parameters is None:
        return np.full(scores.shape, np.nan)
    found = fit.parameters
    if "temperature" in found:
        return np.asarray(expit(scores / found["temperature"]))
    if "slope" in found:
        return np.asarray(expit(found["slope"] * scores + found["intercept"]))
    return np.asarray(np.interp(expit(scores), found["scores"], found["values"]))


def _blended(fit: Fit, share: float) -> Fit:
    if fit.parameters is None or share == 1:
        return fit
    found = fit.parameters
    if "temperature" in found:
        mixed = {"temperature": 1 / (1 - share + share / found["temperature"])}
    elif "slope" in found:
        mixed = {"slope": 1 - share + share * found["slope"], "intercept": share * found["intercept"]}
    else:  # the curve is flat outside its corners, what it is mixed with is not
        scores = np.unique([0.0, *found["scores"], 1.0])
        values = share * np.interp(scores, found["scores"], found["values"]) + (1 - share) * scores
        mixed = {"scores": scores.tolist(), "values": values.tolist()}
    return replace(fit, parameters=mixed, share=share)


def _parameters(fit: Fit) -> Mapping[str, Any]:
    assert fit.parameters is not None
    return fit.parameters


def _log_odds(logits: Floats, task: Task) -> Floats:
    """``log(p / (1 - p))`` of the raw probabilities, ``(N, K)``, without rounding them first."""
    logits = np.asarray(logits, dtype=np.float64)
    if task == "multilabel":
        return logits
    classes = logits.shape[1]
    others = [logsumexp(np.delete(logits, k, axis=1), axis=1) for k in range(classes)]
    return np.asarray(logits - np.stack(others, axis=1))
