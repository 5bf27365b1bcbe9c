"""What a shard leaves on disk, and how all shards become one table.

The columns are those of ``predictions.csv`` (``foveate.evaluate.table``), in Parquet as in CSV. Which there
are is told by the model alone, so that all parts have the same.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from foveate.data.manifest.parquet import pyarrow
from foveate.deploy.archive.work import ArchiveJob, as_lines, read_lines
from foveate.errors import FoveateError
from foveate.evaluate.table import Columns, write_columns
from foveate.files import replacing, write_atomic


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


def write_part(path: Path, columns: Columns) -> None:
    """Write the table of one shard, by its suffix as CSV or Parquet."""
    if path.suffix == ".csv":
        write_columns(path, columns)
        return
    arrow, parquet = pyarrow()
    with replacing(path) as temporary:
        parquet.write_table(_arrow_table(arrow, columns), temporary)


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
