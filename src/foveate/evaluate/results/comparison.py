"""``comparison.json``: several models on the same patients, paired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, Field

from foveate.evaluate.comparing.hypothesis import McNemar
from foveate.evaluate.intervals import Value
from foveate.evaluate.results.bootstrap import BootstrapFacts
from foveate.evaluate.results.file import Part, ResultFile
from foveate.evaluate.results.parts import Unmade
from foveate.types import Task

SeedName = int | str
"""A seed, or ``"0, fold 3"`` where each training is tested on a fold."""


@dataclass(frozen=True, slots=True)
class SeedFigure(Value):
    """A figure of a variant: the mean over its seeds.

    Attributes:
        sd: standard deviation over seeds; None with one seed.
        seeds: the value of each; None where undefined.
    """

    sd: float | None = None
    seeds: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeedDifference(SeedFigure):
    """A paired difference of two variants, the first less the second.

    Attributes:
        p: of "they do not differ".
        p_holm: the same, corrected for its family of tests.
    """

    p: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True, slots=True)
class DecisionTest(McNemar):
    """McNemar's test of the decisions of a pair, with ``p_holm`` corrected for its family."""

    p_holm: float | None = None


@dataclass(frozen=True, slots=True)
class AurocTest:
    """DeLong's test of the AUROC of one class: as ``delong.AurocDifference``, with its corrected p-value."""

    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None = None


class ComparedClass(Part):
    """Figures of one class of a variant, by name, beside the number of ``cases`` that have it."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, SeedFigure]

    cases: int

    @classmethod
    def of(cls, cases: int, figures: Mapping[str, SeedFigure]) -> Self:
        """A class with these figures."""
        return cls.model_validate({"cases": cases, **figures})

    @property
    def figures(self) -> dict[str, SeedFigure]:
        """By name."""
        return self.__pydantic_extra__


class PairedClass(Part):
    """One class of a pair of variants; tests of one seed are None where there are several."""

    differences: dict[str, SeedDifference]
    delong: AurocTest | None
    decisions: DecisionTest | None


class VariantPair(Part):
    """Two variants on the same cases.

    Attributes:
        first, second: a difference is that of the first less that of the second.
        seeds: that both have.
        differences: by figure.
        decisions: of all classes together; None for findings and for several seeds.
        per_class: by class.
        sentence: what it comes to.
    """

    first: str
    second: str
    seeds: tuple[SeedName, ...]
    differences: dict[str, SeedDifference]
    decisions: DecisionTest | None
    per_class: dict[str, PairedClass]
    sentence: str = ""


class RankTest(Part):
    """The main figure's test of one pair of variants."""

    first: str
    second: str
    p: float | None
    p_holm: float | None = None


class VariantRanks(Part):
    """Mean ranks by one figure.

    Attributes:
        figure: that variants are ranked by.
        models: the mean rank of each.
        pairs: tests of every two.
        indistinguishable: neighbours of whom no pair is told apart.
    """

    figure: str
    models: dict[str, Value]
    pairs: tuple[RankTest, ...]
    indistinguishable: tuple[tuple[str, ...], ...]


class CorrectedFamilies(Part):
    """How many tests each family has that is corrected together."""

    main: int = Field(validation_alias="main figure", serialization_alias="main figure")
    others: int = Field(validation_alias="other figures", serialization_alias="other figures")
    classes: int = Field(validation_alias="single classes", serialization_alias="single classes")
    delong: int = Field(validation_alias="DeLong", serialization_alias="DeLong")
    mcnemar: int = Field(validation_alias="McNemar", serialization_alias="McNemar")
    mcnemar_classes: int = Field(
        validation_alias="McNemar of single classes", serialization_alias="McNemar of single classes"
    )


class ComparisonTests(Part):
    """The ``main`` figure, said before any is looked at, how p-values are corrected, and their families."""

    main: str
    correction: str = "holm"
    families: CorrectedFamilies


class ComparedVariants(Part):
    """What statistics say of several variants.

    Attributes:
        reference: the variant that the others are paired with.
        task: of the cohort.
        bootstrap: of the intervals.
        tests: of the differences.
        seeds: of any variant.
        cases: tested at each seed.
        patients: in all.
        figures: by variant and figure.
        beside: by variant and method, the localization figures of its controls and its ceiling.
        classes: by variant and class.
        differences: to the reference, by variant and figure.
        pairs: every pair that is told of.
        ranks: of all variants.
    """

    reference: str
    task: Task
    bootstrap: BootstrapFacts
    tests: ComparisonTests
    seeds: tuple[SeedName, ...]
    cases: dict[str, int]
    patients: int
    figures: dict[str, dict[str, SeedFigure]]
    beside: dict[str, dict[str, dict[str, SeedFigure]]] = Field(default_factory=dict)
    classes: dict[str, dict[str, ComparedClass]] = Field(default_factory=dict)
    differences: dict[str, dict[str, SeedDifference]]
    pairs: tuple[VariantPair, ...]
    ranks: VariantRanks


class GridProtocol(Part):
    """What all trainings of a comparison had in common."""

    manifest: str
    manifest_sha256: str
    splits_sha256: dict[str, str]
    seeds: tuple[int, ...]
    folds: int | None
    resplit: bool
    allowed: tuple[str, ...]


class RunOrigin(Part):
    """Where a run lies, and what it was trained and tested on."""

    folder: str
    manifest: str
    manifest_sha256: str | None
    splits_sha256: str | None


class RunsProtocol(Part):
    """Runs that were there already, by name."""

    runs: dict[str, RunOrigin]


class VariantFacts(Part):
    """What a variant is, and what it costs.

    Attributes:
        model, options, pretrained: of its study.
        changes: what it changes in the reference besides the model.
        parameters: learned numbers; None where its model cannot be opened.
        seconds_per_epoch: the median; None where that is not known.
        runs: by seed, the folders of its runs.
    """

    model: str
    options: dict[str, Any]
    pretrained: bool
    changes: tuple[str, ...]
    parameters: int | None
    seconds_per_epoch: float | None
    runs: dict[str, str] = Field(default_factory=dict)


class WithheldView(Part):
    """A variant with a view withheld, and what that costs it, paired with itself."""

    figures: dict[str, SeedFigure]
    differences: dict[str, SeedDifference]


class PublishedFigures(Part):
    """A published row: its name, its figures, and what data they are of."""

    name: str
    figures: dict[str, float]
    data: str


class PublishedClasses(Part):
    """Published figures of single classes.

    Attributes:
        name, system: of the row.
        figure: ours that it stands beside.
        values: by class.
        named: what the paper calls them.
        data, source: what they are of, and where they were read.
    """

    name: str
    system: str
    figure: str
    values: dict[str, float | None]
    named: str
    data: str
    source: str


class ShownCase(Part):
    """A case that stands on the page: for which class, and by which rule."""

    label: str = Field(validation_alias="class", serialization_alias="class")
    case_id: str
    rule: str
    detail: str


class ShownCases(Part):
    """Cases of several runs side by side: of which runs, notes on them, or the problem why there is none."""

    runs: tuple[str, ...]
    notes: tuple[str, ...]
    problem: str
    cases: tuple[ShownCase, ...]


class FailedRun(Part):
    """What went wrong with a run, and at which station."""

    label: str
    seed: SeedName
    station: str
    code: str
    message: str


class SharedCaution(Part):
    """A caution, with the runs that it is about."""

    code: str
    sentence: str
    runs: tuple[str, ...]


class Comparison(ResultFile, ComparedVariants):
    """A whole comparison.

    Attributes:
        name, foveate: of the comparison, and of the version that made it.
        protocol: what the runs had in common, or where they came from.
        variants: by label.
        without: by view and variant, figures without it.
        published, published_by_class: what others measured on other patients.
        side_by_side: cases on the page.
        failures, notes, cautions: what did not work out, and what to beware of.
    """

    NAME: ClassVar[str] = "comparison.json"
    MADE_BY: ClassVar[str] = "compare"

    name: str
    foveate: str
    protocol: GridProtocol | RunsProtocol
    variants: dict[str, VariantFacts]
    without: dict[str, dict[str, WithheldView | Unmade]] = Field(default_factory=dict)
    published: dict[str, PublishedFigures] = Field(default_factory=dict)
    published_by_class: tuple[PublishedClasses, ...] = ()
    side_by_side: ShownCases | None = None
    failures: tuple[FailedRun, ...] = ()
    notes: tuple[str, ...] = ()
    cautions: tuple[SharedCaution, ...] = ()
