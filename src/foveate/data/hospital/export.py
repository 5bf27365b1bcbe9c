"""An export of DICOM files, of any depth and any names, becomes a table of its series and a manifest.

Headers are read once and kept (``store``); series are told apart into volumes (``volumes``), which rules
give to views (``rules``). ``manifest.series.csv`` lists every part of every series with what became of it;
the manifest has a row for each study, or for each series, that has a view. A view's path is a file, the
folder of its series, or, where that holds other images too, a list of files (``io.listed``).
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from foveate.data.hospital.choices import ExportChoices, HospitalManifest, KindOfSeries
from foveate.data.hospital.identities import PatientNames, Pseudonyms
from foveate.data.hospital.labels import LabelTable
from foveate.data.hospital.store import Export, HeaderStore
from foveate.data.hospital.volumes import SeriesPart, parts_of
from foveate.errors import InputRefused, UsageError
from foveate.files import replacing
from foveate.io.chosen import SIGN
from foveate.io.listed import SUFFIX, write_list
from foveate.types import Track, quiet

TABLE = (
    "patient_id", "study", "study_date", "accession", "study_description", "number", "series_uid", "modality",
    "description", "protocol", "part", "parts", "plane", "slices", "rows", "columns", "slice_mm", "row_mm",
    "column_mm", "laterality", "view_position", "files", "first_file", "view", "note",
)  # fmt: skip
_OWN = ("case_id", "patient_id")
_DATE, _DAY = "study_date", "study_day"  # the day is counted from the patient's first study, for pseudonyms
_NUMBERS = re.compile(r"\d+(\.\d+)?")
_LISTED = 10
_REASON = 100  # letters of a reason on the terminal; the table has all of it


def manifest_from_export(
    folder: Path, out: Path, choices: ExportChoices, track: Track = quiet
) -> HospitalManifest:
    """List the series of an export, and write a manifest of those that rules name.

    Args:
        folder: the export.
        out: the manifest to write, in ``folder`` or above it, since its paths start from there; the table of
            series is written beside it.
        choices: rules and more.
        track: shows progress.

    Raises:
        UsageError: ``out`` exists or lies elsewhere, or a choice does not fit.
        InputRefused: the folder holds no DICOM image.
        ManifestRefused: the labels contradict themselves.
    """
    _check_places(folder, out, choices)
    taken = [*_OWN, _DATE, _DAY, *(rule.view for rule in choices.rules)]
    labels = LabelTable.at(choices.labels, taken) if choices.labels else None
    with HeaderStore(choices.headers_for(out), folder) as store:
        export = store.read(track)
        if not export.images:
            raise InputRefused(
                f"none of {export.files} files holds a DICOM image",
                where=str(folder),
                fix="name the folder of the export",
                code="no-dicom-in-folder",
            )
        work = _Sorting(folder, out, choices, store, labels)
        work.write_table(out.with_name(f"{out.stem}.series.csv"))
    if choices.rules:
        work.write_manifest()
    if work.pseudonyms is not None and choices.pseudonyms is not None:
        work.pseudonyms.save(choices.pseudonyms)
    return HospitalManifest(
        out if choices.rules else None,
        out.with_name(f"{out.stem}.series.csv"),
        choices.headers_for(out),
        export,
        work.kinds,
        len(work.cases),
        Counter(view for case in work.cases for view in case.views),
        tuple(work.sentences(export)),
    )


def _check_places(folder: Path, out: Path, choices: ExportChoices) -> None:
    if not folder.is_dir():
        raise InputRefused(
            "this is not a folder",
            where=str(folder),
            fix="name the folder of the export",
            code="not-a-folder",
        )
    home = out.absolute().parent.resolve()
    if not folder.resolve().is_relative_to(home):
        raise UsageError(
            "the manifest must lie in the folder of the export or above it, where its paths start",
            where=str(out),
            fix=f"write {folder.parent / 'manifest.csv'}",
        )
    if out.exists():
        raise UsageError("this file exists already", where=str(out), fix="delete it, or name another")
    if choices.pseudonyms is not None and choices.pseudonyms.absolute().parent.resolve().is_relative_to(home):
        raise UsageError(
            "the key of pseudonyms must not lie where the manifest lies",
            where=str(choices.pseudonyms),
            fix="name a file in a folder that stays with those who may know the patients",
        )


@dataclass(frozen=True, slots=True)
class _ExportCase:
    """One row of the manifest, and what it joins labels by."""

    case_id: str
    patient: str
    when: str
    views: Mapping[str, str]
    keys: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _ExportStudy:
    """Identifiers of one study, as they are told."""

    patient: str
    name: str
    when: str
    keys: Mapping[str, str]


class _Sorting:
    """Goes through an export study by study."""

    def __init__(
        self, folder: Path, out: Path, choices: ExportChoices, store: HeaderStore, labels: LabelTable | None
    ) -> None:
        self._folder, self._out, self._choices = folder, out, choices
        self._store, self._labels = store, labels
        self._patients, self._first = PatientNames(store.issuers()), store.first_dates()
        self.pseudonyms = Pseudonyms.at(choices.pseudonyms) if choices.pseudonyms else None
        self._when = _DATE if self.pseudonyms is None else _DAY
        self.kinds: dict[tuple[str, str, str], KindOfSeries] = defaultdict(KindOfSeries)
        self.cases: list[_ExportCase] = []
        self._notes: dict[str, list[str]] = defaultdict(list)
        self._ids: Counter[str] = Counter()

    def write_table(self, path: Path) -> None:
        """Write ``series.csv`` on the way through the studies."""
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow([self._when if name == _DATE else name for name in TABLE])
            for facts, parts in self._studies():
                study = self._study(facts)
                views, notes = self._assigned(parts, study)
                for place, part in enumerate(parts):
                    writer.writerow(self._row(part, study, views.get(place, ""), notes[place]))
                    self._count(part, study, views.get(place, ""))
                self._add_cases(study, parts, views)

    def write_manifest(self) -> None:
        """Write the manifest, with the labels that join."""
        views = [rule.view for rule in self._choices.rules]
        more = self._labels.columns if self._labels else ()
        with replacing(self._out) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow([*_OWN, *views, self._when, *more])
            for case in self.cases:
                label = self._label(case)
                paths = [case.views.get(view, "") for view in views]
                writer.writerow(
                    [case.case_id, case.patient, *paths, case.when, *(label.get(name, "") for name in more)]
                )

    def sentences(self, export: Export) -> Iterator[str]:
        """What the user should know."""
        for what, items in self._notes.items():
            counted = Counter(items)
            few = "; ".join(f"{item} (×{n})" if n > 1 else item for item, n in counted.most_common(_LISTED))
            rest = f"; and {len(counted) - _LISTED} more" if len(counted) > _LISTED else ""
            yield f"{what}: {len(items)}: {few}{rest}"
        if export.unreadable:
            few = "; ".join(f"{path} ({reason})" for path, reason in export.unreadable[:_LISTED])
            yield f"headers that cannot be read: {len(export.unreadable)}: {few}"
        if self._patients.ambiguous:
            few = ", ".join(self._told_patients(self._patients.ambiguous[:_LISTED]))
            yield f"Patient IDs that stand with several issuers and, in other files, with none: {few}"
        if self._labels is not None:
            yield from self._joined()

    def _joined(self) -> Iterator[str]:
        assert self._labels is not None
        by = self._labels.by
        present = {case.keys[by] for case in self.cases}
        joined = present & set(self._labels.rows)
        without = [case.case_id for case in self.cases if case.keys[by] not in joined]
        yield f"labels: {len(self.cases) - len(without)} of {len(self.cases)} cases have a row, by {by}"
        like = present if self.pseudonyms is None else set()  # IDs that a row may mean are not told then
        if lines := list(self._labels.unlike(joined, like)):
            rest = f"; and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
            yield f"rows of labels that join no case: {len(lines)}: {'; '.join(lines[:_LISTED])}{rest}"
        if without:
            rest = f", and {len(without) - _LISTED} more" if len(without) > _LISTED else ""
            yield f"cases without a row of labels: {len(without)}: {', '.join(without[:_LISTED])}{rest}"

    def _studies(self) -> Iterator[tuple[Mapping[str, Any], list[SeriesPart]]]:
        """Facts of the first image of each study, and the parts of all its series."""
        for _, series in groupby(self._store.series(), key=lambda files: _study_key(files[0][1])):
            parts = [part for files in series for part in parts_of(files)]
            yield parts[0].facts, parts

    def _study(self, facts: Mapping[str, Any]) -> _ExportStudy:
        identifier, issuer, uid = (str(facts.get(name) or "") for name in ("patient", "issuer", "study"))
        patient, date = self._patients.name(identifier, issuer, uid), str(facts.get("date") or "")
        keys = {"patient": identifier, "study": uid, "accession": str(facts.get("accession") or "")}
        if not identifier:
            self._notes["studies without a Patient ID, each counted as a patient of its own"].append(
                uid if self.pseudonyms is None else self.pseudonyms.hidden(uid)
            )
        if self.pseudonyms is None:
            return _ExportStudy(patient, uid, date, keys)
        when = _days(self._first.get(identifier, date), date)
        return _ExportStudy(self.pseudonyms.patient(patient), self.pseudonyms.hidden(uid), when, keys)

    def _assigned(self, parts: Sequence[SeriesPart], study: _ExportStudy) -> tuple[dict[int, str], list[str]]:
        """The view of each part that has one, and a note for each part."""
        rules, notes = self._choices.rules, [part.problem for part in parts]
        views: dict[int, str] = {}
        fitting = {place: [rule for rule in rules if rule.fits(part)] for place, part in enumerate(parts)}
        for place, fits in fitting.items():
            if len(fits) > 1:
                names = " and ".join(rule.view for rule in fits)
                notes[place] = f"fits several rules: {names}"
                self._note("series that fit several rules, and were taken by none", parts[place], names)
            elif rules and not fits and not notes[place]:
                notes[place] = "unmatched"
                self._note("series that no rule fits", parts[place])
        for rule in rules:
            alone = [place for place, fits in fitting.items() if fits == [rule]]
            chosen = rule.chosen([parts[place] for place in alone])
            kept = [place for place in alone if any(parts[place] is part for part in chosen)]
            for place in alone:
                notes[place] = "" if place in kept else "another series of the view was chosen"
            if self._choices.case == "series" or len(kept) == 1:
                views |= dict.fromkeys(kept, rule.view)
            for place in kept if len(kept) > 1 and self._choices.case == "study" else ():
                notes[place] = f"one of {len(kept)} series of this study for {rule.view}: none was taken"
                self._note(
                    f"series that compete for {rule.view} in a study, of which none was taken",
                    parts[place],
                    study.patient,
                )
        for part in parts:
            if part.problem:
                self._note("series that are no single volume or image", part, part.problem[:_REASON])
        return views, notes

    def _note(self, what: str, part: SeriesPart, more: str = "") -> None:
        name = f"{part.facts.get('modality', '?')} '{part.text}'"
        self._notes[what].append(f"{name}: {more}" if more else name)

    def _row(self, part: SeriesPart, study: _ExportStudy, view: str, note: str) -> list[object]:
        """One line of ``series.csv``."""
        facts, hidden = part.facts, self.pseudonyms
        uid = str(facts.get("series", ""))
        millimetres = [""] * (3 - len(part.spacing)) + [f"{each:.4g}" for each in part.spacing]
        told: dict[str, object] = {
            name: facts.get(name, "")
            for name in ("study_description", "number", "modality", "description", "protocol")
        }
        told |= {name: facts.get(name, "") for name in ("rows", "columns", "laterality", "view_position")}
        told |= dict(zip(("slice_mm", "row_mm", "column_mm"), millimetres, strict=True))
        told |= {
            "patient_id": study.patient, "study": study.name, _DATE: study.when,
            "accession": study.keys["accession"] if hidden is None else "",
            "series_uid": uid if hidden is None else hidden.hidden(uid),
            "part": part.part, "parts": part.parts, "plane": part.plane, "slices": part.slices,
            "files": len(part.files), "first_file": part.files[0], "view": view, "note": note,
        }  # fmt: skip
        return [told[name] for name in TABLE]

    def _count(self, part: SeriesPart, study: _ExportStudy, view: str) -> None:
        name = _NUMBERS.sub("#", part.part)
        described = str(part.facts.get("description") or part.facts.get("protocol") or "")
        key = str(part.facts.get("modality", "?")), f"{described} {name}".strip(), part.plane
        self.kinds[key].add(part, study.patient, view)

    def _add_cases(self, study: _ExportStudy, parts: Sequence[SeriesPart], views: Mapping[int, str]) -> None:
        """Rows of the manifest for one study."""
        located = {place: self._located(parts[place]) for place in views}
        rows = [{views[place]: located[place]} for place in views]
        if self._choices.case == "study" and rows:
            rows = [{view: path for row in rows for view, path in row.items()}]
        for row in rows:
            when = study.when if self.pseudonyms is None and study.when else study.name[:8]
            name = f"{study.patient}_{when}"
            self._ids[name] += 1
            name = name if self._ids[name] == 1 else f"{name}_{self._ids[name]}"
            self.cases.append(_ExportCase(name, study.patient, study.when, row, study.keys))

    def _located(self, part: SeriesPart) -> str:
        """Path of a part from the manifest's folder on."""
        home = self._out.absolute().parent.resolve()
        export = self._folder.resolve()
        folders = {PurePosixPath(path).parent for path in part.files}
        path = export / part.files[0]
        if len(part.files) > 1:
            path = path.parent
            if len(folders) > 1 or self._store.images_in(folders.pop().as_posix()) > len(part.files):
                name = hashlib.sha256("\n".join(part.files).encode()).hexdigest()[:16]
                path = home / f"{self._out.stem}{SUFFIX}" / f"{name}{SUFFIX}"
                write_list(path, [export / each for each in part.files])
        choice = f"{SIGN}{part.facts['volume']}" if "volume" in part.facts else ""
        return path.relative_to(home).as_posix() + choice

    def _label(self, case: _ExportCase) -> Mapping[str, str]:
        if self._labels is None:
            return {}
        return self._labels.rows.get(case.keys[self._labels.by], (0, {}))[1]

    def _told_patients(self, names: Sequence[str]) -> list[str]:
        return list(names) if self.pseudonyms is None else [self.pseudonyms.hidden(name) for name in names]


def _study_key(facts: Mapping[str, Any]) -> tuple[str, str]:
    return str(facts.get("patient") or ""), str(facts.get("study") or "")


def _days(first: str, date: str) -> str:
    """Days from a patient's first study to one, of dates as DICOM writes them; empty if unknown."""
    from datetime import datetime

    try:
        start, stop = (datetime.strptime(text, "%Y%m%d") for text in (first, date))
    except ValueError:
        return ""
    return str((stop - start).days)
