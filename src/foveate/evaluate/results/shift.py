"""``shift.json``: how the cohort of an external test differs from the one that its model comes from.

"Source" is always what the model comes from, and "new" the tested cohort. How it is compared stands in
``evaluate.shift``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.file import Part, ResultFile
from foveate.evaluate.results.metrics import SubgroupColumn
from foveate.evaluate.results.parts import ALPHA, Unmade

Quartiles = tuple[float, float, float]


class ComparedCohort(Part):
    """One of the two cohorts: its name, and how many cases and patients, if that is known."""

    name: str
    cases: int | None
    patients: int | None


class TestedShift(Part):
    """What was tested of both cohorts.

    Attributes:
        p: chance of as large a difference between cohorts that do not differ; None where it is undefined.
        p_holm: the same, corrected for how many were tested together; None where one was tested alone.
    """

    p: float | None
    p_holm: float | None = None

    @property
    def shown(self) -> bool:
        """Whether a difference is shown."""
        return self.p_holm is not None and self.p_holm < ALPHA


class ShareShift(TestedShift):
    """How frequent a class is in both cohorts.

    Attributes:
        source, new: share of the cases; None where one of the cohorts does not say.
        difference: of the two.
    """

    source: float | None
    new: float | None
    difference: Value


class LabelShift(Part):
    """How frequent every class is in both cohorts."""

    classes: dict[str, ShareShift]


class NumberShift(TestedShift):
    """A number in both cohorts.

    Attributes:
        source, new: lower quartile, median and upper quartile; None where there is no value.
        larger: the chance that a new case has a larger one.
    """

    kind: Literal["number"] = "number"
    source: Quartiles | None
    new: Quartiles | None
    larger: Value

    @property
    def far(self) -> float:
        """How far this is from no shift, from 0 to 1; 0 where that is not known."""
        return 0.0 if self.larger.value is None else abs(2 * self.larger.value - 1)


class ValueShares(Part):
    """Share of a value in both cohorts."""

    source: float
    new: float


class CategoryShift(TestedShift):
    """A text in both cohorts.

    Attributes:
        values: by value.
        distance: half the sum of all differences.
        most: the value whose share changed most.
        difference: of its shares.
    """

    kind: Literal["category"] = "category"
    values: dict[str, ValueShares]
    distance: float
    most: str
    difference: Value

    @property
    def far(self) -> float:
        """How far this is from no shift, from 0 to 1."""
        return self.distance


ColumnShift = Annotated[NumberShift | CategoryShift, Field(discriminator="kind")]


class TogetherShift(Part):
    """How well all columns together tell the cohorts apart.

    Attributes:
        auroc: of trees, on patients that they have not seen.
        p: of "not at all".
        columns: those that tell most.
    """

    auroc: Value
    p: float | None
    columns: tuple[str, ...]


class ColumnShifts(Part):
    """Every column of both cohorts.

    Attributes:
        columns: by name.
        left_out: by name, why a column was not compared.
        together: all columns.
    """

    columns: dict[str, ColumnShift]
    left_out: dict[str, str] = Field(default_factory=dict)
    together: TogetherShift


class UncomparedColumns(Unmade):
    """Columns that could not be compared, and why each of them."""

    left_out: dict[str, str] = Field(default_factory=dict)


class FigureShift(Part):
    """One figure in both cohorts.

    Attributes:
        source, new: at home and here.
        difference: here less home.
        p: of "they do not differ".
        reweighted: of the accuracy, what it would be at home with the class frequencies of the new cohort.
    """

    source: Value
    new: Value
    difference: Value
    p: float | None
    reweighted: float | None = None


class PerformanceShift(Part):
    """Every figure over all classes, by name, in both cohorts."""

    metrics: dict[str, FigureShift]

    @property
    def accuracy(self) -> FigureShift | None:
        """That of the accuracy, if it was compared."""
        return self.metrics.get("accuracy")


@dataclass(frozen=True, slots=True)
class NoveltyOfErrors(Value):
    """How well novelty tells the wrong answers: its AUROC, and ``p`` of "not at all"."""

    p: float | None = None


class ShiftGroups(Part):
    """Figures of the new cohort by what differs most.

    Attributes:
        groups: by column.
        wrong: for one class a case, how well novelty tells the wrong answers; None where that was not asked.
    """

    groups: dict[str, SubgroupColumn] = Field(default_factory=dict)
    wrong: NoveltyOfErrors | None = None


class SeenCases(Part):
    """Cases that the model learned from.

    Attributes:
        cases: how many.
        known: those of known truth.
        right: those answered right; None for findings.
    """

    cases: int
    known: int
    right: int | None


class RecalibratedFigure(Part):
    """One figure of the probabilities as the model came, as fitted here, and the paired change."""

    came: Value
    fitted: Value
    change: Value


class Recalibration(Part):
    """What calibrating on a part of the new cohort changes on the rest.

    Attributes:
        share: of the cohort that was fitted on.
        cases, patients: of that part.
        ece, brier, log_loss: on the rest.
    """

    share: float
    cases: int
    patients: int
    ece: RecalibratedFigure
    brier: RecalibratedFigure
    log_loss: RecalibratedFigure


class ShiftSentence(Part):
    """Something worth saying: its ``code``, and the ``sentence``."""

    code: str
    sentence: str


class Shift(ResultFile):
    """How the cohort of an external test differs, and what that does to the answers.

    Attributes:
        level: of the intervals.
        source, new: the cohorts; of the source those cases that the model learned from.
        labels, metadata, images, novelty, performance: what was compared, or why it was not.
        by_shift: figures by what differs.
        seen: cases that the model learned from; None without any.
        recalibration: None where that was not asked for.
        sentences: the most harmful first.
    """

    NAME: ClassVar[str] = "shift.json"
    MADE_BY: ClassVar[str] = "test"

    level: float
    source: ComparedCohort
    new: ComparedCohort
    labels: LabelShift | Unmade
    metadata: ColumnShifts | UncomparedColumns
    images: ColumnShifts | UncomparedColumns
    novelty: NumberShift | Unmade
    performance: PerformanceShift | Unmade
    by_shift: ShiftGroups = ShiftGroups()
    seen: SeenCases | None = None
    recalibration: Recalibration | None = None
    sentences: tuple[ShiftSentence, ...] = ()
