"""``test.json``: that a run folder holds an external test, of which model, and how it was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from foveate.data.manifest.columns import Expected
from foveate.errors import InputRefused
from foveate.files import write_json
from foveate.types import Task

FILE = "test.json"
HOME = "home"  # folder of what is kept of the run that made the model


@dataclass(frozen=True, slots=True)
class ExternalTest:
    """What makes a run folder an external test.

    Attributes:
        of: name of the run that made the model, or of the bundle's folder.
        source: where that lay.
        weights_sha256: of the model.
        task, classes, views: of the model.
        manifest: name of the CSV of the new cohort.
        set_apart: whether cases that the model learned from are left out, instead of ending the test.
        recalibrate: share of the new cohort on which calibration, thresholds and sets are fitted anew; None
            keeps the model's own.
        learned: ``cases`` and ``patients`` of the manifest that the run was made from; empty where not known.
        unusable: rows of the manifest whose files cannot be used, in words.
    """

    of: str
    source: str
    weights_sha256: str
    task: Task
    classes: tuple[str, ...]
    views: tuple[str, ...]
    manifest: str
    set_apart: bool = False
    recalibrate: float | None = None
    learned: Mapping[str, int] = field(default_factory=dict)
    unusable: tuple[str, ...] = ()

    @property
    def expected(self) -> Expected:
        """What the model knows."""
        return Expected(self.task, self.classes)

    def write(self, folder: Path) -> None:
        """Write ``test.json``."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the ``test.json`` of a run folder; None if it has none, and is no external test.

        Raises:
            InputRefused: it is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            lists = {name: tuple(content[name]) for name in ("classes", "views", "unusable")}
            return cls(**content | lists)
        except (ValueError, KeyError, TypeError) as error:
            raise InputRefused(
                f"this is not what an external test writes: {error!r}",
                where=str(path),
                fix="delete the folder, and run `foveate test` again",
                code="damaged-run-file",
            ) from error
