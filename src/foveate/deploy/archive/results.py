"""What a shard leaves on disk, and how all shards become one table.

The columns are those of ``predictions.csv`` (``foveate.evaluate.table``), in Parquet as in CSV. Which there
are is told by the model alone, so that all parts have the same.
"""

from __future__ import annotations

import csv
import importlib
import io
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.deploy.archive.work import ArchiveJob, as_lines, read_lines
from foveate.deploy.engines.facts import Facts
from foveate.errors import FoveateError, MissingExtra
from foveate.files import replacing, write_atomic
from foveate.types import Prediction

Columns = dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A case that could not be predicted.

    Attributes:
        case_id: its name, as far as it has one.
        row: line of the manifest; in a folder, its place in the listing.
        code: a short stable name of the reason.
        where: the file it happened at.
        what: what happened.
    """

    case_id: str
    row: int
    code: str
    where: str
    what: str

    @classmethod
    def because(cls, case_id: str, row: int, error: Exception) -> Refusal:
        """For an error; one that is none of ours has the code ``fault``."""
        if isinstance(error, FoveateError):
            return cls(case_id, row, error.code, error.where, error.what)
        return cls(case_id, row, "fault", "", f"{type(error).__name__}: {error}")


def columns_of(facts: Facts, predictions: Sequence[Prediction]) -> Columns:
    """The table of some predictions, by column; None where something is not known."""
    columns: Columns = {
        "task": [facts.task] * len(predictions),
        "case_id": [item.case_id for item in predictions],
        "patient_id": [item.patient_id for item in predictions],
        "split": [item.split for item in predictions],
        "predicted": [_joined(facts.classes, facts.decision(item.probabilities)) for item in predictions],
    }
    for place, name in enumerate(facts.classes):
        truths = [item.truth[place] for item in predictions]
        columns[f"true:{name}"] = [None if np.isnan(value) else int(value) for value in truths]
    columns |= _by_class("prob", facts, [item.probabilities for item in predictions])
    columns |= _by_class("logit", facts, [item.logits for item in predictions])
    columns["views"] = ["+".join(item.views) for item in predictions]
    return columns | _further(facts, predictions)


def _further(facts: Facts, predictions: Sequence[Prediction]) -> Columns:
    """What the model can tell beyond probabilities."""
    columns: Columns = {}
    if facts.calibrated:
        columns |= _by_class("calibrated", facts, [item.calibrated for item in predictions])
    if facts.strangest is not None:
        columns["novelty"] = [_cell(item.novelty) for item in predictions]
    if facts.set_rule is not None:
        columns["set"] = [";".join(item.answer_set or ()) for item in predictions]
    if any(known is not None for known in (facts.set_rule, facts.strangest, facts.familiar)):
        columns["abstain"] = [";".join(item.abstain) for item in predictions]
    return columns


def _by_class(block: str, facts: Facts, rows: Sequence[NDArray[np.float64] | None]) -> Columns:
    return {
        f"{block}:{name}": [None if row is None else _cell(row[place]) for row in rows]
        for place, name in enumerate(facts.classes)
    }


def _cell(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _joined(names: Sequence[str], chosen: NDArray[np.bool_]) -> str:
    return ";".join(name for name, yes in zip(names, chosen, strict=True) if yes)


def write_part(path: Path, columns: Columns) -> None:
    """Write the table of one shard, by its suffix as CSV or Parquet."""
    if path.suffix == ".csv":
        write_atomic(path, _csv(columns.keys(), zip(*columns.values(), strict=True)))
        return
    arrow, parquet = pyarrow()
    with replacing(path) as temporary:
        parquet.write_table(_arrow_table(arrow, columns), temporary)


def pyarrow() -> tuple[Any, Any]:
    """``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise MissingExtra("scale") from None


def _arrow_table(arrow: Any, columns: Columns) -> Any:
    kinds = {"true": arrow.int8(), "prob": arrow.float64(), "logit": arrow.float64()}
    kinds |= {"calibrated": arrow.float64(), "novelty": arrow.float64()}
    types = {name: kinds.get(name.partition(":")[0], arrow.string()) for name in columns}
    return arrow.table({name: arrow.array(values, types[name]) for name, values in columns.items()})


def write_refused(job: ArchiveJob, shard: int, refused: Sequence[Refusal]) -> None:
    """Write the refused cases of one shard."""
    write_atomic(job.refused(shard), as_lines([asdict(each) for each in refused]))


def join_parts(job: ArchiveJob, shards: int, out: Path) -> None:
    """Make one table of the parts of all shards, one part in memory at a time."""
    parts = [job.part(shard) for shard in range(shards)]
    with replacing(out) as temporary:
        if out.suffix == ".csv":
            _join_csv(parts, temporary)
        else:
            _join_parquet(parts, temporary)


def _join_csv(parts: Sequence[Path], out: Path) -> None:
    with out.open("wb") as target:
        for number, part in enumerate(parts):
            with part.open("rb") as source:
                header = source.readline()
                target.write(b"" if number else header)
                shutil.copyfileobj(source, target)


def _join_parquet(parts: Sequence[Path], out: Path) -> None:
    _, parquet = pyarrow()
    with parquet.ParquetWriter(out, parquet.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(parquet.read_table(part))


def join_refused(job: ArchiveJob, shards: int, out: Path) -> None:
    """Make one CSV of the refused cases of all shards."""
    names = [field.name for field in fields(Refusal)]
    with replacing(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        for shard in range(shards):
            writer.writerows(read_lines(job.refused(shard)))


def _csv(header: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
