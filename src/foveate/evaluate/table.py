"""The table of predictions, of a run or of an archive: written by the model, read by everything that counts.

One row a case, one file a run: ``task, case_id, patient_id, split, predicted``, then ``true:<class>``,
``prob:<class>`` and ``logit:<class>`` for each class, then ``views``. Numbers are written so that reading
them back gives the same double; a blank truth is unknown. ``views`` names the views that the model was given,
joined by ``+``.

Where the bundle can tell more, further columns follow: ``calibrated:<class>`` for each class (blank where
nothing was fitted), ``novelty``, ``set`` (the prediction set, names joined by ``;``) and ``abstain`` (why
one should rather not rely on the answer, reasons joined by ``;``). Last comes ``noticed``, the codes of
what readers noticed in the case's files and tolerated (``io.codes``), joined by ``;``. ``predicted`` and
``set`` are for the reader's eye and are not read back. Files without ``views`` and what follows it are read
as well.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused
from foveate.evaluate.ranks import log_odds, places
from foveate.files import write_atomic
from foveate.types import Prediction, Task

Floats = NDArray[np.float64]
Columns = dict[str, list[Any]]
DEFAULT_THRESHOLD = 0.5
SEEN = "seen"  # beside train, val and test: the part of cases of another cohort that the model learned from
_FIXED = ("task", "case_id", "patient_id", "split", "predicted")
_BLOCKS = ("true", "prob", "logit")
_VIEWS, _CALIBRATED, _NOVELTY, _SET, _ABSTAIN = "views", "calibrated", "novelty", "set", "abstain"
_NOTICED = "noticed"


def _nothing() -> Floats:
    return np.empty(0)


@dataclass(frozen=True, slots=True)
class PredictionTable:
    """Predictions of N cases over K classes.

    Attributes:
        task: ``multiclass`` or ``multilabel``.
        classes: K names.
        case_ids, patient_ids, splits: of each case.
        logits: ``(N, K)`` raw scores.
        probabilities: ``(N, K)`` in [0, 1].
        truth: ``(N, K)`` 1, 0, or NaN where unknown.
        views: of each case, the views that it was classified from, joined by ``+``; blank where that is
            not known, as it is for all cases if nothing is given.
        calibrated: ``(N, K)`` in [0, 1] after calibration, NaN where there is none.
        novelty: ``(N,)``, higher for cases that are less like the training cases, NaN where it is not known.
        doubts: of each case, why one should rather not rely on the answer, joined by ``;``; blank likewise.
        noticed: of each case, codes of what readers noticed in its files, joined by ``;``; blank likewise.
    """

    task: Task
    classes: tuple[str, ...]
    case_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    splits: tuple[str, ...]
    logits: Floats
    probabilities: Floats
    truth: Floats
    views: tuple[str, ...] = ()
    calibrated: Floats = field(default_factory=_nothing)
    novelty: Floats = field(default_factory=_nothing)
    doubts: tuple[str, ...] = ()
    noticed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("views", "doubts", "noticed"):
            if not getattr(self, name):
                object.__setattr__(self, name, ("",) * len(self.case_ids))
        if not self.calibrated.size:
            object.__setattr__(self, "calibrated", np.full(self.probabilities.shape, np.nan))
        if not self.novelty.size:
            object.__setattr__(self, "novelty", np.full(len(self.case_ids), np.nan))

    @classmethod
    def of(cls, task: Task, classes: Sequence[str], predictions: Sequence[Prediction]) -> Self:
        """Stack single predictions."""

        def stacked(rows: list[Floats]) -> Floats:
            return np.array(rows, dtype=np.float64).reshape(len(rows), len(classes))

        return cls(
            task,
            tuple(classes),
            tuple(item.case_id for item in predictions),
            tuple(item.patient_id for item in predictions),
            tuple(item.split for item in predictions),
            stacked([item.logits for item in predictions]),
            stacked([item.probabilities for item in predictions]),
            stacked([item.truth for item in predictions]),
            tuple("+".join(item.views) for item in predictions),
            stacked([_calibrated(item) for item in predictions]),
            np.array([item.novelty for item in predictions], dtype=np.float64),
            tuple(";".join(item.abstain) for item in predictions),
            tuple(";".join(item.noticed) for item in predictions),
        )

    def taken(self, rows: NDArray[np.intp]) -> PredictionTable:
        """The cases in these rows, in their order."""
        columns: dict[str, Any] = {}
        for item in fields(self):
            values = getattr(self, item.name)
            if item.name not in ("task", "classes"):
                values = values[rows] if isinstance(values, np.ndarray) else tuple(values[n] for n in rows)
            columns[item.name] = values
        return PredictionTable(**columns)

    def only(self, keep: NDArray[np.bool_]) -> PredictionTable:
        """The cases at which ``keep``, ``(N,)``, is True."""
        return self.taken(np.flatnonzero(keep))

    def part(self, split: str) -> PredictionTable:
        """The cases of one part: train, val or test."""
        return self.only(np.array([name == split for name in self.splits], dtype=bool))

    @property
    def ranks(self) -> Floats:
        """Places of the cases in the order of each class, ``(N, K)``: what AUROC and AP are counted from.

        They follow the probability. Near 0 and 1 many cases are rounded to one number, in float32 from a
        logit of 17 on; cases of equal probability are told apart by their log odds.
        """
        odds = self.logits if self.task == "multilabel" else log_odds(self.logits)
        return np.stack([places(*pair) for pair in zip(self.probabilities.T, odds.T, strict=True)], axis=1)

    def decisions(self, thresholds: Mapping[str, float] | None = None) -> NDArray[np.bool_]:
        """What the model decides, ``(N, K)``.

        Multi-class: True at the most probable class, the first of equals. Multi-label: True where the
        probability reaches the finding's threshold (0.5 unless given).
        """
        if self.task == "multiclass":
            best = self.probabilities.argmax(axis=1)
            return np.asarray(best[:, None] == np.arange(len(self.classes)))
        given = thresholds or {}
        limits = np.array([given.get(name, DEFAULT_THRESHOLD) for name in self.classes])
        return self.probabilities >= limits


@dataclass(frozen=True, slots=True)
class Further:
    """What a model can tell of a case beyond probabilities; it decides which columns there are.

    Attributes:
        calibrated: calibrated probabilities.
        novelty: how unlike the training images a case is.
        sets: prediction sets.
        abstain: why one should rather not rely on an answer.
    """

    calibrated: bool = False
    novelty: bool = False
    sets: bool = False
    abstain: bool = False

    @classmethod
    def of(cls, predictions: Sequence[Prediction]) -> Self:
        """As far as some predictions show it."""
        novelty = any(not np.isnan(item.novelty) for item in predictions)
        sets = any(item.answer_set is not None for item in predictions)
        return cls(
            calibrated=any(not np.isnan(_calibrated(item)).all() for item in predictions),
            novelty=novelty,
            sets=sets,
            abstain=novelty or sets or any(item.abstain for item in predictions),
        )


def columns_of(
    task: Task,
    classes: Sequence[str],
    predictions: Sequence[Prediction],
    *,
    thresholds: Mapping[str, float] | None = None,
    further: Further | None = None,
) -> Columns:
    """The table of some predictions, by column; None where something is not known.

    Args:
        task: ``multiclass`` or ``multilabel``.
        classes: K names, in the order of every score vector.
        predictions: one per case.
        thresholds: of the findings, for the column ``predicted`` (multi-label; 0.5 unless given).
        further: what the model can tell beyond probabilities; unless given, what the predictions show.
    """
    table, more = PredictionTable.of(task, classes, predictions), further or Further.of(predictions)
    names, decided = np.array(classes, dtype=object), table.decisions(thresholds)
    columns: Columns = {
        "task": [task] * len(predictions),
        "case_id": list(table.case_ids),
        "patient_id": list(table.patient_ids),
        "split": list(table.splits),
        "predicted": [";".join(names[row]) for row in decided],
    }
    for place, name in enumerate(classes):
        columns[f"true:{name}"] = [None if np.isnan(value) else int(value) for value in table.truth[:, place]]
    columns |= _by_class("prob", classes, table.probabilities) | _by_class("logit", classes, table.logits)
    columns[_VIEWS] = list(table.views)
    if more.calibrated:
        columns |= _by_class(_CALIBRATED, classes, table.calibrated)
    if more.novelty:
        columns[_NOVELTY] = _cells(table.novelty)
    if more.sets:
        columns[_SET] = [";".join(item.answer_set or ()) for item in predictions]
    if more.abstain:
        columns[_ABSTAIN] = [";".join(item.abstain) for item in predictions]
    columns[_NOTICED] = list(table.noticed)
    return columns


def write_predictions(
    path: Path,
    task: Task,
    classes: Sequence[str],
    predictions: Sequence[Prediction],
    *,
    thresholds: Mapping[str, float] | None = None,
    further: Further | None = None,
) -> None:
    """Write ``predictions.csv``.

    Args:
        path: the file to create or replace.
        task, classes, predictions, thresholds, further: as for ``columns_of``.
    """
    write_columns(path, columns_of(task, classes, predictions, thresholds=thresholds, further=further))


def write_columns(path: Path, columns: Columns) -> None:
    """Write a table as CSV; what is not known is blank."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_atomic(path, stream.getvalue())


def _by_class(block: str, classes: Sequence[str], values: Floats) -> Columns:
    return {f"{block}:{name}": _cells(values[:, place]) for place, name in enumerate(classes)}


def _cells(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]


def _calibrated(item: Prediction) -> Floats:
    return np.full(item.probabilities.shape, np.nan) if item.calibrated is None else item.calibrated


def read_predictions(path: Path) -> PredictionTable:
    """Read ``predictions.csv``, also one that another program wrote.

    Raises:
        InputRefused: columns are missing or doubled, a value is not what its column holds, a case stands
            twice, or the file has no row. The message names the row as an editor counts lines.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            classes = _classes(path, header)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _refused(path, f"this cannot be read as a CSV in UTF-8: {error}", "not-a-csv") from error
    places = [header.index(name) for name in _header(classes)]
    for line, row in rows:
        if len(row) != len(header):
            raise _refused(path, f"row {line} has {len(row)} fields, the header {len(header)}", "bad-row")
    ordered = [(line, [row[place] for place in places]) for line, row in rows]
    table = _table(path, classes, ordered)
    views, doubts, noticed = (
        tuple(row[header.index(name)] for _, row in rows) if name in header else ()
        for name in (_VIEWS, _ABSTAIN, _NOTICED)
    )
    calibrated = _optional(path, header, rows, [f"{_CALIBRATED}:{name}" for name in classes])
    if (calibrated < 0).any() or (calibrated > 1).any():
        raise _refused(path, "a calibrated probability lies outside [0, 1]", "bad-probability")
    novelty = _optional(path, header, rows, [_NOVELTY])[:, 0]
    return replace(table, views=views, calibrated=calibrated, novelty=novelty, doubts=doubts, noticed=noticed)


def _optional(
    path: Path, header: Sequence[str], rows: Sequence[tuple[int, list[str]]], names: Sequence[str]
) -> Floats:
    """Numbers of columns that a file need not have, ``(N, M)``; NaN where it does not, and for blanks."""
    if not set(names) <= set(header):
        return np.full((len(rows), len(names)), np.nan)
    places = [header.index(name) for name in names]
    found = np.full((len(rows), len(names)), np.nan)
    for number, (line, row) in enumerate(rows):
        try:
            found[number] = [float(row[place] or "nan") for place in places]
        except ValueError as error:
            raise _refused(path, f"row {line}: {error}", "not-a-number") from error
    return found


def _header(classes: Sequence[str]) -> list[str]:
    return [*_FIXED, *(f"{block}:{name}" for block in _BLOCKS for name in classes)]


def _classes(path: Path, header: Sequence[str]) -> tuple[str, ...]:
    classes = tuple(name.removeprefix("true:") for name in header if name.startswith("true:"))
    missing = [name for name in _header(classes) if name not in header]
    if missing or not classes:
        raise _refused(
            path, f"columns are missing: {', '.join(missing) or 'true:<class>'}", "columns-missing"
        )
    if len(set(header)) != len(header):
        raise _refused(path, "a column stands twice", "columns-doubled")
    return classes


def _table(path: Path, classes: tuple[str, ...], rows: Sequence[tuple[int, list[str]]]) -> PredictionTable:
    if not rows:
        raise _refused(path, "there is no prediction in this file", "no-predictions")
    tasks = {row[0] for _, row in rows}
    if len(tasks) != 1 or not tasks <= set(get_args(Task)):
        raise _refused(
            path, f"the column task must be one of {', '.join(get_args(Task))} throughout", "bad-task"
        )
    cases, patients, splits = (tuple(row[place] for _, row in rows) for place in (1, 2, 3))
    _check_unique(path, rows)
    numbers = np.array([_numbers(path, line, row[len(_FIXED) :], len(classes)) for line, row in rows])
    truth, probabilities, logits = np.split(numbers, 3, axis=1)
    task = cast(Task, tasks.pop())
    table = PredictionTable(task, classes, cases, patients, splits, logits, probabilities, truth)
    _check_truth(path, table, [line for line, _ in rows])
    return table


def _check_unique(path: Path, rows: Sequence[tuple[int, list[str]]]) -> None:
    seen: dict[str, int] = {}
    for line, row in rows:
        if row[1] in seen:
            raise _refused(
                path, f"case '{row[1]}' stands in row {seen[row[1]]} and in row {line}", "case-doubled"
            )
        if not row[2]:
            raise _refused(path, f"row {line} has no patient_id", "patient-missing")
        seen[row[1]] = line


def _numbers(path: Path, line: int, fields: Sequence[str], classes: int) -> list[float]:
    try:
        numbers = [float(field) if field else np.nan for field in fields]
    except ValueError as error:
        raise _refused(path, f"row {line}: {error}", "not-a-number") from error
    truth, probabilities, logits = (
        numbers[start : start + classes] for start in range(0, 3 * classes, classes)
    )
    if not all(value in (0, 1) or field == "" for value, field in zip(truth, fields, strict=False)):
        raise _refused(path, f"row {line}: truth must be 1, 0 or blank", "bad-truth")
    if not all(0 <= value <= 1 for value in probabilities):
        raise _refused(
            path, f"row {line}: a probability lies outside [0, 1] or is missing", "bad-probability"
        )
    if not np.isfinite(logits).all():
        raise _refused(path, f"row {line}: a logit is not finite or is missing", "bad-logit")
    return numbers


def _check_truth(path: Path, table: PredictionTable, lines: Sequence[int]) -> None:
    if table.task == "multilabel":
        return
    unknown = np.isnan(table.truth).all(axis=1)
    wrong = ~unknown & (table.truth.sum(axis=1) != 1)
    if wrong.any():
        line = lines[int(wrong.argmax())]
        raise _refused(path, f"row {line}: a multi-class case has exactly one true class", "bad-truth")


def _refused(path: Path, what: str, code: str) -> InputRefused:
    return InputRefused(what, where=str(path), fix="write the file again with `foveate predict`", code=code)
