"""RAN-56 and RAN-92 against the published network's outputs, its sizes, and a slow twin of one module."""

from __future__ import annotations

import math
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from foveate.contract import InputSpec
from foveate.errors import UsageError
from foveate.models import build_model
from foveate.models.cervical.residual_attention import (
    AUTHORS,
    AttentionModule,
    PreActivationBottleneck,
)

SMALL: Mapping[str, Any] = {"width": 0.125}


@pytest.fixture(scope="module")
def golden() -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / "golden"
    folder = Path(os.environ.get("FOVEATE_GOLDEN", beside))
    if not folder.is_dir():
        pytest.skip("no folder of golden numbers: set FOVEATE_GOLDEN to one")
    return folder


def _published_shapes(golden: Path) -> dict[str, tuple[int, ...]]:
    lines = (golden / "residual_attention_92_keys.txt").read_text().splitlines()
    pairs = (line.split(" ", 1) for line in lines if line)
    return {key: tuple(map(int, re.findall(r"\d+", shape))) for key, shape in pairs}


def _fill(key: str, shape: tuple[int, ...], gain: float) -> Tensor:
    """The golden numbers' recipe for an entry of the published state dict."""
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    draw = np.random.default_rng(zlib.crc32(key.encode()))
    values: NDArray[np.float64]
    if key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
        values = draw.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        values = draw.normal(0, 0.1, shape)
    else:
        values = draw.normal(0, 1, shape) * math.sqrt(gain / math.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def test_only_the_dead_convolutions_of_the_published_network_are_left_over(golden: Path) -> None:
    shapes = _published_shapes(golden)
    theirs = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    assert AUTHORS.fits(theirs)
    kept = AUTHORS.translated(theirs)
    with torch.device("meta"):
        state = build_model("residual_attention92", 5, InputSpec()).state_dict()
    assert not AUTHORS.fits(state)
    assert {key: value.shape for key, value in kept.items()} == {k: v.shape for k, v in state.items()}
    left = [value for value in theirs.values() if not any(value is each for each in kept.values())]
    assert all(value.shape[0] == value.shape[1] for value in left)  # of blocks that keep their shape
    assert sum(value.numel() for value in left) == 32_768_000


def _moments(values: Tensor) -> dict[str, Tensor]:
    flat = values.flatten(2)
    return {"mean": flat.mean(dim=2), "std": flat.std(dim=2)}


def test_a_file_of_ran_92_gives_the_published_network_s_numbers(golden: Path, tmp_path: Path) -> None:
    state = {key: _fill(key, shape, 0.25) for key, shape in _published_shapes(golden).items()}
    torch.save(state, tmp_path / "model1")  # as the published code names it, without an ending
    model = build_model("residual_attention92", 5, InputSpec(), pretrained=str(tmp_path / "model1")).eval()
    seen: dict[str, Tensor] = {}
    for name, module in (("mpool1", model.trunk.stem), ("residual_block6", model.trunk.exit)):
        module.register_forward_hook(lambda _m, _i, output, name=name: seen.__setitem__(name, output))
    x = np.random.default_rng(11).standard_normal((2, 3, 224, 224)).astype(np.float32)
    with torch.inference_mode():
        output = model({"image": torch.from_numpy(x)})
    stages = ("attention_module1", "attention_module2_2", "attention_module3_3")
    seen |= {name: output.features[f"stage{number}"] for number, name in enumerate(stages, start=1)}
    found = {"logits": output.logits}
    found |= {f"{name}/{key}": each for name, x in seen.items() for key, each in _moments(x).items()}
    with np.load(golden / "residual_attention_92.npz") as expected:
        assert set(expected) == set(found)
        for name in expected:
            scale = float(np.abs(expected[name]).max())
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5 * scale, err_msg=name)
    shapes_seen = [tuple(values.shape[1:]) for values in output.features.values()]
    assert shapes_seen == [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]
    names = ["stage1.1", "stage2.1", "stage2.2", "stage3.1", "stage3.2", "stage3.3"]
    assert [each.name for each in output.attention] == [f"soft_mask.{name}" for name in names]


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("residual_attention56", 5, 29_771_973),
        ("residual_attention92", 5, 50_427_589),
        ("residual_attention56", 1000, 31_810_728),  # the papers round to 31.8 M …
        ("residual_attention92", 1000, 52_466_344),  # … and 52.5 M
    ],
)
def test_parameter_counts(name: str, classes: int, parameters: int) -> None:
    with torch.device("meta"):
        model = build_model(name, classes, InputSpec())
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


# --- one module against its formula -----------------------------------------------------------------------


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _eval_with_statistics(module: nn.Module) -> Any:
    """Evaluation mode, with batch norms that do something."""
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def _bilinear(x: Tensor, height: int, width: int) -> Tensor:
    """Slow twin of bilinear interpolation with aligned corners, pixel by pixel."""
    result = torch.zeros(*x.shape[:2], height, width)
    rows, columns = x.shape[2:]
    for i in range(height):
        for j in range(width):
            y, z = (
                at * (old - 1) / (new - 1) if new > 1 else 0.0
                for at, old, new in ((i, rows, height), (j, columns, width))
            )
            for row, column in ((r, c) for r in range(rows) for c in range(columns)):
                share = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(z - column))
                result[..., i, j] += share * x[..., row, column]
    return result


def _halved(x: Tensor) -> Tensor:
    """Slow twin of 3×3 max-pooling of stride 2, its border padded with minus infinity."""
    height, width = x.shape[2:]
    windows = [
        [
            x[..., max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].flatten(2).amax(dim=2)
            for j in range(0, width, 2)
        ]
        for i in range(0, height, 2)
    ]
    return torch.stack([torch.stack(row, dim=2) for row in windows], dim=2)


@pytest.mark.parametrize("size", [(7, 10), (8, 8)])
def test_a_deep_module_follows_its_formula_at_any_size(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = _eval_with_statistics(AttentionModule(16, 3))
    with torch.inference_mode():
        found, mask = module(_noise(2, 16, *size))
        e0 = module.first(_noise(2, 16, *size))
        t = module.trunk[1](module.trunk[0](e0))
        e1 = module.encoders[0](_halved(e0))
        e2 = module.encoders[1](_halved(e1))
        m = module.bottom[1](module.bottom[0](_halved(e2)))
        m = module.decoders[1](_bilinear(m, *e2.shape[2:]) + e2 + module.skips[1](e2))
        m = module.decoders[0](_bilinear(m, *e1.shape[2:]) + e1 + module.skips[0](e1))
        expected_mask = module.mask(_bilinear(m, *size) + t).sigmoid()
        expected = module.last(t + expected_mask * t)
    torch.testing.assert_close(mask, expected_mask, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_closed_mask_leaves_the_plain_trunk_and_an_open_one_only_adds() -> None:
    torch.manual_seed(0)
    module = _eval_with_statistics(AttentionModule(16, 2))
    x = _noise(2, 16, 8, 8)
    kept: list[Tensor] = []
    module.last.register_forward_pre_hook(lambda _m, inputs: kept.append(inputs[0]))
    with torch.inference_mode():
        plain = module.trunk(module.first(x))
        module(x)
        assert (kept[0][plain > 0] > plain[plain > 0]).all()  # (1 + M) t > t where t > 0
        nn.init.zeros_(module.mask[3].weight)
        nn.init.ones_(module.mask[3].bias)  # the last convolution sees 1 everywhere
        nn.init.constant_(module.mask[5].weight, -1e4)
        found, mask = module(x)
        assert not mask.any()
        assert torch.equal(found, module.last(plain))


def test_a_block_that_keeps_its_shape_adds_its_input_as_it_is() -> None:
    torch.manual_seed(0)
    same, wider = PreActivationBottleneck(16, 16), PreActivationBottleneck(16, 32)
    assert same.shortcut is None
    x = _noise(2, 16, 5, 5)
    for block in (same, wider):
        nn.init.zeros_(block.conv3.weight)
    with torch.inference_mode():
        assert torch.equal(same.eval()(x), x)
        active = wider.eval().bn1(x).clamp(min=0)
        expected = torch.einsum("oi,bihw->bohw", wider.shortcut.weight[:, :, 0, 0], active)
        torch.testing.assert_close(wider(x), expected)


# --- the whole --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 96), (75, 50), (256, 256), (32, 32)])
def test_any_input_size_works(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build_model("residual_attention92", 3, InputSpec(size=size), options=SMALL).eval()
    with torch.inference_mode():
        output = model({"image": _noise(1, 3, *size)})
    steps = {"stage1": 4, "stage2": 8, "stage3": 16, "last": 32}
    for name, step in steps.items():
        assert tuple(output.features[name].shape[2:]) == tuple(math.ceil(side / step) for side in size)
    for each in output.attention:
        assert 0 < float(each.weights.min()) < float(each.weights.max()) < 1
        stage = each.name.split(".")[1]
        assert each.weights.shape == output.features[stage].shape


def test_masks_are_not_kept_during_training() -> None:
    model = build_model("residual_attention56", 3, InputSpec(size=(32, 64)), options=SMALL).train()
    assert model({"image": _noise(2, 3, 32, 64)}).attention == ()


def test_weights_come_from_a_trained_model_of_the_same_name_only(tmp_path: Path) -> None:
    spec = InputSpec(size=(32, 32))
    torch.manual_seed(0)
    trained = build_model("residual_attention56", 7, spec, options=SMALL)
    path = tmp_path / "model.safetensors"
    save_file(trained.state_dict(), path)
    model = build_model("residual_attention56", 3, spec, options=SMALL, pretrained=str(path))
    state = model.trunk.state_dict()
    assert all(torch.equal(state[key], value) for key, value in trained.trunk.state_dict().items())
    assert model.head.weight.shape == (3, 256)
    with pytest.raises(UsageError, match="not of this network") as caught:
        build_model("residual_attention92", 3, spec, options=SMALL, pretrained=str(path))
    assert caught.value.code == "weights-mismatch"
    with pytest.raises(UsageError, match="no ImageNet weights") as caught:
        build_model("residual_attention56", 3, spec, pretrained=True)
    assert caught.value.code == "no-weights"
