"""A folder-per-class tree becomes a manifest."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.data.columns import SUFFIXES, parse_part
from foveate.errors import InputRefused, UsageError
from foveate.files import write_atomic
from foveate.io import probe

_WAY_OUT = "make one folder per class (FOLDER/benign/…, FOLDER/malignant/…), or write the CSV yourself"
_MASK = re.compile(r"(.+)_mask(_\d+)?", re.IGNORECASE)
_MASK_FOLDERS = ("mask", "masks", "segmentation", "segmentations")
_MAYBE_DICOM = ("", ".dcm", ".dicom", ".ima")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One case of the tree."""

    image: Path
    label: str
    split: str
    masks: tuple[Path, ...] = ()


def manifest_from_folder(folder: str | Path, out: str | Path) -> Path:
    """Write a manifest for a tree with one folder per class, possibly below ``train``, ``val`` and ``test``.

    Hidden files are left out. A file ``NAME_mask.png`` (or ``NAME_mask_1.png``, as in BUSI) beside
    ``NAME.png`` is a mask and no case; an image that has exactly one gets it in the column ``mask``. A
    folder of DICOM slices inside a class is one case. The tree does not say which images belong to one
    patient, so the column ``patient_id`` repeats the case, and a warning says so.

    Args:
        folder: the tree.
        out: the CSV to write, in ``folder`` or in a folder above it, since paths start from the CSV.

    Returns:
        ``out``.

    Raises:
        InputRefused: the folder holds no images, or fewer than two class folders.
        UsageError: ``out`` exists already, or lies elsewhere.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise InputRefused("this is not a folder", where=str(folder), fix=_WAY_OUT, code="not-a-folder")
    tree, home = folder.resolve(), out.absolute().parent.resolve()
    _check_out(folder, out, inside=tree.is_relative_to(home))
    entries = [entry for split, top in _tops(tree) for entry in _entries(top, split)]
    _check_classes(folder, entries)
    write_atomic(out, _as_csv(entries, tree, home))
    warnings.warn(
        f"{out}: which of the {len(entries)} cases show the same patient is unknown, so each counts as "
        "a patient of its own; fill in the column patient_id if you can",
        stacklevel=2,
    )
    return out


def _check_out(folder: Path, out: Path, *, inside: bool) -> None:
    if out.exists():
        raise UsageError("this file exists already", where=str(out), fix="delete it, or name another")
    if not inside:
        raise UsageError(
            "the manifest must lie in the folder of images or above it: its paths start from its own folder",
            where=str(out), fix=f"write {folder / 'manifest.csv'}",
        )  # fmt: skip


def _check_classes(folder: Path, entries: Sequence[_Entry]) -> None:
    classes = {entry.label for entry in entries}
    if not classes:
        raise InputRefused(
            "no class folder with images was found", where=str(folder), fix=_WAY_OUT, code="no-images"
        )
    if len(classes) == 1:
        raise InputRefused(
            f"there is only one class folder with images, '{classes.pop()}'",
            where=str(folder),
            fix=f"if the classes lie inside it, give that folder; otherwise {_WAY_OUT}",
            code="single-class",
        )


def _tops(tree: Path) -> list[tuple[str, Path]]:
    """The folders that hold class folders, each with the part it stands for."""
    parts = [(parse_part(item.name) or "", item) for item in _folders(tree)]
    return parts if parts and all(part for part, _ in parts) else [("", tree)]


def _entries(top: Path, split: str) -> Iterator[_Entry]:
    for folder in _folders(top):
        for image, masks in _images(folder):
            yield _Entry(image, folder.name, split, masks)


def _images(folder: Path) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Every image below a class folder, with its masks."""
    files = sorted(item for item in folder.iterdir() if item.is_file() and _is_image_name(item.name))
    stems = {_stem(file): file for file in files}
    masks: dict[Path, list[Path]] = {file: [] for file in files}
    for file in files:
        mask = _MASK.fullmatch(_stem(file))
        if mask and mask[1] in stems:
            masks[stems[mask[1]]].append(file)
            del masks[file]
    yield from ((file, tuple(found)) for file, found in masks.items())
    for inner in _folders(folder):
        if inner.name.lower() in _MASK_FOLDERS:
            continue
        if _is_series(inner):
            yield inner, ()
        else:
            yield from _images(inner)


def _folders(folder: Path) -> list[Path]:
    hidden = (".", "__MACOSX")
    return sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith(hidden))


def _is_image_name(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _is_series(folder: Path) -> bool:
    """Whether the folder holds the slices of one DICOM series."""
    files = (item for item in folder.iterdir() if item.is_file() and not item.name.startswith("."))
    if not any(file.suffix.lower() in _MAYBE_DICOM for file in files):
        return False
    try:
        return probe(folder).kind == "dicom-series"
    except InputRefused:
        return False


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0]


def _as_csv(entries: Sequence[_Entry], tree: Path, home: Path) -> str:
    """The manifest's text; the columns mask and split only if there are any."""
    masked, split = any(len(entry.masks) == 1 for entry in entries), any(entry.split for entry in entries)
    columns = ["case_id", "patient_id", "label", "image", *["mask"] * masked, *["split"] * split]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for name, entry in zip(_names(entries, tree), entries, strict=True):
        mask = entry.masks[0].relative_to(home).as_posix() if len(entry.masks) == 1 else ""
        row = [name, name, entry.label, entry.image.relative_to(home).as_posix()]
        writer.writerow([*row, *[mask] * masked, *[entry.split] * split])
    return stream.getvalue()


def _names(entries: Sequence[_Entry], tree: Path) -> list[str]:
    """Each case's path in the tree, without the suffix if that stays unambiguous."""
    paths = [entry.image.relative_to(tree) for entry in entries]
    short = [
        (path.parent / _stem(path)).as_posix() if "." in path.name else path.as_posix() for path in paths
    ]
    often = Counter(short)
    return [name if often[name] == 1 else path.as_posix() for name, path in zip(short, paths, strict=True)]
