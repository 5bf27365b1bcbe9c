"""Near-duplicate images: pairs whose reduced grey pictures correlate more than chance explains.

Each image is reduced to 48 × 48 grey pixels with mean 0 and norm 1, so that the inner product of two of
them is their correlation r: brightness, contrast, size and compression do not count. The cosine
transform (orthonormal, so r stays the same) makes the search fast and exact: the 8 × 8 lowest
frequencies, of which a perceptual hash keeps the signs, and the norm of all others bound r from above by
the Cauchy–Schwarz inequality, so that only pairs whose bound reaches the threshold are compared in full
and none is missed. Mirroring an axis changes the sign of its odd frequencies and turning by 90° exchanges
the axes, so that copies that were mirrored or turned are found as well. Two photographs of which each is
little but a shadow across smooth skin correlate highly without being twins; what is left of twins
without the 6 × 6 lowest frequencies still does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import fft, stats
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from foveate.types import Array

SIDE = 48
LOW, COARSE = 8, 6
FLOOR, CEILING = 0.965, 0.9995
"""Lowest and highest correlation that may be asked of twins."""

DETAIL, DETAIL_TURNED = 0.55, 0.8
"""Least correlation without the 6 × 6 lowest frequencies; more for mirrored and turned copies, since a copy
that a program made is exact, and there are seven ways to look like one."""

CHANCE_PAIRS = 0.1
"""Pairs of unrelated images that may be expected to pass, in the whole cohort."""

_SAMPLE = 50_000
_FEWEST = 30  # images; with fewer, unrelated pairs say too little
_BLOCK = (2048, 8192)
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
Spectra = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Turn:
    """One of the eight ways to mirror and turn a square picture, as it acts on spectra.

    Attributes:
        flips: which axes are mirrored, (vertical, horizontal).
        exchange: whether the axes are exchanged first.
    """

    flips: tuple[bool, bool] = (False, False)
    exchange: bool = False

    def __call__(self, spectra: Spectra) -> Spectra:
        """Turn ``(N, k, k)`` spectra, or their k × k lowest frequencies."""
        odd = 1 - 2 * (np.arange(spectra.shape[1]) % 2).astype(np.float32)
        one = np.ones_like(odd)
        sign = np.outer(odd if self.flips[0] else one, odd if self.flips[1] else one)
        return (spectra.swapaxes(1, 2) if self.exchange else spectra) * sign


UPRIGHT = Turn()
TURNS = tuple(
    Turn((down, across), exchange)
    for exchange in (False, True)
    for down in (False, True)
    for across in (False, True)
)


@dataclass(frozen=True, slots=True)
class Twins:
    """What ``find_twins`` found.

    Attributes:
        links: ``(M, 2)`` indices that connect the images of each group, no more than needed.
        threshold: the correlation from which on two images count as twins.
    """

    links: NDArray[np.int64]
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


def find_twins(spectra: Spectra, patients: NDArray[np.int64], sources: NDArray[np.int64]) -> Twins:
    """Find the images that are copies of each other but for size, compression, brightness or direction.

    Args:
        spectra: ``(N, 48, 48)`` from ``spectrum``.
        patients: ``(N,)``; images of different patients show how alike unrelated images are.
        sources: ``(N,)``; images with the same number (slices of one volume) are not compared.
    """
    threshold = chance_threshold(spectra, patients)
    links = np.empty((0, 2), dtype=np.int64)
    for turn in TURNS:
        for pairs in _candidates(spectra, turn, threshold):
            pairs = pairs[sources[pairs[:, 0]] != sources[pairs[:, 1]]]
            links = _thin(np.concatenate([links, _confirmed(spectra, turn, pairs, threshold)]), len(spectra))
    return Twins(links, threshold)


def groups_of(links: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
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
    the line through its 90 % and 99 % quantiles is extended to where 0.1 of all pairs of the cohort would
    lie above. A first pass with lower quantiles sets true twins aside.

    Args:
        spectra: ``(N, 48, 48)``.
        patients: ``(N,)``.
        seed: of the sample of pairs.
    """
    count = len(spectra)
    one, other = (
        np.random.default_rng(seed).integers(count, size=(2, _SAMPLE)) if count else np.empty((2, 0), int)
    )
    unrelated = np.stack([one, other], axis=1)[patients[one] != patients[other]]
    if count < _FEWEST or len(unrelated) < _SAMPLE // 2:
        return FLOOR
    z = np.arctanh(np.clip(_correlations(spectra, UPRIGHT, unrelated), -0.999999, 0.999999))
    share = CHANCE_PAIRS / (count * (count - 1) / 2)
    z = z[z < _tail(z, (0.8, 0.95), share)]
    return float(np.clip(np.tanh(_tail(z, (0.9, 0.99), share)), FLOOR, CEILING))


def _tail(z: NDArray[np.float32], quantiles: tuple[float, float], share: float) -> float:
    """Where the normal tail through two quantiles leaves the given share above."""
    low, high = np.quantile(z, quantiles)
    near, far, wanted = stats.norm.ppf([*quantiles, 1 - share])
    return float(high + (wanted - far) * (high - low) / (far - near))


def _candidates(spectra: Spectra, turn: Turn, threshold: float) -> Iterator[NDArray[np.int64]]:
    """Blocks of ``(M, 2)`` pairs i < j whose bound reaches the threshold, the second image turned."""
    here, there = _signatures(spectra, UPRIGHT), _signatures(spectra, turn)
    rows, columns = _BLOCK
    for top in range(0, len(spectra), rows):
        for left in range(top, len(spectra), columns):
            bound = here[top : top + rows] @ there[left : left + columns].T
            i, j = np.nonzero(bound >= threshold - 1e-5)
            pairs = np.stack([i + top, j + left], axis=1)
            yield pairs[pairs[:, 0] < pairs[:, 1]]


def _signatures(spectra: Spectra, turn: Turn) -> NDArray[np.float32]:
    """``(N, 65)``: the lowest frequencies and the norm of the rest; inner products bound correlations."""
    low = turn(spectra[:, :LOW, :LOW]).reshape(len(spectra), -1)
    rest = np.sqrt(np.maximum(0, 1 - np.einsum("nk,nk->n", low, low)))
    return np.concatenate([low, rest[:, None]], axis=1)


def _confirmed(spectra: Spectra, turn: Turn, pairs: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """The pairs that correlate as a whole and in their detail."""
    whole = _correlations(spectra, turn, pairs)
    coarse = spectra[:, :COARSE, :COARSE]
    rest = np.sqrt(np.maximum(1e-12, 1 - np.einsum("nij,nij->n", coarse, coarse)))
    detail = (whole - _correlations(coarse, turn, pairs)) / (rest[pairs[:, 0]] * rest[pairs[:, 1]])
    kept: NDArray[np.int64] = pairs[
        (whole >= threshold) & (detail >= (DETAIL if turn == UPRIGHT else DETAIL_TURNED))
    ]
    return kept


def _correlations(spectra: Spectra, turn: Turn, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """``(M,)`` correlations of pairs of images, the second one turned."""
    blocks = [pairs[start : start + _BLOCK[0]] for start in range(0, len(pairs), _BLOCK[0])]
    found = [np.einsum("nij,nij->n", spectra[block[:, 0]], turn(spectra[block[:, 1]])) for block in blocks]
    return np.concatenate(found) if found else np.empty(0, np.float32)


def _thin(links: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Fewer links with the same groups: the first of each group to every other."""
    if len(links) < count:
        return links
    groups = groups_of(links, count)
    return np.concatenate(
        [np.stack([np.full(len(group) - 1, group[0]), group[1:]], axis=1) for group in groups]
    )
