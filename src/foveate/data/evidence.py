"""What the audit's checks work on: the images as numbers, the groups of copies, and the parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate.data.looks import Looks, look_at_all
from foveate.data.similarity import find_twins, groups_of
from foveate.data.splits import Splits
from foveate.types import Case, Cohort, Track

Group = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the checks may ask.

    Attributes:
        cohort: the cases; groups hold positions in it.
        looks: the images.
        copies: groups of cases that show exactly the same pixels.
        twins: groups of cases whose images are copies, exact or near.
        thresholds: by view, the correlation from which on images counted as near copies.
        folds: part of each case, one mapping per fold; empty if there are no parts.
    """

    cohort: Cohort
    looks: Looks
    copies: Sequence[Group]
    twins: Sequence[Group]
    thresholds: Mapping[str, float]
    folds: Sequence[Mapping[str, str]]

    def cases(self, group: Iterable[int]) -> list[Case]:
        """The cases at these positions."""
        return [self.cohort.cases[index] for index in group]

    def ids(self, group: Iterable[int]) -> tuple[str, ...]:
        """The ids of the cases at these positions."""
        return tuple(case.case_id for case in self.cases(group))


def gather(cohort: Cohort, splits: Splits | None, track: Track) -> Evidence:
    """Look at every image and find the copies.

    Args:
        cohort: the cases.
        splits: the parts, or None for those of the manifest.
        track: shows progress.
    """
    looks = look_at_all(cohort.cases, track)
    patients = np.unique([case.patient_id for case in cohort.cases], return_inverse=True)[1]
    exact, near, thresholds = [_NO_LINKS], [_NO_LINKS], {}
    for view in cohort.view_names:
        spectra = _spectra(looks, view)
        same, distinct = _same_pixels(looks, list(spectra), view)
        exact.append(same)
        if distinct:
            files = np.array([looks.files[index, view] for index in distinct])
            found = find_twins(np.stack([spectra[index] for index in distinct]), patients[distinct], files)
            near.append(np.array(distinct)[found.links])
            thresholds[view] = found.threshold
    count = len(cohort.cases)
    copies, twins = (groups_of(np.concatenate(links), count) for links in (exact, [*exact, *near]))
    return Evidence(cohort, looks, _as_groups(copies), _as_groups(twins), thresholds, _folds(cohort, splits))


_NO_LINKS = np.empty((0, 2), dtype=np.int64)


def _spectra(looks: Looks, view: str) -> dict[int, NDArray[np.float32]]:
    """The spectrum of each case's image, in the order of the cases; flat images have none."""
    keys = sorted(key for key in looks.seen if key[1] == view)
    found = {index: looks.seen[index, view].spectrum for index, _ in keys}
    return {index: values for index, values in found.items() if values is not None}


def _same_pixels(looks: Looks, seen: Sequence[int], view: str) -> tuple[NDArray[np.int64], list[int]]:
    """Links between cases with the same pixels, and the first case of each picture."""
    pictures: dict[str, list[int]] = defaultdict(list)
    for index in seen:
        pictures[looks.seen[index, view].digest].append(index)
    links = [(same[0], other) for same in pictures.values() for other in same[1:]]
    return np.array(links, dtype=np.int64).reshape(-1, 2), [same[0] for same in pictures.values()]


def _as_groups(found: Iterable[NDArray[np.int64]]) -> list[Group]:
    """Groups as plain numbers, in the order of their first case."""
    return sorted(tuple(int(index) for index in group) for group in found)


def _folds(cohort: Cohort, splits: Splits | None) -> tuple[Mapping[str, str], ...]:
    if splits is not None:
        return splits.folds
    own = {case.case_id: case.split for case in cohort.cases if case.split}
    return (own,) if own else ()
