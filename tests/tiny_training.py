"""A training small enough for tests: 24 pictures of 32 pixels in three classes, 0.4 million weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from foveate.evaluate.results.splits import Splits
from foveate.study.settings import SplitConfig
from foveate.study.study import Study
from foveate.types import Case, Cohort

CLASSES = ("bright", "dark", "striped")


def write_pictures(folder: Path, count: int = 24, size: int = 32) -> list[Path]:
    """Noisy pictures; the class of each is its number modulo three."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(0)
    paths = []
    for number in range(count):
        level = np.full((size, size), (180, 60, 120)[number % 3], dtype=float)
        if number % 3 == 2:
            level[::4] += 60
        noisy = np.clip(level + chance.normal(0, 40, level.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{number:02d}.png")
        Picture.fromarray(noisy).save(paths[-1])
    return paths


def tiny_cohort(folder: Path, count: int = 24) -> Cohort:
    """One patient a picture."""
    cases = tuple(
        Case(f"case{number:02d}", f"patient{number:02d}", {"image": path}, label=CLASSES[number % 3])
        for number, path in enumerate(write_pictures(folder, count))
    )
    return Cohort(cases, "multiclass", CLASSES, ("image",), folder / "manifest.csv", "0" * 64)


def tiny_splits(cohort: Cohort, val: int = 6) -> Splits:
    """The last pictures validate, the others train."""
    names = [case.case_id for case in cohort.cases]
    fold = {name: "train" if place < len(names) - val else "val" for place, name in enumerate(names)}
    return Splits(manifest_sha256="0" * 64, config=SplitConfig(), folds=(fold,))


def tiny_study(folder: Path, **train: Any) -> Study:
    """Three epochs of three steps; dropout, so that a lost random state would show."""
    settings = {
        "epochs": 3,
        "batch_size": 6,
        "accelerator": "cpu",
        "precision": "32",
        "plan": "off",  # what is raced depends on the clock
        "checkpoint_every_steps": 1,
    }
    return Study.model_validate(
        {
            "name": "tiny",
            "data": {"manifest": folder / "manifest.csv"},
            "preprocess": {"size": (32, 32)},
            "model": {"name": "timm:test_resnet", "options": {"drop_rate": 0.5}},
            "train": {**settings, **train},
        }
    )
