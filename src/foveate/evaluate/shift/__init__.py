"""How another cohort differs from the one that a model comes from, and what that does to its answers.

Two cohorts share no patient. Every figure is a function of case weights over both together, so that its
interval resamples patients as everywhere (``intervals``); ``p`` asks how often cohorts that do not differ
would show as much: whole patients change cohort at random, ``p = (1 + times as far) / (1 + draws)`` (Phipson
and Smyth 2010).

* A number (age, width, novelty): the chance that a case of the new cohort has a larger one than a case of the
  other, equals counting half (the AUROC of "new", or Mann-Whitney's U over all pairs): 0.5 is no shift.
* A text (sex, scanner): the share of each value in both cohorts, and their distance, half the sum of all
  differences (total variation): the share of cases that would have to change. Its p is told, and the value
  that changed most has an interval.
* Columns together: how well trees that learned from other patients tell the cohorts apart (a classifier
  two-sample test: Lopez-Paz and Oquab 2017, ICLR; Rabanser, Günnemann and Lipton 2019, NeurIPS).
* Performance: the figure in the new cohort less the figure at home; two independent sets of replicates.
"""

from __future__ import annotations

from foveate.evaluate.shift.cohorts import Cohorts
from foveate.evaluate.shift.columns import category_shift, column_shifts, label_shift, number_shift
from foveate.evaluate.shift.performance import performance_shift, reweighted_accuracy
from foveate.evaluate.shift.wording import in_words

__all__ = [
    "Cohorts",
    "category_shift",
    "column_shifts",
    "in_words",
    "label_shift",
    "number_shift",
    "performance_shift",
    "reweighted_accuracy",
]
