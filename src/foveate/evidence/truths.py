"""What is marked in the explained cases: true masks and boxes, beside the heat maps that should find them.

A manifest names one mask per case. It belongs to every view that has its pixels: of registered phases to all,
of a photograph and an ultrasound picture to the one that it was drawn on. Boxes lie in the pixels of the
case's first view, and belong to every view of that shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused
from foveate.evaluate.localization import CaseScore, control_maps, score_case
from foveate.heatmaps import CaseMaps, Entry, read_case
from foveate.io import read_image, read_mask
from foveate.localize import BoxRule, localize_heatmap
from foveate.regions import Region
from foveate.run import Run
from foveate.stations import VOLUMES
from foveate.types import Case

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Marked:
    """One explained class of one view of a case, with the truth of where it is.

    Attributes:
        entry: of the index.
        target: the true class.
        values: its heat map, in original pixels.
        truth: what is marked for it.
        organ: mask of the organ that the study crops to, or None.
    """

    entry: Entry
    target: str
    values: NDArray[np.float32]
    truth: Region
    organ: Mask | None

    def maps(self, seed: int) -> dict[str, NDArray[np.float32]]:
        """The heat map and the controls that it has to beat."""
        controls = control_maps(self.values.shape, organ=self.organ, seed=seed, case_id=self.entry.case_id)
        return {"heatmap": self.values, **controls}

    def score(self, method: str, values: NDArray[np.float32], rule: BoxRule) -> CaseScore:
        """Score the map of one method against the truth."""
        return score_case(
            values,
            localize_heatmap(values, rule, organ=self.organ),
            self.truth,
            organ=self.organ,
            case_id=self.entry.case_id,
            patient_id=self.entry.patient_id,
            label=self.target,
            method=method,
        )


class Truths:
    """Finds what is marked in the explained cases.

    Args:
        run: whose manifest names masks and boxes.
        folder: with the stored maps.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        cohort = run.cohort()
        self._cases = {case.case_id: case for case in cohort.cases}
        self._settings = run.study.preprocess
        self._folder = folder
        self._files = CaseFiles()

    def of(self, entry: Entry) -> Iterator[Marked]:
        """Every true class of a view that was explained and is marked in it."""
        stored, organ = self.stored(entry)
        true = [name for name in entry.truth_class.split(";") if name]
        for target, values in zip(stored.targets, stored.values, strict=True):
            if target not in true:
                continue
            own = [box for box in stored.boxes if box.label in (target, "")]
            if stored.truth is not None and len(true) == 1:  # a mask does not say of which finding it is
                yield Marked(entry, target, values, Region.from_mask(stored.truth, target), organ)
            elif own:
                yield Marked(entry, target, values, Region.from_boxes(own, values.shape), organ)

    def stored(self, entry: Entry) -> tuple[CaseMaps, Mask | None]:
        """The stored maps of a view, and its organ mask if the study crops to the organ."""
        stored, case = read_case(self._folder / entry.file), self._cases[entry.case_id]
        organ = case.organ_mask if self._settings.for_view(entry.view).organ_crop else None
        return stored, self._files.mask(organ, case, stored.values.shape[1:])


class CaseFiles:
    """Reads images and masks, remembering the last ones: the slices of a volume come one after the other."""

    def __init__(self) -> None:
        self.image = lru_cache(VOLUMES)(read_image)
        self._mask = lru_cache(VOLUMES)(read_mask)

    def mask(self, path: Path | None, case: Case, shape: tuple[int, ...]) -> Mask | None:
        """A mask in the pixels of one view of a case.

        Args:
            path: of the mask, a plane or a volume; None where there is none.
            case: says which slice, if the case is one of a volume.
            shape: spatial shape of the view, ``(H, W)`` or ``(D, H, W)``.

        Returns:
            The mask, or None if there is none, nothing is marked, or it is that of another view.

        Raises:
            InputRefused: the case has this one view, and the mask has other pixels.
        """
        if path is None:
            return None
        found = self._mask(path)
        own = found[case.slice_index] if found.ndim > len(shape) and case.slice_index is not None else found
        if own.shape != shape and len(case.views) > 1:
            return None
        if own.shape != shape:
            raise InputRefused(
                f"the mask has shape {own.shape}, its image {shape}",
                where=str(path),
                fix="give masks with the pixels of their images",
                code="mask-shape",
            )
        return own if own.any() else None
