"""Heat maps become boxes, and are tested against what is marked, beside controls and the grid's ceiling."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.evaluate.comparing.comparison import located
from foveate.evaluate.comparing.paired import RunFigures
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.localization import (
    BoxThresholds,
    CaseScore,
    choose_box_thresholds,
    summarise_localization,
)
from foveate.evaluate.localization.cases import sweep_ious
from foveate.evaluate.results.comparison import ComparedClass
from foveate.evaluate.results.external import HOME
from foveate.evaluate.results.localization import BoxRuleFacts, Localization
from foveate.evaluate.scores import write_scores
from foveate.evaluate.table import read_predictions
from foveate.files import write_atomic
from foveate.maps.heatmaps import MapEntry, read_index
from foveate.maps.localize import BoxRule, choose_threshold, localize_heatmap, sweep
from foveate.stations.averages import Averages, training_averages
from foveate.stations.cautions import note_cautions
from foveate.stations.run import Run
from foveate.stations.truths import Marked, Truths, fitted
from foveate.study.methods import RuleKind
from foveate.types import Box, Track, quiet

_NO_GRID = "these heat maps do not say their grid; draw them again with `foveate explain`"
_NO_PREDICTED = {
    "multilabel": "every finding has a map of its own; how it does where the finding is missed is told apart",
    "multiclass": "the maps of the predicted classes were not drawn (explain.targets)",
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the validation cases decided.

    Attributes:
        rules: by method, how its maps become boxes.
        boxes: by method, thresholds of the box accuracies.
        on: the part that decided, or why none did.
    """

    rules: Mapping[str, BoxRule]
    boxes: Mapping[str, BoxThresholds]
    on: str


def localize(run: Run, part: str = "test", track: Track = quiet) -> Localization:
    """Turn heat maps into boxes and test them; writes ``boxes.csv``, ``localization.json`` and ``.csv``.

    The thresholds of each method, controls included, are chosen on the validation cases that have a truth;
    where there are none, the rule keeps its default, and the result says so.

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
        truths, averages = Truths(run, folder), training_averages(run, track)
        chosen = _choose(run, truths, averages, track(by_part["val"], "Choosing thresholds"))
        scored = [
            (entry.view, row)
            for entry in track(by_part[part], "Localizing")
            for item in truths.of(entry)
            for row in _rows(run, item, averages, chosen.rules)
        ]
        scored, left_out = _comparable(scored, averages, run.cohort().task)
        rows, settings = [row for _, row in scored], run.study.evaluate
        result = summarise_localization(
            rows,
            split=part,
            explainer=entries[0].explainer if entries else run.study.explain.method,
            rule=_facts(chosen.rules),
            bootstrap=Bootstrap(settings.bootstrap, settings.level, run.study.seed, settings.interval),
            threshold_chosen_on=chosen.on,
            views=[view for view, _ in scored],
            box_thresholds=chosen.boxes,
            left_out=left_out,
        )
        result = result.model_copy(update={"comparable": _comparable_by_class(run, rows, part)})
        if not rows:
            reason = f"no explained case of '{part}' has a true mask or box for its true class"
            result = result.model_copy(update={"reason": reason})
        result.write(run.folder)
        write_scores(run.folder / "localization.csv", rows)
        _write_boxes(run.folder / "boxes.csv", truths, entries, chosen.rules["heatmap"])
    note_cautions(run)
    return result


def _choose(run: Run, truths: Truths, averages: Averages, entries: Iterable[MapEntry]) -> Chosen:
    """For the heat maps and each control, the thresholds that suit the validation cases best."""
    candidates, kind = run.study.localize.thresholds, run.study.localize.rule
    ious: dict[str, list[tuple[tuple[float, ...], tuple[float, ...]]]] = {}
    for entry in entries:
        for item in truths.of(entry):
            for method, values in item.maps(run.study.seed, averages).items():
                found = sweep(values, candidates, organ=item.organ)
                ious.setdefault(method, []).append(sweep_ious(found, item.truth))
    if not ious:
        return _chosen_at_home(run, kind)
    tables = {method: np.array(own) for method, own in ious.items()}  # (N, 2, T)
    tables["predicted"] = tables["ceiling"] = tables["heatmap"]
    boxes = {method: choose_box_thresholds(own[:, 0], own[:, 1]) for method, own in tables.items()}
    if kind != "peak":
        rules = {method: BoxRule(kind=kind) for method in tables}
        return Chosen(rules, boxes, "nothing: this rule has no threshold to choose")
    rules = {method: BoxRule(choose_threshold(own[:, 0], candidates)) for method, own in tables.items()}
    return Chosen(rules, boxes, "val")


def _chosen_at_home(run: Run, kind: RuleKind) -> Chosen:
    """The rules of the run that made the model, for an external test; else the default rule."""
    home = Localization.read(run.folder / HOME)
    told = home.rule.threshold if home else None
    if home is None or home.threshold_chosen_on != "val" or not isinstance(told, dict):
        reason = "nothing: no validation case is marked, default rule"
        return Chosen({"heatmap": BoxRule(kind=kind)}, {}, reason)
    rules = {name: BoxRule(threshold) for name, threshold in told.items()}
    return Chosen(rules, {}, "validation cases of the run that made the model")


def _rows(run: Run, item: Marked, averages: Averages, rules: Mapping[str, BoxRule]) -> list[CaseScore]:
    """Scores of one case and class: of its own map, the predicted class's, the controls, and the ceiling."""
    candidates = run.study.localize.thresholds
    rows = [
        item.score(method, values, rules.get(method, rules["heatmap"]), candidates, seed=run.study.seed)
        for method, values in item.maps(run.study.seed, averages).items()
    ]
    ceiling = item.ceiling(rules["heatmap"], candidates, rows[0])
    return rows if ceiling is None else [*rows, ceiling]


def _comparable(
    scored: Sequence[tuple[str, CaseScore]], averages: Averages, task: str
) -> tuple[list[tuple[str, CaseScore]], dict[str, str]]:
    """Leave out methods that only some cases have: averages over different cases compare nothing."""
    counts: dict[str, int] = {}
    for _, row in scored:
        counts[row.method] = counts.get(row.method, 0) + 1
    reasons = {
        "predicted": _NO_PREDICTED[task],
        "ceiling": _NO_GRID,
        "average": "no training case is marked" if averages.overall is None else "other dimensions",
    }
    full = counts.get("heatmap", 0)
    left_out = {method: reason for method, reason in reasons.items() if full and counts.get(method, 0) < full}
    return [(view, row) for view, row in scored if row.method not in left_out], left_out


def _comparable_by_class(run: Run, rows: Sequence[CaseScore], part: str) -> dict[str, ComparedClass]:
    """By class, what can stand beside another run's: the boxes of all are cut at one share of the maximum."""
    table = read_predictions(run.path("predictions.csv", made_by="predict")).part(part)
    scores = [row for row in rows if row.method == "heatmap" and row.case_id in table.case_ids]
    if not scores:
        return {}
    settings, swept = run.study.evaluate, run.study.localize.thresholds
    drawn = Bootstrap(settings.bootstrap, settings.level, run.study.seed)
    return located(RunFigures(table, scores=scores, swept=swept), drawn)


def _facts(rules: Mapping[str, BoxRule]) -> BoxRuleFacts:
    """The rule as ``localization.json`` tells it."""
    kind = rules["heatmap"].kind
    own = {name: rule.threshold for name, rule in rules.items() if name not in ("predicted", "ceiling")}
    return BoxRuleFacts(
        kind=kind,
        keep="all" if kind == "two_thresholds" else "largest",
        threshold=own if kind == "peak" else None,
    )


def _write_boxes(path: Path, truths: Truths, entries: Sequence[MapEntry], rule: BoxRule) -> None:
    """Boxes of every explained class of every case, whether or not its truth is known.

    Where there are volumes, the columns ``z`` and ``d`` are there as well, empty for planes.
    """
    rows: list[tuple[MapEntry, Box]] = []
    for entry in entries:
        stored, organ = truths.stored(entry)
        own = fitted(rule, stored)
        for target, values in zip(stored.targets, stored.values, strict=True):
            rows += [(entry, box) for box in localize_heatmap(values, own, organ=organ, label=target).boxes]
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
