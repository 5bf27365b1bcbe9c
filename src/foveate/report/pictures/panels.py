"""The pictures of one view of a case: the image alone, and each class's heat map over it.

Of a volume, single slices are shown: where the map of a class is highest, and, if that is another, the slice
with most of the marked lesion, so that a reader sees what the model looked at and what it should have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from foveate.maps.heatmaps import CaseMaps, MapEntry
from foveate.report.pictures.overlays import Legend, Picture, gradient, outline, overlay_uri
from foveate.types import Box

Found = Mapping[tuple[str, str, str], tuple[Box, ...]]
NO_MAP = "no heat map was made for this class"


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a case.

    Attributes:
        title: what it shows.
        drawing: inline SVG, or None where there is nothing to show.
        legend: what the colours stand for; None where the panel is about no heat map.
        why: why there is nothing to show.
        gap: of integrated gradients, by how much the maps of all views miss the score; else None.
    """

    title: str
    drawing: Markup | None
    legend: Legend | None = None
    why: str = NO_MAP
    gap: float | None = None

    @property
    def bar(self) -> str:
        """CSS of the legend's colour bar."""
        return gradient(self.legend) if self.legend else ""


class PanelMaker:
    """Draws the panels of a page.

    Args:
        found: boxes found, by case, view and target.
    """

    def __init__(self, found: Found) -> None:
        self._found = found
        self._numbers = count(1)

    def panels(
        self, entry: MapEntry, maps: CaseMaps, names: Sequence[str], *, several: bool
    ) -> Iterator[Panel]:
        """The picture alone, then each class's heat map over it.

        Args:
            entry: of the index.
            maps: stored for it, of a plane ``(T, H, W)`` or a volume ``(T, D, H, W)``.
            names: classes to show.
            several: whether the case has several views, so that the view is named.
        """
        slices = Slices(maps, next(self._numbers), names)
        where = f"{entry.view} of case {entry.case_id}" if several else f"case {entry.case_id}"
        title = entry.view if several else "Picture"
        first = slices.of(names[0])[0] if slices.lesion is None else slices.lesion
        words = slices.in_words(first)
        yield Panel(title + words, slices.draw(first, names, label=f"{where}, without heat map{words}"))
        for name in names:
            yield from self._evidence(entry, maps, name, slices)

    def _evidence(self, entry: MapEntry, maps: CaseMaps, name: str, slices: Slices) -> Iterator[Panel]:
        title = f"Evidence for {name}"
        if name not in maps.targets:
            yield Panel(title, None)
            return
        values = maps.values[maps.targets.index(name)]
        legend = Legend.of(values)
        gaps = dict(zip(entry.targets, entry.completeness_gap, strict=False))
        boxes = self._found.get((entry.case_id, entry.view, name), ())
        for at in slices.of(name):
            words = slices.in_words(at)
            label = f"{title} in case {entry.case_id}{words}" + (" (empty)" if legend.empty else "")
            overlay = "" if legend.empty else overlay_uri(values if at is None else values[at], legend)
            drawing = slices.draw(at, [name], label=label, overlay=overlay, found=boxes)
            yield Panel(title + words, drawing, legend, gap=gaps.get(name))


class Slices:
    """The slices of one view that are worth showing; a plane is one, without a number.

    Args:
        maps: of the view.
        number: of the view in the page.
        names: classes shown, whose boxes decide where the lesion is if there is no mask.

    Attributes:
        lesion: the slice with most of the lesion; None for a plane, and where nothing is marked.
    """

    def __init__(self, maps: CaseMaps, number: int, names: Sequence[str]) -> None:
        self._maps, self._number = maps, number
        self._volume = maps.values.ndim == 4
        self._drawn: dict[int | None, Picture] = {}
        self._boxes = () if maps.truth is not None else maps.boxes
        self.lesion = self._lesion(names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of every map of the view, in original pixels."""
        return self._maps.values.shape[1:]

    def of(self, name: str) -> list[int | None]:
        """Where the map of a class is highest, then where most of the lesion is."""
        return self.with_lesion(self._highest(name) if self._volume else None)

    def with_lesion(self, chosen: int | None) -> list[int | None]:
        """A chosen slice, then where most of the lesion is; of neither the middle, and None for a plane."""
        if not self._volume:
            return [None]
        known = [at for at in (chosen, self.lesion) if at is not None]
        return list(dict.fromkeys(known)) or [self._maps.values.shape[1] // 2]

    def in_words(self, at: int | None) -> str:
        """``, slice 3 of 0–7`` and why, or nothing for a plane."""
        if at is None:
            return ""
        return f", slice {at} of 0–{self._maps.values.shape[1] - 1}" + (
            " (lesion)" if at == self.lesion else ""
        )

    def draw(
        self,
        at: int | None,
        names: Sequence[str],
        *,
        label: str,
        overlay: str = "",
        found: Sequence[Box] = (),
    ) -> Markup:
        """One slice, with the lesion outlined, or its boxes for these classes where there is no mask."""
        truth = self._maps.truth
        drawn = truth if truth is None or at is None else truth[at]
        own = [box for box in self._boxes if box.label in ("", *names)]
        return self._picture(at).svg(
            overlay=overlay,
            truth="" if drawn is None else outline(drawn),
            true_boxes=_crossing(own, at),
            boxes=_crossing(found, at),
            label=label,
        )

    def _picture(self, at: int | None) -> Picture:
        if at not in self._drawn:
            name = f"picture-{self._number}" + ("" if at is None else f"-{at}")
            pixels = self._maps.picture if at is None else self._maps.picture[at]
            self._drawn[at] = Picture(name, self._maps.values.shape[-2:], pixels)
        return self._drawn[at]

    def _highest(self, name: str) -> int | None:
        """The slice that holds the strongest evidence, or None if nothing speaks for the class."""
        if name not in self._maps.targets:
            return None
        peaks = np.nan_to_num(self._maps.values[self._maps.targets.index(name)]).max(axis=(1, 2))
        return int(peaks.argmax()) if peaks.max() > 0 else None

    def _lesion(self, names: Sequence[str]) -> int | None:
        """The slice with most of the lesion, or the middle of its largest box."""
        if not self._volume:
            return None
        if self._maps.truth is not None and self._maps.truth.any():
            area: NDArray[np.intp] = self._maps.truth.sum(axis=(1, 2))
            widest = np.flatnonzero(area == area.max())
            return int(widest[len(widest) // 2])
        own = [box for box in self._boxes if box.label in ("", *names)]
        if not own:
            return None
        largest = max(own, key=lambda box: box.xywh[2] * box.xywh[3])
        middle = int((largest.start[0] + largest.stop[0]) / 2)
        return int(min(max(middle, 0), self._maps.values.shape[1] - 1))


def _crossing(boxes: Sequence[Box], at: int | None) -> list[Box]:
    """Boxes that hold the centre of a slice, cut down to it; all of them for a plane."""
    if at is None:
        return list(boxes)
    return [
        replace(box, start=box.start[-2:], stop=box.stop[-2:])
        for box in boxes
        if len(box.start) == 3 and box.start[0] <= at + 0.5 < box.stop[0]
    ]
