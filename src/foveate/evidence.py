"""Where the answers came from, for a cohort: heat maps, then boxes, then their test against controls."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused, UsageError
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.localization import CaseScore, control_maps, score_case, summarise_localization
from foveate.evaluate.scores import write_scores
from foveate.evaluate.table import PredictionTable, read_predictions
from foveate.files import write_atomic, write_json
from foveate.heatmaps import (
    CaseMaps,
    Entry,
    display_picture,
    file_name,
    read_case,
    read_index,
    write_case,
    write_index,
)
from foveate.io import read_image, read_mask
from foveate.localize import BoxRule, choose_threshold, localize_heatmap
from foveate.regions import Region
from foveate.run import Run
from foveate.stations import VOLUMES, cases_of, prepared_batches, raise_if_partial
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
        answers = read_answers(
            read_predictions(run.path("predictions.csv", made_by="predict")), bundle.thresholds
        )
        refused: list[InputRefused] = []
        entries: list[Entry] = []
        files = _Files()
        for batch in prepared_batches(bundle, _to_explain(run, answers, only), refused, track, "Explaining"):
            targets = [answers[item.case.case_id].targets(settings.targets) for item in batch]
            found = explain_prepared(
                bundle, batch, targets, explainer=method or settings.method, seed=run.study.seed
            )
            for item, maps in zip(batch, found, strict=True):
                answer = answers[item.case.case_id]
                entries += _store(folder, item.case, answer, maps, bundle.preprocess, files)
        write_index(folder, entries)
        for stale in {path.name for path in folder.glob("*.npz")} - {entry.file for entry in entries}:
            (folder / stale).unlink()
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
        truths = _Truths(run, folder)
        rules, chosen_on = _choose_rules(run, truths, by_part["val"])
        rows = [
            item.score(method, values, rules[method])
            for entry in track(by_part[part], "Localizing")
            for item in truths.of(entry)
            for method, values in item.maps(run.study.seed).items()
        ]
        settings = run.study.evaluate
        result = summarise_localization(
            rows,
            split=part,
            explainer=entries[0].explainer if entries else run.study.explain.method,
            rule={"keep": "largest", "threshold": {name: rule.threshold for name, rule in rules.items()}},
            bootstrap=Bootstrap(settings.bootstrap, settings.level, run.study.seed),
            threshold_chosen_on=chosen_on,
        )
        if not rows:
            result["reason"] = f"no explained case of '{part}' has a true mask or box for its true class"
        write_json(run.folder / "localization.json", result)
        write_scores(run.folder / "localization.csv", rows)
        _write_boxes(run.folder / "boxes.csv", truths, entries, rules["heatmap"])
    return result


@dataclass(frozen=True, slots=True)
class Marked:
    """One explained class of one case, with the truth of where it is.

    Attributes:
        entry: of the index.
        target: the true class.
        values: its heat map, in original pixels.
        truth: what is marked for it.
        organ: mask of the organ that the study crops to, or None.
    """

    entry: Entry
    target: str
    values: NDArray[np.float32]
    truth: Region
    organ: NDArray[np.bool_] | None

    def maps(self, seed: int) -> dict[str, NDArray[np.float32]]:
        """The heat map and the controls that it has to beat."""
        controls = control_maps(self.values.shape, organ=self.organ, seed=seed, case_id=self.entry.case_id)
        return {"heatmap": self.values, **controls}

    def score(self, method: str, values: NDArray[np.float32], rule: BoxRule) -> CaseScore:
        """Score the map of one method against the truth."""
        return score_case(
            values,
            localize_heatmap(values, rule, organ=self.organ),
            self.truth,
            organ=self.organ,
            case_id=self.entry.case_id,
            patient_id=self.entry.patient_id,
            label=self.target,
            method=method,
        )


class _Truths:
    """Finds what is marked in the explained cases.

    Args:
        run: whose manifest names masks and boxes.
        folder: with the stored maps.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        cohort = run.cohort()
        self._cases = {case.case_id: case for case in cohort.cases}
        self._crops = run.study.preprocess.organ_crop
        self._folder = folder
        self._files = _Files()

    def of(self, entry: Entry) -> Iterator[Marked]:
        """Every true class of a case that was explained and is marked in the image."""
        stored, organ = self.stored(entry)
        boxes = self._cases[entry.case_id].boxes
        true = [name for name in entry.truth_class.split(";") if name]
        for target, values in zip(stored.targets, stored.values, strict=True):
            if target not in true:
                continue
            own = [box for box in boxes if box.label in (target, "")]
            if stored.truth is not None and len(true) == 1:  # a mask does not say of which finding it is
                yield Marked(entry, target, values, Region.from_mask(stored.truth, target), organ)
            elif own:
                yield Marked(entry, target, values, Region.from_boxes(own, values.shape), organ)

    def stored(self, entry: Entry) -> tuple[CaseMaps, NDArray[np.bool_] | None]:
        """The stored maps of a case, and its organ mask if the study crops to the organ."""
        stored, case = read_case(self._folder / entry.file), self._cases[entry.case_id]
        organ = case.organ_mask if self._crops else None
        return stored, self._files.mask_plane(organ, case, stored.values.shape[1:])


def _choose_rules(run: Run, truths: _Truths, entries: Sequence[Entry]) -> tuple[dict[str, BoxRule], str]:
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


def _write_boxes(path: Path, truths: _Truths, entries: Sequence[Entry], rule: BoxRule) -> None:
    """Boxes of every explained class of every case, whether or not its truth is known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case_id", "view", "target", "x", "y", "w", "h", "score"])
    for entry in entries:
        stored, organ = truths.stored(entry)
        for target, values in zip(stored.targets, stored.values, strict=True):
            for box in localize_heatmap(values, rule, organ=organ, label=target).boxes:
                numbers = (f"{value:g}" for value in (*box.xywh, box.score))
                writer.writerow([entry.case_id, entry.view, target, *numbers])
    write_atomic(path, text.getvalue())


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
    folder: Path, case: Case, answer: Answer, maps: Sequence[Heatmap], preprocess: Preprocess, files: _Files
) -> list[Entry]:
    """Write the maps of one case, a file per view, each with a picture to draw them over."""
    entries = []
    for view, path in case.views.items():
        own = [item for item in maps if item.view == view]
        if not own:
            continue
        image = files.image(path)
        pixels = image.pixels if image.dimensions == 2 else image.pixels[:, case.slice_index]
        name = file_name(case.case_id, view)
        truth = files.mask_plane(case.mask, case, own[0].values.shape)
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


class _Files:
    """Reads images and masks, remembering the last ones: the slices of a volume come one after the other."""

    def __init__(self) -> None:
        self.image = lru_cache(VOLUMES)(read_image)
        self._mask = lru_cache(VOLUMES)(read_mask)

    def mask_plane(self, path: Path | None, case: Case, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """A mask in the plane of the case's heat map, or None if there is none or nothing is marked."""
        if path is None:
            return None
        mask = self._mask(path)
        plane = mask[case.slice_index] if mask.ndim > len(shape) and case.slice_index is not None else mask
        if plane.shape != shape:
            raise InputRefused(
                f"the mask has shape {plane.shape}, its image {shape}",
                where=str(path),
                fix="give masks with the pixels of their images",
                code="mask-shape",
            )
        return plane if plane.any() else None
