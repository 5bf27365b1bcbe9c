"""``foveate plan``: what a training will cost and how it is best computed, measured on some of its cases."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.data.dataset import batches_of
from foveate.evaluate.results.splits import Splits
from foveate.files import default_cache_folder
from foveate.study.study import Study
from foveate.train.checkpoint import seed_everything
from foveate.train.display import Display
from foveate.train.fit import make_fabric, make_feed, make_model
from foveate.train.material import load_material
from foveate.train.tuning.estimate import Extent
from foveate.train.tuning.plan import TrainingPlan, keep, measure, read_plan
from foveate.types import Case, Cohort

_BATCHES = {"train": 3, "val": 1}  # to try on


@dataclass(frozen=True, slots=True)
class Preview:
    """What is known before a training.

    Attributes:
        plan: how it will be computed, with its estimate.
        extent: batches and cases.
        preparing: seconds to read and prepare all images once, 0 if they are prepared already.
        kept: whether the plan is the one with which this run began, so that nothing was measured.
    """

    plan: TrainingPlan
    extent: Extent
    preparing: float
    kept: bool


def preview(
    study: Study,
    cohort: Cohort,
    splits: Splits,
    run: Path,
    *,
    fold: int = 0,
    cache: Path | None = None,
    display: Display,
) -> Preview:
    """Measure on a few batches, and write ``plan.json``, unless the run has begun with a plan already.

    Args:
        study: every choice.
        cohort: the cases.
        splits: which of them are for training and for validation.
        run: folder of the run.
        fold: which of the folds.
        cache: folder for prepared images and remembered plans; None takes the user's.
        display: where progress is shown.

    Raises:
        UsageError: as ``fit``.
        InputRefused: images of the sample cannot be used.
    """
    parts, folder = splits.parts(fold), cache or default_cache_folder()
    extent = _extent(study, cohort, parts)
    if (plan := read_plan(run)) is not None and any((run / "checkpoints").glob("*.pt")):
        return Preview(plan, extent, 0.0, kept=True)
    fabric = make_fabric(study)
    seed_everything(study.seed)
    model = make_model(study, cohort)
    sample = {part: _spread(_labelled(cohort, parts[part]), study, most) for part, most in _BATCHES.items()}
    began = time.perf_counter()
    material = load_material(
        study, cohort, sample, folder, display, tolerant=model.tolerates_missing, whole=False
    )
    filled = material.filled
    reading = (time.perf_counter() - began) / max(filled.made + filled.without_room, 1)
    truth = np.stack([cohort.target(case) for case in _labelled(cohort, parts["train"])])
    feed = make_feed(material, fabric, model, truth)
    plan = measure(
        study, model.to(fabric.device), feed, fabric.device, extent=extent, cache=folder, larger_batch=True
    )
    keep(plan, run, folder)
    unread = filled.made + filled.without_room > 0  # if none of the sample was, the others are prepared too
    return Preview(plan, extent, reading * extent.cases if unread else 0.0, kept=False)


def _extent(study: Study, cohort: Cohort, parts: Mapping[str, Sequence[str]]) -> Extent:
    train, val = (len(_labelled(cohort, parts[part])) for part in ("train", "val"))
    batches, scorings = (batches_of(count, study.train.batch_size) for count in (train, val))
    return Extent(len(batches), len(scorings), train + val, (len(batches[0]), len(batches[-1])))


def _labelled(cohort: Cohort, names: Sequence[str]) -> list[Case]:
    wanted = set(names)
    members = [case for case in cohort.cases if case.case_id in wanted]
    return [case for case in members if not np.isnan(cohort.target(case)).all()]


def _spread(cases: Sequence[Case], study: Study, batches: int) -> list[str]:
    """So many batches of cases, evenly from the whole part."""
    count = min(batches * study.train.batch_size, len(cases))
    return [cases[place].case_id for place in np.linspace(0, len(cases) - 1, count).round().astype(int)]
