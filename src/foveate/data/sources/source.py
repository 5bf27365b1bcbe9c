"""What an adapter of a public data set is: where the set comes from, and how its layout becomes a manifest.

An adapter downloads nothing. It reads the folder that the user got from the set's own site, in the layout it
has there, and writes a manifest (and, where the set has them, boxes) that the rest of the product reads
like any other. Counts are compared with the published ones, so that a half-unpacked archive is noticed.
"""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from foveate.errors import InputRefused, ManifestRefused, UsageError
from foveate.files import write_atomic
from foveate.study.settings import Settings
from foveate.types import Track, quiet

Row = Mapping[str, str]


class NoOptions(Settings):
    """An adapter without choices."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What an adapter found.

    Attributes:
        rows: of the manifest; the keys of the first are its columns, paths are relative to the manifest.
        expected: published counts for these options, by what is counted.
        found: the same counts in this folder.
        init: arguments of ``foveate init`` that fit the manifest, such as ``--label diagnosis``.
        boxes: rows of the boxes CSV, in pixels of the files that the manifest names; empty for none.
        problems: rows or files that cannot be used, each named; any of them stops the adapter.
        notes: what the user should know about this folder.
    """

    rows: Sequence[Row]
    expected: Mapping[str, int]
    found: Mapping[str, int]
    init: str = ""
    boxes: Sequence[Row] = ()
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()

    def differences(self) -> list[str]:
        """One line for each count that is not the published one."""
        return [
            f"{name}: {self.found.get(name, 0)} found, {count} published"
            for name, count in self.expected.items()
            if self.found.get(name, 0) != count
        ]


@dataclass(frozen=True, slots=True)
class DataSource:
    """One public data set.

    Attributes:
        name: on the command line.
        title: what it is, in one line.
        where: where the user gets it.
        licence: its terms, as its publishers state them.
        citation: the paper to cite.
        layout: what ROOT has to hold.
        traps: what goes wrong with it unless one knows.
        read: from ROOT, the folder of the manifest (paths in rows start from it; converted files go below
            it), checked options and a ``Track``, to the listing.
        options: the adapter's choices.
    """

    name: str
    title: str
    where: str
    licence: str
    citation: str
    layout: str
    traps: tuple[str, ...]
    read: Callable[[Path, Path, Any, Track], Listing]
    options: type[Settings] = NoOptions


@dataclass(frozen=True, slots=True)
class Written:
    """What ``write_source`` left on disk.

    Attributes:
        manifest: the CSV.
        boxes: the CSV of boxes, or None.
        listing: what was found.
    """

    manifest: Path
    boxes: Path | None
    listing: Listing


def shuffled_split(
    names: Sequence[str], labels: Sequence[str], shares: Mapping[str, float], rest: str, *, seed: int
) -> list[str]:
    """Split image by image within each class, as scripts of comparisons often do.

    The names of a class are sorted and shuffled by a seed that is set anew for each class; each part gets the
    next ``int(share · n)`` of them, the last part the rest.

    Args:
        names: of N files, each once in its class.
        labels: N classes.
        shares: of each class, by part, in order.
        rest: the last part.
        seed: of the shuffling.

    Returns:
        The part of each.
    """
    found: dict[tuple[str, str], str] = {}
    for label in dict.fromkeys(labels):
        own = sorted(name for name, its in zip(names, labels, strict=True) if its == label)
        random.Random(seed).shuffle(own)
        parts = [part for part, share in shares.items() for _ in range(int(share * len(own)))]
        parts += [rest] * (len(own) - len(parts))
        found |= {(label, name): part for name, part in zip(own, parts, strict=True)}
    return [found[label, name] for name, label in zip(names, labels, strict=True)]


def write_source(
    source: DataSource,
    root: str | Path,
    out: str | Path | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    strict: bool = False,
    track: Track = quiet,
) -> Written:
    """Write the manifest of a public data set.

    Args:
        source: an entry of ``SOURCES``.
        root: the folder as downloaded and unpacked.
        out: the CSV, in ROOT or above it (paths may not lead out of its folder); None means
            ``ROOT/manifest.csv``. Boxes go to ``<its name>_boxes.csv`` beside it.
        options: of the adapter.
        strict: refuse a folder whose counts are not the published ones, instead of saying so.
        track: shows progress.

    Raises:
        UsageError: ``out`` exists or lies elsewhere, or an option is unknown.
        InputRefused: ROOT is not in the set's layout.
        ManifestRefused: files or rows are missing or wrong; all are listed. With ``strict``, also for
            differing counts.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputRefused("this is not a folder", where=str(root), fix=source.layout, code="not-a-folder")
    out = Path(out) if out is not None else root / "manifest.csv"
    _check_out(root, out)
    listing = source.read(root, out.parent, _checked(source, options or {}), track)
    problems = [*listing.problems, *(listing.differences() if strict else ())]
    if problems:
        raise ManifestRefused(str(root), problems)
    if not listing.rows:
        raise InputRefused("no case was found", where=str(root), fix=source.layout, code="no-cases")
    write_atomic(out, as_csv(listing.rows))
    boxes = out.with_name(f"{out.stem}_boxes.csv") if listing.boxes else None
    if boxes is not None:
        write_atomic(boxes, as_csv(listing.boxes))
    return Written(out, boxes, listing)


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV text; the columns are the keys of all rows, in the order in which they first occur."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def read_table(path: Path, columns: Iterable[str], *, source: str) -> list[dict[str, str]]:
    """Read a CSV of the set, and check that it has the columns.

    Args:
        path: UTF-8, comma-separated; ``.gz`` is unpacked.
        columns: that are needed.
        source: what to say the file belongs to.

    Raises:
        InputRefused: the file is missing or is another one.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputRefused(
            f"the table of {source} cannot be read: {error}", where=str(path), code="no-table"
        ) from error
    if missing := [name for name in columns if not rows or name not in rows[0]]:
        raise InputRefused(
            f"this is not the table of {source}: it has no column {', '.join(missing)}",
            where=str(path),
            fix="give the folder as it was published",
            code="no-table",
        )
    return rows


def require(root: Path, *choices: str, fix: str) -> Path:
    """The first of these files or folders that exists below ROOT.

    Raises:
        InputRefused: there is none.
    """
    for choice in choices:
        if (root / choice).exists():
            return root / choice
    raise InputRefused(
        f"there is no {' or '.join(choices)} here", where=str(root), fix=fix, code="layout-unknown"
    )


def relative(path: Path, home: Path) -> str:
    """A path as the manifest names it, from its own folder."""
    return path.absolute().relative_to(home.absolute()).as_posix()


def count_labels(rows: Iterable[Row]) -> dict[str, int]:
    """Counts of cases in all and of each label, as ``expected`` names them."""
    labels = Counter(row["label"] for row in rows)
    return {"cases": labels.total(), **{f"label {name}": count for name, count in labels.items()}}


def _check_out(root: Path, out: Path) -> None:
    if out.exists():
        raise UsageError("this file exists already", where=str(out), fix="delete it, or name another")
    if not root.resolve().is_relative_to(out.absolute().parent.resolve()):
        raise UsageError(
            "the manifest must lie in the data set's folder or above it: its paths start from its own folder",
            where=str(out),
            fix=f"write {root / 'manifest.csv'}",
        )


def _checked(source: DataSource, options: Mapping[str, Any]) -> Settings:
    try:
        return source.options.model_validate(dict(options))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        known = ", ".join(source.options.model_fields) or "none"
        raise UsageError(
            f"{source.name} does not take this: {'; '.join(lines)}", where="--option",
            fix=f"its options are: {known}", code="bad-option",
        ) from error  # fmt: skip
