"""Foveate's training beside a plain timm + torchvision script: same network, size, epochs, split and seeds.

    python benchmarks/training.py labels.csv --view path --label label --patient slide_image
    python benchmarks/training.py --model resnet18 resnet50 densenet121 --runs R --page docs/performance.md

The plain script is what one would write today, without deliberate faults: PIL and torchvision transforms in
a ``Dataset``, a ``DataLoader`` with as many workers as turn out fastest, float32, AdamW with a cosine
schedule, the best epoch by balanced accuracy on validation. Both learn from random weights. Runs alternate,
and a fixed piece of work is timed before each, so that the noise of the machine is known.

Takes an hour or more: with ``--runs`` every training is kept in a file, and none is repeated that is in it.
``--accuracy`` shows accuracies alone (section ``accuracy_SIZE``), of trainings long enough to tell them
apart, during which the machine may do other work.

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
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image as Picture
from scipy import stats
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from foveate.bundle.bundle import load_bundle
from foveate.data.manifest.manifest import load_manifest
from foveate.data.splits import Splits, split_cohort
from foveate.files import write_json
from foveate.predict import predict_prepared, read_and_prepare
from foveate.study.settings import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig, SplitConfig
from foveate.study.study import Study
from foveate.train.fit import fit
from foveate.train.tuning.plan import read_plan
from foveate.types import Case, Cohort
from sheet import Noise, Sheet, add_page, machine, spread, wandered

#: Balanced accuracy on the test cases; seconds of training and of preparing images; share waited; the plan.
Trained = tuple[float, float, float, float, str]
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
    """One training of one side.

    Attributes:
        cases: of the training part.
        seconds: of the training with validation, and for Foveate with measuring its plan.
        preparing: seconds to prepare the images once.
        waiting: share of the training that was spent waiting for batches.
        noise: seconds of the fixed work before it.
    """

    setting: Setting
    cases: int
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


def train_plain(
    setting: Setting, cohort: Cohort, parts: dict[str, list[Case]], seed: int, workers: int
) -> Trained:
    """As ``train_foveate``; nothing is prepared, and what is waited for is not known."""
    script = Plain(setting, cohort, parts, seed, workers)
    seconds = script.train()
    return script.test("test"), seconds, 0.0, 0.0, f"loader with {workers} workers"


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
) -> Trained:
    """Train and answer the test cases."""
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


def in_own_process(work: Callable[..., Trained], *given: object) -> Trained:
    """What one side does to its process (memory, threads) must not help or hinder the other."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


# ---- both ---------------------------------------------------------------------------------------------


class Runs:
    """All trainings so far, also in a file if one is given."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        content = json.loads(path.read_text()) if path and path.exists() else []
        self.known = [Outcome(**{**item, "setting": Setting(**item["setting"])}) for item in content]

    def find(self, setting: Setting, cases: int, who: str, seed: int) -> Outcome | None:
        """One that need not be repeated."""
        key = (setting, cases, who, seed)
        found = [item for item in self.known if (item.setting, item.cases, item.who, item.seed) == key]
        return found[0] if found else None

    def keep(self, outcome: Outcome) -> None:
        """Add one."""
        self.known.append(outcome)
        if self.path:
            write_json(self.path, [asdict(item) for item in self.known])


def compare(
    setting: Setting,
    cohort: Cohort,
    splits: Splits,
    seeds: Sequence[int],
    workers: int | None,
    runs: Runs,
    sheet: Sheet,
) -> list[tuple[Outcome, Outcome]]:
    """Train each seed on both sides, in turn."""
    by_id = {case.case_id: case for case in cohort.cases}
    parts = {part: [by_id[name] for name in names] for part, names in splits.parts().items()}
    cases, noise = len(parts["train"]), Noise()
    pairs = []
    for seed in seeds:
        plain = runs.find(setting, cases, "plain", seed)
        if plain is None:
            workers = fastest_workers(setting, cohort, parts) if workers is None else workers
            wandering = noise.measure()
            found = in_own_process(train_plain, setting, cohort, parts, seed, workers)
            plain = Outcome(setting, cases, "plain", seed, *found, wandering)
            runs.keep(plain)
        ours = runs.find(setting, cases, "foveate", seed)
        if ours is None:
            wandering = noise.measure()
            found = in_own_process(train_foveate, setting, cohort, splits, parts, seed)
            ours = Outcome(setting, cases, "foveate", seed, *found, wandering)
            runs.keep(ours)
        sheet.console.print(plain, ours)
        pairs.append((plain, ours))
    return pairs


def show(pairs: Sequence[tuple[Outcome, Outcome]], sheet: Sheet) -> None:
    """Each seed and the means, and how far the ratio of the times spreads."""
    rows = [[str(one.seed), *cells([(one, other)])] for one, other in pairs]
    header = ("seed", "plain: accuracy", "seconds", "Foveate: accuracy", "seconds", "waiting", "preparing")
    (plain, ours), setting = pairs[0], pairs[0][0].setting
    title = f"{setting.model}, {setting.size} pixels, {setting.epochs} epochs of {plain.cases} cases"
    sheet.table([*header, "times faster", "with preparing"], [*rows, ["mean", *cells(pairs)]], title=title)
    ratios = [one.seconds / other.seconds for one, other in pairs]
    gains = [other.balanced_accuracy - one.balanced_accuracy for one, other in pairs]
    error = np.std(gains, ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else np.nan
    sure = f", standard error {error:.3f}" if len(gains) > 1 else ""
    sheet.say(
        f"Times faster: {spread(ratios, 2)}; seeds: {len(ratios)}. Balanced accuracy, Foveate's less the "
        f"plain script's: {np.mean(gains):+.3f}{sure}. Plain: {plain.plan}; Foveate: {ours.plan}."
    )
    sheet.say(wandered([item.noise for pair in pairs for item in pair]))


def show_accuracy(pairs: Sequence[tuple[Outcome, Outcome]], sheet: Sheet) -> None:
    """Each seed of one network, and the mean."""
    setting, cases = pairs[0][0].setting, pairs[0][0].cases
    found = [(one.balanced_accuracy, other.balanced_accuracy) for one, other in pairs]
    rows = [*zip([str(one.seed) for one, _ in pairs], found, strict=True), ("mean", np.mean(found, axis=0))]
    title = f"{setting.model}, {setting.size} pixels, {setting.epochs} epochs of {cases} cases"
    sheet.table(
        ["seed", "plain", "Foveate", "difference"],
        [[seed, f"{one:.3f}", f"{other:.3f}", f"{other - one:+.3f}"] for seed, (one, other) in rows],
        title=title,
    )
    sheet.say(difference(pairs))


def difference(pairs: Sequence[tuple[Outcome, Outcome]]) -> str:
    """Mean over trainings of Foveate's balanced accuracy less the plain script's, with Student's interval."""
    gains = [other.balanced_accuracy - one.balanced_accuracy for one, other in pairs]
    low, high = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    return (
        f"Foveate's less the plain script's, mean of {len(gains)} pairs of trainings: {np.mean(gains):+.3f}, "
        f"95 % interval {low:+.3f} to {high:+.3f}."
    )


def cells(pairs: Sequence[tuple[Outcome, Outcome]]) -> list[str]:
    """Means of both sides, and how many times faster Foveate is, without and with preparing."""
    (plain_accuracy, plain), (accuracy, own) = (
        [
            float(np.mean([getattr(pair[side], name) for pair in pairs]))
            for name in ("balanced_accuracy", "seconds")
        ]
        for side in (0, 1)
    )
    preparing, waiting = (
        float(np.mean([getattr(ours, name) for _, ours in pairs])) for name in ("preparing", "waiting")
    )
    return [
        f"{plain_accuracy:.3f}",
        f"{plain:.0f}",
        f"{accuracy:.3f}",
        f"{own:.0f}",
        f"{waiting:.1%}",
        f"{preparing:.1f}",
        f"{plain / own:.2f}",
        f"{plain / (own + preparing):.2f}",
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
    parser.add_argument(
        "--workers", type=int, help="loader processes of the plain script [default: the fastest number]"
    )
    parser.add_argument("--limit", type=int, help="about so many cases, for a quick look")
    parser.add_argument(
        "--runs", type=Path, help="JSON that keeps every training; those in it are not repeated"
    )
    parser.add_argument("--accuracy", action="store_true", help="show accuracies alone, no times")
    add_page(parser)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    sheet = Sheet(f"accuracy_{given.size}" if given.accuracy else "training")
    cohort = load_manifest(given.manifest, label=given.label, views=[given.view], patient=given.patient)
    cohort = some_patients(cohort, given.limit) if given.limit else cohort
    splits = split_cohort(cohort, SplitConfig(seed=0))
    sizes = ", ".join(f"{len(names)} {part}" for part, names in splits.parts().items())
    sheet.say(f"{machine()}. {sizes} cases; accuracies are balanced, of the test part.")
    runs, every = Runs(given.runs), []
    for model in given.model:
        setting = Setting(model, given.size, given.epochs, given.batch_size, given.lr, given.weight_decay)
        pairs = compare(setting, cohort, splits, given.seeds, given.workers, runs, sheet)
        every += pairs
        (show_accuracy if given.accuracy else show)(pairs, sheet)
    if given.accuracy and len(given.model) > 1:
        sheet.say(f"All networks together. {difference(every)}")
    sheet.write(given.page)


if __name__ == "__main__":
    main()
