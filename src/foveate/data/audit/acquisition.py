"""What images of one view have in common, and what not: how they lie, units, sides, readers' codes, masks.

A model that is shown several orientations or units as one learns from noise where it is lucky, and from the
hospital where it is not. Notes say how many images are what; what the study's own preprocessing cannot put
right stops the run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from foveate.data.audit.findings import single, some, truth_of
from foveate.data.audit.gathered import Evidence
from foveate.data.audit.looks import Look, MaskLook
from foveate.evaluate.results.audit import Finding
from foveate.evaluate.sample import counted
from foveate.io.codes import in_words

UNEVEN = 1.5
"""Times that the largest spacing of a view may be the smallest one before that is noted."""

_AXES = "SIAPLR"
_MOST_CLASSES = 8  # by which a message tells how many images of each are concerned
_FACTS = {"laterality": "mixed-laterality", "view position": "mixed-view-position"}


def mixed_orientations(evidence: Evidence) -> Iterator[Finding]:
    """Images of one view whose axes lead in different directions; a stop where nothing turns them."""
    for view, looks in _views(evidence):
        told = {index: orientation_of(look) for index, look in looks.items()}
        kinds = Counter(text for text in told.values() if text)
        unknown = [index for index, text in told.items() if not text]
        if len(kinds) > 1:
            turned = evidence.preprocess is not None and evidence.preprocess.orientation != "none"
            after = "they are turned to one" if turned else "nothing turns them: see preprocess.orientation"
            message = (
                f"{view}: columns, rows and slices grow in different directions: {_counts(kinds)}; {after}"
            )
            odd = [index for index, text in told.items() if text and text != kinds.most_common(1)[0][0]]
            yield single("mixed-orientation", message, evidence, odd, stop=not turned)
        if kinds and unknown:
            message = (
                f"{view}: {len(unknown)} of {counted(len(looks), 'image')} do not say how they lie in the "
                f"patient, and the others do: {some(evidence.ids(unknown))}"
            )
            yield single("without-orientation", message, evidence, unknown)


def mixed_planes(evidence: Evidence) -> Iterator[Finding]:
    """Pictures that are slices of volumes, cut in different planes."""
    for view, looks in _views(evidence):
        flat = {index: look.plane for index, look in looks.items() if len(look.shape) == 2 and look.plane}
        kinds = Counter(flat.values())
        if len(kinds) > 1:
            odd = [index for index, plane in flat.items() if plane != kinds.most_common(1)[0][0]]
            message = f"{view}: slices of different planes: {_counts(kinds)}"
            yield single("mixed-plane", message, evidence, odd)


def mixed_spacings(evidence: Evidence) -> Iterator[Finding]:
    """Voxels of very different size in one view."""
    for view, looks in _views(evidence):
        known = {index: _steps(look) for index, look in looks.items() if look.spacing}
        for axes in sorted({len(spacing) for spacing in known.values()}):
            cases = [index for index, spacing in known.items() if len(spacing) == axes]
            steps = np.array([known[index] for index in cases])
            low, high = steps.min(axis=0), steps.max(axis=0)
            uneven = high > UNEVEN * low
            if uneven.any():
                ranges = zip("zyx"[-axes:], low, high, uneven, strict=True)
                told = ", ".join(f"{axis} {a:.3g} to {b:.3g} mm" for axis, a, b, differs in ranges if differs)
                ratios = np.abs(np.log(steps / np.median(steps, axis=0)))[:, uneven]
                away = ratios.max(axis=1) > np.log(UNEVEN)
                odd = [index for index, is_odd in zip(cases, away, strict=True) if is_odd]
                yield single("mixed-spacing", f"{view}: spacings differ: {told}", evidence, odd or cases)


def mixed_units(evidence: Evidence) -> Iterator[Finding]:
    """Hounsfield units beside other values in one view; a stop where one window is laid over both."""
    for view, looks in _views(evidence):
        kinds = Counter(look.unit for look in looks.values())
        if len(kinds) > 1:
            others = [index for index, look in looks.items() if look.unit != "HU"]
            message = (
                f"{view}: {kinds['HU']} images are in Hounsfield units and {len(others)} are not: "
                f"{_who(evidence, others)}"
            )
            settings = evidence.preprocess.for_view(view) if evidence.preprocess is not None else None
            window = settings.window if settings is not None else None
            if window is not None:
                message += f"; preprocess.window {list(window)} means another thing in each"
            yield single("mixed-unit", message, evidence, others, stop=window is not None)


def mixed_facts(evidence: Evidence) -> Iterator[Finding]:
    """Sides of the body and view positions, as DICOM headers tell them."""
    for view, looks in _views(evidence):
        for name, code in _FACTS.items():
            told = {index: look.facts.get(name, "unknown") for index, look in looks.items()}
            kinds = Counter(told.values())
            if len(kinds) > 1:
                odd = [index for index, text in told.items() if text != kinds.most_common(1)[0][0]]
                yield single(code, f"{view}: {name}: {_counts(kinds)}", evidence, odd)


def reader_warnings(evidence: Evidence) -> Iterator[Finding]:
    """What readers noticed in images and masks and tolerated, a finding for each code and column."""
    cases: dict[tuple[str, str], list[int]] = defaultdict(list)
    files: Counter[str] = Counter()
    for (index, view), look in evidence.looks.seen.items():
        files[view] += 1
        for code in look.warnings:
            cases[code, view].append(index)
    for (index, column), mask in evidence.looks.masks.items():
        files[column] += 1
        for code in mask.warnings:
            cases[code, column].append(index)
    for (code, column), indices in sorted(cases.items()):
        message = (
            f"{code}: {in_words(code)}: {len(indices)} of {counted(files[column], 'file')} ({column}): "
            f"{_who(evidence, indices)}"
        )
        yield single("reader-warning", message, evidence, indices)


_LAID = {
    "turned": ("mask-turned", "have other axes than their image and were turned to it"),
    "resampled": ("mask-resampled", "lie on another grid than their image; the nearest voxel was taken"),
    "by-array": ("mask-by-array", "were laid on by array, since mask or image does not say where it lies"),
}


def misplaced_masks(evidence: Evidence) -> Iterator[Finding]:
    """Masks that cannot be read, or that lie elsewhere than their image."""
    for column, masks in _masks(evidence):
        refused = {index: mask.refused for index, mask in masks.items() if mask.refused is not None}
        if refused:
            cases = evidence.cohort.cases
            reasons = (f"{cases[index].case_id}: {error.what}" for index, error in refused.items())
            message = f"{_of(refused, masks, column)} cannot be laid over their image: {some(reasons)}"
            yield single("refused-mask", message, evidence, refused)


def odd_masks(evidence: Evidence) -> Iterator[Finding]:
    """Masks that mark everything or nothing, and those that were turned, resampled or laid on by array."""
    for column, masks in _masks(evidence):
        laid = {index: mask for index, mask in masks.items() if mask.refused is None}
        kinds = {
            "full-mask": ("mark the whole image", [index for index, mask in laid.items() if mask.share == 1]),
            "empty-mask": ("mark nothing", [index for index, mask in laid.items() if mask.share == 0]),
        }
        for how, (code, what) in _LAID.items():
            kinds[code] = (what, [index for index, mask in laid.items() if mask.how == how])
        for code, (what, concerned) in kinds.items():
            if concerned:
                message = f"{_of(concerned, masks, column)} {what}: {_who(evidence, concerned)}"
                yield single(code, message, evidence, concerned)


CHECKS = (
    mixed_orientations,
    mixed_planes,
    mixed_spacings,
    mixed_units,
    mixed_facts,
    reader_warnings,
    misplaced_masks,
    odd_masks,
)


def orientation_of(look: Look) -> str:
    """Directions in which columns, rows (and slices) grow, such as ``LPS``; empty where that is not known."""
    return "".join(reversed(look.orientation or ()))


def _steps(look: Look) -> tuple[float, ...]:
    """Spacing along the patient's axes (up, to the back, to the side) of volumes that say how they lie."""
    spacing, letters = look.spacing or (), look.orientation or ()
    if len(letters) < 3 or len(spacing) < 3:
        return spacing
    return tuple(spacing[place] for place in sorted(range(3), key=lambda place: _AXES.index(letters[place])))


def _views(evidence: Evidence) -> Iterator[tuple[str, dict[int, Look]]]:
    """The images of each view by case."""
    for view in evidence.cohort.view_names:
        looks = {index: look for (index, name), look in evidence.looks.seen.items() if name == view}
        if looks:
            yield view, looks


def _counts(kinds: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in kinds.most_common())


def _masks(evidence: Evidence) -> Iterator[tuple[str, dict[int, MaskLook]]]:
    """The masks of each column by case."""
    looks = evidence.looks.masks
    for column in dict.fromkeys(column for _, column in looks):
        yield column, {index: mask for (index, name), mask in looks.items() if name == column}


def _of(concerned: Collection[int], masks: Mapping[int, MaskLook], column: str) -> str:
    return f"{len(concerned)} of {counted(len(masks), 'file')} ({column})"


def _who(evidence: Evidence, indices: Sequence[int]) -> str:
    """How many cases of each class are concerned, where there are few classes, and the first ids."""
    cohort, own = evidence.cohort, set(indices)
    told = some(evidence.ids(indices))
    if not 1 < len(cohort.classes) <= _MOST_CLASSES:
        return told
    parts = []
    for name in cohort.classes:
        having = [index for index, case in enumerate(cohort.cases) if truth_of(case, name) == 1]
        parts.append(f"{len(own.intersection(having))} of {len(having)} {name}")
    return f"{told} (by class {', '.join(parts)})"
