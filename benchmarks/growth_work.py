"""What ``growth.py`` measures: pieces of work of any size, made of invented data.

Each function takes a size, an empty folder, and a ``Meter`` that measures its stages by name.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from nibabel.loadsave import save as save_nifti
from nibabel.nifti1 import Nifti1Image
from PIL import Image as Picture
from scipy.special import softmax

from foveate.bundle.bundle import Bundle, Patients
from foveate.contract import InputSpec
from foveate.data.audit.similarity import SIDE, find_twins
from foveate.data.splits import split_cohort
from foveate.device import keep_freed_memory
from foveate.evaluate import evaluate_predictions
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.table import read_predictions, write_predictions
from foveate.models import build_model
from foveate.predict import explain_prepared, predict_prepared, read_and_prepare
from foveate.prepare.preprocess import Preprocess
from foveate.report.build import write_report
from foveate.stations.audit import audit
from foveate.stations.evaluate import evaluate
from foveate.stations.predict import predict
from foveate.stations.report import report
from foveate.stations.run import Run
from foveate.stations.split import split
from foveate.stations.train import train
from foveate.study.settings import PreprocessConfig, SplitConfig
from foveate.study.study import Study, TrainConfig
from foveate.train.optim import make_optimizer
from foveate.train.step import Choice, TrainingStep
from foveate.types import Case, Cohort, Prediction

CLASSES, PER_PATIENT, BATCH = 5, 3, 4
REPLICATES = 500  # of the bootstrap: what is fitted is the growth, and 1,000 take twice as long


@dataclass
class Meter:
    """Of each stage the seconds of the clock, those of processors, and the further peak memory in bytes."""

    stages: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        with suppress(OSError):  # from here on the peak counts anew (Linux)
            Path("/proc/self/clear_refs").write_text("5")
        before, worked, began = memory("VmRSS"), processors(), time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self.stages[stage] = (seconds, processors() - worked, memory("VmHWM") - before)


def processors() -> float:
    """Seconds that this process and those it has ended have kept processors busy."""
    return sum(os.times()[:4])


def memory(name: str) -> float:
    """Bytes of this process, as the kernel counts them; NaN on systems that do not tell."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return 1024.0 * float(line.split()[1])
    return float("nan")


# ---- cases --------------------------------------------------------------------------------------------


def stations_by_cases(count: int, folder: Path, meter: Meter) -> None:
    """Every station of a run on tiny pictures."""
    manifest = write_pictures(count, folder)
    facts = {
        "name": "growth",
        "data": {"manifest": manifest},
        "preprocess": {"size": (32, 32)},
        "model": {"name": "timm:test_resnet"},
        "train": {"epochs": 1, "batch_size": 64, "accelerator": "cpu", "plan": "off"},
        "evaluate": {"bootstrap": REPLICATES},
    }
    run = Run.create(Study.model_validate(facts), folder / "run")
    with meter("manifest"):
        run.cohort()
    with meter("audit"):
        audit(run)
    with meter("split"):
        split(run)
    with meter("train, one epoch"):
        train(run)
    with meter("predict"):
        predict(run)
    with meter("evaluate"):
        evaluate(run)
    with meter("report"):
        report(run)


def write_pictures(count: int, folder: Path) -> Path:
    """Pictures of 16 pixels, all different, that tell the class; one column of metadata."""
    chance = np.random.default_rng(0)
    folder.joinpath("images").mkdir()
    with folder.joinpath("manifest.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["case_id", "patient_id", "label", "image", "age"])
        for number in range(count):
            label, name = number % CLASSES, f"images/{number}.png"
            pixels = chance.integers(40 * label, 40 * label + 60, (16, 16), dtype=np.uint8)
            Picture.fromarray(pixels).save(folder / name, compress_level=1)
            age = chance.integers(20, 90)
            table.writerow([f"c{number}", f"p{number // PER_PATIENT}", f"class {label}", name, age])
    return folder / "manifest.csv"


def twins_by_cases(count: int, folder: Path, meter: Meter) -> None:
    """The search for near-duplicates alone, one image in a hundred a copy; spectra in a file."""
    spectra = invented_spectra(count, folder / "spectra.npy")
    numbers = np.arange(count)
    with meter("near-duplicates"):
        found = find_twins(spectra, numbers, numbers)
    if len(found.links) != count // 100:
        raise AssertionError(f"{len(found.links)} links instead of {count // 100}")


def invented_spectra(count: int, path: Path) -> np.ndarray:
    """``(count, 48, 48)``: half of what each shows is common to all, as in radiographs of one region."""
    chance, frequency = np.random.default_rng(0), np.add.outer(np.arange(SIDE) ** 2, np.arange(SIDE) ** 2)
    fall = ((1.0 + frequency) ** -0.8).astype(np.float32)
    fall[0, 0] = 0
    common = unit(chance.standard_normal((1, SIDE, SIDE), dtype=np.float32) * fall)
    spectra = np.lib.format.open_memmap(path, "w+", np.float32, (count, SIDE, SIDE))
    for start in range(0, count, 4096):
        own = chance.standard_normal((min(4096, count - start), SIDE, SIDE), dtype=np.float32)
        spectra[start : start + 4096] = unit(common + unit(own * fall))
    copies = spectra[: count // 100]
    noise = 5e-4 * chance.standard_normal(copies.shape, dtype=np.float32)
    spectra[count - len(copies) :] = unit(copies + noise)
    return np.asarray(spectra)


def unit(values: np.ndarray) -> np.ndarray:
    """Spectra of norm 1."""
    return np.asarray(values / np.linalg.norm(values, axis=(1, 2), keepdims=True), dtype=np.float32)


def split_by_cases(count: int, folder: Path, meter: Meter) -> None:
    """Metadata of 14 findings divided, once and in five folds."""
    chance = np.random.default_rng(0)
    truth = chance.random((count, 14)) < np.geomspace(0.002, 0.2, 14)
    names = [f"finding {number}" for number in range(14)]
    cohort = imagined(
        [dict(zip(names, row, strict=True)) for row in truth.astype(int).tolist()], "multilabel", names
    )
    with meter("split"):
        split_cohort(cohort, SplitConfig())
    with meter("split, five folds"):
        split_cohort(cohort, SplitConfig(folds=5))


def imagined(truths: list[dict[str, int]] | list[str], task: str, classes: list[str]) -> Cohort:
    """A cohort without files, three cases a patient."""
    cases = tuple(
        Case(
            f"c{number}",
            f"p{number // PER_PATIENT}",
            {"image": Path(f"{number}.png")},
            label=truth if isinstance(truth, str) else None,
            findings=truth if isinstance(truth, dict) else {},
            row=number + 2,
        )
        for number, truth in enumerate(truths)
    )
    kind = "multilabel" if task == "multilabel" else "multiclass"
    return Cohort(cases, kind, tuple(classes), ("image",), Path("manifest.csv"), "0" * 64)


def evaluation_by_cases(count: int, folder: Path, meter: Meter) -> None:
    """Invented predictions of test cases: figures with intervals, and the report of them."""
    measure_evaluation(count, CLASSES, folder, meter)


def evaluation_by_classes(count: int, folder: Path, meter: Meter) -> None:
    """The same for 2,000 cases of so many classes."""
    measure_evaluation(2000, count, folder, meter)


def measure_evaluation(cases: int, classes: int, folder: Path, meter: Meter) -> None:
    """A table of predictions written, read, evaluated and reported."""
    names = [f"class {number}" for number in range(classes)]
    write_predictions(
        folder / "predictions.csv", "multiclass", names, list(invented_predictions(cases, classes))
    )
    with meter("evaluate"):
        table = read_predictions(folder / "predictions.csv")
        found = evaluate_predictions(table, n_boot=REPLICATES, options=EvaluateOptions())
        found.write(folder)
    with meter("report"):
        write_report(folder)


def invented_predictions(count: int, classes: int) -> Iterator[Prediction]:
    """A fifth of them of validation cases."""
    chance = np.random.default_rng(0)
    for number in range(count):
        truth = np.zeros(classes)
        truth[chance.integers(classes)] = 1
        logits = chance.normal(size=classes) + 2 * truth
        patient = number // PER_PATIENT
        part = "test" if patient % 5 else "val"
        yield Prediction(f"c{number}", f"p{patient}", part, logits, softmax(logits), truth)


# ---- classes ------------------------------------------------------------------------------------------


def split_by_classes(count: int, folder: Path, meter: Meter) -> None:
    """20,000 cases of so many classes divided."""
    names = [f"class {number}" for number in range(count)]
    truths = [names[index] for index in np.random.default_rng(0).integers(count, size=20_000)]
    cohort = imagined(truths, "multiclass", names)
    with meter("split"):
        split_cohort(cohort, SplitConfig())


# ---- sides and depths ---------------------------------------------------------------------------------


def pictures_by_side(side: int, folder: Path, meter: Meter) -> None:
    """A batch of pictures that are as large as the model's input; freed memory is kept, as stations do."""
    keep_freed_memory()
    paths = [folder / f"{number}.png" for number in range(BATCH)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 255, (side, side), dtype=np.uint8)
        Picture.fromarray(pixels).save(path, compress_level=1)
    measure_model("timm:resnet18", (side, side), paths, meter)


def volumes_by_depth(depth: int, folder: Path, meter: Meter) -> None:
    """A batch of volumes of 48 × 48 pixels and so many slices."""
    paths = [folder / f"{number}.nii" for number in range(BATCH)]
    for number, path in enumerate(paths):
        values = np.random.default_rng(number).integers(0, 999, (48, 48, depth)).astype(np.int16)
        save_nifti(Nifti1Image(values, np.eye(4)), path)
    measure_model("resnet3d10", (depth, 48, 48), paths, meter)


def measure_model(name: str, size: tuple[int, ...], paths: list[Path], meter: Meter) -> None:
    """A training step; and prediction and explanation of files."""
    names = tuple(f"class {number}" for number in range(CLASSES))
    preprocess = Preprocess(PreprocessConfig.model_validate({"size": size}))
    dimensions, channels = ("3", 1) if len(size) == 3 else ("2", 3)
    spec = InputSpec(("image",), dimensions, size, channels)
    model = build_model(name, CLASSES, spec)
    model.criterion = torch.nn.functional.cross_entropy
    step = TrainingStep(model.train(), Choice(), "cpu")
    optimizer = make_optimizer(model, TrainConfig(), torch.device("cpu"))
    images, targets = torch.rand(BATCH, channels, *size), torch.arange(BATCH) % CLASSES
    with meter("training step"):
        optimizer.zero_grad()
        step({"image": images}, targets, 0.0)["total"].backward()
        optimizer.step()
    bundle = Bundle(model.eval(), name, {}, preprocess, ("image",), "multiclass", names, Patients.of([]))
    cases = [Case(path.stem, path.stem, {"image": path}) for path in paths]
    with meter("read and prepare"):
        prepared = [read_and_prepare(bundle, case) for case in cases]
    with meter("predict"):
        predict_prepared(bundle, prepared)
    with meter("explain (Grad-CAM)"):
        explain_prepared(bundle, prepared, [names[:1]] * BATCH, explainer="gradcam")


WORK: dict[str, Callable[[int, Path, Meter], None]] = {
    "stations by cases": stations_by_cases,
    "near-duplicates by cases": twins_by_cases,
    "split by cases": split_by_cases,
    "evaluation by cases": evaluation_by_cases,
    "split by classes": split_by_classes,
    "evaluation by classes": evaluation_by_classes,
    "pictures by side": pictures_by_side,
    "volumes by depth": volumes_by_depth,
}
