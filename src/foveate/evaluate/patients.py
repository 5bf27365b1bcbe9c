"""From cases to patients: the cases of a patient put together, and the figures of patients.

A patient's probability of a class is the mean or the maximum over its cases. The maximum of classes is
divided by their sum, so that it is a probability again. Truth:

* multi-class: the class that all its cases with known truth have; a patient whose cases differ has no class
  and is left out, and counted.
* multi-label: a finding is present in a patient if it is in any of its cases, absent if it is known to be
  absent in all of them, and unknown otherwise.

Thresholds of findings are those of cases. They were not chosen for means or maxima; the AUROC does not need
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np
from scipy.special import logit

from foveate.evaluate.discrimination import Discrimination
from foveate.evaluate.intervals import Bootstrap, Floats
from foveate.evaluate.measured import Measured
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.results.metrics import PatientFigures
from foveate.evaluate.results.parts import Unmade
from foveate.evaluate.subgroups import figures_of
from foveate.evaluate.table import PredictionTable
from foveate.types import Track, quiet

How = Literal["mean", "max"]
_EDGE = 1e-12  # probabilities of 0 and 1 have a finite logit


def by_patient(table: PredictionTable, how: How) -> tuple[PredictionTable, int]:
    """Put the cases of each patient together.

    Args:
        table: N cases over K classes.
        how: ``mean`` or ``max`` of the probabilities.

    Returns:
        A table with one case a patient, named by it, without views and novelty; and the number of patients
        that were left out because their cases are of different classes. Logits are the logarithms of the
        probabilities (multi-class) or their log odds; of a maximum (multi-label) that of the logits.
    """
    names, index = np.unique(np.asarray(table.patient_ids, dtype=object), return_inverse=True)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(len(names)))

    def gathered(how: np.ufunc, values: Floats) -> Floats:
        found: Floats = how.reduceat(values[order], starts, axis=0)
        return found

    probabilities = gathered(np.maximum if how == "max" else np.add, table.probabilities)
    if table.task == "multiclass":
        probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
        truth = gathered(np.fmax, table.truth)
        kept = np.nansum(truth, axis=1) <= 1
    else:
        probabilities = probabilities if how == "max" else probabilities / np.bincount(index)[:, None]
        present = gathered(np.fmax, table.truth) == 1
        truth = np.where(present, 1.0, gathered(np.maximum, table.truth))  # np.maximum hands NaN on
        kept = np.ones(len(names), dtype=bool)
    safe = np.clip(probabilities, _EDGE, 1 - _EDGE)
    logits = np.log(safe) if table.task == "multiclass" else logit(safe)
    if table.task == "multilabel" and how == "max":  # the case's own, which tells apart what is rounded to 1
        logits = gathered(np.maximum, table.logits)
    patients = tuple(str(name) for name in names)
    whole = PredictionTable(
        task=table.task,
        classes=table.classes,
        case_ids=patients,
        patient_ids=patients,
        splits=("",) * len(names),
        logits=logits,
        probabilities=probabilities,
        truth=truth,
    )
    return whole.only(kept), int((~kept).sum())


def per_patient(
    part: PredictionTable,
    options: EvaluateOptions,
    bootstrap: Bootstrap,
    thresholds: Mapping[str, float] | None = None,
    track: Track = quiet,
) -> PatientFigures | Unmade:
    """The block ``per_patient`` of ``metrics.json``.

    Args:
        part: the cases to evaluate, each with some known truth.
        options: how the cases of a patient are put together.
        bootstrap: of the intervals.
        thresholds: of the findings (multi-label).
        track: shows progress.

    Returns:
        Nothing but a reason where it would repeat the figures of cases or was not wanted.
    """
    if options.per_patient == "none":
        return Unmade(reason="not asked for")
    if len(set(part.patient_ids)) == len(part.case_ids):
        return Unmade(reason="every patient has one case")
    whole, left_out = by_patient(part, options.per_patient)
    discrimination = Discrimination(whole, whole.decisions(thresholds))

    def statistic(weights: Floats) -> dict[str, Floats]:
        return {name: values[:, None] for name, values in discrimination(weights).items()}

    measured = Measured.of(statistic, whole, bootstrap, track)
    metrics, per_class = figures_of(whole, discrimination, measured, 0)
    return PatientFigures(
        how=options.per_patient,
        patients=len(whole.case_ids),
        left_out=left_out,
        most_cases=max(Counter(part.patient_ids).values()),
        metrics=metrics,
        per_class=per_class,
    )
