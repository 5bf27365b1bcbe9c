"""Where the answers came from, for a cohort: heat maps, then boxes, then their test against controls."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused, UsageError
from foveate.evaluate.table import PredictionTable, read_predictions
from foveate.io.nifti import write_nifti
from foveate.maps.heatmaps import (
    MapEntry,
    Share,
    display_picture,
    file_name,
    volume_name,
    write_case,
    write_index,
    write_shares,
)
from foveate.stations.batches import cases_of, prepared_batches, raise_if_partial
from foveate.stations.evaluate import validation_of
from foveate.stations.run import Run
from foveate.stations.truths import CaseFiles
from foveate.stations.views import note_views
from foveate.types import Case, Heatmap, Image, Track, quiet

if TYPE_CHECKING:
    from foveate.prepare.preprocess import Preprocess
    from foveate.stations.explained import Explained


@dataclass(frozen=True, slots=True)
class CaseAnswer:
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


def explain(
    run: Run,
    *,
    method: str | None = None,
    only: Sequence[str] = (),
    weigh_views: bool = True,
    track: Track = quiet,
) -> int:
    """Draw heat maps of the study's parts, or of single cases; writes ``heatmaps/``.

    Where a model has several views, ``heatmaps/shares.csv`` tells how much each counts in a case, and
    ``views.json`` on average.

    Args:
        run: with a bundle and predictions.
        method: a name in ``EXPLAINERS``; None takes the study's.
        only: case ids; none means every case of the study's parts.
        weigh_views: false leaves out how much each view counts, whatever the study says.
        track: shows progress.

    Returns:
        How many cases were explained.
    """
    from foveate.bundle.bundle import load_bundle
    from foveate.stations.explained import explain_cases, explain_options

    with run.station("explain"):
        folder, settings = run.folder / "heatmaps", run.study.explain
        bundle = load_bundle(run.path("bundle", made_by="train"))
        table = read_predictions(run.path("predictions.csv", made_by="predict"))
        validation = validation_of(run, table)
        answers = read_answers(table, bundle.thresholds)
        usual = usual_logits(validation if validation.case_ids else table)
        refused: list[InputRefused] = []
        entries: list[MapEntry] = []
        shares: list[Share] = []
        store = _Store(folder, bundle.preprocess)
        options = explain_options(bundle, settings)
        for batch in prepared_batches(
            bundle, _to_explain(run, answers, only), refused, track, "Explaining", plain=False
        ):
            targets = [answers[item.case.case_id].targets(settings.targets) for item in batch]
            found = explain_cases(
                bundle,
                batch,
                targets,
                explainer=method or settings.method,
                seed=run.study.seed,
                options=options,
                usual=usual,
                weigh_views=weigh_views and settings.weigh_views,
            )
            for item, explained in zip(batch, found, strict=True):
                entries += store.write(item.case, answers[item.case.case_id], explained)
                shares += explained.shares
        write_shares(folder, shares)
        note_views(run, shares)
        write_index(folder, entries)
        store.remove_others(entries)
    raise_if_partial(refused, f"explained {len(entries)} views")
    return len({entry.case_id for entry in entries})


def usual_logits(table: PredictionTable) -> NDArray[np.float64]:
    """``(K,)`` mean logits of the validation cases, or of all: what the model says without looking."""
    val = np.array([split == "val" for split in table.splits])
    chosen = table.logits[val] if val.any() else table.logits
    return np.asarray(chosen.mean(axis=0), dtype=np.float64)


def read_answers(table: PredictionTable, thresholds: Mapping[str, float]) -> dict[str, CaseAnswer]:
    """True and predicted classes of each predicted case, by case id."""
    answers = {}
    limits = np.array([thresholds.get(name, 0.5) for name in table.classes])
    for case_id, scores, truth in zip(table.case_ids, table.probabilities, table.truth, strict=True):
        present = scores >= limits if table.task == "multilabel" else np.zeros(len(scores), bool)
        if not present.any():
            present = np.arange(len(scores)) == scores.argmax()
        order = [int(index) for index in np.argsort(-scores) if present[index]]
        answers[case_id] = CaseAnswer(
            true=tuple(name for name, value in zip(table.classes, truth, strict=True) if value == 1),
            predicted=tuple(table.classes[index] for index in order),
            probability=float(scores[order[0]]),
        )
    return answers


def _to_explain(run: Run, answers: Mapping[str, CaseAnswer], only: Sequence[str]) -> list[Case]:
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
    return [case for _, part in by_part for case in _at_most(settings.limit, list(part), run.study.seed)]


def _at_most(limit: int | None, cases: list[Case], seed: int) -> list[Case]:
    """Cases of as many patients as there are, in their old order: the first rows may be of one class."""
    from foveate.stations.trust_card.plan import in_order

    chosen = in_order(cases, len(cases) if limit is None else limit, seed)
    kept = {case.case_id for case in chosen}
    return [case for case in cases if case.case_id in kept]


class _Store:
    """Writes what was explained: a file per view of a case, each with a picture to draw the maps over.

    Args:
        folder: ``heatmaps/`` of a run.
        preprocess: says which values are black and white.
    """

    def __init__(self, folder: Path, preprocess: Preprocess) -> None:
        self._folder, self._preprocess = folder, preprocess
        self._files = CaseFiles(preprocess.config.mask_grid)

    def write(self, case: Case, answer: CaseAnswer, explained: Explained) -> list[MapEntry]:
        """Write the maps of one case; returns its rows of the index."""
        by_view = {view: own for view in case.views if (own := [m for m in explained.maps if m.view == view])}
        entries = []
        for view, own in by_view.items():
            image = self._files.image(case.views[view])
            name, shape = file_name(case.case_id, view), own[0].values.shape
            boxes, truth = self._files.boxes(case, view), self._files.mask(case, view)
            write_case(
                self._folder / name,
                own,
                self._picture(image, case, view),
                truth,
                boxes,
                cells=explained.cells.get(view),
                field=explained.fields.get(view),
                spacing=self._spacing(image, shape),
            )
            if len(shape) == 3:
                self._write_volumes(name, own, image)
            entries.append(
                MapEntry(
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
                    completeness_gap=tuple(
                        explained.gaps[m.target] for m in own if m.target in explained.gaps
                    ),
                )
            )
        return entries

    def remove_others(self, entries: Collection[MapEntry]) -> None:
        """Remove files of earlier explanations that the index does not name."""
        kept = {entry.file for entry in entries}
        kept |= {volume_name(entry.file, target) for entry in entries for target in entry.targets}
        for stale in (*self._folder.glob("*.npz"), *self._folder.glob("*.nii.gz")):
            if stale.name not in kept:
                stale.unlink()

    @staticmethod
    def _spacing(image: Image, shape: tuple[int, ...]) -> tuple[float, ...] | None:
        """Millimetres along the axes of the maps; of a slice of a volume, those of the plane."""
        spacing = image.geometry.spacing
        return None if spacing is None else spacing[-len(shape) :]

    def _picture(self, image: Image, case: Case, view: str) -> NDArray[np.uint8]:
        slice_of_volume = image.dimensions == 3 and case.slice_index is not None
        pixels = image.pixels[:, case.slice_index] if slice_of_volume else image.pixels
        return display_picture(pixels, self._preprocess.limits(image, view))

    def _write_volumes(self, name: str, maps: Sequence[Heatmap], image: Image) -> None:
        """Each class's map as NIfTI, float32, raw and signed, with the affine of the original volume."""
        for item in maps:
            path = self._folder / volume_name(name, item.target)
            write_nifti(path, item.values.astype(np.float32), image.geometry, like=Path(image.source))
