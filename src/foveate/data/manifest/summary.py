"""What a manifest was taken for: its columns, and what was understood by a rule rather than as it stands."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from foveate.data.manifest.cases import CaseReader
from foveate.data.manifest.columns import RESERVED, Columns
from foveate.data.manifest.paths import FoundFile
from foveate.data.manifest.rows import ManifestTable
from foveate.data.manifest.truth import ColumnCells
from foveate.data.manifest.words import in_quotes, plain
from foveate.evaluate.sample import counted
from foveate.prepare.orientation import Turn
from foveate.types import Case, TableReading

_FEWEST_EXCLUSIVE = 3  # columns that exclude each other in every row, to be taken for classes


def reading_of(
    table: ManifestTable,
    columns: Columns,
    reader: CaseReader,
    cases: Sequence[Case],
    notes: Sequence[str] = (),
) -> TableReading:
    """Sum up how a table was read.

    Args:
        table: the manifest.
        columns: the part that each column plays.
        reader: of its rows.
        cases: that were read.
        notes: what else was understood by a rule.
    """
    sliced = reader.rows.sliced
    told = [
        *notes,
        *_name_notes(table, columns),
        *_label_notes(table, columns, reader, cases),
        *_finding_notes(table, columns, reader),
    ]
    return TableReading(
        case=columns.case or "",
        patient=columns.patient or "",
        label=", ".join(columns.exclusive) if columns.exclusive else columns.label or "",
        metadata=columns.metadata,
        known=tuple(name for name in RESERVED if name in table.columns and (name != "slice" or sliced)),
        aside=dict(columns.aside),
        notes=tuple([*told, *_suggestions(columns, cases)]),
        sizes=_sizes(table, columns, reader),
    )


def _name_notes(table: ManifestTable, columns: Columns) -> Iterator[str]:
    """ColumnCells of patients and cases that hold odd characters."""
    for name in dict.fromkeys(filter(None, (columns.patient, columns.case))):
        if odd := [text for text in table.column(name) if plain(text) != text]:
            yield f"{name}: {counted(len(odd), 'cell')} with odd blanks or digits read as plain text"


def _label_notes(
    table: ManifestTable, columns: Columns, reader: CaseReader, cases: Sequence[Case]
) -> Iterator[str]:
    if not columns.label or columns.label not in table.columns:
        return
    labels = reader.rows.labels
    counts = Counter(table.column(columns.label))
    unknown = {text: count for text, count in counts.items() if text and text in labels.missing}
    if unknown:
        yield f"{columns.label}: {_cells(unknown)} taken for not known"
    if not columns.single:
        return
    read = {
        text: (name, count)
        for text, count in counts.items()
        if (name := labels.read(text)) is not None and name != text
    }
    if read:
        pairs = ", ".join(f"'{text}' as '{name}' ({count})" for text, (name, count) in read.items())
        yield f"{columns.label}: read {pairs}"
    nothing = [
        name for name in sorted({case.label for case in cases if case.label}) if name.casefold() == "none"
    ]
    if nothing:
        yield (
            f"{columns.label}: '{nothing[0]}' is taken for a class; if it means that the class is not known, "
            f"say `missing: [{nothing[0]}]` (foveate init --missing {nothing[0]})"
        )


def _finding_notes(table: ManifestTable, columns: Columns, reader: CaseReader) -> Iterator[str]:
    """What words of findings were taken for, several columns with the same words in one line."""
    rules = reader.rows.rules
    same: dict[str, list[str]] = defaultdict(list)
    for name in [] if columns.label else [*columns.findings, *columns.exclusive]:
        cells = ColumnCells.of(table.column(name), reader.rows.labels.missing)
        uncertain = {text: cells.counts[text] for text in cells.with_meaning("uncertain")}
        unknown = {text: cells.counts[text] for text in cells.with_meaning("unknown") if text}
        taken = {} if rules.uncertain == "unknown" else {f"uncertain, as {rules.uncertain}": uncertain}
        taken |= {"unknown": unknown | ({} if taken else uncertain)}
        for what, words in taken.items():
            if words:
                same[f"{in_quotes(sorted(words))} taken for {what}"].append(f"{name} ({sum(words.values())})")
    for what, names in same.items():
        yield f"{', '.join(names)}: {what}"


def _suggestions(columns: Columns, cases: Sequence[Case]) -> Iterator[str]:
    """What the table may mean as well."""
    names = columns.findings
    if columns.label or len(names) < _FEWEST_EXCLUSIVE or not cases:
        return
    if all(_exactly_one(case.findings) for case in cases):
        yield (
            f"exactly one of {', '.join(names)} is 1 in every row: if they exclude each other, say "
            "`one_hot: true` (foveate init --one-hot), and they are the classes of one label"
        )


def _exactly_one(findings: Mapping[str, int | None]) -> bool:
    values = findings.values()
    return None not in values and sum(value or 0 for value in values) == 1


def _cells(counts: Mapping[str, int]) -> str:
    total = counted(sum(counts.values()), "cell")
    return f"{total} ({in_quotes(sorted(counts))})"


def _sizes(table: ManifestTable, columns: Columns, reader: CaseReader) -> dict[str, tuple[int, ...]]:
    """The median shape of each view, of those images that have the view's usual number of axes."""
    found = {}
    for name in columns.views:
        files = (reader.found.get(text) for text in table.column(name))
        shapes = Counter(_turned(file) for file in files if isinstance(file, FoundFile))
        if shapes:
            axes = max(
                map(len, shapes), key=lambda count: sum(n for s, n in shapes.items() if len(s) == count)
            )
            usual = [shape for shape in shapes.elements() if len(shape) == axes]
            found[name] = tuple(round(median(sides)) for sides in zip(*usual, strict=True))
    return found


def _turned(file: FoundFile) -> tuple[int, ...]:
    """The shape; of a volume as it is after turning."""
    geometry, shape = file.geometry, file.shape
    if geometry is None or geometry.orientation is None or len(shape) != 3:
        return shape
    return Turn.to("auto", geometry.orientation, 3).along(shape)
