"""The nouns of the product, in NumPy only: Geometry, Image, Box, Case, Prediction, Heatmap.

Conventions used everywhere:

* Pixel arrays are channel-first: ``(C, H, W)`` for 2-D, ``(C, D, H, W)`` for 3-D, with C = 1 or 3.
* Positions are array indices, 0-based, in array order ``(y, x)`` or ``(z, y, x)``; a box holds the
  half-open range ``start <= index < stop``.
* Lengths are millimetres; ``None`` means that the file does not say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Task = Literal["multiclass", "multilabel"]
Item = TypeVar("Item")


class Track(Protocol):
    """Wraps a sequence so that going through it shows progress; the command line passes Rich bars."""

    def __call__(self, items: Sequence[Item], what: str) -> Iterable[Item]:
        """Yield every item; ``what`` names the work for the reader."""


def quiet(items: Sequence[Item], what: str) -> Iterable[Item]:
    """Show nothing (the default ``Track``)."""
    return items


class Steps:
    """Counts steps that no list stands for, such as cases within batches, with a ``Track``.

    Args:
        track: shows progress.
        total: how many steps there are.
        what: they do.
    """

    def __init__(self, track: Track, total: int, what: str) -> None:
        self._left = iter(track(range(total), what))
        next(self._left, None)

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        for _ in range(count):
            next(self._left, None)


@dataclass(frozen=True, slots=True)
class Geometry:
    """How array indices map to millimetres.

    Attributes:
        shape: spatial shape in array order, ``(H, W)`` or ``(D, H, W)``.
        spacing: millimetres per step along each array axis, or None if the file does not say.
        affine: ``(4, 4)`` matrix from array index ``(i, j, k, 1)``, in array order, to millimetres
            in RAS+ (x to the right, y to the front, z up); a single slice is index ``(0, y, x, 1)``. None
            for images without a patient frame.
        orientation: anatomical direction in which each array axis grows, such as ``("S", "P", "L")``
            for a volume whose slices go up; None if unknown.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    affine: Array | None = None
    orientation: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """One file or series, decoded.

    Attributes:
        pixels: ``(C, H, W)`` or ``(C, D, H, W)``, in the file's own precision (uint8, uint16, int16,
            float32, …), never display-windowed. Grey images have C = 1, colour C = 3 (R, G, B).
        geometry: spacing, affine and orientation of the pixels.
        source: path as the user gave it (a folder for a series).
        sha256: hash of the bytes of the file; for a series, over the hashes of its files in slice order.
        unit: ``"HU"`` for CT after rescaling, else ``"stored"`` (arbitrary units).
        value_range: lowest and highest value the encoding can hold (``(0, 255)`` for 8-bit), or None
            where values are physical or unbounded.
        warnings: codes of what was noticed and tolerated, such as ``"alpha-dropped"``.
        facts: what a DICOM header says of how it was taken, by name: ``laterality``, ``view position``.
        padding_share: of the pixels, those that the scanner marked as outside its field of view; they hold
            the lowest value of the others, and take no part in percentiles.
    """

    pixels: Array
    geometry: Geometry
    source: str
    sha256: str
    unit: Literal["HU", "stored"] = "stored"
    value_range: tuple[float, float] | None = None
    warnings: tuple[str, ...] = ()
    padding_share: float = 0.0
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Number of channels, 1 or 3."""
        return int(self.pixels.shape[0])

    @property
    def dimensions(self) -> int:
        """2 for ``(C, H, W)``, 3 for ``(C, D, H, W)``."""
        return self.pixels.ndim - 1


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned bounding box in the pixels of the original image.

    Attributes:
        start: first index along each axis, array order ``(y, x)`` or ``(z, y, x)``; may be fractional.
        stop: one past the last index along each axis.
        label: the class or finding it encloses.
        score: confidence where a method gave one, else NaN.
    """

    start: tuple[float, ...]
    stop: tuple[float, ...]
    label: str = ""
    score: float = float("nan")

    @property
    def xywh(self) -> tuple[float, float, float, float]:
        """Left, top, width, height in pixels (the last two axes)."""
        (top, left), (bottom, right) = self.start[-2:], self.stop[-2:]
        return left, top, right - left, bottom - top


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to be classified.

    Attributes:
        case_id: unique within the cohort.
        patient_id: cases of one patient never part.
        views: path of each view by name; a missing view is absent.
        label: the class, for multi-class cohorts; None where unlabelled.
        findings: 1 present, 0 absent, None unknown, by finding, for multi-label cohorts.
        mask: file whose non-zero pixels are the truth for localization.
        organ_mask: file whose non-zero pixels are the organ to crop to.
        mask_segment, organ_mask_segment: which of several things those files mark, see ``io.read_mask``.
        boxes: true boxes, in original pixels.
        slice_index: 0-based position along the first axis of a volume, if the case is one slice of it.
        split: the part that the manifest itself assigns, if any.
        row: row of the manifest, counted as an editor counts lines (the header is 1).
        metadata: every other column, as text.
    """

    case_id: str
    patient_id: str
    views: Mapping[str, Path]
    label: str | None = None
    findings: Mapping[str, int | None] = field(default_factory=dict)
    mask: Path | None = None
    organ_mask: Path | None = None
    boxes: tuple[Box, ...] = ()
    slice_index: int | None = None
    split: str | None = None
    row: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    mask_segment: str = ""
    organ_mask_segment: str = ""


@dataclass(frozen=True, slots=True)
class TableReading:
    """What a manifest was taken for.

    Attributes:
        case, patient: columns that name them; empty where the image does, or every case is a patient.
        label: column of the class, or the columns that make it; empty for findings.
        metadata: columns that are neither.
        known: the columns ``mask``, ``organ_mask``, ``slice`` and ``split``, as far as they are there.
        aside: columns among the metadata that look like findings, with the reason why they are none.
        notes: what was understood by a rule rather than as it stands there.
        sizes: median shape of each view, ``(H, W)``, or ``(D, H, W)`` after turning to ``LPS``.
    """

    case: str = ""
    patient: str = ""
    label: str = ""
    metadata: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    aside: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cohort:
    """All cases of a manifest, with what they share.

    Attributes:
        cases: in the manifest's order.
        task: ``multiclass`` (exactly one class a case) or ``multilabel`` (any number of findings).
        classes: class or finding names, in the order of every score vector.
        view_names: every view that occurs.
        manifest: path of the CSV.
        manifest_sha256: hash of its bytes.
        reading: what its columns were taken for.
    """

    cases: tuple[Case, ...]
    task: Task
    classes: tuple[str, ...]
    view_names: tuple[str, ...]
    manifest: Path
    manifest_sha256: str
    reading: TableReading = field(default_factory=TableReading)

    def target(self, case: Case) -> NDArray[np.float64]:
        """Truth of one case as a ``(K,)`` vector over ``classes``: 1, 0, or NaN where unknown."""
        if self.task == "multiclass":
            unknown = case.label is None
            return np.array([np.nan if unknown else float(case.label == name) for name in self.classes])
        found = (case.findings.get(name) for name in self.classes)
        return np.array([np.nan if value is None else float(value) for value in found])


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model said of one case.

    Attributes:
        case_id, patient_id, split: as in the cohort.
        logits: ``(K,)`` raw scores.
        probabilities: ``(K,)``, softmax over classes (multi-class) or sigmoids (multi-label).
        truth: ``(K,)`` 1, 0, or NaN where unknown.
        views: names of the views it was said from.
        calibrated: ``(K,)`` probabilities after calibration, NaN for findings without; None where the bundle
            has none.
        novelty: how unlike the training images it is, higher for stranger; NaN where that is not known.
        answer_set: names of the answers that the true one is among with a stated probability; None where the
            bundle has no rule for such sets.
        abstain: why one should rather not rely on the answer: ``novel``, those of ``unlike``, ``set-empty``,
            ``set-large``.
        unlike: in what its images plainly differ from the training images: ``unlike-colour``, …
        noticed: codes of what readers noticed in its files and tolerated, see ``io.codes``.
    """

    case_id: str
    patient_id: str
    split: str
    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    truth: NDArray[np.float64]
    views: tuple[str, ...] = ()
    calibrated: NDArray[np.float64] | None = None
    novelty: float = float("nan")
    answer_set: tuple[str, ...] | None = None
    abstain: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    noticed: tuple[str, ...] = ()

    @property
    def stated(self) -> NDArray[np.float64]:
        """The probabilities to go by, ``(K,)``: calibrated where calibration was kept, raw elsewhere."""
        if self.calibrated is None:
            return self.probabilities
        return np.where(np.isnan(self.calibrated), self.probabilities, self.calibrated)


@dataclass(frozen=True, slots=True)
class Heatmap:
    """Raw signed evidence for one explicit class, never rescaled for looks.

    Attributes:
        values: float32, spatial only: ``(h, w)`` / ``(d, h, w)`` as the model sees it, or, after the
            way back, in the pixels of the original image.
        target: the class or finding it is evidence for.
        explainer: name in the ``EXPLAINERS`` table.
        view: the view it lies over.
        case_id: the case.
    """

    values: NDArray[np.float32]
    target: str
    explainer: str
    view: str
    case_id: str = ""

    @property
    def empty(self) -> bool:
        """Whether nothing speaks for the target: no value above zero."""
        return not bool((self.values > 0).any())
