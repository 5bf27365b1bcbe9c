"""The questions of a probe: which regions are asked about, what came of it, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from foveate.evaluate.comparing.hypothesis import holm
from foveate.evaluate.intervals import Bootstrap, Floats, Value
from foveate.evaluate.results.probes import Exchange, RegionFigures, WholeRegion
from foveate.stations.shortcuts.exchange import (
    Donors,
    Effect,
    ExchangedRegion,
    choose_donors,
    measure,
    screen,
    tile_region,
)
from foveate.stations.shortcuts.material import (
    Places,
    ProbeMaterial,
    boxes_in_field,
    find_places,
    image_fields,
)
from foveate.stations.shortcuts.regions import (
    Tiles,
    clear_frame,
    outside_organ,
    strokes,
    suspects,
    with_content,
)
from foveate.types import Box, Track

CANDIDATES = 8  # tiles that validation cases send on to the test
SMALLEST = 0.02  # AUROC; an effect below it is not worth a warning, however certain
ALPHA = 0.05
FEWEST_TO_SCREEN = 10  # validation cases
STROKES_COMMON = 0.05  # share of cases with strokes from which on they are asked about


@dataclass(frozen=True, eq=False)
class AskedView:
    """One view of the cases that are asked.

    Attributes:
        name: of the view.
        cases: those that have it.
        tiles: the grid.
        places: organ, truth and field of the cases.
        original: ``(N, K)`` logits.
        donors: for the exchange.
        moved: ``(rows, columns, K)`` by how much tiles move the answers, see ``screen``.
        suspect: ``(rows, columns)`` tiles with content in which nothing of the disease should be.
        content: ``(rows, columns)`` tiles that show something: neither padding nor a plain area.
        seed: of the donors.
        screened_on: part whose cases gave ``moved``: ``val``, or ``test`` where validation has too few.
    """

    name: str
    cases: ProbeMaterial
    tiles: Tiles
    places: Places
    original: Floats
    donors: Donors
    moved: Floats
    suspect: NDArray[np.bool_]
    content: NDArray[np.bool_]
    seed: int
    screened_on: str


@dataclass(frozen=True, eq=False)
class ProbeQuestion:
    """A region that is asked about.

    Attributes:
        view: where.
        region: which.
        label: the class that is asked about; None: all classes together.
        removed: whether a region of all classes is also taken out.
    """

    view: AskedView
    region: ExchangedRegion
    label: str | None = None
    removed: bool = True


@dataclass(frozen=True, eq=False)
class Test:
    """A question with its answer.

    Attributes:
        question: what was asked.
        effect: what came of it.
        p: of the effect, corrected for all that was asked.
        merged: whether this is several tests put together, and not a question of its own.
    """

    question: ProbeQuestion
    effect: Effect
    p: float = float("nan")
    merged: bool = False

    @property
    def view(self) -> AskedView:
        """Where it was asked."""
        return self.question.view

    @property
    def region(self) -> ExchangedRegion:
        """What was asked about."""
        return self.question.region

    @property
    def label(self) -> str | None:
        """The class that was asked about."""
        return self.question.label

    @property
    def whole(self) -> bool:
        """Whether the region was taken out as well."""
        return "removal" in self.effect.values

    @property
    def values(self) -> Mapping[str, Value]:
        """The figures of the class that was asked about, or of all."""
        return self.effect.values if self.label is None else self.effect.by_class[self.label]

    @property
    def found(self) -> bool:
        """Whether the region is shown to tell the model something, and not next to nothing."""
        return self.p < ALPHA and (self.values["effect"].value or 0.0) >= SMALLEST

    @property
    def strongest(self) -> str:
        """The class that was asked about, or the one that the region tells most of."""
        effects = {name: own["effect"].value or 0.0 for name, own in self.effect.by_class.items()}
        return self.label or max(effects, key=lambda name: effects[name])

    def exchange(self) -> Exchange:
        """As ``probes.json`` lists what was tested."""
        values = self.values
        return Exchange(
            name=self.region.name,
            box=self.region.box,
            label=self.label,
            original=values["original"],
            same=values["same"],
            other=values["other"],
            effect=values["effect"],
            p=_finite(self.effect.p[self.label or ""]),
            p_corrected=_finite(self.p),
            found=self.found,
        )

    def whole_region(self) -> WholeRegion:
        """As ``probes.json`` lists regions: exchange, removal and pasting, for all classes and for each."""
        return WholeRegion(
            name=self.region.name,
            box=self.region.box,
            label=self.label,
            all=RegionFigures(**self.effect.values),
            by_class={name: RegionFigures(**own) for name, own in self.effect.by_class.items()},
        )


def ask_view(
    parts: Mapping[str, ProbeMaterial], name: str, count: int, seed: int, track: Track
) -> AskedView | None:
    """Screen the tiles of a view, on validation cases if there are enough.

    Args:
        parts: ``test``, and ``val`` if there is one.
        name: of the view.
        count: tiles along the longer side.
        seed: of the donors.
        track: shows progress.

    Returns:
        The view, or None where fewer than two patients have it.
    """
    cases = parts["test"].part(parts["test"].with_view(name))
    if len(set(cases.patients)) < 2:
        return None
    tiles = Tiles.over(cases.bundle.preprocess.config.size, count)
    val = parts["val"].part(parts["val"].with_view(name)) if "val" in parts else None
    enough = val is not None and len(val.items) >= FEWEST_TO_SCREEN
    screened = val if val is not None and enough else cases
    donors = choose_donors(screened.truth, screened.patients, seed=seed)
    places = find_places(cases, name)
    content = with_content(tiles, places, cases.views[name])
    field = image_fields(screened, name)
    return AskedView(
        name=name,
        cases=cases,
        tiles=tiles,
        places=places,
        original=cases.logits(),
        donors=choose_donors(cases.truth, cases.patients, seed=seed),
        moved=screen(screened, name, tiles, screened.logits(), donors, track, field=field),
        suspect=suspects(tiles, places) & content,
        content=content,
        seed=seed,
        screened_on="val" if enough else "test",
    )


def candidates(views: Sequence[AskedView]) -> list[ProbeQuestion]:
    """The suspect tiles that moved the answers most, each with the class that it moved most."""
    found: list[tuple[float, ProbeQuestion]] = []
    for view in views:
        for place in view.tiles.places:
            best = int(view.moved[place].argmax())
            moved, truth = float(view.moved[place][best]), set(view.cases.truth[:, best])
            if view.suspect[place] and moved > 0 and {0.0, 1.0} <= truth:
                region = tile_region(view.name, view.tiles, view.places.field, place)
                found.append((moved, ProbeQuestion(view, region, view.cases.bundle.classes[best])))
    found.sort(key=lambda item: -item[0])
    return [question for _, question in found[:CANDIDATES]]


def whole_regions(
    views: Sequence[AskedView], named: Mapping[str, Mapping[str, Sequence[Box]]], not_tested: list[str]
) -> Iterator[ProbeQuestion]:
    """Border, outside of the organ, strokes, and what the user named, in each view.

    Args:
        views: where.
        named: boxes of the user's regions, by region and case.
        not_tested: what is not there to be asked about is added here, with the reason.
    """
    for view in views:
        edge, outside = clear_frame(view.tiles, view.places), outside_organ(view.places)
        marks = strokes(view.cases.views[view.name], edge)
        share = float(marks.flatten(1).any(dim=1).float().mean())
        regions = [ExchangedRegion("border", view.name, edge, take="both")]
        if outside is not None:
            regions.append(ExchangedRegion("outside-organ", view.name, outside, take="both"))
        if share >= STROKES_COMMON:
            regions.append(ExchangedRegion("strokes", view.name, marks, take="either"))
        else:
            not_tested.append(
                f"{view.name}: strokes at the border, which {100 * share:.0f} % of the cases have"
            )
        for name, boxes in named.items():
            mask = boxes_in_field(view.cases, view.name, boxes)
            regions.append(ExchangedRegion(name, view.name, mask, take="either"))
        for region in regions:
            if region.mask.any():
                yield ProbeQuestion(view, region)
            else:
                not_tested.append(f"{view.name}: {region.name}, as there is none in these cases")


def correct(tests: Sequence[Test], screened: int) -> list[Test]:
    """Correct the p-values for the number of questions (Holm 1979).

    Args:
        tests: all that was asked.
        screened: tiles that the same cases were screened with, if they were: each counts as a question.
    """
    raw = [test.effect.p[test.label or ""] for test in tests]
    asked = [p for p in raw if not np.isnan(p)]
    padded = [*asked, *[1.0] * max(screened - len(asked), 0)]
    held = iter(holm(np.array(padded)))
    return [
        replace(test, p=p if np.isnan(p) else float(next(held))) for test, p in zip(tests, raw, strict=True)
    ]


def merge_tiles(tests: Sequence[Test], bootstrap: Bootstrap) -> Iterator[Test]:
    """Tiles that were found, side by side and about one class, as one region that is also taken out."""
    tiles = [test for test in tests if test.label is not None and test.found]
    for view, label in {(id(test.view), test.label): (test.view, test.label) for test in tiles}.values():
        own = {_place(test): test for test in tiles if test.view is view and test.label == label}
        grid = np.zeros(view.tiles.shape, dtype=bool)
        grid[tuple(np.array(list(own)).T)] = True
        parts, count = ndimage.label(grid, structure=np.ones((3, 3)))
        for number in range(1, count + 1):
            places = [place for place in own if parts[place] == number]
            region = replace(tile_region(view.name, view.tiles, view.places.field, *places), name="tiles")
            effect = measure(view.cases, region, view.original, view.donors, bootstrap, remove=True)
            surest = min(own[place].p for place in places)
            yield Test(ProbeQuestion(view, region, label), effect, surest, merged=True)


def _place(test: Test) -> tuple[int, int]:
    """Row and column of the tile that was asked about."""
    mask = test.region.mask
    covered = test.view.tiles.covered(mask if mask.ndim > 2 else mask[None]).mean(axis=0)
    row, column = np.unravel_index(int(covered.argmax()), covered.shape)
    return int(row), int(column)


def _finite(p: float) -> float | None:
    return None if np.isnan(p) else p
