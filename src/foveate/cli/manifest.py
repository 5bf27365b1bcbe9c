"""``foveate manifest``: a tree of folders, or a hospital's export, becomes a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from foveate.errors import UsageError

if TYPE_CHECKING:
    from foveate.data.hospital.choices import HospitalManifest, KindOfSeries

_SHOWN = 40  # kinds of series in the table on the terminal


def manifest(
    folder: Annotated[
        Path,
        typer.Argument(
            help="One folder per class, images inside; or images/ and masks/; or, with --dicom, an export."
        ),
    ],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="CSV to write \\[default: FOLDER/manifest.csv].")
    ] = None,
    dicom: Annotated[
        bool,
        typer.Option(
            "--dicom", help="FOLDER is a hospital's export: DICOM files at any depth, of any names."
        ),
    ] = False,
    series: Annotated[
        list[str] | None,
        typer.Option(help="VIEW=REGEX: series whose description fits are this view; repeatable."),
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(help="YAML file of such rules, by more than the description.")
    ] = None,
    case: Annotated[Literal["study", "series"], typer.Option(help="What a row is, of an export.")] = "study",
    labels: Annotated[
        Path | None, typer.Option(help="CSV that joins by StudyInstanceUID, AccessionNumber or PatientID.")
    ] = None,
    pseudonyms: Annotated[
        Path | None,
        typer.Option(help="Write salted hashes for patients and studies, and who is who into this file."),
    ] = None,
    headers: Annotated[
        Path | None,
        typer.Option(help="Where headers are kept \\[default: beside the manifest, or the key file]."),
    ] = None,
) -> None:
    """Make a manifest from a folder-per-class tree, or from a hospital's export of DICOM files.

    Without rules, --dicom lists the series alone; it goes on where it was stopped.

    Example: foveate manifest images/ -o images/manifest.csv

    Example: foveate manifest --dicom export/ --series 'ART=arterial' --series 'PV=portal' --labels labels.csv
    """
    from foveate.cli import terminal

    out = out or folder / "manifest.csv"
    if not dicom:
        if series or rules or labels or pseudonyms or headers:
            raise UsageError("these options need --dicom", fix="say --dicom, or leave them out")
        _from_tree(folder, out)
        return
    from foveate.data.hospital.choices import ExportChoices
    from foveate.data.hospital.export import manifest_from_export
    from foveate.data.hospital.rules import rules_from_file, rules_from_options

    chosen = [*rules_from_options(series or []), *(rules_from_file(rules) if rules else [])]
    choices = ExportChoices(tuple(chosen), case, labels, pseudonyms, headers)
    _show(manifest_from_export(folder, out, choices, terminal.track))


def _from_tree(folder: Path, out: Path) -> None:
    from foveate.cli import terminal
    from foveate.data.manifest.folders import manifest_from_folder

    found = manifest_from_folder(folder, out)
    for sentence in found.sentences():
        terminal.say(sentence)
    terminal.say(f"manifest: {found.path}   next: foveate init {found.path}")


def _show(found: HospitalManifest) -> None:
    from foveate.cli import terminal

    export = found.export
    others = f"{export.without_image} DICOM files without an image, {export.others} other files"
    terminal.say(f"{export.images} DICOM images in {export.files} files; {others}")
    terminal.console.print(_table(found.kinds))
    for note in found.notes:
        terminal.say(f"note: {note}")
    terminal.say(f"series: {found.table}")
    terminal.say(f"headers: {found.headers} (they hold Patient IDs: keep or delete them like the export)")
    if found.path is None:
        terminal.say("next: the same command with --series 'VIEW=REGEX' for each view, or --rules FILE")
        return
    views = ", ".join(f"{view} {count}" for view, count in found.views.items())
    terminal.say(f"manifest: {found.path} ({found.cases} cases; {views})   next: foveate init {found.path}")


def _table(kinds: Mapping[tuple[str, str, str], KindOfSeries]) -> Table:
    """Series that are called alike, a line each, the most frequent first; numbers within names are #."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    for column in ("modality", "series", "plane", "number", "patients", "slices", "step mm", "view"):
        table.add_column(column)
    ordered = sorted(kinds.items(), key=lambda each: (-each[1].count, each[0]))
    for (modality, name, plane), kind in ordered[:_SHOWN]:
        slices = _within(*kind.slices)
        step = _within(*kind.spacing) if kind.spacing[1] else ""
        views = ", ".join(sorted(filter(None, kind.views)))
        cells = (modality, name, plane, str(kind.count), str(len(kind.patients)), slices, step, views)
        table.add_row(*(escape(cell) for cell in cells))
    if len(ordered) > _SHOWN:
        table.add_row("", f"… and {len(ordered) - _SHOWN} more kinds")
    return table


def _within(low: float, high: float) -> str:
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
