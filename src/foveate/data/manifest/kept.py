"""``cohort.json`` of a run: what its manifest and the headers of its images said, so that they are read once.

Every station of a run needs the cohort. It is taken from here as long as the manifest has the same hash, and
every file that it names the same size and time of change; otherwise it is read anew, and what changed is
named. The file can be deleted at any time.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from foveate.data.manifest.columns import Expected
from foveate.data.manifest.manifest import load_manifest
from foveate.data.manifest.paths import FileState, Root, file_states
from foveate.files import sha256_of, write_atomic
from foveate.study.study import DataConfig
from foveate.types import Cohort

FILE = "cohort.json"
_NAMED = 3  # files that a warning names


class KeptCohort(BaseModel):
    """What one reading of a manifest gave, and what it rests on.

    Attributes:
        format: version of this class and of the rules by which manifests are read; of another one nothing is
            taken over.
        data, expected: what was asked for.
        files: by the path as it stands in the manifest, what can be seen of each file without opening it; the
            table of boxes is one of them.
        cohort: the result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    format: Literal[2] = 2
    data: DataConfig
    expected: Expected | None
    files: dict[str, FileState | None]
    cohort: Cohort

    @classmethod
    def made(cls, data: DataConfig, expected: Expected | None) -> Self:
        """Read the manifest and the headers of its images."""
        files: dict[str, FileState | None] = {}
        cohort = load_manifest(
            data.manifest,
            label=data.label,
            findings=data.findings,
            classes=data.classes,
            views=data.views,
            boxes=data.boxes,
            patient=data.patient,
            case=data.case,
            rules=data,
            expected=expected,
            refused=[] if expected else None,
            files=files,
        )
        return cls(data=data, expected=expected, files=files, cohort=cohort)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """What a run folder holds; None if there is nothing, or nothing that can be used."""
        with suppress(OSError, ValueError):  # pydantic's errors are ValueErrors
            return cls.model_validate_json((folder / FILE).read_bytes())
        return None

    def write(self, folder: Path) -> None:
        """Keep it in a run folder, if that can be written; otherwise the next process reads the manifest."""
        with suppress(OSError, ValueError):
            write_atomic(folder / FILE, self.model_dump_json())

    def answers(self, data: DataConfig, expected: Expected | None) -> bool:
        """Whether this is what is asked for."""
        return (self.data, self.expected) == (data, expected)

    def changes(self) -> list[str]:
        """What is no longer as it was read, in words; the files are only looked up, not opened."""
        manifest = self.cohort.manifest
        try:
            if sha256_of(manifest) != self.cohort.manifest_sha256:
                return [f"{manifest.name} was changed"]
        except OSError:
            return [f"{manifest.name} was removed"]
        now = file_states(Root.at(manifest.parent), self.files)
        kinds: dict[str, list[str]] = {"removed": [], "added": [], "changed": []}
        for name, state in now.items():
            if state != (before := self.files[name]):
                kinds["changed" if state and before else "added" if state else "removed"].append(name)
        return [
            f"{_few(names)} {'were' if len(names) > 1 else 'was'} {kind}"
            for kind, names in kinds.items()
            if names
        ]


@dataclass(slots=True)
class CohortKeeper:
    """Gives the cohort of a run: from memory, from its folder, or by reading the manifest.

    Attributes:
        held: what this process has at hand.
    """

    held: KeptCohort | None = None

    def cohort(self, folder: Path, data: DataConfig, expected: Expected | None) -> Cohort:
        """The cohort, as its files are now.

        Args:
            folder: of the run; what is read is kept there if there is a run.
            data: which manifest, and what its columns are called.
            expected: what a model knows that was trained elsewhere; cases whose files cannot be used are then
                left out.

        Raises:
            InputRefused, ManifestRefused: as ``load_manifest``.
        """
        kept = self.held or KeptCohort.read(folder)
        kept = kept if kept and kept.answers(data, expected) else None
        if kept is None or (changes := kept.changes()):
            found = KeptCohort.made(data, expected)
            if (folder / "study.yaml").is_file():
                found.write(folder)
            if kept:
                warnings.warn(_warning(folder, changes), stacklevel=2)
            kept = found
        self.held = kept
        return kept.cohort


def _warning(folder: Path, changes: Sequence[str]) -> str:
    return (
        f"{'; '.join(changes)} after the manifest was read for {folder}; it has been read again. Results "
        f"that are already there rest on the old files: start over with `foveate audit {folder}`"
    )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
