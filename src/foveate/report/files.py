"""The files of a run folder, read into one object; a file that is not there yet is ``None``."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import yaml
from numpy.typing import NDArray

from foveate.errors import InputRefused, UsageError
from foveate.evaluate.results.audit import Audit
from foveate.evaluate.results.external import ExternalTest
from foveate.evaluate.results.localization import Localization
from foveate.evaluate.results.metrics import Metrics
from foveate.evaluate.results.probes import Probes
from foveate.evaluate.results.run import RunRecord
from foveate.evaluate.results.shift import Shift
from foveate.evaluate.results.splits import Splits
from foveate.evaluate.results.trust import TrustCard
from foveate.evaluate.results.views import ViewShares
from foveate.evaluate.sample import cases_in_words
from foveate.evaluate.table import PredictionTable, read_predictions
from foveate.maps.heatmaps import CaseMaps, MapEntry, read_case, read_index
from foveate.types import Box

Json = Mapping[str, Any]

# File of a run → the command that makes it.
MADE_BY = {
    "study.yaml": "run",
    "run.json": "run",
    "audit.json": "audit",
    "splits.json": "split",
    "training.csv": "train",
    "predictions.csv": "predict",
    "metrics.json": "evaluate",
    "heatmaps/index.csv": "explain",
    "boxes.csv": "localize",
    "localization.json": "localize",
    "trust.json": "trust",
    "probes.json": "probe",
    "test.json": "test",
    "shift.json": "test",
}


@dataclass(frozen=True, slots=True)
class RunFiles:
    """All that a report is made of.

    Attributes:
        folder: the run folder.
        audit, splits, localization, probes: what the file holds, or None if absent.
        study, run, metrics, trust, bundle: the file's content (of the
            bundle ``bundle.json``), or None if absent.
        training: columns of ``training.csv`` by name, NaN where a cell is empty, or None if absent.
        predictions: the table of ``predictions.csv``, or None if absent.
        heatmaps: rows of ``heatmaps/index.csv``, or None if absent.
        boxes: found boxes by ``(case_id, view, target)``, or None if ``boxes.csv`` is absent.
        view_shares: how much each view counts; None where the model has one view.
        test, shift: of an external test, what it is and how its cohort differs; None for a run of its own.
        answers: what people wrote in ``answers.yaml``, by name of the item; none where the file is absent.
    """

    folder: Path
    study: Json | None
    run: RunRecord | None
    audit: Audit | None
    splits: Splits | None
    metrics: Metrics | None
    localization: Localization | None
    training: Mapping[str, NDArray[np.float64]] | None
    predictions: PredictionTable | None
    heatmaps: tuple[MapEntry, ...] | None
    boxes: Mapping[tuple[str, str, str], tuple[Box, ...]] | None
    view_shares: ViewShares | None = None
    trust: TrustCard | None = None
    probes: Probes | None = None
    answers: Mapping[str, str] = field(default_factory=dict)
    bundle: Json | None = None
    test: ExternalTest | None = None
    shift: Shift | None = None

    @property
    def patients_known(self) -> bool:
        """Whether anything is known of which cases are of one patient."""
        told = self.metrics is None or self.metrics.patients_known
        return told and "patients-unknown" not in (self.audit.codes if self.audit else ())

    def cases_of(self, cases: int, patients: int, noun: str = "case") -> str:
        """Such as ``60 cases of 56 patients``, or that patients are unknown."""
        return cases_in_words(cases, patients, self.patients_known, noun)

    @property
    def views(self) -> tuple[str, ...]:
        """Every view that was explained or predicted from, in the order of the study where it says."""
        named = dict.fromkeys(entry.view for entry in self.heatmaps or ())
        table = self.predictions
        named |= dict.fromkeys(
            name for row in (table.views if table else ()) for name in row.split("+") if name
        )
        data = (self.study or {}).get("data") or {}
        stated = [name for name in data.get("views") or () if name in named]
        return tuple(dict.fromkeys([*stated, *named]))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what there is.

        Raises:
            UsageError: the folder holds no file of a run.
            InputRefused: a file is there but cannot be understood; the message names it.
        """
        if not any((folder / name).is_file() for name in MADE_BY):
            raise UsageError(
                "this is not a run folder: none of a run's files is in it",
                where=str(folder),
                fix="name the folder that `foveate run STUDY.yaml` wrote",
            )
        predictions = folder / "predictions.csv"
        return cls(
            folder=folder,
            study=_read_yaml(folder / "study.yaml"),
            run=RunRecord.read(folder),
            audit=Audit.read(folder),
            splits=Splits.read(folder),
            metrics=Metrics.read(folder),
            localization=Localization.read(folder),
            training=_read_training(folder / "training.csv"),
            predictions=read_predictions(predictions) if predictions.is_file() else None,
            heatmaps=_read_index(folder / "heatmaps" / "index.csv"),
            boxes=_read_boxes(folder / "boxes.csv"),
            view_shares=ViewShares.read(folder),
            trust=TrustCard.read(folder),
            probes=Probes.read(folder),
            answers=_read_answers(folder / "answers.yaml"),
            bundle=_read_json(folder / "bundle" / "bundle.json"),
            test=ExternalTest.read(folder),
            shift=Shift.read(folder),
        )


def read_maps(folder: Path, entry: MapEntry) -> CaseMaps:
    """Load the heat maps of one view of one case.

    Raises:
        InputRefused: the file is missing, damaged, or its arrays do not fit together.
    """
    path = folder / "heatmaps" / entry.file
    try:
        maps = read_case(path)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, "explain", error) from error
    space = maps.values.shape[1:]
    if (
        len(space) not in (2, 3)
        or len(maps.values) != len(maps.targets)
        or (maps.truth is not None and maps.truth.shape != space)
        or (len(space) == 3 and (maps.picture.ndim < 3 or len(maps.picture) != space[0]))
        or any(len(box.start) != len(space) for box in maps.boxes)
    ):
        raise _damaged(path, "explain", f"{len(maps.targets)} targets, maps of shape {maps.values.shape}")
    return maps


def _read_json(path: Path) -> Json | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except ValueError as error:
        raise _damaged(path, MADE_BY.get(path.name, "train"), error) from error
    if not isinstance(content, dict):
        raise _damaged(path, MADE_BY.get(path.name, "train"), "it holds no JSON object")
    return content


def _read_yaml(path: Path) -> Json | None:
    if not path.is_file():
        return None
    try:
        return cast(Json, yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (yaml.YAMLError, ValueError) as error:
        raise _damaged(path, "run", error) from error


def _read_answers(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(content, dict):
            raise ValueError("it holds no pairs of item and text")
        return {str(name): str(text).strip() for name, text in content.items() if text}
    except (yaml.YAMLError, ValueError) as error:
        raise InputRefused(
            f"these answers cannot be read: {error}",
            where=str(path),
            fix="write one line for each item, such as  CLAIM 2024 5: retrospective",
            code="bad-answers",
        ) from error


def _read_rows(path: Path, columns: Sequence[str], command: str) -> list[dict[str, str]] | None:
    """Rows of a CSV that must have the named columns; None if the file is absent."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        if lacking := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise _damaged(path, command, f"no column {', '.join(lacking)}")
        return list(reader)


def _read_training(path: Path) -> dict[str, NDArray[np.float64]] | None:
    rows = _read_rows(path, ("epoch",), "train")
    if rows is None:
        return None
    try:
        return {
            name: np.array([float(row[name] or "nan") for row in rows]) for name in (rows[0] if rows else ())
        }
    except (TypeError, ValueError) as error:
        raise _damaged(path, "train", error) from error


def _read_index(path: Path) -> tuple[MapEntry, ...] | None:
    if not path.is_file():
        return None
    try:
        return tuple(read_index(path.parent))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, "explain", error) from error


def _read_boxes(path: Path) -> dict[tuple[str, str, str], tuple[Box, ...]] | None:
    rows = _read_rows(path, ("case_id", "view", "target", "x", "y", "w", "h"), "localize")
    if rows is None:
        return None
    found: dict[tuple[str, str, str], tuple[Box, ...]] = {}
    try:
        for row in rows:
            axes = [("z", "d")] if row.get("z") else []
            axes += [("y", "h"), ("x", "w")]
            start = tuple(float(row[corner]) for corner, _ in axes)
            stop = tuple(at + float(row[size]) for at, (_, size) in zip(start, axes, strict=True))
            box = Box(start, stop, row["target"], float(row.get("score") or "nan"))
            key = row["case_id"], row["view"], row["target"]
            found[key] = (*found.get(key, ()), box)
    except (KeyError, ValueError) as error:
        raise _damaged(path, "localize", error) from error
    return found


def _damaged(path: Path, command: str, why: object) -> InputRefused:
    return InputRefused(
        f"this file of the run cannot be understood ({why})",
        where=str(path),
        fix=f"run `foveate {command}` on this run again",
        code="damaged-run-file",
    )
