"""Other models to compare the maps with: a second training, and one on permuted labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foveate.bundle.bundle import Bundle, load_bundle
from foveate.errors import UsageError
from foveate.evaluate.results.splits import Splits
from foveate.stations.run import Run
from foveate.types import Cohort

if TYPE_CHECKING:
    from rich.console import Console

KINDS = {
    "second": "no second training is given (--second RUN, or --retrain)",
    "permuted": "no model trained on permuted labels is given (--permuted RUN, or --retrain)",
}


@dataclass(frozen=True, slots=True)
class Rival:
    """A model that answers the same question about the same images.

    Attributes:
        bundle: of it.
        source: where it lies.
    """

    bundle: Bundle
    source: Path

    def targets(self, classes: tuple[str, ...], targets: list[int]) -> list[int]:
        """Positions of classes among this model's own."""
        return [self.bundle.classes.index(classes[target]) for target in targets]


def find_rivals(run: Run, bundle: Bundle, named: Mapping[str, Path | None]) -> dict[str, Rival]:
    """The models that the user names, or that an earlier retraining left in ``trust/``.

    Args:
        run: whose maps are tested.
        bundle: of the run.
        named: run folders by kind (``second``, ``permuted``).

    Raises:
        UsageError: a model takes other images or tells other classes apart.
    """
    found = {}
    for kind in KINDS:
        folder = named.get(kind) or _folder(run, kind)
        if named.get(kind) is None and not (folder / "bundle" / "bundle.json").is_file():
            continue
        other = load_bundle(folder)
        _check(bundle, other, folder)
        found[kind] = Rival(other, folder)
    return found


def retrain(run: Run, kind: str, console: Console | None = None) -> Path:
    """Train the study anew, with the next seed or on permuted labels; writes ``trust/<kind>/``.

    The parts stay those of the run. Labels are permuted within the training and within the validation cases,
    whole label by whole label, so that every class stays as frequent as it was (Adebayo et al. 2018, section
    3.2). An interrupted training goes on where it stopped.

    Args:
        run: with splits.
        kind: ``second`` or ``permuted``.
        console: where progress is shown.

    Returns:
        The folder of the training, with its bundle.
    """
    from foveate.train.fit import fit

    study, cohort, fold = run.study, run.cohort(), run.study.split.fold
    splits = run.result(Splits)
    if kind == "second":
        study = study.model_copy(update={"seed": study.seed + 1})
    else:
        cohort = permute_labels(cohort, splits, fold, study.seed)
    folder = _folder(run, kind)
    folder.mkdir(parents=True, exist_ok=True)
    fit(study, cohort, splits, folder, fold=fold, console=console)
    return folder


def permute_labels(cohort: Cohort, splits: Splits, fold: int, seed: int) -> Cohort:
    """The cohort with the labels of its training cases permuted, and those of its validation cases."""
    draws = np.random.default_rng(seed)
    cases = list(cohort.cases)
    for part in ("train", "val"):
        rows = [row for row, case in enumerate(cases) if splits.folds[fold].get(case.case_id) == part]
        drawn = [cases[row] for row in draws.permutation(np.array(rows, dtype=int))]
        for row, other in zip(rows, drawn, strict=True):
            cases[row] = replace(cases[row], label=other.label, findings=other.findings)
    return replace(cohort, cases=tuple(cases))


def _folder(run: Run, kind: str) -> Path:
    return run.folder / "trust" / kind


def _check(bundle: Bundle, other: Bundle, folder: Path) -> None:
    """Refuse a model whose maps cannot be compared with those of the run."""
    differ = [
        what
        for what, same in {
            "views": bundle.views == other.views,
            "classes": set(bundle.classes) == set(other.classes),
            "preprocessing": bundle.preprocess.config == other.preprocess.config,
        }.items()
        if not same
    ]
    if differ:
        raise UsageError(
            f"this model has other {' and '.join(differ)}",
            where=str(folder),
            fix="name a run of the same study with another seed, or on permuted labels",
        )
