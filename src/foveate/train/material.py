"""The cases of one training, read, checked and ready to be drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foveate.data.cache import PreparedCache
from foveate.data.dataset import CacheFill, PreparedCases
from foveate.errors import InputRefused, UsageError
from foveate.files import default_cache_folder
from foveate.prepare.common import settle
from foveate.prepare.preprocess import Preprocess
from foveate.study.study import Study
from foveate.train.display import Display
from foveate.train.feed import FedPart
from foveate.train.monitor import validation_figures
from foveate.types import Case, Cohort

#: Models that do without views a case lacks, for pictures (False) and for volumes (True).
TOLERANT = {False: ("late_fusion", "agf_resnet18"), True: ("lca_db10", "resnet3d10")}
_WITHOUT_EFFECT = {"plan", "workers", "cache_gb", "checkpoint_every_steps", "tensorboard"}  # on the weights


@dataclass(frozen=True, slots=True)
class TrainingMaterial:
    """What a training learns from.

    Attributes:
        study: every choice.
        cohort: all cases with their classes.
        preprocess: the study's preprocessing, with what ``auto`` stands for in this cohort.
        train, val: the two parts, with labels and without refused cases.
        filled: how the cases were read.
    """

    study: Study
    cohort: Cohort
    preprocess: Preprocess
    train: FedPart
    val: FedPart
    filled: CacheFill

    @property
    def cases(self) -> tuple[Case, ...]:
        """All that the model sees while it learns."""
        return self.train.cases.cases + self.val.cases.cases

    def identity(self) -> dict[str, Any]:
        """What the weights depend on; a checkpoint is taken up only where all of it is the same."""
        study = self.study.model_dump(mode="json", exclude={"train": _WITHOUT_EFFECT})
        return {
            "preprocess": self.preprocess.config.spelt(),
            **{name: study[name] for name in ("augment", "model", "train", "seed")},
            "manifest_sha256": self.cohort.manifest_sha256,
            "train_cases_sha256": _hash_of(self.train),
            "val_cases_sha256": _hash_of(self.val),
        }


def load_material(
    study: Study,
    cohort: Cohort,
    parts: Mapping[str, Sequence[str]],
    cache: Path | None,
    display: Display,
    *,
    tolerant: bool = False,
    whole: bool = True,
) -> TrainingMaterial:
    """Read every training and validation case once, into the cache where there is room.

    Args:
        study: every choice.
        cohort: all cases.
        parts: case ids of ``train`` and ``val``; cases without a label are left out.
        cache: folder for prepared images; None takes the user's.
        display: shows progress and notes.
        tolerant: whether the model does without views that a case lacks.
        whole: False takes a sample of the cases, too few to be checked for views and the monitored figure.

    Raises:
        UsageError: a part is empty, does not define the monitored figure, or no training case has a view.
        InputRefused: cases cannot be used (all are listed), and the study does not allow for it.
    """
    chosen = {part: _labelled(cohort, part, parts[part]) for part in ("train", "val")}
    everyone = cohort.cases if whole else [*chosen["train"], *chosen["val"]]
    common = settle(study.preprocess, everyone, set(parts["train"]), track=display.track)
    for note in common.notes:
        display.say(f"note: {note}")
    preprocess = Preprocess(common.config)
    prepared = PreparedCases(
        [*chosen["train"], *chosen["val"]],
        cohort.view_names,
        preprocess,
        _open_cache(cache or default_cache_folder(), study.train.cache_gb, display),
        tolerant=tolerant,
    )
    filled = prepared.fill(display.track)
    _report(filled, study, display)
    gone = {case.case_id for case, _ in filled.refused}
    train, val = (
        FedPart.of(cohort, prepared.part([case for case in cases if case.case_id not in gone]))
        for cases in chosen.values()
    )
    if whole:
        _check_views(train)
        _check_monitor(study.train.monitor, cohort, val)
    return TrainingMaterial(study, cohort, preprocess, train, val, filled)


def _labelled(cohort: Cohort, part: str, case_ids: Sequence[str]) -> list[Case]:
    """The cases of a part that have a truth, in the cohort's order."""
    wanted = set(case_ids)
    members = [case for case in cohort.cases if case.case_id in wanted]
    cases = [case for case in members if not np.isnan(cohort.target(case)).all()]
    if not cases:
        raise UsageError(
            f"there is no labelled case to be used as '{part}'",
            where=str(cohort.manifest),
            fix=f"raise split.{part}, or label more cases",
        )
    return cases


def _open_cache(folder: Path, gigabytes: float, display: Display) -> PreparedCache | None:
    if gigabytes == 0:
        return None
    try:
        return PreparedCache(folder, int(gigabytes * 1e9))
    except OSError as error:
        display.say(f"note: no cache, so images are decoded in every epoch: {error}")
        return None


def _report(filled: CacheFill, study: Study, display: Display) -> None:
    """Say what found no room in the cache, and refuse what cannot be used unless the study allows for it."""
    if filled.without_room:
        display.say(
            f"note: no room in the cache for {filled.without_room} cases; each epoch decodes them anew"
        )
    if not filled.refused:
        return
    lines = [f"  - case {case.case_id}: [{error.code}] {error.what}" for case, error in filled.refused]
    text = "\n".join([f"{len(lines)} cases cannot be used", *lines])
    if "refused-image" not in study.audit.allow:
        fix = "correct these files or leave out their rows; --allow refused-image trains without them"
        if any(error.code == "view-missing" for _, error in filled.refused):
            fix += f"; {' and '.join(TOLERANT[study.preprocess.volumes])} tolerate missing views"
        raise InputRefused(text, fix=fix, code="refused-image")
    display.say(f"note: training without {text}")


def _check_views(train: FedPart) -> None:
    """A view that no training case has cannot be learned."""
    for view in train.cases.views:
        if not any(view in case.views for case in train.cases.cases):
            raise UsageError(
                f"no training case has the view '{view}'",
                where="data.views",
                fix="leave this view out, or give images of it to training cases",
            )


def _check_monitor(monitor: str, cohort: Cohort, val: FedPart) -> None:
    """Find out now, and not after the first epoch, that the validation cases do not define a figure."""
    figures = validation_figures(cohort.task, np.zeros_like(val.truth), val.truth)
    if monitor in figures and figures[monitor] is None:
        raise UsageError(
            f"{monitor} is undefined: the validation cases of each class are all of one kind",
            where="train.monitor",
            fix="choose val_loss, or give validation a larger share (split.val)",
        )


def _hash_of(part: FedPart) -> str:
    return hashlib.sha256(json.dumps([case.case_id for case in part.cases.cases]).encode()).hexdigest()
