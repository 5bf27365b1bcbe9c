"""The first steps of a study's training, on the phantom of its task: for benchmarks and tests of recipes."""

from __future__ import annotations

import copy
import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count, cycle
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from foveate.contract import Classifier
from foveate.data.manifest.manifest import load_manifest
from foveate.data.phantom import draw_phantom
from foveate.data.splits import split_cohort
from foveate.study.study import Study
from foveate.train.checkpoint import seed_everything
from foveate.train.display import Display
from foveate.train.fit import make_fabric, make_feed, make_model
from foveate.train.material import load_material
from foveate.train.optim import make_optimizer, rate_factor, set_rate

STUDIES = Path(__file__).parents[1] / "src" / "foveate" / "studies"
# First part of a model's name → the phantom of its task, small enough to be seen often; cells for any other.
PHANTOMS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "dadrn50": ("ct", {"patients": 24, "slices": 2}),
    "lca": ("liver-mri", {"patients": 28}),
    "agf": ("paired", {"patients": 40}),
    "can": ("chest", {"patients": 40, "cases": 1}),
}
CELLS: tuple[str, dict[str, Any]] = ("cells", {"patients": 10, "cases": 4})


def training_steps(
    study: Study, cache: Path, *, repeat: bool = False
) -> Iterator[tuple[Classifier, dict[str, Tensor]]]:
    """A study's training, for ever: the model and the terms of its loss, ahead of each step's update.

    Rates and the progress that losses depend on are those of the study's whole length.

    Args:
        study: in float32.
        cache: folder for prepared images.
        repeat: take the very batches of the first epoch again and again, so that their losses compare.
    """
    data = study.data
    cohort = load_manifest(data.manifest, label=data.label, findings=data.findings, views=data.views)
    parts = split_cohort(cohort, study.split).parts(study.split.fold)
    fabric = make_fabric(study)
    seed_everything(study.seed)
    model = make_model(study, cohort)
    material = load_material(
        study, cohort, parts, cache, Display(None), tolerant=model.tolerates_missing, whole=False
    )
    feed = make_feed(material, fabric, model)
    optimizer = make_optimizer(model, study.train, fabric.device)
    model.train()
    epochs = (feed.training(epoch, 0) for epoch in count())
    batches = cycle(list(next(epochs))) if repeat else chain.from_iterable(epochs)
    for step, batch in enumerate(batches):
        set_rate(optimizer, rate_factor(study.train, step, feed.steps_per_epoch))
        progress = step / (study.train.epochs * feed.steps_per_epoch)
        terms = model.objective(model(batch.views), batch.targets, progress)
        yield model, terms
        optimizer.zero_grad()
        terms["total"].backward()
        if study.train.grad_clip is not None:
            clip_grad_norm_(model.parameters(), study.train.grad_clip)
        optimizer.step()


def gradient_norm(term: Tensor, *modules: nn.Module) -> float:
    """Norm of the gradient of one term of a loss over all weights of some modules; the graph is kept."""
    weights = [weight for module in modules for weight in module.parameters()]
    parts = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
    return float(torch.stack([part.norm() for part in parts if part is not None]).norm())


def on_a_phantom(content: Mapping[str, Any], folder: Path, changes: Mapping[str, Any] | None = None) -> Study:
    """A study on the phantom of its kind, drawn into ``folder``, without downloaded weights, in float32.

    Args:
        content: of the study file.
        folder: gets the phantom.
        changes: further settings by dotted key, such as ``{"train.batch_size": 4}``; those that start with
            ``phantom.`` are of the phantom.
    """
    kind, drawn = PHANTOMS.get(content["model"]["name"].partition("_")[0], CELLS)
    fixed = {"split": {"test": 0.3, "val": 0.3}, "train.precision": "32", "model.pretrained": False}
    study = changed({"preprocess": {"size": [224, 224]}, **content}, fixed | dict(changes or {}))
    options = {**drawn, "size": study["preprocess"]["size"][-1], **study.pop("phantom", {})}
    study["data"] = {"manifest": _drawn(kind, options, study["data"].get("views"), folder)}
    return Study.model_validate(study)


def changed(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a study with settings by dotted key in it."""
    study: dict[str, Any] = copy.deepcopy(dict(content))
    for key, value in changes.items():
        *path, name = key.split(".")
        section = study
        for part in path:
            section = section.setdefault(part, {})
        section[name] = value
    return study


def parse_changes(words: Sequence[str]) -> dict[str, Any]:
    """Settings as they are written behind ``--set``: ``train.batch_size=4``."""
    return {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in words)}


def _drawn(kind: str, options: Mapping[str, Any], views: Sequence[str] | None, folder: Path) -> str:
    """Draw a phantom, and name its views as a study does that has as many."""
    manifest = draw_phantom(kind, folder, options)
    with manifest.open(newline="") as stream:
        head, *rows = csv.reader(stream)
    mine = [name for name in head if name in ("clinical", "ultrasound")]
    renamed = dict(zip(mine, views or (), strict=False))
    with manifest.open("w", newline="") as stream:
        csv.writer(stream).writerows([[renamed.get(name, name) for name in head], *rows])
    return str(manifest)
