"""Where the answers came from, for a whole cohort: heat maps, then boxes, then their test against controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused, UsageError
from foveate.evaluate.table import PredictionTable, read_predictions
from foveate.heatmaps import Entry, display_picture, file_name, write_case, write_index
from foveate.io import read_image, read_mask
from foveate.run import Run
from foveate.stations import cases_of, prepared_batches, raise_if_partial
from foveate.types import Case, Heatmap, Track, quiet

if TYPE_CHECKING:
    from foveate.preprocess import Preprocess


@dataclass(frozen=True, slots=True)
class Answer:
    """What was true and what was said of one case.

    Attributes:
        true: classes that are present; empty where unknown.
        predicted: the most probable class, or every finding at or above its threshold (at least one).
        probability: of the first predicted class.
    """

    true: tuple[str, ...]
    predicted: tuple[str, ...]
    probability: float

    def targets(self, which: str) -> tuple[str, ...]:
        """Classes to explain: the ``true`` ones, the ``predicted`` ones, or ``both``, each once."""
        wanted = {"true": self.true, "predicted": self.predicted, "both": self.true + self.predicted}[which]
        return tuple(dict.fromkeys(wanted or self.predicted))


def explain(run: Run, *, method: str | None = None, only: Sequence[str] = (), track: Track = quiet) -> int:
    """Draw heat maps of the study's parts, or of single cases; writes ``heatmaps/``.

    Args:
        run: with a bundle and predictions.
        method: a name in ``EXPLAINERS``; None takes the study's.
        only: case ids; none means every case of the study's parts.
        track: shows progress.

    Returns:
        How many cases were explained.
    """
    from foveate.bundle import load_bundle
    from foveate.predict import explain_prepared

    with run.station("explain"):
        folder, settings = run.folder / "heatmaps", run.study.explain
        bundle = load_bundle(run.path("bundle", made_by="train"))
        answers = read_answers(read_predictions(run.path("predictions.csv", made_by="predict")), bundle.thresholds)
        refused: list[InputRefused] = []
        entries: list[Entry] = []
        for batch in prepared_batches(bundle, _to_explain(run, answers, only), refused, track, "Explaining"):
            targets = [answers[item.case.case_id].targets(settings.targets) for item in batch]
            found = explain_prepared(bundle, batch, targets, explainer=method or settings.method, seed=run.study.seed)
            for item, maps in zip(batch, found, strict=True):
                entries += _store(folder, item.case, answers[item.case.case_id], maps, bundle.preprocess)
        write_index(folder, entries)
        for stale in {path.name for path in folder.glob("*.npz")} - {entry.file for entry in entries}:
            (folder / stale).unlink()
    raise_if_partial(refused, f"explained {len(entries)} views")
    return len({entry.case_id for entry in entries})


def read_answers(table: PredictionTable, thresholds: Mapping[str, float]) -> dict[str, Answer]:
    """True and predicted classes of each predicted case, by case id."""
    answers = {}
    limits = np.array([thresholds.get(name, 0.5) for name in table.classes])
    for case_id, scores, truth in zip(table.case_ids, table.probabilities, table.truth, strict=True):
        present = scores >= limits if table.task == "multilabel" else np.zeros(len(scores), bool)
        if not present.any():
            present = np.arange(len(scores)) == scores.argmax()
        order = [int(index) for index in np.argsort(-scores) if present[index]]
        answers[case_id] = Answer(
            true=tuple(name for name, value in zip(table.classes, truth, strict=True) if value == 1),
            predicted=tuple(table.classes[index] for index in order),
            probability=float(scores[order[0]]),
        )
    return answers


def _to_explain(run: Run, answers: Mapping[str, Answer], only: Sequence[str]) -> list[Case]:
    """The named cases, or those of the study's parts up to its limit."""
    settings, cohort = run.study.explain, run.cohort()
    if only:
        cases = [case for case in cases_of(run, cohort, ("train", "val", "test")) if case.case_id in only]
        if lost := set(only) - {case.case_id for case in cases if case.case_id in answers}:
            raise UsageError(
                f"no prediction for {', '.join(sorted(lost))}",
                where="--case",
                fix=f"check the name, or predict its part first: foveate predict {run.folder} --part train",
            )
        return cases
    cases = [case for case in cases_of(run, cohort, settings.split) if case.case_id in answers]
    by_part = groupby(sorted(cases, key=lambda case: str(case.split)), key=lambda case: case.split)
    return [case for _, part in by_part for case in list(part)[: settings.limit]]


def _store(
    folder: Path, case: Case, answer: Answer, maps: Sequence[Heatmap], preprocess: Preprocess
) -> list[Entry]:
    """Write the maps of one case, a file per view, each with a picture to draw them over."""
    entries = []
    for view, path in case.views.items():
        own = [item for item in maps if item.view == view]
        if not own:
            continue
        image = read_image(path)
        pixels = image.pixels if image.dimensions == 2 else image.pixels[:, case.slice_index]
        name = file_name(case.case_id, view)
        truth = true_mask(case, own[0].values.shape)
        write_case(folder / name, own, display_picture(pixels, preprocess.limits(image)), truth)
        entries.append(
            Entry(
                case_id=case.case_id,
                patient_id=case.patient_id,
                split=case.split or "",
                view=view,
                explainer=own[0].explainer,
                targets=tuple(item.target for item in own),
                truth_class=";".join(answer.true),
                predicted_class=";".join(answer.predicted),
                probability=answer.probability,
                file=name,
            )
        )
    return entries


def true_mask(case: Case, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """The case's true mask in the plane of its heat map, or None if it has none or an empty one."""
    return _mask_plane(case.mask, case, shape)


def _mask_plane(path: Path | None, case: Case, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    if path is None:
        return None
    mask = read_mask(path)
    plane = mask[case.slice_index] if mask.ndim > len(shape) and case.slice_index is not None else mask
    if plane.shape != shape:
        raise InputRefused(
            f"the mask has shape {plane.shape}, its image {shape}",
            where=str(path),
            fix="give masks with the pixels of their images",
            code="mask-shape",
        )
    return plane if plane.any() else None
