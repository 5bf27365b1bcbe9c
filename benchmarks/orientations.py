"""Are labels that depend on the patient's side learned from files in eight orientations as well as from one?

    python benchmarks/orientations.py --cases 200            (seconds a row)
    python benchmarks/orientations.py --cases 200 --train    (also trains a network; minutes)

Each case is a symmetric body with a lesion on the left (one class) or on the right, so that only the place of
the lesion in the patient tells the class, with noise. Files have one orientation, or eight by turns; their
voxels 1.5 to 4 mm. Trained and tested are a logistic regression on prepared volumes (five folds) and, with
--train, a network of two convolutions and a linear layer over places by the whole product (hold-out test
part). Maps: of each file one voxel of the model that lies over the lesion is lit and brought back; wrong are
those whose brightest voxel does not hold it.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from torch import nn

from foveate.contract import InputSpec, ModelOutput, Views
from foveate.io.reading import read_image
from foveate.models import registry
from foveate.models.several_views import SeveralViewsClassifier
from foveate.prepare.preprocess import Preprocess
from foveate.stations.audit import audit
from foveate.stations.evaluate import evaluate
from foveate.stations.predict import predict
from foveate.stations.run import Run
from foveate.stations.split import split
from foveate.stations.train import train
from foveate.study.settings import PreprocessConfig
from foveate.study.study import Study

Floats = NDArray[np.float64]
EIGHT = ("LPS", "RAS", "LAS", "RPI", "ASR", "SAL", "PIR", "ILP")
AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
SPACINGS = ((1.5, 1.5, 4.0), (2.0, 2.0, 2.0), (1.6, 2.4, 3.0))
EXTENT = np.array([48.0, 48.0, 48.0])
SIZE = (12, 16, 16)


def body(places: Floats, lesion: Floats) -> Floats:
    """Grey at places ``(…, 3)`` in mm, symmetric but for the lesion."""
    grey = 100.0 * ((places / np.array([22, 18, 22])) ** 2).sum(axis=-1).__lt__(1)
    return grey + 80 * np.exp(-((places - lesion) ** 2).sum(axis=-1) / (2 * 4.0**2))


def write(folder: Path, cases: int, orientations: tuple[str, ...]) -> list[tuple[Path, int, Floats]]:
    """The cohort with its manifest; path, class and place of the lesion of each case."""
    found, rows = [], []
    for number in range(cases):
        draws = np.random.default_rng([3, number])
        left = int(draws.integers(2))
        lesion = draws.uniform((5, -8, -10), (12, 8, 10)) * [-1 if left else 1, 1, 1]
        letters, spacing = orientations[number % len(orientations)], SPACINGS[number // 8 % 3]
        affine, shape = np.zeros((4, 4)), []
        affine[3, 3] = 1
        for column, letter in enumerate(letters):
            along, sign = AXES[letter]
            affine[along, column] = sign * spacing[along]
            shape.append(round(EXTENT[along] / spacing[along]))
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        grey = body(index @ affine[:3, :3].T + affine[:3, 3], lesion) + draws.normal(0, 25, shape)
        path = folder / f"{number:04d}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(grey.astype(np.float32), affine), path)
        found.append((path, left, lesion))
        rows.append({"case_id": path.name[:4], "patient_id": path.name[:4], "image": path.name})
        rows[-1]["label"] = "left" if left else "right"
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return found


def measured(cohort: list[tuple[Path, int, Floats]], orientation: str) -> tuple[float, int]:
    """AUROC of a logistic regression on prepared volumes, and how many maps come back to a wrong voxel."""
    preprocess = Preprocess(PreprocessConfig(size=SIZE, window=(0, 200), orientation=orientation))
    volumes, wrong = [], 0
    for path, _, lesion in cohort:
        image = read_image(path)
        prepared = preprocess.prepare(image)
        volumes.append(prepared.tensor.float().numpy().ravel())
        affine = image.geometry.affine
        assert affine is not None
        voxel = np.rint(np.linalg.inv(affine) @ [*lesion, 1])[:3].astype(int)
        shown = np.zeros((1, *image.geometry.shape), np.float32)
        shown[(0, *voxel)] = 1
        lit = preprocess.prepare(type(image)(shown, image.geometry, "", "", value_range=(0, 1)))
        hot = np.zeros(SIZE, np.float32)
        hot[np.unravel_index(int(lit.tensor.float().numpy().argmax()), SIZE)] = 1
        back = lit.field.back(hot)
        brightest = np.argwhere(back >= back.max() * (1 - 1e-6)).mean(axis=0)
        reach = (
            np.array(back.shape) / sorted_size(image) / 2 + 0.51
        )  # half of one of the model's, and of the file's
        wrong += bool((np.abs(brightest - voxel) > reach).any())
    classes = np.array([left for _, left, _ in cohort])
    model = LogisticRegression(C=0.01, max_iter=2000)
    said = cross_val_predict(model, np.stack(volumes), classes, cv=5, method="predict_proba")[:, 1]
    return float(roc_auc_score(classes, said)), wrong


def sorted_size(image: Any) -> Floats:
    """Voxels of the model along the file's own axes."""
    along = {"S": 0, "I": 0, "A": 1, "P": 1, "L": 2, "R": 2}
    return np.array([SIZE[along[code]] for code in image.geometry.orientation], dtype=float)


class PlaceNet(SeveralViewsClassifier):
    """Two convolutions and a linear layer that knows where it looks."""

    def __init__(self, num_classes: int, spec: InputSpec) -> None:
        maps = {"image": "map"}
        super().__init__(
            "place_net", num_classes, spec, cam_feature=maps, dimensions=("3",), tolerates_missing=False
        )
        first, second = (nn.Conv3d(taken, 8, 3, stride=2, padding=1) for taken in (1, 8))
        self.trunk = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        self.head = nn.Linear(8 * int(np.prod([side // 4 for side in SIZE])), num_classes)

    def forward(self, views: Views) -> ModelOutput:
        """The map of the trunk decides."""
        seen = self.trunk(views["image"])
        return ModelOutput(self.head(seen.flatten(1)), {"map": seen})


def place_net(num_classes: int, spec: InputSpec, *, pretrained: bool = False) -> PlaceNet:
    """For the table of models."""
    return PlaceNet(num_classes, spec)


def trained(folder: Path, orientation: str) -> float:
    """AUROC of a network on the test part of a run."""
    study = {
        "name": f"side-{orientation}",
        "data": {"manifest": str(folder / "manifest.csv")},
        "split": {"test": 0.3, "val": 0.2},
        "audit": {"allow": ["mixed-orientation"]},  # what the last row shows
        "preprocess": {"size": list(SIZE), "window": [0, 200], "orientation": orientation},
        "augment": {"rotate_degrees": 0, "translate": 0, "scale": [1, 1]},
        "model": {"name": "place_net"},
        "train": {"epochs": 30, "batch_size": 8, "lr": 0.003, "plan": "off", "accelerator": "cpu"},
        "evaluate": {"bootstrap": 100},
    }
    run = Run.create(Study.model_validate(study), folder / f"run-{orientation}")
    audit(run)
    for station in (split, train, predict):
        station(run)
    value = evaluate(run).metrics.auroc_macro.value
    return float("nan") if value is None else float(value)


def main() -> None:
    """Print one row for each cohort and choice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--train", action="store_true")
    chosen = parser.parse_args()
    registry.MODELS = {**registry.MODELS, "place_net": place_net}
    heads = "AUROC, logistic regression | AUROC, network | maps at a wrong voxel | s"
    print(f"| {chosen.cases} cases | {heads} |")
    print("|---|---|---|---|---|")
    cohorts = (("one orientation", EIGHT[:1], "auto"), ("eight", EIGHT, "auto"), ("eight", EIGHT, "none"))
    for name, orientations, orientation in cohorts:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            cohort = write(Path(folder), chosen.cases, orientations)
            linear, wrong = measured(cohort, orientation)
            network = f"{trained(Path(folder), orientation):.3f}" if chosen.train else "–"
            took = time.perf_counter() - began
        print(f"| {name}, `{orientation}` | {linear:.4f} | {network} | {wrong} | {took:.0f} |", flush=True)


if __name__ == "__main__":
    main()
