"""Foveate's training beside a plain timm + torchvision script: same network, size, epochs, split and seeds.

    python benchmarks/training.py labels.csv --view path --label label --patient slide_image
    python benchmarks/training.py labels.csv --model resnet18 resnet50 densenet121 --seeds 0 1 2

The plain script is what one would write today, without deliberate faults: PIL and torchvision transforms in
a ``Dataset``, a ``DataLoader`` with as many workers as turn out fastest, float32, AdamW with a cosine
schedule, the best epoch by balanced accuracy on validation. Both learn from random weights. Runs alternate,
and a fixed piece of work is timed before each, so that the noise of the machine is known.

Prints a table for each network: balanced accuracy on the test patients, training seconds (with validation,
and for Foveate with measuring its plan), the ratio with its spread over seeds, the share of training that
Foveate spent waiting for batches, and the one-time preparation of images, which later runs on the same data
do not pay again. The plan is measured for each seed anew, as if there had been no run before.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image as Picture
from rich.console import Console
from rich.table import Table
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from foveate.bundle import load_bundle
from foveate.data.manifest import load_manifest
from foveate.data.splits import Splits, split_cohort
from foveate.predict import predict_prepared, read_and_prepare
from foveate.settings import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig, SplitConfig
from foveate.train.fit import fit
from foveate.train.plan import processor_name, read_plan
from foveate.train.study import Study
from foveate.types import Case, Cohort

AUGMENT = AugmentConfig(flip=("horizontal", "vertical"))


@dataclass(frozen=True)
class Setting:
    """What both sides share."""

    model: str
    size: int
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Outcome:
    """One training of one side."""

    model: str
    who: str
    seed: int
    balanced_accuracy: float
    seconds: float
    preparing: float
    waiting: float
    plan: str
    noise: float


# ---- the plain script ---------------------------------------------------------------------------------


class PictureSet(Dataset[tuple[Tensor, int]]):
    """Files with labels."""

    def __init__(self, cohort: Cohort, cases: Sequence[Case], transform: v2.Transform) -> None:
        view = cohort.view_names[0]
        self.items = [(case.views[view], cohort.classes.index(str(case.label))) for case in cases]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.items[index]
        with Picture.open(path) as picture:
            return self.transform(picture.convert("RGB")), label


def transforms(size: int, *, training: bool) -> v2.Transform:
    steps: list[nn.Module] = [v2.Resize((size, size), antialias=True)]
    if training:
        shift = (AUGMENT.translate, AUGMENT.translate)
        steps += [
            v2.RandomAffine(
                AUGMENT.rotate_degrees, shift, AUGMENT.scale, interpolation=v2.InterpolationMode.BILINEAR
            ),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.ColorJitter(brightness=AUGMENT.brightness, contrast=AUGMENT.contrast),
        ]
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return v2.Compose(steps)


class Plain:
    """The script that Foveate is measured against."""

    def __init__(
        self, setting: Setting, cohort: Cohort, parts: dict[str, list[Case]], seed: int, workers: int
    ) -> None:
        torch.manual_seed(seed)
        np.random.seed(seed)
        self.setting = setting
        self.loaders = {
            part: DataLoader(
                PictureSet(cohort, cases, transforms(setting.size, training=part == "train")),
                batch_size=setting.batch_size,
                shuffle=part == "train",
                num_workers=workers,
                persistent_workers=workers > 0,
            )
            for part, cases in parts.items()
        }
        self.model = timm.create_model(setting.model, num_classes=len(cohort.classes))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), setting.lr, weight_decay=setting.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, setting.epochs * len(self.loaders["train"])
        )

    def train(self) -> float:
        """Train and keep the best epoch; the seconds it took."""
        began = time.perf_counter()
        best, weights = -1.0, self.model.state_dict()
        for _ in range(self.setting.epochs):
            self.epoch()
            if (value := self.test("val")) > best:
                best, weights = value, copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(weights)
        return time.perf_counter() - began

    def epoch(self, steps: int | None = None) -> None:
        self.model.train()
        for step, (images, labels) in enumerate(self.loaders["train"]):
            if step == steps:
                break
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(images), labels).backward()
            self.optimizer.step()
            self.schedule.step()

    @torch.inference_mode()
    def test(self, part: str) -> float:
        self.model.eval()
        found = [(labels, self.model(images).argmax(dim=1)) for images, labels in self.loaders[part]]
        truth, guess = (torch.cat(side) for side in zip(*found, strict=True))
        return float(balanced_accuracy_score(truth, guess))


def fastest_workers(setting: Setting, cohort: Cohort, parts: dict[str, list[Case]]) -> int:
    """As many loader processes as make a dozen steps fastest; the first steps start the processes."""
    timed = {}
    for workers in sorted({0, os.cpu_count() or 1}):
        plain = Plain(setting, cohort, parts, 0, workers)
        plain.epoch(steps=3)
        began = time.perf_counter()
        plain.epoch(steps=12)
        timed[workers] = time.perf_counter() - began
    return min(timed, key=lambda workers: timed[workers])


# ---- Foveate ------------------------------------------------------------------------------------------


def train_foveate(
    setting: Setting, cohort: Cohort, splits: Splits, parts: dict[str, list[Case]], seed: int
) -> tuple[float, float, float, float, str]:
    """Balanced accuracy on the test cases; seconds of training and of preparing images; waiting; the plan."""
    train = {"epochs": setting.epochs, "batch_size": setting.batch_size, "lr": setting.lr}
    study = Study.model_validate(
        {
            "name": "benchmark",
            "data": {"manifest": cohort.manifest},
            "preprocess": {"size": (setting.size, setting.size), "keep_aspect": False},  # as the plain script
            "augment": AUGMENT,
            "model": {"name": f"timm:{setting.model}"},
            "train": {**train, "weight_decay": setting.weight_decay},
            "seed": seed,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = fit(study, cohort, splits, Path(folder, "run"), cache=Path(folder, "cache"))
        seconds = time.perf_counter() - began - result.filled.seconds
        bundle, waiting = load_bundle(result.bundle), waited(Path(folder, "run"))
        plan = read_plan(Path(folder, "run"))
        cases = parts["test"]
        batches = [cases[start : start + 64] for start in range(0, len(cases), 64)]
        found = [
            item
            for batch in batches
            for item in predict_prepared(bundle, [read_and_prepare(bundle, case) for case in batch])
        ]
    truth, guess = [item.truth.argmax() for item in found], [item.probabilities.argmax() for item in found]
    accuracy = float(balanced_accuracy_score(truth, guess))
    return accuracy, seconds, result.filled.seconds, waiting, plan.words() if plan else "safe"


def waited(run: Path) -> float:
    """Share of the training, validation aside, that was spent waiting for batches."""
    with (run / "training.csv").open() as stream:
        return float(np.mean([float(row["waiting"]) for row in csv.DictReader(stream)]))


# ---- both ---------------------------------------------------------------------------------------------


def fixed_work() -> float:
    """Seconds for the same convolutions, whatever is being compared."""
    layer, images = nn.Conv2d(64, 64, 3), torch.zeros(16, 64, 64, 64)
    began = time.perf_counter()
    with torch.inference_mode():
        for _ in range(40):
            layer(images)
    return time.perf_counter() - began


def compare(
    setting: Setting, cohort: Cohort, splits: Splits, seeds: Sequence[int], console: Console
) -> list[Outcome]:
    """Train each seed on both sides, in turn."""
    by_id = {case.case_id: case for case in cohort.cases}
    parts = {part: [by_id[name] for name in names] for part, names in splits.parts().items()}
    workers = fastest_workers(setting, cohort, parts)
    sizes = ", ".join(f"{len(cases)} {part}" for part, cases in parts.items())
    console.print(f"{sizes}; {torch.get_num_threads()} threads; plain loader with {workers} workers")
    outcomes = []
    for seed in seeds:
        noise = fixed_work()
        plain = Plain(setting, cohort, parts, seed, workers)
        seconds = plain.train()
        accuracy = plain.test("test")
        outcomes.append(Outcome(setting.model, "plain", seed, accuracy, seconds, 0.0, 0.0, "", noise))
        console.print(outcomes[-1])
        noise = fixed_work()
        ours = train_foveate(setting, cohort, splits, parts, seed)
        outcomes.append(Outcome(setting.model, "foveate", seed, *ours, noise))
        console.print(outcomes[-1])
    return outcomes


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print each seed and the means, and how far the ratio of the times spreads."""
    columns = ("seed", "plain: accuracy", "seconds", "foveate: accuracy", "seconds", "waiting", "preparing")
    table = Table(*columns, "times faster", "with preparing", title=outcomes[0].model)
    plain, ours = ([item for item in outcomes if item.who == who] for who in ("plain", "foveate"))
    for one, other in zip(plain, ours, strict=True):
        table.add_row(str(one.seed), *cells([one], [other]))
    table.add_row("mean", *cells(plain, ours))
    console.print(table)
    ratios = [one.seconds / other.seconds for one, other in zip(plain, ours, strict=True)]
    console.print(f"times faster: {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} seeds")
    noise = [item.noise for item in outcomes]
    console.print(f"noise of the machine: the same work took {min(noise):.2f} to {max(noise):.2f} s")


def cells(plain: Sequence[Outcome], ours: Sequence[Outcome]) -> list[str]:
    """Means of both sides, and how many times faster Foveate is, without and with preparing."""
    accuracy, seconds = (
        [np.mean([getattr(run, name) for run in runs]) for runs in (plain, ours)]
        for name in ("balanced_accuracy", "seconds")
    )
    preparing, waiting = (np.mean([getattr(run, name) for run in ours]) for name in ("preparing", "waiting"))
    return [
        f"{accuracy[0]:.4f}",
        f"{seconds[0]:.1f}",
        f"{accuracy[1]:.4f}",
        f"{seconds[1]:.1f}",
        f"{waiting:.0%}",
        f"{preparing:.1f}",
        f"{seconds[0] / seconds[1]:.2f}",
        f"{seconds[0] / (seconds[1] + preparing):.2f}",
    ]


def some_patients(cohort: Cohort, limit: int) -> Cohort:
    """About so many cases, of patients drawn at random."""
    patients = sorted({case.patient_id for case in cohort.cases})
    kept: list[Case] = []
    for patient in np.random.default_rng(0).permutation(patients):
        if len(kept) < limit:
            kept += [case for case in cohort.cases if case.patient_id == patient]
    chosen = {case.case_id for case in kept}
    return replace(cohort, cases=tuple(case for case in cohort.cases if case.case_id in chosen))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = Path(os.environ.get("FOVEATE_DATA", "data"))
    parser.add_argument("manifest", nargs="?", type=Path, default=data / "sipakmed" / "labels.csv")
    parser.add_argument("--view", default="path", help="column of the image")
    parser.add_argument("--label", default="label", help="column of the class")
    parser.add_argument("--patient", default="slide_image", help="column of what must not be divided")
    parser.add_argument("--model", nargs="+", default=["resnet18"], help="timm architectures")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=int, help="about so many cases, for a quick look")
    parser.add_argument("--json", type=Path, help="also write every run here")
    return parser.parse_args()


def main() -> None:
    given, console = arguments(), Console(width=120, highlight=False)
    cohort = load_manifest(given.manifest, label=given.label, views=[given.view], patient=given.patient)
    cohort = some_patients(cohort, given.limit) if given.limit else cohort
    splits = split_cohort(cohort, SplitConfig(seed=0))
    console.print(f"{processor_name()}, {os.cpu_count()} cores, torch {torch.__version__}")
    outcomes = []
    for model in given.model:
        setting = Setting(model, given.size, given.epochs, given.batch_size, given.lr, given.weight_decay)
        console.print(setting)
        found = compare(setting, cohort, splits, given.seeds, console)
        show(found, console)
        outcomes += found
    if given.json:
        given.json.write_text(json.dumps([asdict(item) for item in outcomes], indent=2))


if __name__ == "__main__":
    main()
