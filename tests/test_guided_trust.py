"""The trust card finds out guided maps: they stay when the later half of a trained network forgets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from torch import Tensor, nn

from foveate.bundle import bundle as bundles
from foveate.bundle.bundle import Bundle, Patients
from foveate.contract import Classifier, InputSpec, ModelOutput, Views
from foveate.evaluate.results.splits import Splits
from foveate.prepare.preprocess import Preprocess
from foveate.stations.run import Run
from foveate.stations.trust import trust
from foveate.study.methods import caveat
from foveate.study.settings import PreprocessConfig, SplitConfig
from foveate.study.study import Study

SIDE, CASES = 32, 16
WIDTHS = (8, 16, 16, 24, 24, 24)
GUIDED = ("guided_backprop", "guided_gradcam")


class Layers(Classifier):
    """Six convolutions with ReLUs, average pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = InputSpec(size=(SIDE, SIDE))
        self.num_classes, self.cam_feature = 2, {"image": "map"}
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(zip((3, *WIDTHS), WIDTHS, strict=False)):
            stride = 2 if number in (1, 3) else 1
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(WIDTHS[-1], 2)

    def forward(self, views: Views) -> ModelOutput:
        features = self.trunk(views["image"])
        return ModelOutput(self.head(features.flatten(2).mean(2)), {"map": features})


def pictures(count: int, seed: int) -> NDArray[np.uint8]:
    """Crosses and rings by turns, anywhere among soft discs and noise."""
    draws, found = np.random.default_rng(seed), np.empty((count, SIDE, SIDE), np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number in range(count):
        grey = draws.normal(0, 0.15, (SIDE, SIDE))
        for _ in range(3):
            y, x = draws.uniform(0, SIDE, 2)
            grey += 0.6 / (1 + np.exp(3 * (np.hypot(rows - y, columns - x) - draws.uniform(2, 5))))
        y, x = draws.uniform(8, SIDE - 8, 2)
        radius = np.hypot(rows - y, columns - x)
        cross = (np.minimum(np.abs(rows - y), np.abs(columns - x)) < 1) & (radius < 7)
        grey += (np.abs(radius - 5) < 1) if number % 2 else cross
        found[number] = np.clip(80 + 70 * grey, 0, 255)
    return found


def as_input(pixels: NDArray[np.uint8]) -> Tensor:
    """``(N, 3, side, side)`` as the bundle's preprocessing makes it."""
    return (torch.from_numpy(pixels).float()[:, None].expand(-1, 3, -1, -1) / 255 - 0.5) / 0.5


def trained() -> Layers:
    """A network that tells rings from crosses."""
    torch.manual_seed(1)
    model, x = Layers(), as_input(pictures(256, 0))
    truth = torch.arange(256) % 2
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(80):
        rows = torch.randint(0, 256, (32,))
        loss = nn.functional.cross_entropy(model({"image": x[rows]}).logits, truth[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("guided")
    rows = ["case_id,patient_id,label,image"]
    for number, pixels in enumerate(pictures(CASES, 99)):
        Picture.fromarray(pixels).save(folder / f"{number:02d}.png")
        rows.append(f"c{number:02d},p{number:02d},{('cross', 'ring')[number % 2]},{number:02d}.png")
    (folder / "manifest.csv").write_text("\n".join(rows))
    study = {
        "name": "guided",
        "data": {"manifest": folder / "manifest.csv"},
        "preprocess": {"size": (SIDE, SIDE), "mean": [0.5] * 3, "std": [0.5] * 3},
        "model": {"name": "timm:test_resnet"},
        "evaluate": {"bootstrap": 200},
        "trust": {"methods": ["gradcam", *GUIDED], "cases": CASES},
    }
    run = Run.create(Study.model_validate(study), folder / "run")
    fold = {f"c{number:02d}": "test" for number in range(CASES)}
    Splits(manifest_sha256="0" * 64, config=SplitConfig(), folds=(fold,)).write(run.folder)
    (run.folder / "bundle").mkdir()
    config = PreprocessConfig.model_validate(study["preprocess"])
    bundle = Bundle(
        trained(),
        "layers",
        {},
        Preprocess(config),
        ("image",),
        "multiclass",
        ("cross", "ring"),
        Patients.of([]),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "load_bundle", lambda _: bundle)
        yield trust(run).to_json()


def kept(card: dict[str, Any], name: str, stage: str) -> float:
    return float(card["methods"][name]["scores"][stage]["value"])


@pytest.mark.slow
def test_guided_maps_fail_the_randomisation_that_gradcam_passes(card: dict[str, Any]) -> None:
    states = {name: found["conditions"]["randomisation"] for name, found in card["methods"].items()}
    assert states["gradcam"]["state"] == "passed", states["gradcam"]["reason"]
    for name in GUIDED:
        assert states[name]["state"] == "failed"
        assert states[name]["reason"].startswith("half of the layers: rank correlation")
        assert kept(card, name, "randomised_half") > 0.5 > kept(card, "gradcam", "randomised_half")
        assert card["methods"][name]["verdict"]["usable_for"] == []
        assert (
            "it stays the same when the model's layers are drawn anew"
            in (card["methods"][name]["verdict"]["sentence"])
        )
        assert caveat(name) and not caveat("gradcam")


def test_the_later_half_is_the_second_stage(card: dict[str, Any]) -> None:
    assert card["stages"][1].startswith("6 of 13 layers")
    for found in card["methods"].values():
        assert found["scores"]["randomised_half"] == found["scores"]["randomised_1"]
        assert found["scores"]["randomised"] == found["scores"]["randomised_2"]
