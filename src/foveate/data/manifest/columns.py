"""Which column of a manifest is what: named by the user, known by its name, or told from its values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from foveate.data.manifest.paths import files_below
from foveate.data.manifest.rows import Header, Problem, closest
from foveate.data.manifest.truth import FoundFindings, LabelReader, rest_of
from foveate.data.manifest.words import is_blank
from foveate.errors import InputRefused, UsageError
from foveate.io.chosen import SIGN, chosen
from foveate.io.reading import probe
from foveate.study.settings import USUAL_RULES, TableRules
from foveate.types import Task

RESERVED = ("mask", "organ_mask", "mask_segment", "organ_mask_segment", "slice", "split")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom", ".nii", ".nii.gz", ".series")
_SAMPLE = 20
_PARTS = {
    "train": "train", "training": "train", "train_val": "train", "trainval": "train", "val": "val",
    "valid": "val", "validation": "val", "test": "test", "testing": "test", "holdout": "test",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Expected:
    """What a model that is to be asked about a cohort knows; its truth may then be absent, wholly or in part.

    Attributes:
        task: of the model.
        classes: of the model, in the order of its scores.
    """

    task: Task
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ColumnChoice:
    """What the user said about the columns; None means: find out. See ``load_manifest``."""

    label: str | None = None
    findings: Sequence[str] | None = None
    views: Sequence[str] | None = None
    patient: str = "patient_id"
    case: str = "case_id"
    rules: TableRules = USUAL_RULES

    def present(self, table: Header, expected: Expected) -> ColumnChoice:
        """The same, with the columns of the truth that a model expects and the table has."""
        in_label = (expected.task == "multiclass") != (self.rules.one_hot or self.rules.separator is not None)
        label = self.label or "label"
        findings = None if in_label else [name for name in expected.classes if name in table.columns]
        return replace(self, label=label if in_label and label in table.columns else None, findings=findings)


@dataclass(frozen=True, slots=True)
class Columns:
    """The part that each column plays.

    Attributes:
        case, patient: their columns; None where they are taken from the image path and from the case.
        label: the column of the class, or None; with a separator that of all findings.
        findings: the 0/1 columns, if there is no label; with a separator what the label's column names.
        views: the columns of image paths.
        metadata: everything else.
        problems: what is missing or ambiguous, in words.
        exclusive: columns of 0 and 1 that make the class together.
        aside: columns that look like findings and were taken for metadata, with the reason.
        odd: cells that keep a column from being a finding, by line.
    """

    case: str | None
    patient: str | None
    label: str | None
    findings: tuple[str, ...]
    views: tuple[str, ...]
    metadata: tuple[str, ...]
    problems: tuple[str, ...]
    exclusive: tuple[str, ...] = ()
    aside: Mapping[str, str] = field(default_factory=dict)
    odd: tuple[Problem, ...] = ()

    @property
    def single(self) -> bool:
        """Whether a case has one class."""
        return bool(self.exclusive) or (self.label is not None and not self.findings)


@dataclass(slots=True)
class _Truth:
    """Where the truth is, as far as it was found."""

    label: str | None = None
    findings: tuple[str, ...] = ()
    exclusive: tuple[str, ...] = ()
    aside: Mapping[str, str] = field(default_factory=dict)
    odd: tuple[Problem, ...] = ()


def assign_columns(
    table: Header, root: Path, choice: ColumnChoice, expected: Expected | None = None
) -> Columns:
    """Find the part that each column plays.

    Args:
        table: the manifest.
        root: the folder that paths start from.
        choice: what the user said.
        expected: what a model knows; without truth a column of patients is not asked for either.

    Raises:
        UsageError: the user named a column that does not exist, or both a label and findings.
    """
    if expected is not None:
        choice = choice.present(table, expected)
        if not (choice.label or choice.findings) and choice.patient not in table.columns:
            choice = replace(choice, patient=choice.case)
    _check_named(table, choice)
    problems: list[str] = []
    case = choice.case if choice.case in table.columns else None
    patient = _patient_column(table, choice, problems)
    said = {choice.label, "label", *(choice.findings or ()), *RESERVED}
    free = [name for name in table.columns if name not in {*said, case, patient}]
    views = tuple(choice.views or _find_views(table, root, free))
    if not views:  # the file may be the case's name as well
        views = tuple(_find_views(table, root, [name for name in dict.fromkeys((case, patient)) if name]))
    if not views:
        problems.append(_no_views(table, root))
    free = [name for name in free if name not in views]
    truth = _expected_truth(choice, expected) if expected else _find_truth(table, choice, free, problems)
    used = {case, patient, truth.label, *truth.findings, *truth.exclusive, *views, *RESERVED}
    metadata = tuple(name for name in table.columns if name not in used)
    return Columns(
        case, patient, truth.label, truth.findings, views, metadata, tuple(problems),
        exclusive=truth.exclusive, aside=truth.aside, odd=truth.odd,
    )  # fmt: skip


def views_there(table: Header, views: Sequence[str], *, tolerates_missing: bool) -> list[str]:
    """The columns of a model's views; whole ones may be missing where it can do without."""
    there = [name for name in views if name in table.columns]
    return there if there and tolerates_missing else list(views)


def parse_part(text: str) -> str | None:
    """The part (train, val or test) that a common word names; None if it is none of them."""
    return _PARTS.get(text.strip().lower().replace("-", "_"))


def names_parts(texts: Iterable[str]) -> bool:
    """Whether a column says who is trained on and who is tested on, and so is no fact about a case."""
    return all(parse_part(text) for text in texts)


def _check_named(table: Header, choice: ColumnChoice) -> None:
    if choice.label and choice.findings:
        raise UsageError(
            "a cohort has one label per case (label) or findings (findings), not both",
            fix="name one of the two",
        )
    named = [choice.label, *(choice.findings or ()), *(choice.views or ())]
    named += [choice.case] if choice.case != "case_id" else []
    named += [choice.patient] if choice.patient not in ("patient_id", choice.case) else []
    for name in named:
        if name and name not in table.columns:
            raise UsageError(
                f"the manifest has no column '{name}'",
                where=str(table.path),
                fix=closest(name, table.columns),
            )


def _patient_column(table: Header, choice: ColumnChoice, problems: list[str]) -> str | None:
    """The patient's column; None if the user said that each case is a patient of its own."""
    if choice.patient in table.columns:
        return choice.patient
    if choice.patient != choice.case:
        problems.append(
            f"no column '{choice.patient}' says which cases belong to one patient; name it "
            f"(--patient COLUMN), or say that every case is a patient of its own (--patient {choice.case})"
        )
    return None


def _expected_truth(choice: ColumnChoice, expected: Expected) -> _Truth:
    """The columns that hold what a model tells; there may be none."""
    columns = tuple(choice.findings or ())
    if choice.rules.one_hot:
        return _Truth(exclusive=columns)
    return _Truth(choice.label, expected.classes if choice.label and choice.rules.separator else columns)


def _find_truth(table: Header, choice: ColumnChoice, free: Sequence[str], problems: list[str]) -> _Truth:
    """The column of the class, or the columns of findings."""
    rules = choice.rules
    if rules.separator is not None:
        return _listed(table, choice, problems)
    if choice.label:
        return _Truth(choice.label)
    if choice.findings:
        columns = tuple(choice.findings)
        return _Truth(exclusive=columns) if rules.one_hot else _Truth(findings=columns)
    found = FoundFindings.among(table, free, rest_of(rules, ()))
    if "label" not in table.columns or rules.one_hot:
        columns = found.names
        if not columns and not found.odd:
            problems.append(
                "no column 'label' and no column of 0 and 1; name the truth (--label COLUMN, or --finding "
                f"COLUMN for each finding); the columns are: {', '.join(table.columns)}"
            )
            problems += [f"'{name}' is none: it {why}" for name, why in found.aside.items()]
        if rules.one_hot:
            return _Truth(exclusive=columns, aside=found.aside, odd=found.odd)
        return _Truth(findings=columns, aside=found.aside, odd=found.odd)
    if found.counted:
        problems.append(
            f"multi-class and multi-label are mixed: beside 'label' there are columns of 0 and 1 "
            f"({', '.join(found.counted)}); say --label label to keep those as metadata, or name the "
            "findings (--finding COLUMN)"
        )
    return _Truth("label")


def _listed(table: Header, choice: ColumnChoice, problems: list[str]) -> _Truth:
    """A column that names all findings of a case."""
    label = choice.label or "label"
    if label not in table.columns:
        problems.append(f"no column '{label}' that a separator could part; name it (--label COLUMN)")
        return _Truth()
    reader = LabelReader.of((), (), choice.rules)
    named = {part for text in set(table.column(label)) for part in reader.parts(text) or ()}
    return _Truth(label, tuple(sorted(named)))


def _find_views(table: Header, root: Path, candidates: Sequence[str]) -> list[str]:
    """Columns whose values are images under the root; if there are none, those that are named like images."""
    samples = {name: list(islice(_filled(table, name), _SAMPLE)) for name in candidates}
    named = [
        name for name, texts in samples.items() if texts and all(_named_like_image(text) for text in texts)
    ]
    there = [name for name, texts in samples.items() if _is_image_column(root, texts, name in named)]
    return there or named


def _filled(table: Header, name: str) -> Iterator[str]:
    """The cells of a column that say something."""
    return (text for text in table.column(name) if not is_blank(text))


def _no_views(table: Header, root: Path) -> str:
    """That no column holds paths; where one names files without folder or ending, how they are written."""
    problem = "no column holds paths of images from the folder of the CSV on; name one (--view COLUMN)"
    below = files_below(root)
    for name in table.columns:
        texts = list(dict.fromkeys(_filled(table, name)))[:_SAMPLE]
        if len(texts) > 1 and all(below.get(text, "").lower().endswith(SUFFIXES) for text in texts):
            return f"{problem}; '{name}' names files, but write '{below[texts[0]]}' in place of '{texts[0]}'"
    return problem


def _named_like_image(text: str) -> bool:
    return text.lower().partition(SIGN)[0].endswith(SUFFIXES) or text.lower().endswith(SUFFIXES)


def _is_image_column(root: Path, texts: Sequence[str], named: bool) -> bool:
    """Whether the first of these paths that exists is an image, by its name or else by its content."""
    first = next((root / text for text in texts if _exists(root / text)), None)
    if first is None or named:
        return first is not None
    try:
        probe(first)
    except InputRefused:
        return False
    return True


def _exists(path: Path) -> bool:
    try:
        return chosen(path)[0].exists()
    except (OSError, ValueError):  # a text too long for a path, or with a zero byte
        return False
