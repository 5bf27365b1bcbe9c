"""``run.json``: how a run came about."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from foveate.evaluate.results.file import Part, ResultFile, SparsePart


class TrainingFacts(Part):
    """How a training was computed, as far as exact results need it.

    Attributes:
        precision: before and after the first epoch.
        channels_last: memory format.
        cosine: of the gradient in bfloat16 with that in float32, before and after; None where not asked.
        convolutions: how many different ones were checked, and
        computed_otherwise: how many of them are computed another way in bfloat16.
        processor, threads, torch: of the machine.
        orientation: that images were brought to; ``none`` for the order of their files, empty where unknown.
        spacing: mm that images were brought to along each axis of the model's input; empty if to none.
        exact: False once the run has gone on on another machine, or with another number of threads.
    """

    precision: tuple[str, ...] = ()
    channels_last: bool = False
    cosine: tuple[float | None, ...] = ()
    convolutions: int = 0
    computed_otherwise: int = 0
    processor: str = ""
    threads: int = 0
    torch: str = ""
    orientation: str = ""
    spacing: tuple[float, ...] = ()
    exact: bool = True


class StationRecord(SparsePart):
    """When a station ran, for how many seconds, by which command; for a training how it was computed."""

    started: str
    seconds: float
    command: tuple[str, ...] = ()
    computed: TrainingFacts | None = None


class RunHashes(SparsePart):
    """SHA-256 of what the run was made from, and of what it made; None where there is no such file yet."""

    manifest: str | None = None
    study: str | None = None
    splits: str | None = None
    weights: str | None = None


class RunRecord(ResultFile):
    """How a run came about.

    Attributes:
        name: of the study.
        foveate: version that ran last.
        date: when its last station ended.
        command: of that.
        seed: of the study.
        allowed: findings of the audit that are accepted.
        hashes: of files.
        versions: of Python and of the libraries that results depend on.
        device: the machine in words.
        stations: those that ran.
    """

    NAME: ClassVar[str] = "run.json"
    MADE_BY: ClassVar[str] = "run"

    name: str = ""
    foveate: str = ""
    date: str = ""
    command: tuple[str, ...] = ()
    seed: int = 0
    allowed: tuple[str, ...] = ()
    hashes: RunHashes = RunHashes()
    versions: dict[str, str] = Field(default_factory=dict)
    device: dict[str, str | int] = Field(default_factory=dict)
    stations: dict[str, StationRecord] = Field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of all stations."""
        return sum(station.seconds for station in self.stations.values())
