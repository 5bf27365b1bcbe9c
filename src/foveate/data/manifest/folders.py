"""A folder-per-class tree becomes a manifest, with the masks beside the images or in folders of their own.

A folder is never a class if it is named like masks (``masks``, ``segmentations``, ``ground_truth``, …) or
like something that people add to images (``labels``, ``annotations``, ``overlays``, …). The former are paired
with the images by where they lie and by their names; the latter are left out. Either is told.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.data.manifest.columns import SUFFIXES, parse_part
from foveate.errors import InputRefused, UsageError
from foveate.files import write_atomic
from foveate.io.reading import probe

_WAY_OUT = "make one folder per class (FOLDER/benign/…, FOLDER/malignant/…), or write the CSV yourself; "
_WAY_OUT += "`foveate sources` lists the public data sets whose layouts are known"
_BESIDE = re.compile(r"(.+)_mask(_\d+)?", re.IGNORECASE)
_MARKED = re.compile(r"(.+?)[ _-](mask|seg|segmentation|gt|ground_?truth|label)([ _-]?\d+)?", re.IGNORECASE)
_IMAGES = ("image", "images", "img", "imgs", "pictures")
_MASKS = ("mask", "masks", "seg", "segmentation", "segmentations", "gt", "groundtruth", "groundtruths")
_WITHIN = re.compile(r"\b(\w*masks|segmentations?|ground ?truths?)\b")  # also in a longer name
_NUMBERED = re.compile(r"^(\d+|[a-z]) (?=\S)")  # "2. Groundtruths", "a. Training Set"
_FILLERS = re.compile(r"\b(all|original|raw)\b")
_ADDED = ("label", "labels", "annotation", "annotations", "annots", "overlay", "overlays", "boxes", "bboxes")
_SHOWN = 3  # examples in a message
_MAYBE_DICOM = ("", ".dcm", ".dicom", ".ima")


@dataclass(frozen=True, slots=True)
class FolderManifest:
    """A manifest that was written from a tree, and what was found there.

    Attributes:
        path: of the CSV.
        classes: cases by class.
        parts: cases by part, empty where the tree names none.
        masked: cases with a mask.
        several: names of cases that have several masks, and therefore none in the manifest.
        unpaired: mask files that belong to no image.
        mask_folders: folders that were taken for masks, from the tree on, or from what holds it.
        beside: folder of masks beside a tree of images that the manifest cannot name from where it lies.
        left_out: folders that were taken neither for classes nor for masks, with their number of files.
    """

    path: Path
    classes: Mapping[str, int]
    parts: Mapping[str, int]
    masked: int
    several: tuple[str, ...]
    unpaired: int
    mask_folders: tuple[str, ...]
    beside: Path | None
    left_out: Mapping[str, int]

    def sentences(self) -> Iterator[str]:
        """What was found, a line each."""
        total = sum(self.classes.values())
        named = ", ".join(f"{name} {count}" for name, count in self.classes.items())
        yield f"{total} cases of {len(self.classes)} classes: {named}"
        if self.parts:
            yield f"parts: {', '.join(f'{name} {count}' for name, count in self.parts.items())}"
        if self.masked or self.mask_folders:
            places = f" (folders: {', '.join(self.mask_folders)})" if self.mask_folders else ""
            yield f"masks: {self.masked} of {total} cases{places}"
        if self.several:
            few = "; ".join([*self.several[:_SHOWN], *["…"] * (len(self.several) > _SHOWN)])
            yield (
                f"note: cases with several masks: {len(self.several)} ({few}); they got none, since a case "
                "has one: put them together in one file, or name one in the column mask"
            )
        if self.beside:
            yield (
                f"note: the masks in {self.beside} were not paired, since paths start from the manifest's "
                f"own folder: write it with -o {self.beside.parent / 'manifest.csv'}"
            )
        if self.unpaired:
            yield f"note: mask files that belong to no image by their place and name: {self.unpaired}"
        for name, count in self.left_out.items():
            yield (
                f"note: the folder {name} (files: {count}) is no class by its name and was left out; rename "
                "it if it is a class, or call it masks if it holds masks"
            )
        yield (
            f"note: which of the {total} cases show the same patient is unknown, so each counts as a patient "
            "of its own; fill in the column patient_id if you can"
        )


@dataclass(frozen=True, slots=True)
class _FolderEntry:
    """One case of the tree."""

    image: Path
    label: str
    split: str
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class _Tree:
    """What was found: cases, folders of masks, and folders that are neither."""

    entries: list[_FolderEntry]
    mask_folders: list[Path]
    left_out: list[Path]


def manifest_from_folder(folder: str | Path, out: str | Path) -> FolderManifest:
    """Write a manifest for a tree with one folder per class, possibly below ``train``, ``val`` and ``test``.

    Hidden files are left out. A file ``NAME_mask.png`` (or ``NAME_mask_1.png``, as in BUSI) beside
    ``NAME.png`` is a mask and no case. So is a file in a folder of masks that has the name of an image, or
    that name and ``_mask`` or the like, where both lie in the same place: ``images/CLASS/1.png`` with
    ``masks/CLASS/1.png`` (also if ``images`` is the tree), ``CLASS/1.png`` with ``CLASS/masks/1.png``, or
    ``masks/1.png`` if only one image has that name. An image that has exactly one mask gets it in the column
    ``mask``. A folder of DICOM slices inside a class is one case. The tree does not say which images belong
    to one patient, so the column ``patient_id`` repeats the case.

    Args:
        folder: the tree.
        out: the CSV to write, in ``folder`` or in a folder above it, since paths start from the CSV.

    Returns:
        What was found.

    Raises:
        InputRefused: the folder holds no images, or fewer than two class folders.
        UsageError: ``out`` exists already, or lies elsewhere.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise InputRefused("this is not a folder", where=str(folder), fix=_WAY_OUT, code="not-a-folder")
    tree, home = folder.resolve(), out.absolute().parent.resolve()
    _check_out(folder, out, inside=tree.is_relative_to(home))
    found = _read_tree(tree)
    _check_classes(folder, found)
    beside = _masks_beside(tree)
    top = tree.parent if beside and tree.parent.is_relative_to(home) else tree
    found.mask_folders.extend(beside if top != tree else ())
    entries, unpaired = _with_masks(found, top)
    write_atomic(out, _as_csv(entries, tree, home))
    return FolderManifest(
        path=out,
        classes=dict(sorted(Counter(entry.label for entry in entries).items())),
        parts=Counter(entry.split for entry in entries if entry.split),
        masked=sum(len(entry.masks) == 1 for entry in entries),
        several=tuple(
            name for name, entry in zip(_names(entries, tree), entries, strict=True) if len(entry.masks) > 1
        ),
        unpaired=unpaired,
        mask_folders=tuple(item.relative_to(top).as_posix() for item in found.mask_folders),
        beside=folder.absolute().parent / beside[0].name if beside and top == tree else None,
        left_out={
            item.relative_to(tree).as_posix(): count
            for item in found.left_out
            if (count := _count_files(item))
        },
    )


def _check_out(folder: Path, out: Path, *, inside: bool) -> None:
    if out.exists():
        raise UsageError("this file exists already", where=str(out), fix="delete it, or name another")
    if not inside:
        raise UsageError(
            "the manifest must lie in the folder of images or above it: its paths start from its own folder",
            where=str(out), fix=f"write {folder / 'manifest.csv'}",
        )  # fmt: skip


def _check_classes(folder: Path, found: _Tree) -> None:
    classes = {entry.label for entry in found.entries}
    aside = ", ".join(f"'{item.name}'" for item in (*found.mask_folders, *found.left_out))
    beside = f" (no classes by their names: {aside})" if aside else ""
    if not classes:
        raise InputRefused(
            f"no class folder with images was found{beside}",
            where=str(folder),
            fix=_WAY_OUT,
            code="no-images",
        )
    if len(classes) == 1:
        raise InputRefused(
            f"there is only one class folder with images, '{classes.pop()}'{beside}",
            where=str(folder),
            fix=f"if the classes lie inside it, give that folder; otherwise {_WAY_OUT}",
            code="single-class",
        )


def _read_tree(tree: Path) -> _Tree:
    found = _Tree([], [], [])
    for split, top in _tops(tree, found):
        for folder in _classes(top, found):
            for image, masks in _images(folder, found):
                found.entries.append(_FolderEntry(image, folder.name, split, masks))
    return found


def _tops(folder: Path, found: _Tree) -> Iterator[tuple[str, Path]]:
    """The folders that hold class folders, each with the part it stands for."""
    folders = _classes(folder, found)
    parts = [
        (parse_part(_words(item.name).removesuffix(" set").replace(" ", "_")) or "", item) for item in folders
    ]
    if parts and all(part for part, _ in parts):
        yield from ((part, top) for part, item in parts for _, top in _tops(item, found))
    elif len(folders) == 1 and _holds_images(folders[0]):
        yield from _tops(folders[0], found)
    else:
        yield "", folder


def _masks_beside(tree: Path) -> list[Path]:
    """The folders of masks beside a tree that is itself called after images."""
    return [item for item in _folders(tree.parent) if _holds_masks(item)] if _holds_images(tree) else []


def _holds_images(folder: Path) -> bool:
    """Whether a folder is called after images, not after a class."""
    return _plain(folder.name) in _IMAGES


def _holds_masks(folder: Path) -> bool:
    """Whether a folder is called after masks, not after a class."""
    return _plain(folder.name) in _MASKS or bool(_WITHIN.search(_words(folder.name)))


def _classes(folder: Path, found: _Tree) -> list[Path]:
    """The folders within one that are neither masks nor additions; those are put aside."""
    kept: list[Path] = []
    for item in _folders(folder):
        added = _plain(item.name) in _ADDED
        aside = found.mask_folders if _holds_masks(item) else found.left_out if added else kept
        if item not in aside:
            aside.append(item)
    return kept


def _images(folder: Path, found: _Tree) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Every image below a class folder, with the masks beside it."""
    files = _image_files(folder)
    stems = {_stem(file): file for file in files}
    masks: dict[Path, list[Path]] = {file: [] for file in files}
    for file in files:
        mask = _BESIDE.fullmatch(_stem(file))
        if mask and mask[1] in stems:
            masks[stems[mask[1]]].append(file)
            del masks[file]
    yield from ((file, tuple(own)) for file, own in masks.items())
    for inner in _classes(folder, found):
        if _is_series(inner):
            yield inner, ()
        else:
            yield from _images(inner, found)


def _with_masks(found: _Tree, tree: Path) -> tuple[list[_FolderEntry], int]:
    """The cases with the masks of the folders of masks, and how many of these belong to no image."""
    masks, loose = _mask_files(found.mask_folders)
    names = Counter((above, _stem(entry.image)) for entry in found.entries for above in entry.image.parents)
    entries, paired = [], set()
    for entry in found.entries:
        stem = _stem(entry.image)
        files = [file for place in _places(entry.image, tree) for file in masks.get((*place, stem), ())]
        alone = [above for above in entry.image.parents if names[above, stem] == 1]
        files = files or [file for above in alone for file in loose.get((above, stem), ())]
        paired |= set(files)
        everything = tuple(dict.fromkeys([*entry.masks, *files]))
        entries.append(_FolderEntry(entry.image, entry.label, entry.split, everything))
    return entries, len({file for files in masks.values() for file in files} - paired)


_Files = Mapping[tuple[Path, Path, str], list[Path]]


def _mask_files(folders: Sequence[Path]) -> tuple[_Files, Mapping[tuple[Path, str], list[Path]]]:
    """Mask files by what holds their folder, the way inside that folder, and the stem of their image.

    The second mapping has those right in their folder alone, and no way inside.
    """
    masks: dict[tuple[Path, Path, str], list[Path]] = defaultdict(list)
    loose: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for home in folders:
        for file in _image_files(home, deep=True):
            inside, marked = file.relative_to(home).parent, _MARKED.fullmatch(_stem(file))
            for stem in {_stem(file), marked[1] if marked else _stem(file)}:
                masks[home.parent, inside, stem].append(file)
                if inside == Path():
                    loose[home.parent, stem].append(file)
    return masks, loose


def _places(image: Path, tree: Path) -> Iterator[tuple[Path, Path]]:
    """Where masks of an image may lie: what holds the folder of masks, and the way inside that folder."""
    for above in image.parents:
        inside = image.relative_to(above).parent
        yield above, inside
        if len(inside.parts) > 1 or (inside.parts and _holds_images(inside)):
            yield above, Path(*inside.parts[1:])  # images/CLASS beside masks/CLASS
        if above == tree:
            return


def _folders(folder: Path) -> list[Path]:
    hidden = (".", "__MACOSX")
    return sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith(hidden))


def _image_files(folder: Path, *, deep: bool = False) -> list[Path]:
    inside = folder.rglob("*") if deep else folder.iterdir()
    return sorted(item for item in inside if _is_image_name(item.name) and item.is_file())


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


def _count_files(folder: Path) -> int:
    return sum(item.is_file() and not item.name.startswith(".") for item in folder.rglob("*"))


def _words(name: str) -> str:
    """The words of a folder's name in lower case, without the number that it may begin with."""
    return _NUMBERED.sub("", " ".join(re.findall(r"[^\W_]+", name.lower())))


def _plain(name: str) -> str:
    """A folder's name without case, number, fillers, and signs between its words."""
    return _FILLERS.sub("", _words(name)).replace(" ", "")


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0]


def _as_csv(entries: Sequence[_FolderEntry], tree: Path, home: Path) -> str:
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


def _names(entries: Sequence[_FolderEntry], tree: Path) -> list[str]:
    """Each case's path in the tree, without the suffix if that stays unambiguous."""
    paths = [entry.image.relative_to(tree) for entry in entries]
    short = [
        (path.parent / _stem(path)).as_posix() if "." in path.name else path.as_posix() for path in paths
    ]
    often = Counter(short)
    return [name if often[name] == 1 else path.as_posix() for name, path in zip(short, paths, strict=True)]
