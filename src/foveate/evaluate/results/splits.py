"""``splits.json``: which part every case is in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import field_validator

from foveate.errors import UsageError
from foveate.evaluate.results.file import ResultFile
from foveate.evaluate.table import SEEN
from foveate.study.settings import SplitConfig

PARTS = ("train", "val", "test")
Fold = dict[str, str]


class Splits(ResultFile):
    """Which part every case is in.

    Attributes:
        manifest_sha256: of the manifest that was split.
        config: how they were made.
        warnings: what could not be balanced, in words.
        folds: for each fold, the part (train, val, test, or seen) by case id; one fold for a hold-out split.
    """

    NAME: ClassVar[str] = "splits.json"
    MADE_BY: ClassVar[str] = "split"

    manifest_sha256: str
    config: SplitConfig
    warnings: tuple[str, ...] = ()
    folds: tuple[Fold, ...]

    @field_validator("folds")
    @classmethod
    def _parts_are_known(cls, folds: Sequence[Fold]) -> Sequence[Fold]:
        if strangers := {part for fold in folds for part in fold.values()} - {*PARTS, SEEN}:
            raise ValueError(f"unknown part {min(strangers)!r}")
        return folds

    def parts(self, fold: int = 0) -> dict[str, list[str]]:
        """Case ids of each part of one fold, in the manifest's order.

        Raises:
            UsageError: there is no such fold.
        """
        if not 0 <= fold < len(self.folds):
            raise UsageError(
                f"there is no fold {fold}", where="split.fold", fix=f"choose 0 to {len(self.folds) - 1}"
            )
        found: dict[str, list[str]] = {part: [] for part in PARTS}
        for case_id, part in self.folds[fold].items():
            found.setdefault(part, []).append(case_id)
        return found
