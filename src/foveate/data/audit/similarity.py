"""Near-duplicate images: pairs whose reduced grey pictures correlate more than chance explains.

Each image is reduced to 48 × 48 grey pixels with mean 0 and norm 1, so that the inner product of two of
them is their correlation r: brightness, contrast, size and compression do not count. The cosine
transform (orthonormal, so r stays the same) makes the search fast and exact. Mirroring an axis changes the
sign of its odd frequencies and turning by 90° exchanges the axes, so that copies that were mirrored or
turned are found as well. Two photographs of which each is little but a shadow across smooth skin correlate
highly without being twins; what is left of twins without the 6 × 6 lowest frequencies still does. With fewer
than ``FEW`` pictures, little is known of chance; where these are also alike (slices of one organ), what is
left of twins without the mean of all other pictures has to correlate as well.

Every pair is looked at, but nearly all of them at the cost of 37 multiplications, by two bounds that no
pair above the threshold can miss:

1. For all eight directions at once: of the 6 × 6 lowest frequencies the sign is dropped where mirroring
   can change it, and frequencies that turning exchanges are sorted. Both maps are contractions that keep
   the norm, so inner products can only grow; the norm of all other frequencies adds what these could
   contribute at most (Cauchy-Schwarz inequality).
2. For each direction: the correlation of the 8 × 8 lowest frequencies, of which a perceptual hash keeps the
   signs, and again the norm of the rest.

Time is quadratic in the number of images on purpose: an index that is faster in the limit (hashing, graphs
of neighbours) misses twins, and 100,000 images take less time here than their decoding. Memory is linear:
500 bytes an image beside the spectra, which may lie in a file (``foveate.data.audit.looks``).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import ndtri, stdtrit
from threadpoolctl import threadpool_limits

from foveate.parallel import core_count
from foveate.types import Array, Track, quiet

SIDE = 48
LOW, COARSE = 8, 6
FLOOR, CEILING = 0.965, 0.9995
"""Lowest and highest correlation that may be asked of twins."""

DETAIL, DETAIL_TURNED = 0.55, 0.8
"""Least correlation without the 6 × 6 lowest frequencies; more for mirrored and turned copies, since a copy
that a program made is exact, and there are seven ways to look like one."""

CHANCE_PAIRS = 0.1
"""Pairs of unrelated images that may be expected to pass, in the whole cohort."""

FEW = 100
"""Pictures; of fewer, the tail of chance is extended from quantiles that enough pairs lie above."""

ALIKE, OWN = 0.5, 0.95
"""Median correlation from which on the pictures of a small cohort are alike, and the least correlation of
what is each twin's own, without the mean of the others."""

_SAMPLE = 50_000
_FEWEST = 6  # pictures; with fewer, unrelated pairs say too little
_TILE = (256, 1024)  # images; so many inner products stay in a processor's cache
_BLOCK = 512  # pairs that are compared at a time
_DENSE = (
    16  # if pairs are at least one in so many of all pairs of their images, products of matrices are faster
)
_SLACK = 1e-5  # of bounds, for float32
_WORKERS = min(4, core_count())
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_MIRRORED = np.array(
    [[1, across, down, down * across] for down in (1, -1) for across in (1, -1)], dtype=np.float32
)  # four ways to mirror × signs of frequencies that are even or odd down and across
_DETAIL = np.array([DETAIL] + 7 * [DETAIL_TURNED])
Spectra = NDArray[np.float32]
Pairs = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Twins:
    """What ``find_twins`` found.

    Attributes:
        links: ``(M, 2)`` indices that connect the images of each group, the first of it to every other.
        threshold: the correlation from which on two images count as twins.
    """

    links: Pairs
    threshold: float


def spectrum(plane: Array) -> Spectra | None:
    """Reduce an image to the cosine spectrum of its 48 × 48 grey picture, mean 0 and norm 1.

    Args:
        plane: ``(C, H, W)``, C = 1 or 3.

    Returns:
        ``(48, 48)``, or None if all pixels are equal.
    """
    values = plane.astype(np.float32)
    grey = values[0] if len(values) == 1 else np.tensordot(_LUMINANCE, values, axes=1)
    small = Pillow.fromarray(grey).resize((SIDE, SIDE), Pillow.Resampling.BOX)
    centred = np.asarray(small, dtype=np.float32) - np.float32(np.asarray(small).mean())
    norm = np.linalg.norm(centred)
    if norm <= 1e-6 * max(1.0, float(np.abs(grey).max())):
        return None
    found: Spectra = fft.dctn(centred / norm, norm="ortho")
    return found


def find_twins(
    spectra: Spectra,
    patients: NDArray[np.int64],
    sources: NDArray[np.int64],
    track: Track = quiet,
    *,
    rows: int | None = None,
) -> Twins:
    """Find the images that are copies of each other but for size, compression, brightness or direction.

    Args:
        spectra: ``(N, 48, 48)`` from ``spectrum``, or fewer of their lowest frequencies, of norm 1.
        patients: ``(N,)``; images of different patients show how alike unrelated images are.
        sources: ``(N,)``; images with the same number (slices of one volume) are not compared.
        track: shows progress.
        rows: compare only so many of the first images with the others; None compares all with all.
    """
    search = _Search(spectra, sources, *_chance(spectra, patients))
    tops = list(range(0, len(spectra) if rows is None else rows, _TILE[0]))
    # Each thread multiplies matrices of its own; threads within a product of this size only wait.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(_WORKERS) as pool:
        for _ in zip(track(tops, "Comparing images"), pool.map(search.stripe, tops), strict=True):
            pass
    return Twins(search.groups.links(), search.threshold)


def groups_of(links: Pairs, count: int) -> list[NDArray[np.int64]]:
    """The sets of at least two indices that links connect, among ``count`` of them."""
    graph = coo_array((np.ones(len(links), dtype=bool), (links[:, 0], links[:, 1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    order = np.argsort(labels, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return [part for part in parts if len(part) > 1]


def chance_threshold(spectra: Spectra, patients: NDArray[np.int64], seed: int = 0) -> float:
    """The correlation that unrelated images of this cohort are not expected to reach.

    Fundus photographs are all alike, ultrasound images are not: a fixed threshold would call the former
    twins. Fisher's z = artanh(r) of pairs from different patients is close to normal in its upper tail;
    the line through its 90 % and 99 % quantiles (50 % and 90 % of fewer than ``FEW`` pictures) is extended to
    where 0.1 of all pairs of the cohort would lie above, by Student's t: pairs may be many, but no more than
    the patients are independent. A first pass with lower quantiles sets true twins aside.

    Args:
        spectra: ``(N, 48, 48)``.
        patients: ``(N,)``.
        seed: of the sample of pairs.
    """
    return _chance(spectra, patients, seed)[0]


def _chance(spectra: Spectra, patients: NDArray[np.int64], seed: int = 0) -> tuple[float, bool]:
    """The threshold, and whether what is each picture's own has to correlate as well."""
    count = len(spectra)
    pairs = _sample_of_pairs(count, seed)
    unrelated = pairs[patients[pairs[:, 0]] != patients[pairs[:, 1]]]
    if count < _FEWEST or len(unrelated) < len(pairs) / 2:
        return FLOOR, False
    r = np.concatenate(
        [np.einsum("nij,nij->n", *_both(spectra, block)) for block in _blocks(unrelated, _BLOCK)]
    )
    z = np.arctanh(np.clip(r, -0.999999, 0.999999))
    share = CHANCE_PAIRS / (count * (count - 1) / 2)
    few = count < FEW
    aside, kept = ((0.25, 0.5), (0.5, 0.9)) if few else ((0.8, 0.95), (0.9, 0.99))
    z = z[z < _tail(z, aside, share)]
    threshold = np.tanh(_tail(z, kept, share, len(np.unique(patients)) - 1))
    return float(np.clip(threshold, FLOOR, CEILING)), bool(few and np.median(r) > ALIKE)


def _sample_of_pairs(count: int, seed: int) -> Pairs:
    """``(M, 2)``: every pair where they are few, else a sample of them."""
    if count * (count - 1) / 2 <= _SAMPLE:
        return np.stack(np.triu_indices(count, 1), axis=1)
    return np.random.default_rng(seed).integers(count, size=(_SAMPLE, 2))


def correlations(spectra: Spectra, pairs: Pairs) -> NDArray[np.float32]:
    """Of the first picture of each pair with the eight ways to mirror and turn the second.

    Args:
        spectra: ``(N, k, k)`` spectra, or their k × k lowest frequencies, k even.
        pairs: ``(M, 2)`` indices; where they are most pairs of some images, matrices are multiplied.

    Returns:
        ``(M, 8)``: upright, mirrored across, down, and both; then the same with the axes exchanged first.
    """
    if not len(pairs):
        return np.empty((0, 8), np.float32)
    rows, row = np.unique(pairs[:, 0], return_inverse=True)
    columns, column = np.unique(pairs[:, 1], return_inverse=True)
    if len(rows) * len(columns) <= _DENSE * len(pairs):
        found = _of_all(spectra[rows], spectra[columns])[:, :, row, column]
    else:
        blocks = _blocks(pairs, _BLOCK)
        found = np.concatenate([_of_each(*_both(spectra, block)) for block in blocks], axis=2)
    return np.asarray(np.einsum("ecm,tc->met", found, _MIRRORED).reshape(len(pairs), 8))


def _of_each(one: Spectra, other: Spectra) -> Spectra:
    """``(2, 4, M)`` inner products of pairs, axes exchanged or not, by parity of the frequencies."""
    count, side, _ = one.shape
    found = []
    for turned in (other, other.swapaxes(1, 2)):
        products = (one * turned).reshape(count, side // 2, 2, side // 2, 2)
        found.append(products.sum(axis=1).sum(axis=2).reshape(count, 4).T)
    return np.stack(found)


def _of_all(one: Spectra, other: Spectra) -> Spectra:
    """``(2, 4, R, C)``: the same of each of R pictures with each of C."""
    parities = [(slice(down, None, 2), slice(across, None, 2)) for down in (0, 1) for across in (0, 1)]
    return np.stack(
        [
            [
                one[:, down, across].reshape(len(one), -1) @ turned[:, down, across].reshape(len(other), -1).T
                for down, across in parities
            ]
            for turned in (other, other.swapaxes(1, 2))
        ]
    )


class _Search:
    """What it takes to compare some images with all others."""

    def __init__(
        self, spectra: Spectra, sources: NDArray[np.int64], threshold: float, alike: bool = False
    ) -> None:
        self.spectra, self.sources, self.threshold, self.alike = spectra, sources, threshold, alike
        self.low = np.ascontiguousarray(spectra[:, :LOW, :LOW])
        self.coarse = self.low[:, :COARSE, :COARSE]
        self.rest, self.detail = _rest(self.low), _rest(self.coarse)
        self.keys = _keys(self.coarse)
        self.groups = _NearDuplicateGroups(len(spectra))

    def stripe(self, top: int) -> None:
        """Compare one tile's height of images, from ``top`` on, with themselves and all that follow."""
        height, width = _TILE
        for left in range(top, len(self.keys), width):
            bound = self.keys[top : top + height] @ self.keys[left : left + width].T
            rows = np.flatnonzero(bound.max(axis=1) >= self.threshold - _SLACK)
            i, j = np.nonzero(bound[rows] >= self.threshold - _SLACK)
            pairs = np.stack([rows[i] + top, j + left], axis=1)
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            self._compare(pairs[self.sources[pairs[:, 0]] != self.sources[pairs[:, 1]]])

    def _compare(self, pairs: Pairs) -> None:
        """Join the twins among pairs; what is connected already needs no proof."""
        pairs = self.groups.apart(pairs)
        pairs = pairs[self._may_be(pairs)]
        self.groups.join(pairs[self._are(pairs)])

    def _may_be(self, pairs: Pairs) -> NDArray[np.bool_]:
        """Whether the bound of any direction reaches the threshold."""
        bound = correlations(self.low, pairs).max(axis=1) + self.rest[pairs].prod(axis=1)
        return np.asarray(bound >= self.threshold - _SLACK)

    def _are(self, pairs: Pairs) -> NDArray[np.bool_]:
        """Whether in any direction both the whole and its detail correlate."""
        whole, coarse = correlations(self.spectra, pairs), correlations(self.coarse, pairs)
        detail = (whole - coarse) / np.maximum(self.detail[pairs].prod(axis=1), 1e-12)[:, None]
        twins = (whole >= self.threshold) & (detail >= _DETAIL)
        if self.alike:
            twins &= _own_correlations(self.spectra, pairs) >= OWN
        return np.asarray(twins.any(axis=1))


def _own_correlations(spectra: Spectra, pairs: Pairs) -> NDArray[np.float32]:
    """``correlations`` of what is left of each pair without the mean of all other pictures, ``(M, 8)``."""
    odd = np.arange(spectra.shape[1]) % 2
    down, across = np.repeat([1, -1], 2)[:, None, None], np.tile([1, -1], 2)[:, None, None]
    signs = down ** odd[:, None] * across**odd
    total, found = spectra.sum(axis=0), np.empty((len(pairs), 8), np.float32)
    for row, (one, other) in enumerate(_both(spectra, pairs[place][None]) for place in range(len(pairs))):
        mean = (total - one[0] - other[0]) / (len(spectra) - 2)
        own = one[0] - mean
        others = np.concatenate([other * signs, other.swapaxes(1, 2) * signs]) - mean
        norms = np.linalg.norm(own) * np.linalg.norm(others, axis=(1, 2))
        found[row] = (own * others).sum(axis=(1, 2)) / np.maximum(norms, 1e-12)
    return found


class _NearDuplicateGroups:
    """Which images are connected so far (disjoint sets); threads may share it."""

    def __init__(self, count: int) -> None:
        self.parent: NDArray[np.int64] = np.arange(count)
        self.lock = Lock()

    def apart(self, pairs: Pairs) -> Pairs:
        """The pairs that nothing connects yet."""
        with self.lock:
            first = self._first(pairs)
        kept: Pairs = pairs[first[:, 0] != first[:, 1]]
        return kept

    def join(self, pairs: Pairs) -> None:
        """Connect pairs."""
        if not len(pairs):
            return
        with self.lock:
            ends = self._first(pairs.ravel())
            names, numbers = np.unique(ends, return_inverse=True)
            for group in groups_of(numbers.reshape(-1, 2), len(names)):
                self.parent[names[group]] = names[group[0]]

    def links(self) -> Pairs:
        """``(M, 2)``: the first image of each group and each other of it."""
        first = self._first(np.arange(len(self.parent)))
        others = np.flatnonzero(first != np.arange(len(first)))
        return np.stack([first[others], others], axis=1)

    def _first(self, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first image of the group of each."""
        found: NDArray[np.int64] = self.parent[images]
        while ((further := self.parent[found]) != found).any():
            found = further
        self.parent[images] = found
        return found


def _keys(low: Spectra) -> Spectra:
    """``(N, k² + 1)`` from the lowest frequencies; inner products bound correlations in all directions."""
    side = low.shape[1]
    odd = np.arange(side) % 2 == 1
    signless = np.where(odd[:, None] | odd, np.abs(low), low)
    row, column = np.tril_indices(side, -1)
    below, above = signless[:, row, column], signless[:, column, row]
    parts = [
        np.einsum("nii->ni", signless),
        np.minimum(below, above),
        np.maximum(below, above),
        _rest(low)[:, None],
    ]
    return np.concatenate(parts, axis=1)


def _rest(low: Spectra) -> NDArray[np.float32]:
    """``(N,)`` norm of all frequencies but the lowest."""
    return np.asarray(np.sqrt(np.maximum(0, 1 - np.einsum("nij,nij->n", low, low))))


def _both(spectra: Spectra, pairs: Pairs) -> tuple[Spectra, Spectra]:
    return spectra[pairs[:, 0]], spectra[pairs[:, 1]]


def _blocks(pairs: Pairs, size: int) -> list[Pairs]:
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def _tail(
    z: NDArray[np.float32], quantiles: tuple[float, float], share: float, freedom: int | None = None
) -> float:
    """Where the tail through two quantiles leaves the given share above: normal, or Student's t."""
    low, high = np.quantile(z, quantiles)
    near, far = ndtri(quantiles)
    wanted = -ndtri(share) if freedom is None else -stdtrit(freedom, share)
    return float(high + (wanted - far) * (high - low) / (far - near))
