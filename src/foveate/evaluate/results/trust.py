"""``trust.json``: can the pictures be trusted? The trust card."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.file import Part, ResultFile, SparsePart
from foveate.evaluate.results.parts import ABSENT
from foveate.evaluate.verdicts import Condition, MapVerdict

Curve = tuple[float | None, ...]


class MethodCard(SparsePart):
    """What was found of one method, or of a control.

    Attributes:
        conditions: by key of ``foveate.evaluate.verdicts.CONDITIONS``; none of a random order.
        scores: means by name.
        differences: by control and name, the method's score less the control's.
        curves: mean curves by name; their points are at ``TrustCard.shares``.
        verdict: what the method may be used for; None of controls.
    """

    conditions: dict[str, Condition] = Field(default_factory=dict)
    scores: dict[str, Value] = Field(default_factory=dict)
    differences: dict[str, dict[str, Value]] = Field(default_factory=dict)
    curves: dict[str, Curve] = Field(default_factory=dict)
    verdict: MapVerdict | None = None

    def score(self, name: str) -> Value:
        """A mean by its name; ``ABSENT`` where there is none."""
        return self.scores.get(name, ABSENT)


class TrustPlanFacts(Part):
    """How many cases each question was asked of; methods that are costly, of half of the last two."""

    cases: int
    faithful: int
    sanity: int
    costly: tuple[str, ...] = ()


class TrustCard(ResultFile):
    """Heat maps, tested against controls.

    Attributes:
        split, n, patients, classes: whose maps were tested, each for the class that was predicted.
        level: of the intervals.
        plan: how many cases each question was asked of.
        rules: what decides, in words.
        flags: what the probes found that the model should not look at.
        shortcuts: whether the probes ran.
        methods: by name.
        controls: the same of the random, the centred and the edge map, and of a random order of the squares.
        shares: by curve, shares of the squares.
        stages: what each step of the randomisation drew anew.
        rivals: the other models.
    """

    NAME: ClassVar[str] = "trust.json"
    MADE_BY: ClassVar[str] = "trust"

    split: str
    n: int
    patients: int
    classes: tuple[str, ...] = ()
    level: float = 0.95
    plan: TrustPlanFacts
    rules: dict[str, str]
    flags: tuple[str, ...] = ()
    shortcuts: str = ""
    methods: dict[str, MethodCard]
    controls: dict[str, MethodCard] = Field(default_factory=dict)
    shares: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    stages: tuple[str, ...] = ()
    rivals: dict[str, str] = Field(default_factory=dict)

    @property
    def cards(self) -> dict[str, MethodCard]:
        """Of methods and controls."""
        return {**self.methods, **self.controls}

    @property
    def verdicts(self) -> dict[str, MapVerdict]:
        """By method."""
        return {name: card.verdict for name, card in self.methods.items() if card.verdict is not None}
