"""What the audit's checks work on: the images as numbers, the groups of copies, and the parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate.data.audit.looks import Looks, look_at_all
from foveate.data.audit.similarity import find_twins, groups_of
from foveate.evaluate.results.splits import Splits
from foveate.study.settings import PreprocessConfig
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
        preprocess: what a study makes of the images; None where there is no study.
    """

    cohort: Cohort
    looks: Looks
    copies: Sequence[Group]
    twins: Sequence[Group]
    thresholds: Mapping[str, float]
    folds: Sequence[Mapping[str, str]]
    preprocess: PreprocessConfig | None = None

    def cases(self, group: Iterable[int]) -> list[Case]:
        """The cases at these positions."""
        return [self.cohort.cases[index] for index in group]

    def ids(self, group: Iterable[int]) -> tuple[str, ...]:
        """The ids of the cases at these positions."""
        return tuple(case.case_id for case in self.cases(group))


def gather(
    cohort: Cohort, splits: Splits | None, track: Track, preprocess: PreprocessConfig | None = None
) -> Evidence:
    """Look at every image and mask, and find the copies.

    Args:
        cohort: the cases.
        splits: the parts, or None for those of the manifest.
        track: shows progress.
        preprocess: of the study, if there is one.
    """
    looks = look_at_all(cohort.cases, track, masks=preprocess.mask_grid if preprocess else "same")
    patients = np.unique([case.patient_id for case in cohort.cases], return_inverse=True)[1]
    exact, near, thresholds = [_NO_LINKS], [_NO_LINKS], {}
    for view in cohort.view_names:
        pictures = looks.pictures.get(view)
        if pictures is not None and len(pictures.cases):
            files = np.array([looks.files[index, view] for index in pictures.cases.tolist()])
            found = find_twins(pictures.spectra, patients[pictures.cases], files, track)
            exact.append(pictures.copies)
            near.append(pictures.cases[found.links])
            thresholds[view] = found.threshold
    count = len(cohort.cases)
    copies, twins = (groups_of(np.concatenate(links), count) for links in (exact, [*exact, *near]))
    folds = _folds(cohort, splits)
    return Evidence(cohort, looks, _as_groups(copies), _as_groups(twins), thresholds, folds, preprocess)


_NO_LINKS = np.empty((0, 2), dtype=np.int64)


def _as_groups(found: Iterable[NDArray[np.int64]]) -> list[Group]:
    """Groups as plain numbers, in the order of their first case."""
    return sorted(tuple(int(index) for index in group) for group in found)


def _folds(cohort: Cohort, splits: Splits | None) -> tuple[Mapping[str, str], ...]:
    if splits is not None:
        return splits.folds
    own = {case.case_id: case.split for case in cohort.cases if case.split}
    return (own,) if own else ()
