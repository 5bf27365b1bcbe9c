"""What the runs of a comparison left, put together: ``comparison.json`` and its tables and page."""

from __future__ import annotations

import csv
import inspect
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from foveate import __version__
from foveate.compare.grid import GridPlan
from foveate.compare.runs import Trained, planned_runs, without_file
from foveate.errors import InputRefused, RunFailed
from foveate.evaluate.comparing.comparison import compare, enough_replicates, only_shared_cases
from foveate.evaluate.comparing.paired import RunFigures, Seed
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.localization import CaseScore
from foveate.evaluate.results.comparison import (
    Comparison,
    GridProtocol,
    PublishedFigures,
    VariantFacts,
    WithheldView,
)
from foveate.evaluate.results.metrics import Metrics
from foveate.evaluate.results.parts import Unmade
from foveate.evaluate.scores import read_scores
from foveate.evaluate.table import PredictionTable, read_predictions
from foveate.files import sha256_of
from foveate.report.cautions import of_runs
from foveate.report.comparing.comparison import write_comparison
from foveate.report.files import RunFiles
from foveate.report.pictures.case_sheets import CaseSheets, case_sheets
from foveate.report.published import published_by_class
from foveate.study.study import Study
from foveate.types import Task, Track, quiet

Entries = dict[str, dict[Seed, RunFigures]]


def write_results(plan: GridPlan, out: Path, trained: Trained, track: Track = quiet) -> Comparison:
    """Compare what the runs left; writes ``comparison.json``, ``.csv``, ``.md`` and ``.html``.

    Args:
        plan: what is compared.
        out: folder of the comparison.
        trained: what became of the runs.
        track: shows progress.

    Raises:
        RunFailed: no run has predictions of test cases.
    """
    entries, left_out = only_shared_cases(read_entries(plan, out))
    notes = list(dict.fromkeys(trained.notes))
    if left_out:
        notes.append(
            f"{left_out} test cases that some variant refused are left out of the figures of all variants"
        )
    reference = plan.reference
    if not entries.get(reference):
        reference = next((label for label, runs in entries.items() if runs), "")
        notes.append(f"the reference {plan.reference} has no result; the others are paired with {reference}")
    if not reference:
        listing = "\n".join(f"  - {row.label}, seed {row.seed}: {row.message}" for row in trained.failures)
        raise RunFailed(f"no run has a result to compare\n{listing}", where=str(out))
    settings = plan.base.evaluate
    replicates = max(settings.bootstrap, enough_replicates(entries, settings.level))
    bootstrap = Bootstrap(replicates, settings.level, plan.base.seed)
    seed, several = _shared_seed(plan, out, entries), len({run.seed for run in planned_runs(plan, out)}) > 1
    shown = _shown(plan, out, entries, seed)
    cases = _side_by_side(shown, reference, seed, several)
    result = Comparison(
        name=plan.name,
        foveate=__version__,
        protocol=_protocol(plan, out),
        variants={
            label: describe(study, plan.changes(label), _folders(plan, label, out), out)
            for label, study in plan.variants.items()
        },
        **dict(compare(entries, reference, bootstrap, track)),
        without={view: _without(plan, out, view, entries, bootstrap) for view in plan.without},
        published=published_rows(plan),
        published_by_class=() if plan.published == "none" else published_by_class(*_labels(entries)),
        side_by_side=cases.listing,
        failures=tuple(trained.failures),
        notes=tuple(notes),
        cautions=of_runs({label: RunFiles.read(folder) for label, folder in shown.items()}),
    )
    result.write(out)
    write_comparison(result, out, cases)
    return result


def _shared_seed(plan: GridPlan, out: Path, entries: Entries) -> Seed | None:
    """The first seed (and fold) of which every variant that has any run has one."""
    seeds = [run.seed for run in planned_runs(plan, out)]
    return next((seed for seed in seeds if all(seed in found for found in entries.values() if found)), None)


def _shown(plan: GridPlan, out: Path, entries: Entries, seed: Seed | None) -> dict[str, Path]:
    """The run of this seed of each variant that has any; without a seed, the first run of each."""
    return {
        label: _folders(plan, label, out)[next(iter(found)) if seed is None else seed]
        for label, found in entries.items()
        if found
    }


def _side_by_side(shown: Mapping[str, Path], reference: str, seed: Seed | None, several: bool) -> CaseSheets:
    """Cases of one run of each variant, if there is a seed that all have."""
    if seed is None:
        return CaseSheets(tuple(shown), problem="there is no seed that all variants have a run of")
    notes = [f"of every variant the run of seed {seed} is shown, the first that all have"] if several else []
    return case_sheets(shown, reference, notes)


def _labels(entries: Entries) -> tuple[tuple[str, ...], Task]:
    """The classes and the kind of labels of any run."""
    table = next(entry.table for found in entries.values() for entry in found.values())
    return table.classes, table.task


def read_entries(plan: GridPlan, out: Path) -> Entries:
    """The test predictions and scores of every run that has them."""
    entries: Entries = {label: {} for label in plan.variants}
    for planned in planned_runs(plan, out):
        if all((planned.folder / name).is_file() for name in ("predictions.csv", "metrics.json")):
            entries[planned.label][planned.seed] = read_entry(planned.folder)
    return entries


def read_entry(folder: Path) -> RunFigures:
    """The test predictions of a run, its thresholds, and the scores of its heat maps where it has any."""
    table = read_predictions(folder / "predictions.csv")
    metrics = Metrics.read(folder)
    thresholds = metrics.thresholds if metrics and table.task == "multilabel" else {}
    swept = Study.of_run(folder).localize.thresholds
    scores = _scores(folder)
    return RunFigures(table.part("test"), thresholds, scores.pop("heatmap", []), swept, scores)


def _scores(folder: Path) -> dict[str, list[CaseScore]]:
    """By method, the scores of a run's heat maps, their controls and their ceiling."""
    path = folder / "localization.csv"
    found: dict[str, list[CaseScore]] = {}
    for row in read_scores(path) if path.is_file() else []:
        found.setdefault(row.method, []).append(row)
    return found


def _folders(plan: GridPlan, label: str, out: Path) -> dict[Seed, Path]:
    """The folder of each seed's (and fold's) run of a variant."""
    return {run.seed: run.folder for run in planned_runs(plan, out) if run.label == label}


def _without(
    plan: GridPlan, out: Path, view: str, entries: Entries, bootstrap: Bootstrap
) -> dict[str, WithheldView | Unmade]:
    """Each variant with a view withheld, and what that costs it, paired with itself."""
    found: dict[str, WithheldView | Unmade] = {}
    for label, runs in entries.items():
        folders = _folders(plan, label, out)
        tables = {seed: _withheld(folders[seed] / without_file(view)) for seed in runs}
        lacking = {seed: RunFigures(table, runs[seed].thresholds) for seed, table in tables.items() if table}
        if not lacking:
            found[label] = Unmade(reason=f"this model cannot do without {view}")
            continue
        whole = {seed: RunFigures(runs[seed].table, runs[seed].thresholds) for seed in lacking}
        both, _ = only_shared_cases({"all views": whole, view: lacking})
        compared = compare(both, "all views", bootstrap)
        found[label] = WithheldView(figures=compared.figures[view], differences=compared.differences[view])
    return found


def _withheld(path: Path) -> PredictionTable | None:
    """Test predictions without a view; None where the model cannot do without it, or did not get there."""
    there = path.is_file() and path.stat().st_size > 0
    return read_predictions(path).part("test") if there else None


def _protocol(plan: GridPlan, out: Path) -> GridProtocol:
    """What all runs had in common."""
    base = plan.base
    splits = {str(seed): out / "splits" / str(plan.split_seed(seed)) / "splits.json" for seed in plan.seeds}
    return GridProtocol(
        manifest=base.data.manifest.name,
        manifest_sha256=sha256_of(base.data.manifest),
        splits_sha256={seed: sha256_of(path) for seed, path in splits.items() if path.is_file()},
        seeds=tuple(plan.seeds),
        folds=base.split.rounds,
        resplit=plan.resplit,
        allowed=tuple(base.audit.allow),
    )


def describe(study: Study, changes: list[str], folders: Mapping[Seed, Path], out: Path) -> VariantFacts:
    """What a variant is, and what it costs.

    Args:
        study: of any of its runs.
        changes: what it changes in the reference besides the model.
        folders: of its runs, by seed.
        out: folder of the comparison, from which those of the runs are told.
    """
    seconds = [value for folder in folders.values() for value in _epoch_seconds(folder / "training.csv")]
    return VariantFacts(
        model=study.model.name,
        options=dict(study.model.options),
        pretrained=study.model.pretrained is not False,
        changes=tuple(changes),
        parameters=next((count for folder in folders.values() if (count := _parameters(folder))), None),
        seconds_per_epoch=float(np.median(seconds)) if seconds else None,
        runs={str(seed): Path(os.path.relpath(folder, out)).as_posix() for seed, folder in folders.items()},
    )


def _epoch_seconds(path: Path) -> list[float]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return [float(row["seconds"]) for row in csv.DictReader(stream) if row.get("seconds")]


def _parameters(folder: Path) -> int | None:
    """Learned numbers of a trained model, if it is still there and can be opened."""
    if not (folder / "bundle" / "bundle.json").is_file():
        return None
    from foveate.bundle.bundle import load_bundle

    try:
        return sum(weight.numel() for weight in load_bundle(folder).model.parameters())
    except InputRefused:  # what it predicted can be compared all the same
        return None


def published_rows(plan: GridPlan) -> dict[str, PublishedFigures]:
    """For each variant that has one, the published row: its name, figures, and what data they are of."""
    if plan.published == "none":
        return {}
    if isinstance(plan.published, Mapping):
        return {
            label: PublishedFigures(
                name=label,
                figures={name: float(value) for name, value in row.items() if name != "data"},
                data=f"published, other data: {row['data']}",
            )
            for label, row in plan.published.items()
        }
    rows = {label: _card_row(study) for label, study in plan.variants.items()}
    return {label: row for label, row in rows.items() if row}


def _card_row(study: Study) -> PublishedFigures | None:
    """The published row of a model card whose options are the study's, the most exact one."""
    from foveate.models.cards import CARDS
    from foveate.models.registry import MODELS

    name = study.model.name
    if name not in CARDS or name not in MODELS:
        return None
    defaults = {key: item.default for key, item in inspect.signature(MODELS[name]).parameters.items()}
    options = defaults | study.model.options
    fitting = [
        row
        for row in CARDS[name].published
        if all(options.get(key) == value for key, value in row.options.items())
    ]
    best = max(fitting, key=lambda row: len(row.options), default=None)
    return PublishedFigures(name=best.name, figures=dict(best.figures), data=best.data) if best else None
