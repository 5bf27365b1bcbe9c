"""The run folder: which files a study produces, where they lie, and how they came about."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from foveate import __version__
from foveate.data.manifest.columns import Expected
from foveate.data.manifest.kept import CohortKeeper
from foveate.errors import UsageError
from foveate.evaluate.results.external import ExternalTest
from foveate.evaluate.results.file import ResultFile
from foveate.evaluate.results.run import RunHashes, RunRecord, StationRecord, TrainingFacts
from foveate.files import sha256_of, write_atomic
from foveate.study.settings import FORMER, PreprocessConfig
from foveate.study.study import Study
from foveate.train.lock import run_lock
from foveate.types import Cohort

_RECORDED = (
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "monai",
    "captum",
    "numpy",
    "scikit-learn",
    "pydicom",
    "nibabel",
    "pillow",
)


_BEFORE_TRAINING = (
    "study.yaml", "run.json", "cohort.json", "audit.json", "images.csv", "looks.safetensors", "splits.json",
    "plan.json",
)  # fmt: skip
Result = TypeVar("Result", bound=ResultFile)


@dataclass
class StationFacts:
    """What a station tells of itself while it runs: of a training, how it is computed."""

    computed: TrainingFacts | None = None


def alike(kept: Study, study: Study) -> bool:
    """Whether a study is that of a run folder, whatever audit findings both accept.

    Of settings that a run of 0.1.0 does not name, it stays with what it did, as long as nobody chooses
    something else now.
    """
    there, wanted, usual = kept.preprocess, study.preprocess, PreprocessConfig()
    untold = FORMER.keys() - there.model_fields_set
    unchosen = {name for name in untold if getattr(wanted, name) == getattr(usual, name)}
    same = {name: getattr(usual, name) for name in unchosen}
    kept = kept.model_copy(update={"preprocess": there.model_copy(update=same)})
    return kept.model_copy(update={"audit": study.audit}) == study


@dataclass(frozen=True)
class Run:
    """One study and its folder.

    Attributes:
        folder: where every file of the run lies.
        study: the choices, with absolute paths.
    """

    folder: Path
    study: Study
    _keeper: CohortKeeper = field(default_factory=CohortKeeper, init=False, repr=False, compare=False)

    @classmethod
    def create(cls, study: Study, folder: Path, *, anew: bool = False) -> Run:
        """Start a run, or go on with one: the study that is already there must be the same.

        Audit findings that were accepted since then (``allowing``) stay accepted.

        Args:
            study: every choice.
            folder: of the run.
            anew: let another study use a folder in which nothing was trained yet, as after a mistake in the
                study; what the stations before the training left there is removed.

        Raises:
            UsageError: the folder holds a run of another study.
        """
        kept = folder / "study.yaml"
        if not kept.is_file():
            write_atomic(kept, study.dump())
            return cls(folder, study)
        found = Study.of_run(folder)
        if anew and not alike(found, study) and _is_untrained(folder):
            _begin_anew(folder)
            write_atomic(kept, study.dump())
            return cls(folder, study)
        if not alike(found, study):
            raise UsageError(
                "this folder already holds a run of a different study",
                where=str(folder),
                fix="give another folder with --run, or delete this one",
            )
        run, new = cls(folder, found), set(study.audit.allow) - set(found.audit.allow)
        return run.allowing(sorted(new)) if new else run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open a run folder that exists.

        Raises:
            UsageError: the folder holds no ``study.yaml``.
        """
        if not (folder / "study.yaml").is_file():
            raise UsageError(
                "this is not a run folder: it has no study.yaml",
                where=str(folder),
                fix="start with `foveate run STUDY.yaml`",
            )
        return cls(folder, Study.of_run(folder))

    def allowing(self, codes: Sequence[str]) -> Run:
        """The same run, accepting these audit findings as well; kept in its study."""
        accepted = sorted({*self.study.audit.allow, *codes})
        study = self.study.model_copy(
            update={"audit": self.study.audit.model_copy(update={"allow": accepted})}
        )
        write_atomic(self.folder / "study.yaml", study.dump())
        return Run(self.folder, study)

    def path(self, name: str, made_by: str = "") -> Path:
        """Path of a file of the run.

        Args:
            name: relative to the folder.
            made_by: the command that makes it; if given, the file must exist.

        Raises:
            UsageError: it does not exist yet.
        """
        path = self.folder / name
        if made_by and not path.exists():
            raise UsageError(
                f"{name} is not there yet",
                where=str(self.folder),
                fix=f"run `foveate {made_by} {self.folder}` first",
            )
        return path

    def result(self, kind: type[Result]) -> Result:
        """A result file of the run.

        Raises:
            UsageError: it does not exist yet.
            InputRefused: it is damaged.
        """
        found = kind.read(self.path(kind.NAME, kind.MADE_BY).parent)
        assert found is not None
        return found

    @property
    def external(self) -> ExternalTest | None:
        """What makes this an external test of another run's model; None for a run of its own."""
        return ExternalTest.read(self.folder)

    def refuse_external(self, command: str) -> None:
        """Refuse what cannot be done with an external test, as nothing is trained in it.

        Raises:
            UsageError: this is one.
        """
        if test := self.external:
            raise UsageError(
                f"this is an external test of {test.of}: nothing is trained in it",
                where=f"foveate {command}",
                fix=f"name the run itself, {test.source}, or its study",
            )

    def cohort(self) -> Cohort:
        """The cases of the manifest as the study says; of an external test, those whose files can be used.

        The manifest is read once and kept in the folder, see ``foveate.data.manifest.kept``.
        """
        test = self.external
        return self._keeper.cohort(
            self.folder, self.study.data, Expected(test.task, test.classes) if test else None
        )

    @contextmanager
    def station(self, name: str) -> Iterator[StationFacts]:
        """Record in ``run.json`` when a station ran, for how long, and with which versions.

        Yields:
            What else of the station shall stand there; empty at first.
        """
        started, clock, facts = datetime.now(UTC), time.perf_counter(), StationFacts()
        yield facts
        before = RunRecord.read(self.folder)
        done = StationRecord(
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - clock, 2),
            command=_command(),
            computed=facts.computed,
        )
        RunRecord(
            name=self.study.name,
            foveate=__version__,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            command=_command(),
            seed=self.study.seed,
            allowed=tuple(self.study.audit.allow),
            hashes=self._hashes(),
            versions=versions(),
            device=device(),
            stations={**(before.stations if before else {}), name: done},
        ).write(self.folder)

    def _hashes(self) -> RunHashes:
        def hash_of(path: Path) -> str | None:
            return sha256_of(path) if path.is_file() else None

        return RunHashes(
            manifest=hash_of(self.study.data.manifest),
            study=hash_of(self.folder / "study.yaml"),
            splits=hash_of(self.folder / "splits.json"),
            weights=hash_of(self.folder / "bundle" / "model.safetensors"),
        )


def _is_untrained(folder: Path) -> bool:
    """Whether a run folder holds nothing but what the stations before the training write."""
    return all(item.name in _BEFORE_TRAINING or item.name.startswith(".") for item in folder.iterdir())


def _begin_anew(folder: Path) -> None:
    """Remove what the stations of another study left.

    Raises:
        UsageError: somebody trains there.
    """
    with run_lock(folder):
        for name in _BEFORE_TRAINING:
            (folder / name).unlink(missing_ok=True)
    warnings.warn(f"{folder} held another study that was never trained; it is begun anew", stacklevel=3)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    found = {"python": platform.python_version(), "foveate": __version__}
    for name in _RECORDED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def device() -> dict[str, str | int]:
    """The machine in words; no host name, as reports are passed on."""
    return {"system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count() or 1}


def _command() -> tuple[str, ...]:
    return (Path(sys.argv[0]).name, *sys.argv[1:])
