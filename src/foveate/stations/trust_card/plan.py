"""Which cases are asked, and how many of them each question: what a card may cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from foveate.explain.options import ExplainOptions
from foveate.types import Case

COSTLY = ("integrated_gradients", "smoothgrad", "occlusion")
"""Methods that take dozens of passes for one map: theirs are drawn for half as many cases as are changed, and
drawn anew for half as many as those of the others."""
FAITHFUL, SANITY = (
    64,
    24,
)  # cases at most; a quarter of volumes, which have as many pixels as a hundred pictures
LEAST = 10  # of the cases of a costly method, if there are as many
IG_STEPS, SMOOTHGRAD_SAMPLES = 10, 8


@dataclass(frozen=True, slots=True)
class TrustPlan:
    """How many cases, from the first on, each question is asked of.

    Attributes:
        cases: whose maps are drawn, and compared with what is marked in the image.
        faithful: whose images are changed where the maps say that it matters.
        sanity: for the questions that need maps drawn anew.
    """

    cases: int
    faithful: int
    sanity: int

    @classmethod
    def of(cls, cases: int, *, volumes: bool) -> Self:
        """The plan for at most so many cases."""
        share = 4 if volumes else 1
        return cls(cases, min(cases, FAITHFUL // share), min(cases, SANITY // share))

    def asked(self, method: str, question: str) -> int:
        """Number of cases for one question (``cases``, ``faithful``, ``sanity``) and method."""
        if is_costly(method):
            count = self.sanity if question == "sanity" else self.faithful
            return max(-(-count // 2), min(count, LEAST))
        return {"cases": self.cases, "faithful": self.faithful, "sanity": self.sanity}[question]


def is_costly(method: str) -> bool:
    """Whether one map of a method takes dozens of passes."""
    return method.partition(":")[0] in COSTLY


def in_order(cases: Sequence[Case], limit: int, seed: int) -> list[Case]:
    """At most ``limit`` cases: a first one of each patient, then a second one, in an order of the seed.

    So the first n of them come from as many patients as there are, and neighbours from different ones.
    """
    seen: Counter[str] = Counter()
    turns = []
    for place in np.random.default_rng(seed).permutation(len(cases)):
        case = cases[int(place)]
        turns.append((seen[case.patient_id], case))
        seen[case.patient_id] += 1
    return [case for _, case in sorted(turns, key=lambda turn: turn[0])][:limit]


def economical(options: ExplainOptions) -> ExplainOptions:
    """Options with fewer passes for a map: integrated gradients by ten Gauss–Legendre nodes, eight noises."""
    return replace(
        options, ig_steps=IG_STEPS, ig_rule="gauss_legendre", smoothgrad_samples=SMOOTHGRAD_SAMPLES
    )
