"""``probes.json``: whether a model reads its answer where nothing of the disease is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.bootstrap import BootstrapFacts
from foveate.evaluate.results.file import Part, ResultFile, SparsePart

ShareBox = tuple[float, float, float, float]
"""Top, left, bottom and right, as shares of what the model sees."""
Grid = tuple[tuple[float, ...], ...]


class ProbePlace(Part):
    """Where in the images: a view, a box in it, and the box in words; a view of None is all of the case."""

    view: str | None = None
    box: ShareBox | None = None
    position: str = ""


class Shortcut(Part):
    """What a model is shown to use.

    Attributes:
        kind: such as ``marker``, or the name of a region.
        where: the place.
        label: the class that it tells.
        effect: what it changes of the AUROC, with
        interval: from lower to upper end.
        p: corrected for all that was asked.
        sentence: all of it in plain words.
    """

    kind: str
    where: ProbePlace = ProbePlace()
    label: str = Field(validation_alias="class", serialization_alias="class")
    effect: float | None = None
    interval: tuple[float | None, float | None] = (None, None)
    p: float | None = None
    sentence: str


class Leak(Shortcut):
    """What tells the truth without the disease, whether or not the model uses it.

    Attributes:
        network_better: whether the network is shown to know more; files of 0.1.0 do not say.
    """

    network_better: bool = True


@dataclass(frozen=True, slots=True)
class ClassAlone(Value):
    """How well a class is told by something alone: its AUROC.

    Attributes:
        p: that it is not told, corrected for the number of classes.
        network: AUROC of the network on the same cases.
        difference: how much more that is.
    """

    p: float | None = None
    network: Value | None = None
    difference: Value | None = None

    @property
    def network_better(self) -> bool:
        """Whether the network is shown to tell the class better."""
        return self.difference is not None and (self.difference.low or 0) > 0


class Alone(SparsePart):
    """A model of something alone, and the network beside it on the same cases.

    Attributes:
        reason: why there is none.
        columns, strongest: of a model of metadata: those that it uses, and those that tell most.
        region: of a model of the background.
        auroc_macro: mean AUROC over classes.
        per_class: AUROC of each.
        telling: classes that are told.
        network, difference: mean AUROC of the network, and how much more that is.
    """

    reason: str | None = None
    columns: tuple[str, ...] | None = None
    strongest: tuple[str, ...] | None = None
    region: str | None = None
    auroc_macro: Value | None = None
    per_class: dict[str, ClassAlone] | None = None
    telling: tuple[str, ...] | None = None
    network: Value | None = None
    difference: Value | None = None

    @property
    def told(self) -> dict[str, ClassAlone]:
        """The classes that are told, with their AUROC."""
        return {name: (self.per_class or {})[name] for name in self.telling or ()}

    @property
    def best(self) -> str:
        """Of the classes that are told, the one that is told best."""
        return max(self.told, key=lambda name: self.told[name].value or 0.0)


class ViewAlone(Part):
    """Models of the background alone, and by ``lesion`` or ``organ`` of each aspect of the mask alone."""

    background: Alone
    masks: dict[str, dict[str, Alone]] = Field(default_factory=dict)


class EvidenceShares(SparsePart):
    """Share of a heat map's positive evidence in a place, share of the area, and their difference."""

    reason: str | None = None
    evidence: Value | None = None
    area: Value | None = None
    excess: Value | None = None


class ViewAttribution(SparsePart):
    """Shares of the heat maps in places where nothing of the disease is; or the reason why not."""

    reason: str | None = None
    explainer: str | None = None
    border: EvidenceShares | None = None
    outside_organ: EvidenceShares | None = None


class TileGrid(Part):
    """The grid of tiles of a view.

    Attributes:
        screened_on: part whose cases gave ``moved``.
        rows, columns: edges of the tiles in pixels.
        moved: by how much each tile moves the answers.
        classes: the class that it moves most.
        suspect: whether nothing of the disease should be in it.
        content: whether it shows something.
        organ, truth: share that is covered by the organ and by what is marked; None where nobody marked it.
    """

    screened_on: str = ""
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    moved: Grid
    classes: tuple[tuple[str, ...], ...] = Field(validation_alias="class", serialization_alias="class")
    suspect: tuple[tuple[bool, ...], ...]
    content: tuple[tuple[bool, ...], ...] = ()
    organ: Grid | None = None
    truth: Grid | None = None


class RegionFigures(SparsePart):
    """Figures of a region; ``foveate.stations.shortcuts.exchange.Effect`` says what each is."""

    original: Value | None = None
    same: Value | None = None
    other: Value | None = None
    effect: Value | None = None
    gained: Value | None = None
    removed: Value | None = None
    removal: Value | None = None
    lost: Value | None = None


class AskedRegion(Part):
    """A region that was asked about: its name, where it is, and the class; a label of None is all of them."""

    name: str
    box: ShareBox | None = None
    label: str | None = Field(None, validation_alias="class", serialization_alias="class")


class Exchange(AskedRegion):
    """A region whose content was exchanged between cases.

    Attributes:
        original, same, other: AUROC as it is, and with content from the same and from another class.
        effect: ``same - other``.
        p, p_corrected: of the effect, by itself and corrected for all that was asked.
        found: whether the region is shown to tell the model something.
    """

    original: Value
    same: Value
    other: Value
    effect: Value
    p: float | None = None
    p_corrected: float | None = None
    found: bool = False


class WholeRegion(AskedRegion):
    """A region that was exchanged, taken out and put in: figures over all classes, and of each."""

    all: RegionFigures
    by_class: dict[str, RegionFigures] = Field(default_factory=dict)

    @property
    def figures(self) -> RegionFigures:
        """Of the class that was asked about, or over all."""
        return self.all if self.label is None else self.by_class[self.label]


class ViewProbe(ViewAlone):
    """What was asked of one view.

    Attributes:
        n: cases that have it.
        attribution: shares of the heat maps.
        tiles: the grid.
        tested: exchanges.
        regions: exchange, removal and pasting of whole regions.
    """

    n: int
    attribution: ViewAttribution
    tiles: TileGrid
    tested: tuple[Exchange, ...]
    regions: tuple[WholeRegion, ...]


class Probes(ResultFile):
    """What was asked about shortcuts, and what was found.

    Attributes:
        split: part whose cases were asked.
        n, patients: how many they are.
        classes: of the model.
        bootstrap: of the intervals.
        shortcuts: what the model is shown to use; empty where nothing was found.
        leaks: what tells the truth without the disease, whether or not the model uses it.
        sentences: all of it in plain words.
        asked: what was asked, in words.
        tiles: how many show something and hold nothing of the disease; None where the file does not say.
        views: by view.
        metadata: a model of metadata and file properties alone.
        not_tested: what could not be asked, and why.
    """

    NAME: ClassVar[str] = "probes.json"
    MADE_BY: ClassVar[str] = "probe"

    split: str
    n: int
    patients: int
    classes: tuple[str, ...]
    bootstrap: BootstrapFacts
    shortcuts: tuple[Shortcut, ...]
    leaks: tuple[Leak, ...]
    sentences: tuple[str, ...]
    asked: tuple[str, ...] = ()
    tiles: int | None = None
    views: dict[str, ViewProbe]
    metadata: Alone
    not_tested: tuple[str, ...]

    def models(self) -> Iterator[tuple[str, str | None, Alone]]:
        """Every model of something alone: of what (such as ``area of the lesion``), view, and model."""
        yield "metadata", None, self.metadata
        for view, own in self.views.items():
            yield "background", view, own.background
            for kind, aspects in own.masks.items():
                for aspect, told in aspects.items():
                    yield f"{aspect} of the {kind}", view, told
