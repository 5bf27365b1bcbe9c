"""Where the answers came from, for a cohort: heat maps, then boxes, then their test against controls."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused, UsageError
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.localization import summarise_localization
from foveate.evaluate.scores import write_scores
from foveate.evaluate.table import PredictionTable, read_predictions
from foveate.evidence.truths import CaseFiles, Truths
from foveate.files import write_atomic, write_json
from foveate.heatmaps import (
    Entry,
    Share,
    display_picture,
    file_name,
    read_index,
    volume_name,
    write_case,
    write_index,
    write_shares,
)
from foveate.io import write_nifti
from foveate.localize import BoxRule, choose_threshold, localize_heatmap
from foveate.run import Run
from foveate.stations import cases_of, prepared_batches, raise_if_partial
from foveate.types import Box, Case, Heatmap, Image, Track, quiet

if TYPE_CHECKING:
    from foveate.evidence.explained import Explained
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


def explain(
    run: Run,
    *,
    method: str | None = None,
    only: Sequence[str] = (),
    weigh_views: bool = True,
    track: Track = quiet,
) -> int:
    """Draw heat maps of the study's parts, or of single cases; writes ``heatmaps/``.

    Where a model has several views, ``heatmaps/shares.csv`` tells how much each counts.

    Args:
        run: with a bundle and predictions.
        method: a name in ``EXPLAINERS``; None takes the study's.
        only: case ids; none means every case of the study's parts.
        weigh_views: false leaves out how much each view counts, whatever the study says.
        track: shows progress.

    Returns:
        How many cases were explained.
    """
    from foveate.bundle import load_bundle
    from foveate.evidence.explained import explain_cases, explain_options

    with run.station("explain"):
        folder, settings = run.folder / "heatmaps", run.study.explain
        bundle = load_bundle(run.path("bundle", made_by="train"))
        table = read_predictions(run.path("predictions.csv", made_by="predict"))
        answers, usual = read_answers(table, bundle.thresholds), usual_logits(table)
        refused: list[InputRefused] = []
        entries: list[Entry] = []
        shares: list[Share] = []
        store = _Store(folder, bundle.preprocess)
        options = explain_options(bundle, settings.score, settings.baseline)
        for batch in prepared_batches(bundle, _to_explain(run, answers, only), refused, track, "Explaining"):
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
        write_index(folder, entries)
        store.remove_others(entries)
    raise_if_partial(refused, f"explained {len(entries)} views")
    return len({entry.case_id for entry in entries})


def localize(run: Run, part: str = "test", track: Track = quiet) -> dict[str, Any]:
    """Turn heat maps into boxes and test them; writes ``boxes.csv``, ``localization.json`` and ``.csv``.

    The threshold of each method, controls included, is chosen on the validation cases that have a truth;
    where there are none, it is the rule's default, and the result says so.

    Args:
        run: with heat maps.
        part: whose cases are scored.
        track: shows progress.

    Returns:
        What ``localization.json`` holds.
    """
    with run.station("localize"):
        folder = run.path("heatmaps/index.csv", made_by="explain").parent
        entries = read_index(folder)
        by_part = {name: [entry for entry in entries if entry.split == name] for name in ("val", part)}
        truths = Truths(run, folder)
        rules, chosen_on = _choose_rules(run, truths, by_part["val"])
        scored = [
            (entry.view, item.score(method, values, rules[method]))
            for entry in track(by_part[part], "Localizing")
            for item in truths.of(entry)
            for method, values in item.maps(run.study.seed).items()
        ]
        rows = [row for _, row in scored]
        settings = run.study.evaluate
        result = summarise_localization(
            rows,
            split=part,
            explainer=entries[0].explainer if entries else run.study.explain.method,
            rule={"keep": "largest", "threshold": {name: rule.threshold for name, rule in rules.items()}},
            bootstrap=Bootstrap(settings.bootstrap, settings.level, run.study.seed),
            threshold_chosen_on=chosen_on,
            views=[view for view, _ in scored],
        )
        if not rows:
            result["reason"] = f"no explained case of '{part}' has a true mask or box for its true class"
        write_json(run.folder / "localization.json", result)
        write_scores(run.folder / "localization.csv", rows)
        _write_boxes(run.folder / "boxes.csv", truths, entries, rules["heatmap"])
    return result


def _choose_rules(run: Run, truths: Truths, entries: Sequence[Entry]) -> tuple[dict[str, BoxRule], str]:
    """A rule for the heat maps and for each control, each with the threshold that suits it best."""
    methods = ("heatmap", "random", "centre")
    marked = [entry for entry in entries if any(True for _ in truths.of(entry))]
    if not marked:
        rules = {method: BoxRule() for method in methods}
        return rules, "nothing: no validation case is marked, default rule"
    rules = {}
    for method in methods:  # read anew for each method: the maps of a large cohort do not fit in memory
        maps, outlines, organs = tee((item for entry in marked for item in truths.of(entry)), 3)
        threshold = choose_threshold(
            (item.maps(run.study.seed)[method] for item in maps),
            (item.truth for item in outlines),
            run.study.localize.thresholds,
            organs=(item.organ for item in organs),
        )
        rules[method] = BoxRule(threshold)
    return rules, "val"


def _write_boxes(path: Path, truths: Truths, entries: Sequence[Entry], rule: BoxRule) -> None:
    """Boxes of every explained class of every case, whether or not its truth is known.

    Where there are volumes, the columns ``z`` and ``d`` are there as well, empty for planes.
    """
    rows: list[tuple[Entry, Box]] = []
    for entry in entries:
        stored, organ = truths.stored(entry)
        for target, values in zip(stored.targets, stored.values, strict=True):
            found = localize_heatmap(values, rule, organ=organ, label=target)
            rows += [(entry, box) for box in found.boxes]
    volumes = any(len(box.start) == 3 for _, box in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("x", "y", "z", "w", "h", "d") if volumes else ("x", "y", "w", "h")
    writer.writerow(["case_id", "view", "target", *columns, "score"])
    for entry, box in rows:
        numbers = _numbers(box)
        cells = [f"{numbers[name]:g}" if name in numbers else "" for name in columns]
        writer.writerow([entry.case_id, entry.view, box.label, *cells, f"{box.score:g}"])
    write_atomic(path, text.getvalue())


def _numbers(box: Box) -> dict[str, float]:
    """First corner and size of a box by the names of its columns; ``z`` and ``d`` only for volumes."""
    axes = list(zip("xyz", "whd", reversed(box.start), reversed(box.stop), strict=False))
    return {corner: start for corner, _, start, _ in axes} | {
        size: stop - start for _, size, start, stop in axes
    }


def usual_logits(table: PredictionTable) -> NDArray[np.float64]:
    """``(K,)`` mean logits of the validation cases, or of all: what the model says without looking."""
    val = np.array([split == "val" for split in table.splits])
    chosen = table.logits[val] if val.any() else table.logits
    return np.asarray(chosen.mean(axis=0), dtype=np.float64)


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


class _Store:
    """Writes what was explained: a file per view of a case, each with a picture to draw the maps over.

    Args:
        folder: ``heatmaps/`` of a run.
        preprocess: says which values are black and white.
    """

    def __init__(self, folder: Path, preprocess: Preprocess) -> None:
        self._folder, self._preprocess, self._files = folder, preprocess, CaseFiles()

    def write(self, case: Case, answer: Answer, explained: Explained) -> list[Entry]:
        """Write the maps of one case; returns its rows of the index."""
        by_view = {view: own for view in case.views if (own := [m for m in explained.maps if m.view == view])}
        entries, first = [], self._shape(case, next(iter(case.views)))
        for view, own in by_view.items():
            image = self._files.image(case.views[view])
            name, shape = file_name(case.case_id, view), own[0].values.shape
            boxes = case.boxes if shape == first else ()
            truth = self._files.mask(case.mask, case, shape)
            write_case(self._folder / name, own, self._picture(image, case, view), truth, boxes)
            if len(shape) == 3:
                self._write_volumes(name, own, image)
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
                    completeness_gap=tuple(
                        explained.gaps[m.target] for m in own if m.target in explained.gaps
                    ),
                )
            )
        return entries

    def remove_others(self, entries: Collection[Entry]) -> None:
        """Remove files of earlier explanations that the index does not name."""
        kept = {entry.file for entry in entries}
        kept |= {volume_name(entry.file, target) for entry in entries for target in entry.targets}
        for stale in (*self._folder.glob("*.npz"), *self._folder.glob("*.nii.gz")):
            if stale.name not in kept:
                stale.unlink()

    def _shape(self, case: Case, view: str) -> tuple[int, ...]:
        """Spatial shape of a view of a case: the volume, or the slice that the case is."""
        shape = self._files.image(case.views[view]).pixels.shape[1:]
        return shape[1:] if len(shape) == 3 and case.slice_index is not None else shape

    def _picture(self, image: Image, case: Case, view: str) -> NDArray[np.uint8]:
        slice_of_volume = image.dimensions == 3 and case.slice_index is not None
        pixels = image.pixels[:, case.slice_index] if slice_of_volume else image.pixels
        return display_picture(pixels, self._preprocess.limits(image, view))

    def _write_volumes(self, name: str, maps: Sequence[Heatmap], image: Image) -> None:
        """Each class's map as NIfTI, float32, raw and signed, with the affine of the original volume."""
        for item in maps:
            path = self._folder / volume_name(name, item.target)
            write_nifti(path, item.values.astype(np.float32), image.geometry)
