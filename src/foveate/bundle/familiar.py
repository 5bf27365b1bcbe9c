"""Plain facts of an image beside those of the training images: colour, encoding, size, range of values, look.

A network's features may collapse onto its classes, so that a blood smear passes as a skin lesion. What the
network did not choose cannot: whether images are grey or coloured, 8-bit or deeper, pictures or volumes, how
large they are and which values they hold, and how they look. A look is 43 numbers of a picture reduced to
64 × 64: quantiles of brightness, of saturation and of two differences of colours, energy of brightness and
colours in bands of frequency, direction, peakedness and sharpness of edges, corners against the middle,
symmetry.

Ranges are those of the training images, widened; a look is strange if its Mahalanobis distance from the
training images is beyond a limit. Since nothing was fitted to labels here, the training images themselves
give the limit, by distances from images of other patients (five folds), so that even small cohorts have
enough of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from foveate.evaluate.probabilities.conformal import familiar_limit
from foveate.types import Array, Image

Floats = NDArray[np.float64]
Json = dict[str, Any]
SIDE = 64
BANDS = ((1, 3), (3, 6), (6, 12), (12, 24), (24, SIDE))  # of the cosine transform, by the larger frequency
COLOUR_BANDS = ((1, 4), (4, 12), (12, SIDE))
FAMILIAR = 0.96  # share of images like the training images whose look shall not be strange, over all views
SIZES = 1.5  # by how much sides and aspect ratios may leave the range of the training images
VALUES = 0.5  # the same for values, as a share of their range
FEWEST = 5  # training images of a view
_FOLDS = 5
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_LARGEST = 512  # pixels along the longer side; from twice as many on, every other one is enough
_LEAST = 1e-3
_DECIMALS = 6  # of what is kept of looks: far less than images differ by


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image in plain numbers.

    Attributes:
        colour: whether channels differ; grey stored as three equal channels is grey.
        dimensions: 2 for a picture or slice out of a picture, 3 for a volume.
        encoding: bits of a value (8, or 16 for anything deeper) and unit, as ``8-bit stored``.
        size: height and width in pixels.
        values: the 1st and the 99th percentile, in the image's unit.
        look: ``(43,)``, see the module.
    """

    colour: bool
    dimensions: int
    encoding: str
    size: tuple[int, int]
    values: tuple[float, float]
    look: tuple[float, ...]


def plain_facts(image: Image, slice_index: int | None = None) -> ImageFacts:
    """Reduce an image, or one slice of a volume (its middle one for whole volumes), to plain numbers."""
    plane = image.pixels
    if plane.ndim == 4:
        plane = plane[:, min(plane.shape[1] // 2 if slice_index is None else slice_index, plane.shape[1] - 1)]
    step = max(max(plane.shape[1:]) // _LARGEST, 1)
    height, width = plane.shape[1:]
    plane = plane[:, ::step, ::step]
    finite = np.nan_to_num(plane.astype(np.float32))
    low, high = (float(value) for value in np.percentile(finite, (1, 99)))
    eight = image.pixels.dtype == np.uint8
    return ImageFacts(
        colour=len(plane) == 3 and not bool((plane[0] == plane[1]).all() and (plane[0] == plane[2]).all()),
        dimensions=image.dimensions,
        encoding=f"{'8' if eight else '16'}-bit {image.unit}",
        size=(int(height), int(width)),
        values=(low, high),
        look=tuple(_look(finite, (0.0, 255.0) if eight else (low, high)).tolist()),
    )


def _look(plane: Array, limits: tuple[float, float]) -> Floats:
    """``(43,)`` numbers of a ``(C, H, W)`` picture whose limits become 0 and 1."""
    shown = np.clip((plane - limits[0]) / max(limits[1] - limits[0], 1e-9), 0, 1)
    shown = np.repeat(shown, 3, axis=0) if len(shown) == 1 else shown
    box = Pillow.Resampling.BOX
    small = np.stack([np.asarray(Pillow.fromarray(part).resize((SIDE, SIDE), box)) for part in shown])
    full = np.tensordot(_LUMINANCE, shown, axes=1)
    steps = sum(float(np.abs(np.diff(full, axis=axis)).sum()) / full.size for axis in (0, 1))
    return np.array([*_colours(small), *_structure(small), np.log(steps + _LEAST)], dtype=np.float64)


def _colours(small: Array) -> list[float]:
    """Of a ``(3, SIDE, SIDE)`` picture: brightness, saturation, and differences of neighbouring colours."""
    grey, differences = np.tensordot(_LUMINANCE, small, axes=1), (small[0] - small[1], small[1] - small[2])
    saturation = np.ptp(small, axis=0) / (small.max(axis=0) + 10 * _LEAST)
    found = [*small.mean(axis=(1, 2)), *np.quantile(grey, (0.05, 0.25, 0.5, 0.75, 0.95)), grey.std()]
    found += [saturation.mean(), saturation.std(), *np.quantile(saturation, (0.1, 0.5, 0.9))]
    for part in differences:
        found += [part.mean(), part.std(), *np.quantile(part, (0.05, 0.95))]
    return [*found, *(_correlation(small[k], small[k + 1]) for k in (0, 1))]


def _structure(small: Array) -> list[float]:
    """Of a ``(3, SIDE, SIDE)`` picture: frequencies, edges, and what lies where."""
    grey = np.tensordot(_LUMINANCE, small, axes=1)
    centred, spread = grey - grey.mean(), float(grey.std()) + _LEAST
    down, across = np.diff(grey, axis=0)[:, 1:], np.diff(grey, axis=1)[1:]
    edges = np.hypot(down, across) + _LEAST / 10
    ends, middle = (slice(SIDE // 8), slice(-SIDE // 8, None)), slice(3 * SIDE // 8, 5 * SIDE // 8)
    corners = float(np.mean([grey[y, x].mean() for y in ends for x in ends]))
    return [
        *_energies(centred, BANDS),
        *(value for k in (0, 1) for value in _energies(small[k] - small[k + 1], COLOUR_BANDS)),
        np.log((down**2).mean() + _LEAST**2) - np.log((across**2).mean() + _LEAST**2),
        np.log((edges**4).mean()) - 2 * np.log((edges**2).mean()),
        (centred**3).mean() / spread**3,
        np.log((centred**4).mean() / spread**4 + _LEAST),
        corners - grey[middle, middle].mean(),
        *((centred * turned).mean() / spread**2 for turned in (centred[:, ::-1], centred[::-1])),
    ]


def _energies(picture: Array, bands: Sequence[tuple[int, int]]) -> list[float]:
    """Logarithms of the energy of the cosine transform between frequencies."""
    from scipy import fft

    energy, frequency = fft.dctn(picture, norm="ortho") ** 2, np.maximum(*np.mgrid[:SIDE, :SIDE])
    return [float(np.log(energy[(frequency >= a) & (frequency < b)].sum() + _LEAST)) for a, b in bands]


def _correlation(one: Array, other: Array) -> float:
    """Of two channels; 1 where one is plain."""
    one, other = one - one.mean(), other - other.mean()
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float((one * other).sum()) / norm if norm > _LEAST else 1.0


@dataclass(frozen=True, slots=True)
class Familiar:
    """What the training images of one view are like.

    Attributes:
        cases: number of images.
        colours, dimensions, encodings: what occurs among them.
        sides: smallest and largest square root of height times width, in pixels.
        aspects: smallest and largest height by width.
        values: lowest 1st and highest 99th percentile.
        mean, whitening: of looks; Euclidean distances of ``(x - mean) @ whitening`` are Mahalanobis
            distances.
        limit: largest distance that is familiar.
        held: whether there were enough patients for the limit to hold the share ``FAMILIAR`` by their order
            alone; else it is extrapolated.
    """

    cases: int
    colours: tuple[bool, ...]
    dimensions: tuple[int, ...]
    encodings: tuple[str, ...]
    sides: tuple[float, float]
    aspects: tuple[float, float]
    values: tuple[float, float]
    mean: tuple[float, ...]
    whitening: tuple[tuple[float, ...], ...]
    limit: float
    held: bool

    @classmethod
    def of(cls, images: Sequence[ImageFacts], patient_ids: Sequence[str], familiar: float = FAMILIAR) -> Self:
        """Sum up training images of one view.

        Args:
            images: at least ``FEWEST``.
            patient_ids: of each.
            familiar: share of such images whose look shall not be strange.
        """
        looks = np.array([item.look for item in images])
        sizes = np.array([item.size for item in images], dtype=float)
        sides, aspects = np.sqrt(sizes.prod(axis=1)), sizes[:, 0] / sizes[:, 1]
        mean, whitening = _whitened(looks)
        limit, held = familiar_limit(_from_others(looks, patient_ids), patient_ids, familiar)
        return cls(
            len(images),
            tuple(sorted({item.colour for item in images})),
            tuple(sorted({item.dimensions for item in images})),
            tuple(sorted({item.encoding for item in images})),
            (float(sides.min()), float(sides.max())),
            (float(aspects.min()), float(aspects.max())),
            (min(item.values[0] for item in images), max(item.values[1] for item in images)),
            tuple(mean.round(_DECIMALS).tolist()),
            tuple(tuple(row) for row in whitening.round(_DECIMALS).tolist()),
            limit,
            held,
        )

    def differences(self, image: ImageFacts) -> list[str]:
        """In what an image differs: ``colour``, ``kind``, ``encoding``, ``size``, ``values``, ``look``."""
        side, aspect = float(np.sqrt(image.size[0] * image.size[1])), image.size[0] / image.size[1]
        slack = VALUES * (self.values[1] - self.values[0])
        found = {
            "colour": image.colour not in self.colours,
            "kind": image.dimensions not in self.dimensions,
            "encoding": image.encoding not in self.encodings,
            "size": not (_within(side, self.sides, SIZES) and _within(aspect, self.aspects, SIZES)),
            "values": image.values[0] < self.values[0] - slack or image.values[1] > self.values[1] + slack,
            "look": self.distance(image) > self.limit,
        }
        return [name for name, differs in found.items() if differs]

    def distance(self, image: ImageFacts) -> float:
        """How far the look is from those of the training images."""
        return float(np.linalg.norm((np.array(image.look) - self.mean) @ np.array(self.whitening)))


@dataclass(frozen=True, slots=True)
class FamiliarImages:
    """What the training images are like.

    Attributes:
        views: by name.
        counts: how many views training cases have.
    """

    views: Mapping[str, Familiar]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, cases: Sequence[Mapping[str, ImageFacts]], patient_ids: Sequence[str]) -> Self | None:
        """Sum up training cases, each with its images by view; None where they are too few.

        The looks of all views together shall not be strange in the share ``FAMILIAR`` of such cases.
        """
        names = dict.fromkeys(view for case in cases for view in case)
        share = 1 - (1 - FAMILIAR) / max(len(names), 1)
        views = {}
        for view in names:
            rows = [row for row, case in enumerate(cases) if view in case]
            if len(rows) >= FEWEST:
                patients = [patient_ids[row] for row in rows]
                views[view] = Familiar.of([cases[row][view] for row in rows], patients, share)
        return cls(views, tuple(sorted({len(case) for case in cases}))) if views else None

    def differences(self, case: Mapping[str, ImageFacts]) -> tuple[str, ...]:
        """In what a case differs: ``unlike-views``, ``unlike-colour``, … as in ``Prediction.abstain``.

        Args:
            case: facts of its images by view; nothing is said without any.
        """
        found = dict.fromkeys(
            name
            for view, image in case.items()
            if view in self.views
            for name in self.views[view].differences(image)
        )
        fewer = ["views"] if case and len(case) < min(self.counts) else []
        return tuple(f"unlike-{name}" for name in (*fewer, *found))

    def to_json(self) -> Json:
        """As plain JSON; a limit that is infinite is None."""
        views = {view: asdict(own) for view, own in self.views.items()}
        for own in views.values():
            own["limit"] = own["limit"] if np.isfinite(own["limit"]) else None
        return {"views": views, "counts": list(self.counts)}

    @classmethod
    def from_json(cls, content: Json) -> Self:
        """Read what ``to_json`` wrote."""
        views = {}
        for view, own in content["views"].items():
            plain: Json = {
                name: tuple(value) if isinstance(value, list) else value for name, value in own.items()
            }
            limit = float("inf") if plain["limit"] is None else float(plain["limit"])
            whitening = tuple(tuple(row) for row in own["whitening"])
            views[view] = Familiar(**plain | {"whitening": whitening, "limit": limit})
        return cls(views, tuple(content["counts"]))


def _whitened(looks: Floats) -> tuple[Floats, Floats]:
    """Mean, and what makes Mahalanobis distances of Euclidean ones, with shrinkage (Ledoit and Wolf 2004)."""
    from sklearn.covariance import ledoit_wolf

    mean, spread = looks.mean(axis=0), looks.std(axis=0) + _LEAST
    covariance, _ = ledoit_wolf((looks - mean) / spread)
    covariance += _LEAST * np.eye(len(covariance))
    return mean, np.linalg.inv(np.linalg.cholesky(covariance)).T / spread[:, None]


def _from_others(looks: Floats, patient_ids: Sequence[str]) -> Floats:
    """``(N,)`` distance of each image from those of other patients."""
    _, index = np.unique(np.asarray(patient_ids, dtype=object), return_inverse=True)
    folds = np.random.default_rng(0).permutation(index.max() + 1)[index] % _FOLDS
    found = np.full(len(looks), np.nan)
    for fold in np.unique(folds):
        held, others = looks[folds == fold], looks[folds != fold]
        if len(others) > 1:
            mean, whitening = _whitened(others)
            found[folds == fold] = np.linalg.norm((held - mean) @ whitening, axis=1)
    return found


def _within(value: float, limits: tuple[float, float], slack: float) -> bool:
    return limits[0] / slack <= value <= limits[1] * slack
