"""The folder that an archive is worked off in: where what lies, what it was begun with, and who is at work.

OUT/                                    (OUT.work/ if OUT is one file)
  predictions/part-00000.parquet        or .csv
  work/plan.json                        what it was begun with; written when all shards are listed
  work/00000.cases.jsonl                the cases of a shard
  work/00000.refused.jsonl              those that could not be predicted
  work/00000.done.json                  the shard is finished
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, cast

from filelock import FileLock, Timeout

from foveate.errors import UsageError
from foveate.files import write_json

Suffix = Literal[".parquet", ".csv"]
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a shard, or of all.

    Attributes:
        shards: finished.
        predicted: cases in the table.
        seen: cases among them whose patient the model learned from; None where it cannot be known.
        refused: number of cases by the code of the reason.
    """

    shards: int = 0
    predicted: int = 0
    seen: int | None = None
    refused: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Done) -> Done:
        """Both together."""
        known = [each.seen for each in (self, other) if each.seen is not None]
        return Done(
            self.shards + other.shards,
            self.predicted + other.predicted,
            sum(known) if known else None,
            dict(Counter(self.refused) + Counter(other.refused)),
        )


@dataclass(frozen=True, slots=True)
class ArchiveJob:
    """All that a worker must know, on whatever machine it runs: paths are absolute.

    Attributes:
        model: a run, a bundle or an exported file.
        engine: that runs it.
        base: the folder that holds ``predictions`` and ``work``.
        root: the folder that the paths of cases start from and must not leave.
        suffix: of the table's parts.
        maps: folder for maps; None for none.
    """

    model: Path
    engine: str
    base: Path
    root: Path
    suffix: Suffix
    maps: Path | None = None

    @property
    def work(self) -> Path:
        """The folder of what is needed only until all is done."""
        return self.base / "work"

    def part(self, shard: int) -> Path:
        """The shard's part of the table."""
        return self.base / "predictions" / f"part-{shard:05d}{self.suffix}"

    def cases(self, shard: int) -> Path:
        """The shard's cases."""
        return self.work / f"{shard:05d}.cases.jsonl"

    def refused(self, shard: int) -> Path:
        """The shard's cases that could not be predicted, with reasons."""
        return self.work / f"{shard:05d}.refused.jsonl"

    def done(self, shard: int) -> Path:
        """What says that the shard is finished."""
        return self.work / f"{shard:05d}.done.json"

    def finish_shard(self, shard: int, done: Done) -> None:
        """Say that a shard is finished; everything else of it is on disk."""
        write_json(self.done(shard), asdict(done))

    def outcome(self, shard: int) -> Done | None:
        """What came of a shard; None as long as it is not finished."""
        try:
            return Done(**json.loads(self.done(shard).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None


@dataclass(frozen=True, slots=True)
class ArchivePlan:
    """What an archive was begun with; going on with anything else is refused.

    Attributes:
        source: the folder or manifest.
        source_sha256: of the manifest; empty for a folder, whose listing is made once.
        engine: its name.
        model: hash of the model's facts, which name its weights.
        maps: folder for maps; empty for none.
        suffix: of the table.
        cases, shards: how many.
        passed_over: files of a folder that do not look like images by their names.
    """

    source: str
    source_sha256: str
    engine: str
    model: str
    maps: str
    suffix: Suffix
    cases: int = 0
    shards: int = 0
    passed_over: int = 0
    format: int = FORMAT

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read ``plan.json``; None if there is none."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def write(self, path: Path) -> None:
        """Write it."""
        write_json(path, asdict(self))

    def must_be(self, other: ArchivePlan, where: Path) -> None:
        """Refuse to go on with something else.

        Raises:
            UsageError: names what differs.
        """
        ours, theirs = asdict(self), asdict(other)
        asked = ("source", "source_sha256", "engine", "model", "maps", "suffix", "format")
        if differing := [name for name in asked if ours[name] != theirs[name]]:
            raise UsageError(
                f"this was begun with another {', '.join(_WORDS.get(name, name) for name in differing)}",
                where=str(where),
                fix="name another --out, or remove what is there",
            )


_WORDS = {"source_sha256": "content of the manifest"}


def suffix_of(out: Path) -> Suffix:
    """What kind of table is asked for; a folder gets Parquet.

    Raises:
        UsageError: neither ``.parquet``, ``.csv`` nor a folder.
    """
    if out.suffix not in (".parquet", ".csv", ""):
        raise UsageError(
            f"'{out.suffix}' is no kind of table", where="--out", fix="name a .parquet, a .csv or a folder"
        )
    return cast(Suffix, out.suffix or ".parquet")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep others out of a folder; the system frees it again however this process ends.

    Raises:
        UsageError: another process is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise UsageError(
            "another process is predicting into this", where=str(folder), fix="let it finish, or stop it"
        ) from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines."""
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def as_lines(items: Sequence[Mapping[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
