"""The manifest: a CSV that lists the cases, and the only contract between a user's data and us.

One row is one case: an id, the patient, the truth (a label, or 0/1 columns of findings), and a path for
each view. Paths start from the CSV's folder. Every problem is found in one pass, with its row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from foveate.data.manifest.boxes import read_boxes
from foveate.data.manifest.cases import CaseReader, path_cells
from foveate.data.manifest.checks import across_rows, class_names
from foveate.data.manifest.columns import ColumnChoice, Expected, assign_columns
from foveate.data.manifest.identities import settle_names
from foveate.data.manifest.paths import (
    Cell,
    Fault,
    FileState,
    FoundFile,
    Root,
    file_problems,
    file_states,
    find_all,
)
from foveate.data.manifest.rows import ManifestTable, read_table
from foveate.data.manifest.summary import reading_of
from foveate.errors import InputRefused, ManifestRefused, UsageError
from foveate.evaluate.sample import counted
from foveate.study.settings import USUAL_RULES, TableRules
from foveate.types import Case, Cohort, Task, Track, quiet


def load_manifest(
    path: str | Path,
    *,
    label: str | None = None,
    findings: Sequence[str] | None = None,
    views: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    root: Path | None = None,
    boxes: Path | None = None,
    patient: str = "patient_id",
    case: str = "case_id",
    rules: TableRules = USUAL_RULES,
    follow_outside: bool = False,
    expected: Expected | None = None,
    refused: list[InputRefused] | None = None,
    files: dict[str, FileState | None] | None = None,
    track: Track = quiet,
) -> Cohort:
    """Read and check a manifest; no image is decoded, only headers are read.

    Args:
        path: the CSV (UTF-8; commas, semicolons or tabs).
        label: column of the class. None: ``label``, if there is one.
        findings: columns of 0, 1, or empty for unknown. None: all such columns, if there is no label.
        views: columns of image paths. None: the columns whose values are images.
        classes: the class names in the order of the scores; other labels are refused. None: all labels
            that occur, sorted.
        root: folder that the paths start from. None: the CSV's folder.
        boxes: CSV of true boxes, see ``foveate.data.manifest.boxes``.
        patient: column that says which cases belong to one patient, whatever it is called. The name of
            the case column says that every case is a patient of its own.
        case: column of the case's name; without a column ``case_id``, cases are named after their image.
        rules: how cells are understood that can be read in more than one way.
        follow_outside: allow paths that lead out of the root.
        expected: what a model knows that is to be asked about the cases: they may then lack a truth, and
            ``findings`` and ``classes`` are the model's.
        refused: gets the cases whose files cannot be used, which are then left out; None: they are problems
            of the manifest like all others.
        files: gets the state of every file that the cohort rests on, as it was before it was read.
        track: shows progress.

    Returns:
        The cohort; cases in the manifest's order. The optional columns ``mask``, ``organ_mask``,
        ``slice`` (0-based, of a volume) and ``split`` are understood; all others become metadata.

    Raises:
        InputRefused: there is no such file.
        ManifestRefused: something is wrong with the table or its rows; all problems are listed.
        UsageError: a named column does not exist.
    """
    if classes and findings:
        raise UsageError(
            "findings are themselves the classes", where="classes", fix="give classes or findings"
        )
    table = read_table(Path(path))
    start = Root.at(Path(root) if root is not None else table.path.parent, follow_outside=follow_outside)
    if expected is not None:
        classes = expected.classes
    columns = assign_columns(
        table, start.folder, ColumnChoice(label, findings, views, patient, case, rules), expected
    )
    cells = path_cells(table, columns)
    if files is not None:
        files |= file_states(start, {*(cell.text for cell in cells), *([str(boxes)] if boxes else [])})
    found = find_all(cells, start, track)
    reader = CaseReader.of(table, columns, found, tuple(classes or ()), rules)
    cases, problems = reader.read(table)
    own = columns.case if expected is None or columns.case == columns.patient else None
    settled = settle_names(cases, rules, case=own, patient=columns.patient)
    cases, problems, notes = settled.cases, [*problems, *settled.problems, *columns.odd], settled.notes
    if rules.unlabelled == "left-out" and columns.single and expected is None:
        cases = _labelled(cases, notes)
    names = tuple(classes) if classes else class_names(cases, columns)
    faulty: dict[int, InputRefused] = {}
    if refused is not None:
        faulty = _faulty(cells, found, table)
        refused += faulty.values()
        cases = [case for case in cases if case.row not in faulty]
    problems += [*table.problems, *file_problems(cells, found, start)]
    problems += across_rows(
        table, columns, cases, names, reader.keys(table), unlabelled=expected is not None,
        stated=bool(classes),
    )  # fmt: skip
    problems = [(line, text) for line, text in problems if line not in faulty]
    described = [f"header: {text}" for text in columns.problems]
    described += [f"row {row}: {text}" for row, text in sorted(problems)]
    if boxes:
        cases, box_problems = read_boxes(Path(boxes), cases, reader.geometries(table), names)
        described += [f"{Path(boxes).name} row {row}: {text}" for row, text in box_problems]
    if described:
        raise ManifestRefused(str(table.path), described)
    task: Task = "multiclass" if columns.single else "multilabel"
    task = task if expected is None else expected.task
    reading = reading_of(table, columns, reader, cases, notes)
    return Cohort(tuple(cases), task, names, columns.views, table.path, table.sha256, reading)


def _labelled(cases: Sequence[Case], notes: list[str]) -> list[Case]:
    """The cases that have a label, if any has one."""
    kept = [case for case in cases if case.label is not None]
    if kept and len(kept) < len(cases):
        notes.append(f"{counted(len(cases) - len(kept), 'case')} without a label left out")
    return kept or list(cases)


def _faulty(
    cells: Sequence[Cell], found: Mapping[str, FoundFile | Fault], table: ManifestTable
) -> dict[int, InputRefused]:
    """By line, what is wrong with the files of a row; none where no row would be left."""
    lines: dict[int, list[str]] = {}
    for cell in cells:
        if isinstance(fault := found[cell.text], Fault):
            lines.setdefault(cell.row, []).append(f"{cell.column}: {fault.text}")
    if len(lines) == len(table.rows):
        return {}
    return {
        line: InputRefused("; ".join(texts), where=f"{table.path} row {line}", code="unusable-file")
        for line, texts in lines.items()
    }
