"""Names of cases that no column names: each is called after its first image.

Nothing is held but sixteen bytes for each row, so that manifests of any length can be gone through.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate.data.manifest.rows import ManifestRow
from foveate.data.manifest.words import is_blank


@dataclass(frozen=True, slots=True)
class ImageNames:
    """How cases are called: as the path of their image, without its ending where that stays unambiguous.

    Attributes:
        views: the columns of images.
        sliced: whether the column ``slice`` picks slices, and so belongs to the name.
        shared: digests of the paths without ending that several images have in common.
    """

    views: tuple[str, ...]
    sliced: bool
    shared: frozenset[int]

    @classmethod
    def of(cls, rows: Iterable[ManifestRow], views: Sequence[str], *, sliced: bool) -> ImageNames:
        """Go through all rows, to learn which endings can be left out."""
        stems, texts = array("Q"), array("Q")
        for row in rows:
            text = _first(row, views)
            stems.append(digest(_without_suffix(text)))
            texts.append(digest(text))
        return cls(tuple(views), sliced, _shared(_numbers(stems), _numbers(texts)))

    def name(self, row: ManifestRow) -> str:
        """The name of a row's case; empty if it has no image."""
        text = _first(row, self.views)
        stem = _without_suffix(text)
        place = row.values["slice"] if self.sliced and not is_blank(row.values["slice"]) else ""
        return (text if digest(stem) in self.shared else stem) + (f"#{place}" if place else "")


def digest(text: str) -> int:
    """Eight bytes that stand for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def standing_twice(texts: Iterable[str]) -> frozenset[int]:
    """Digests of the texts that stand more than once."""
    digests = np.sort(_numbers(array("Q", map(digest, texts))))
    return frozenset(digests[1:][digests[1:] == digests[:-1]].tolist())


def _shared(stems: NDArray[np.uint64], texts: NDArray[np.uint64]) -> frozenset[int]:
    """The stems that stand beside more than one text."""
    order = np.lexsort((texts, stems))
    stems, texts = stems[order], texts[order]
    return frozenset(stems[1:][(stems[1:] == stems[:-1]) & (texts[1:] != texts[:-1])].tolist())


def _numbers(digests: array[int]) -> NDArray[np.uint64]:
    return np.frombuffer(digests, dtype=np.uint64) if digests else np.empty(0, dtype=np.uint64)


def _first(row: ManifestRow, views: Sequence[str]) -> str:
    return next((row.values[name] for name in views if not is_blank(row.values[name])), "")


def _without_suffix(text: str) -> str:
    folder, slash, name = text.rpartition("/")
    stem = name.removesuffix(".gz").rpartition(".")[0]
    return folder + slash + (stem or name)
