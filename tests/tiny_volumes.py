"""Cohorts of several volumes a case, some of them missing, and a small classifier for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cohort_files import write_csv
from foveate.contract import InputSpec, ModelOutput, Views
from foveate.io.nifti import write_nifti
from foveate.models import registry
from foveate.models.several_views import SeveralViewsClassifier
from foveate.types import Geometry

VIEWS = ("arterial", "venous")
CLASSES = ("dark", "bright")
SIZE = (4, 16, 16)


class MeanOfViews(SeveralViewsClassifier):
    """A trunk per view; the features of the views that are there are averaged."""

    def __init__(self, num_classes: int, spec: InputSpec) -> None:
        super().__init__(
            "mean_of_views",
            num_classes,
            spec,
            cam_feature={view: f"map:{view}" for view in spec.views},
            dimensions=("2", "3"),
            tolerates_missing=True,
        )
        conv = nn.Conv3d if spec.dimensions == "3" else nn.Conv2d
        self.trunks = nn.ModuleList(
            nn.Sequential(conv(spec.channels, 8, 3, stride=2, padding=1), nn.ReLU()) for _ in spec.views
        )
        self.head = nn.Linear(8, num_classes)

    def forward(self, views: Views) -> ModelOutput:
        pictures, present = self.pick(views)
        maps = [trunk(picture) for trunk, picture in zip(self.trunks, pictures.values(), strict=True)]
        pooled = torch.stack([each.flatten(2).mean(2) for each in maps], dim=1)
        there = present.to(pooled.dtype)[:, :, None]
        mean = (pooled * there).sum(1) / there.sum(1)
        return ModelOutput(
            self.head(mean), {f"map:{view}": each for view, each in zip(pictures, maps, strict=True)}
        )


class EveryView(MeanOfViews):
    """The same, but it cannot do without any view."""

    def __init__(self, num_classes: int, spec: InputSpec) -> None:
        super().__init__(num_classes, spec)
        self.tolerates_missing = False


def mean_of_views(num_classes: int, spec: InputSpec, *, pretrained: bool = False) -> MeanOfViews:
    return MeanOfViews(num_classes, spec)


def every_view(num_classes: int, spec: InputSpec, *, pretrained: bool = False) -> EveryView:
    return EveryView(num_classes, spec)


def register(patch: Any) -> None:
    """Put both among the models for one test (a ``pytest.MonkeyPatch``)."""
    patch.setitem(registry.MODELS, "mean_of_views", mean_of_views)
    patch.setitem(registry.MODELS, "every_view", every_view)


def write_volume(path: Path, values: np.ndarray[Any, Any]) -> Path:
    """Write ``(D, H, W)`` as NIfTI with slices 3 mm apart and pixels of 1.5 mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.array([[0, 0, 1.5, 0], [0, 1.5, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]], dtype=float)
    write_nifti(path, values, Geometry(values.shape, (3.0, 1.5, 1.5), affine))
    return path


def write_cohort(folder: Path, cases: int = 24, missing: float = 0.3, seed: int = 0) -> Path:
    """A manifest of two-phase volumes, each phase of another shape, two cases a patient.

    A bright ball in the middle makes the class; with chance ``missing`` a phase is left out, never both.
    """
    draws = np.random.default_rng(seed)
    rows = []
    for number in range(cases):
        row: dict[str, object] = {
            "case_id": f"c{number:02d}",
            "patient_id": f"p{number // 2:02d}",
            "label": CLASSES[number // 2 % 2],
        }
        for view, shape in zip(VIEWS, ((5, 18, 20), (7, 24, 16)), strict=True):
            axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
            ball = sum(axis**2 for axis in axes) < 0.4
            values = draws.normal(100, 15, shape) + (80 if number // 2 % 2 else 0) * ball
            path = write_volume(folder / view / f"{number:02d}.nii.gz", values.astype(np.float32))
            row[view] = path.relative_to(folder).as_posix()
        absent = draws.random(2) < missing
        if absent.all():
            absent[draws.integers(2)] = False
        row |= {view: "" for view, gone in zip(VIEWS, absent, strict=True) if gone}
        rows.append(row)
    return write_csv(folder / "manifest.csv", rows)


def patterns(rows: Sequence[dict[str, str]]) -> list[str]:
    """The views of each row of a manifest, joined as ``predictions.csv`` does it."""
    return ["+".join(view for view in VIEWS if row[view]) for row in rows]


def study(
    folder: Path, model: str = "mean_of_views", options: dict[str, Any] | None = None, **sections: Any
) -> dict[str, Any]:
    """A study of such a cohort that trains within seconds."""
    base: dict[str, Any] = {
        "name": "tiny-volumes",
        "data": {"manifest": str(folder / "manifest.csv")},
        "split": {"test": 0.3, "val": 0.3},
        "preprocess": {"size": list(SIZE), "intensity": "zscore", "keep_aspect": False},
        "augment": {"tilt_degrees": 5, "flip": ["depth"], "drop_views": 0.2},
        "model": {"name": model, "options": options or {}},
        "train": {"epochs": 2, "batch_size": 4, "accelerator": "cpu", "precision": "32", "lr": 0.01},
        "evaluate": {"bootstrap": 100},
    }
    return base | {name: {**base[name], **values} for name, values in sections.items()}
