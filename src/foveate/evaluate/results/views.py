"""``views.json``: how much of the answers each view carries, of models with several views."""

from __future__ import annotations

from typing import ClassVar

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.bootstrap import IntervalFacts
from foveate.evaluate.results.file import Part, ResultFile


class ShareMeans(Part):
    """Means over the cases that have a view, for one class.

    Attributes:
        attribution: share of the view in the sum of the absolute Shapley values of a case's views.
        evidence: its share in the positive evidence of their heat maps.
        value: its Shapley value itself, signed, in units of the logit.
    """

    attribution: Value
    evidence: Value
    value: Value


class PartShares(Part):
    """The shares of one part.

    Attributes:
        cases: that were explained.
        withheld: what stood for a view that is withheld: ``missing``, ``blank``, or both.
        sampled: whether any value is estimated from random orders of the views.
        classes: means by class and view; views that no case has are absent.
    """

    cases: int
    withheld: tuple[str, ...]
    sampled: bool
    classes: dict[str, dict[str, ShareMeans]]


class ViewShares(ResultFile):
    """How much each view counts, as means over cases.

    Attributes:
        bootstrap: how intervals were made.
        parts: by part (val, test, …).
    """

    NAME: ClassVar[str] = "views.json"
    MADE_BY: ClassVar[str] = "explain"

    bootstrap: IntervalFacts
    parts: dict[str, PartShares]
