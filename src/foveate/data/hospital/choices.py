"""What is asked of an export, and what is found in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from foveate.data.hospital.rules import ViewRule
from foveate.data.hospital.store import Export
from foveate.data.hospital.volumes import SeriesPart


@dataclass(frozen=True, slots=True)
class ExportChoices:
    """What the user asked for.

    Attributes:
        rules: which series are which view; none writes the table of series alone.
        case: what a row of the manifest is.
        labels: CSV that joins.
        pseudonyms: file that keeps the salt and who is who; None keeps the IDs.
        headers: where headers are kept; beside the manifest, or beside the key of pseudonyms, unless given.
    """

    rules: Sequence[ViewRule] = ()
    case: Literal["study", "series"] = "study"
    labels: Path | None = None
    pseudonyms: Path | None = None
    headers: Path | None = None

    def headers_for(self, out: Path) -> Path:
        """Where headers are kept."""
        beside = out if self.pseudonyms is None else self.pseudonyms
        return self.headers or beside.with_name(f"{beside.stem}.headers.sqlite")


@dataclass(slots=True)
class KindOfSeries:
    """Series that are called alike: how many, and within which limits."""

    count: int = 0
    patients: set[str] = field(default_factory=set)
    slices: tuple[int, int] = (10**9, 0)
    spacing: tuple[float, float] = (float("inf"), 0.0)
    views: set[str] = field(default_factory=set)

    def add(self, part: SeriesPart, patient: str, view: str) -> None:
        """Count one more."""
        self.count += 1
        self.patients.add(patient)
        self.views.add(view)
        self.slices = min(self.slices[0], part.slices), max(self.slices[1], part.slices)
        if part.spacing:
            self.spacing = min(self.spacing[0], part.spacing[0]), max(self.spacing[1], part.spacing[0])


@dataclass(frozen=True, slots=True)
class HospitalManifest:
    """What was written, and what was found.

    Attributes:
        path: of the manifest; None where there were no rules.
        table: of ``series.csv``.
        headers: where the headers are kept.
        export: counts of files.
        kinds: series that are called alike, by modality, name and plane.
        cases: rows of the manifest.
        views: how many of them have each view.
        notes: a sentence for each thing that the user should know.
    """

    path: Path | None
    table: Path
    headers: Path
    export: Export
    kinds: Mapping[tuple[str, str, str], KindOfSeries]
    cases: int
    views: Mapping[str, int]
    notes: Sequence[str]
