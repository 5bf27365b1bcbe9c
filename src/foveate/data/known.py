"""The images that a model learned from, kept so that they are known again in another cohort.

The same pixels are known by a salted hash. Nearly the same image (another size, compression, brightness or
contrast; mirrored or turned) is known by its look: the 16 × 16 lowest frequencies of the grey picture that
the audit compares (``data.similarity``), of norm 1, in float16: 512 bytes an image. A look is about as much
as a picture of 16 × 16 grey pixels shows. Where even that is too much, the file ``looks.safetensors`` can be
taken out of a bundle: everything else works on, and says that near copies are not looked for. What was cut by
more than about a hundredth at each side, or turned by other than right angles, is not known again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from foveate.data.audit.looks import Looks, Pictures
from foveate.data.audit.similarity import Spectra, correlations, find_twins, groups_of
from foveate.data.images import ImageRow, Key, read_images
from foveate.files import replacing

SIDE = 16
FILE = "looks.safetensors"
_MOST = 64  # images of a group that the nearest one is looked for among


@dataclass(frozen=True, slots=True)
class ViewLooks:
    """The different pictures of one view of a cohort.

    Attributes:
        digests: ``(M,)`` hashes of their pixels.
        looks: ``(M, 16, 16)`` float16, of norm 1.
    """

    digests: tuple[str, ...]
    looks: NDArray[np.float16]


def view_looks(looks: Looks) -> dict[str, ViewLooks]:
    """What is kept of the pictures of a cohort, by view; images of a single value are none."""
    return {
        view: ViewLooks(
            tuple(looks.seen[index, view].digest for index in pictures.cases.tolist()),
            _reduced(pictures.spectra).astype(np.float16),
        )
        for view, pictures in looks.pictures.items()
        if len(pictures.cases)
    }


def write_looks(folder: Path, views: Mapping[str, ViewLooks]) -> None:
    """Write ``looks.safetensors`` into a run folder."""
    arrays: dict[str, NDArray[Any]] = {}
    for view, own in views.items():
        arrays[f"{view}/digests"] = np.frombuffer(bytes.fromhex("".join(own.digests)), np.uint8).reshape(
            -1, 32
        )
        arrays[f"{view}/looks"] = own.looks
    with replacing(folder / FILE) as temporary:
        save_file(arrays, temporary)


def read_looks(folder: Path) -> dict[str, ViewLooks]:
    """Read what ``write_looks`` wrote; nothing where there is no file, as in runs of version 0.1.0."""
    arrays = load_file(folder / FILE) if (folder / FILE).is_file() else {}
    views = [name.removesuffix("/looks") for name in arrays if name.endswith("/looks")]
    return {
        view: ViewLooks(
            tuple(row.tobytes().hex() for row in arrays[f"{view}/digests"]), arrays[f"{view}/looks"]
        )
        for view in views
    }


@dataclass(frozen=True, slots=True)
class _LearnedImages:
    """Looks of one view: ``(n, 16, 16)``, which image each is of, and a number for its patient."""

    looks: NDArray[np.float16]
    images: NDArray[np.int32]
    patients: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Recognised:
    """An image that the model learned from.

    Attributes:
        image: its number among those that are known.
        same: whether it has the very same pixels, not only nearly.
    """

    image: int
    same: bool


@dataclass(frozen=True, slots=True)
class KnownImages:
    """The images that a model learned from.

    Attributes:
        salt: hex, drawn anew for each bundle.
        hashes: SHA-256 of salt and digest of each image, sorted; an image's number is its place here.
        looks: by view; empty where none are kept.
    """

    salt: str
    hashes: tuple[str, ...]
    looks: Mapping[str, _LearnedImages] = field(default_factory=dict)

    @classmethod
    def of(
        cls, rows: Mapping[Key, ImageRow], looks: Mapping[str, ViewLooks], patients: Mapping[str, str]
    ) -> Self:
        """Keep the images of some cases.

        Args:
            rows: of ``images.csv``.
            looks: of ``looks.safetensors``.
            patients: the patient of each case to keep, by case id.
        """
        salt = secrets.token_hex(16)
        kept = {key: row.digest for key, row in rows.items() if key[0] in patients}
        hashes = tuple(sorted({_hash(salt, digest) for digest in kept.values()}))
        place = {each: number for number, each in enumerate(hashes)}
        names = {name: number for number, name in enumerate(dict.fromkeys(patients.values()))}
        learned = {}
        for view, own in looks.items():
            owner = {digest: patients[case] for (case, named), digest in kept.items() if named == view}
            chosen = [row for row, digest in enumerate(own.digests) if digest in owner]
            digests = [own.digests[row] for row in chosen]
            learned[view] = _LearnedImages(
                own.looks[chosen],
                np.array([place[_hash(salt, digest)] for digest in digests], dtype=np.int32),
                np.array([names[owner[digest]] for digest in digests], dtype=np.int32),
            )
        return cls(salt, hashes, learned)

    def number(self, digest: str) -> int | None:
        """The number of the image with these pixels; None if the model did not learn from it."""
        place = int(np.searchsorted(np.array(self.hashes), own := _hash(self.salt, digest)))
        return place if place < len(self.hashes) and self.hashes[place] == own else None

    def numbers(self, digests: Collection[str]) -> dict[int, str]:
        """Which of these digests are images that the model learned from, by their numbers."""
        place = {each: number for number, each in enumerate(self.hashes)}
        return {place[own]: each for each in digests if (own := _hash(self.salt, each)) in place}

    def recognise(self, looks: Looks, patients: Sequence[str]) -> dict[tuple[int, str], Recognised]:
        """Find the images of a cohort that the model learned from.

        Args:
            looks: at the cohort's images.
            patients: of each of its cases; images of different patients show how alike unrelated ones are.

        Returns:
            By case (its position in the cohort) and view.
        """
        by_digest = {
            digest: n for n, digest in self.numbers({look.digest for look in looks.seen.values()}).items()
        }
        found = {
            key: Recognised(by_digest[look.digest], same=True)
            for key, look in looks.seen.items()
            if look.digest in by_digest
        }
        for view, pictures in looks.pictures.items():
            if view in self.looks and len(pictures.cases):
                for case, image in self._near(view, pictures, patients).items():
                    found.setdefault((case, view), Recognised(image, same=False))
        return found

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the looks into a bundle's folder; returns the rest as plain JSON, for ``bundle.json``."""
        arrays = {
            f"{view}/{name}": getattr(own, name)
            for view, own in self.looks.items()
            for name in ("looks", "images", "patients")
        }
        if arrays:
            with replacing(folder / FILE) as temporary:
                save_file(arrays, temporary)
        return {"salt": self.salt, "hashes": list(self.hashes)}

    @classmethod
    def load(cls, folder: Path, facts: Mapping[str, Any]) -> Self:
        """Read what ``save`` wrote and gave back; without looks where the file is not there."""
        arrays = load_file(folder / FILE) if (folder / FILE).is_file() else {}
        views = [name.removesuffix("/looks") for name in arrays if name.endswith("/looks")]
        learned = {
            view: _LearnedImages(
                arrays[f"{view}/looks"], arrays[f"{view}/images"], arrays[f"{view}/patients"]
            )
            for view in views
        }
        return cls(facts["salt"], tuple(facts["hashes"]), learned)

    def _near(self, view: str, pictures: Pictures, patients: Sequence[str]) -> dict[int, int]:
        """For each case whose picture is nearly one that the model learned from, that image's number."""
        own, count = self.looks[view], len(pictures.cases)
        spectra = np.concatenate([_reduced(pictures.spectra), _reduced(own.looks)])
        names = np.unique([patients[case] for case in pictures.cases.tolist()], return_inverse=True)[1]
        people = np.concatenate([names, len(names) + own.patients])
        sources = np.repeat([0, 1], [count, len(own.looks)])  # neither cohort is compared with itself
        links = find_twins(spectra, people, sources, rows=count).links
        copies: dict[int, list[int]] = {}
        for first, other in pictures.copies.tolist():
            copies.setdefault(first, []).append(other)
        found: dict[int, int] = {}
        for group in groups_of(links, len(spectra)):
            new, old = group[group < count], group[group >= count][:_MOST]
            pairs = np.stack(np.meshgrid(new, old, indexing="ij"), axis=-1).reshape(-1, 2)
            nearest = correlations(spectra, pairs).max(axis=1).reshape(len(new), len(old)).argmax(axis=1)
            for picture, place in zip(new.tolist(), old[nearest].tolist(), strict=True):
                case = int(pictures.cases[picture])
                found |= dict.fromkeys([case, *copies.get(case, ())], int(own.images[place - count]))
        return found


def learned_names(known: KnownImages, folder: Path) -> dict[int, str]:
    """The case that shows each known image, by the image's number, from the ``images.csv`` of its run.

    Empty where the run is not there, as with a bundle that was handed on.
    """
    owners: dict[str, str] = {}
    for (case_id, _), row in read_images(folder).items():
        owners.setdefault(row.digest, case_id)
    return {number: owners[digest] for number, digest in known.numbers(owners.keys()).items()}


def _reduced(spectra: NDArray[Any]) -> Spectra:
    """The lowest frequencies of spectra ``(M, k, k)``, of norm 1."""
    low = np.asarray(spectra[:, :SIDE, :SIDE], dtype=np.float32)
    norm = np.linalg.norm(low, axis=(1, 2), keepdims=True)
    return np.asarray(low / np.maximum(norm, 1e-6))


def _hash(salt: str, digest: str) -> str:
    return hashlib.sha256(f"{salt}:{digest}".encode()).hexdigest()
