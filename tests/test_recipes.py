"""Every recipe that is shipped or stands on a page trains: its loss falls within the first steps.

A recipe is what a study says of optimizer, rates, losses, balance and augmentation. It is taken as it stands,
on a few cases of the phantom of its task, with a smaller network of the same kind; that networks of full size
train as well is for ``benchmarks/first_losses.py`` to show.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.recipe import STUDIES, on_a_phantom, training_steps
from foveate.study.study import Study

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "models").glob("*.md")),
]
STEPS = 16
QUARTER = STEPS // 4
SMALL = {"preprocess.size": [64, 64]}
# First part of a model's name → what makes it small, with training cases for a batch or two.
SMALLER: dict[str, dict[str, Any]] = {
    "dadrn50": {"model.options.width": 0.25, "model.options.depths": [1, 1, 1, 1], "phantom.patients": 16},
    "lca": {
        "preprocess.size": [8, 32, 32],
        "model.options.width": 0.125,
        "model.options.tile": 16,
        "phantom.patients": 14,
    },
    "agf": {"preprocess.size": [48, 48], "model.name": "agf", "model.options.encoder": "resnet10t"},
    "can": {
        "preprocess.size": [48, 48],
        "model.name": "can",
        "model.options.first": "resnet10t",
        "model.options.second": "resnet10t",
        "phantom.size": 64,
        "phantom.patients": 28,
    },
    "densenet121": {"model.options.depths": [1, 1, 1, 2], "model.options.growth": 16},
    "timm:resnet50": {"model.name": "timm:resnet10t"},
    "timm:resnet18": {"model.name": "timm:resnet10t"},
    "timm:convnext": {"model.options.attention_options.partner": "resnet10t"},
}
# The published form of LCA-DB has tiles of 32 pixels, four at least.
PUBLISHED = {
    "preprocess.size": [4, 64, 64],
    "model.options.width": 0.0625,
    "model.options.tile": 32,
    "phantom.patients": 10,
}


def recipes() -> Iterator[Any]:
    """Content of every study file, and of every block of a page that has data and a model."""
    for path in sorted(STUDIES.glob("*.yaml")):
        yield pytest.param(yaml.safe_load(path.read_text()), id=path.stem)
    for page in PAGES:
        blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        contents = [yaml.safe_load(block) for block in blocks]
        for number, content in enumerate(contents):
            if {"name", "data", "model"} <= set(content):
                yield pytest.param(content, id=f"{page.stem}-{number}")


def made_small(content: dict[str, Any]) -> dict[str, Any]:
    """What differs from a recipe in its test: sizes alone."""
    changes = SMALL | SMALLER.get(content["model"]["name"].partition("_")[0], {})
    published = content["model"].get("options", {}).get("variant") == "paper"
    return changes | (PUBLISHED if published else {})


@pytest.mark.parametrize("content", list(recipes()))
def test_the_loss_of_a_recipe_falls(content: dict[str, Any], tmp_path: Path) -> None:
    losses = first_losses(on_a_phantom(content, tmp_path / "phantom", made_small(content)), tmp_path)
    assert falls(losses), losses


def test_a_recipe_that_diverges_is_found(tmp_path: Path) -> None:
    """DADRN's, with the published sums and without clipping."""
    content = yaml.safe_load((STUDIES / "dadrn_liver_ct.yaml").read_text())
    changes = made_small(content) | {"model.options.variant": "paper", "train.grad_clip": None}
    losses = first_losses(on_a_phantom(content, tmp_path / "phantom", changes), tmp_path)
    assert not falls(losses) and len(losses) < 6, losses


def test_a_recipe_that_stands_still_is_found(tmp_path: Path) -> None:
    """CAN's, which draws nothing at random within a step, at a rate at which nothing moves."""
    content = yaml.safe_load((STUDIES / "can_phantom.yaml").read_text())
    changes = made_small(content) | {"train.lr": 1e-9}
    losses = first_losses(on_a_phantom(content, tmp_path / "phantom", changes), tmp_path)
    assert not falls(losses) and len(losses) == STEPS, losses


def first_losses(study: Study, work: Path) -> list[float]:
    """Classification loss of each of the first steps over the same batches, to the step at which it breaks.

    Terms that come in with a training's progress are left out.
    """
    losses: list[float] = []
    for _, terms in islice(training_steps(study, work / "cache", repeat=True), STEPS):
        losses.append(terms["classification"].item())
        if not losses[-1] < 3 * losses[0] or not math.isfinite(terms["total"].item()):
            break
    return losses


def falls(losses: list[float]) -> bool:
    """Whether all steps were taken, and the mean of the last quarter lies a tenth below that of the first."""
    return len(losses) == STEPS and sum(losses[-QUARTER:]) < 0.9 * sum(losses[:QUARTER])
