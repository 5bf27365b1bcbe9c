"""How much of a correction of probabilities is kept: as much as validation patients show to help.

A correction that is fitted on few cases fits their chance as well, and a network that was chosen for its
validation cases is surer of them than of others; left alone, either makes good probabilities worse. So the
correction is fitted again without a tenth of the patients, whose cases it then corrects, by each of 21 shares
between none (0) and all of it (1). The share that is kept makes the mean change of their log loss, plus its
standard error over patients, least: 0, and so no correction, unless the gain is larger than its own error
(the rule of one standard error: Breiman et al. 1984, Classification and Regression Trees, section 3.4.3;
shrinking by cross-validation: van Houwelingen and le Cessie 1990, Stat. Med. 9:1303).

Multi-class corrections have one share; each finding of a multi-label model has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from foveate.evaluate.probabilities.calibrators import Calibrator, Fit, Floats, Method
from foveate.types import Task

SHARES = np.linspace(0.0, 1.0, 21)
FOLDS, MIN_PATIENTS = 10, 5
_LEAST = float(np.finfo(np.float64).eps)


def fit_shrunk(
    logits: Floats,
    truth: Floats,
    patient_ids: Sequence[str],
    *,
    task: Task,
    method: Method | Literal["auto"] = "auto",
) -> Calibrator:
    """Fit a correction on validation cases and keep what helps.

    Args:
        logits: ``(N, K)`` raw scores.
        truth: ``(N, K)`` 1, 0, or NaN where unknown; unknown truth counts for nothing.
        patient_ids: of the N cases; the cases of a patient are never on both sides.
        task: multi-class or multi-label.
        method: of the correction.

    Returns:
        The correction, whose fits tell ``share`` and ``check``; without parameters, but with a reason, where
        nothing is kept.
    """
    logits, truth = np.asarray(logits, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    whole = Calibrator.fit(logits, truth, task=task, method=method)
    fold, patient = folds(patient_ids)
    if task == "multiclass":
        known = ~np.isnan(truth).any(axis=1)
        return _shrunk(whole, logits[known], truth[known], fold[known], patient[known])
    fits: list[Fit] = []
    for k, fit in enumerate(whole.fits):
        known = ~np.isnan(truth[:, k])
        single = replace(whole, fits=(fit,))
        fits += _shrunk(
            single, logits[known, k : k + 1], truth[known, k : k + 1], fold[known], patient[known]
        ).fits
    return replace(whole, fits=tuple(fits))


def folds(patient_ids: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Fold and patient of each case, ``(N,)`` each: patients are dealt out by lot, the same every time."""
    names, patient = np.unique(np.asarray(patient_ids), return_inverse=True)
    dealt = np.random.default_rng(0).permutation(len(names)) % FOLDS
    return dealt[patient], patient


def log_losses(probabilities: Floats, truth: Floats, task: Task) -> Floats:
    """Log loss of each case, ``(N,)``; multi-label, the mean over its findings."""
    stated = np.clip(probabilities, _LEAST, 1 - _LEAST)
    if task == "multiclass":
        return np.asarray(-np.log((stated * truth).sum(axis=1)))
    return np.asarray(-np.log(np.where(truth == 1, stated, 1 - stated)).mean(axis=1))


def _shrunk(
    whole: Calibrator,
    logits: Floats,
    truth: Floats,
    fold: NDArray[np.intp],
    patient: NDArray[np.intp],
) -> Calibrator:
    """A correction whose fits belong together, reduced to what helps cases that it was not fitted on."""
    if not whole.fitted:
        return whole
    patients = len(np.unique(patient))
    if patients < MIN_PATIENTS:
        few = f"validation cases of {patients} patients are fewer than {MIN_PATIENTS}"
        return replace(whole, fits=tuple(Fit(None, fit.cases, few, 0.0) for fit in whole.fits))
    losses = _held_out(whole, logits, truth, fold)
    change = losses - losses[0]
    errors = np.array([_error(row, patient) for row in change])
    place = int((change.mean(axis=1) + errors).argmin())
    raw, kept, most = (float(losses[row].mean()) for row in (0, place, -1))
    check = {"raw": raw, "kept": kept, "whole": most, "error": float(errors[place]), "patients": patients}
    reason = (
        None
        if place
        else (
            f"not shown to help: log loss {raw:.3f} without and {most:.3f} with it, cross-validated over "
            f"{patients} patients"
        )
    )
    share = float(SHARES[place])
    fits = whole.blended(share).fits if place else tuple(replace(fit, parameters=None) for fit in whole.fits)
    return replace(whole, fits=tuple(replace(fit, reason=reason, share=share, check=check) for fit in fits))


def _held_out(whole: Calibrator, logits: Floats, truth: Floats, fold: NDArray[np.intp]) -> Floats:
    """Log loss ``(21, N)`` of each case by a correction of other patients, at each share of it."""
    raw = softmax(logits, axis=1) if whole.task == "multiclass" else expit(logits)
    losses = np.tile(log_losses(raw, truth, whole.task), (len(SHARES), 1))
    for number in np.unique(fold):
        held = fold == number
        part = Calibrator.fit(logits[~held], truth[~held], task=whole.task, method=whole.method)
        if part.fitted:
            for row, share in enumerate(SHARES[1:], 1):
                corrected = part.blended(float(share)).apply(logits[held])
                losses[row, held] = log_losses(corrected, truth[held], whole.task)
    return losses


def _error(change: Floats, patient: NDArray[np.intp]) -> float:
    """Standard error over patients of a mean over cases (a ratio: Cochran 1977, section 6.3)."""
    sums, cases = np.bincount(patient, change), np.bincount(patient)
    sums, cases = sums[cases > 0], cases[cases > 0]
    apart = sums - change.mean() * cases
    return float(np.sqrt(len(cases) / (len(cases) - 1) * (apart**2).sum()) / len(change))
