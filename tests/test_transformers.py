"""Transformers of timm under explainers: a map of the patches alone, or a refusal that says why."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foveate.contract import InputSpec
from foveate.errors import UsageError
from foveate.explain.explainers import explain_batch
from foveate.explain.options import ExplainOptions
from foveate.models import build_model

# Size, map of the patches, tokens ahead of them (None: no tokens), whether logits are linear in the average.
KINDS: dict[str, tuple[tuple[int, int], tuple[int, int], int | None, bool]] = {
    "vit_tiny_patch16_224": ((64, 96), (4, 6), 1, True),
    "deit_tiny_patch16_224": ((96, 64), (6, 4), 1, True),
    "vit_small_patch14_reg4_dinov2": ((56, 84), (4, 6), 5, True),  # a class token and four registers
    "vit_tiny_r_s16_p8_224": ((64, 64), (2, 2), 1, True),  # a convolutional stem
    "eva02_tiny_patch14_224": ((56, 56), (4, 4), 1, False),  # a norm after pooling
    "beit_base_patch16_224": ((64, 64), (4, 4), 1, False),
    "cait_xxs24_224": ((64, 96), (4, 6), 1, True),  # a class token that joins late
    "xcit_nano_12_p16_224": ((64, 96), (4, 6), 1, True),
    "convit_tiny": ((64, 64), (4, 4), 1, True),
    "levit_128s": ((128, 128), (2, 2), 0, False),  # two heads, each with a norm
    "mvitv2_tiny": ((96, 96), (3, 3), 0, True),
    "swin_tiny_patch4_window7_224": ((64, 64), (2, 2), None, True),
    "swin_s3_tiny_224": ((112, 112), (4, 4), None, True),
    "mobilevit_xxs": ((64, 96), (2, 3), None, True),
    "maxvit_pico_rw_256": ((64, 64), (2, 2), None, True),
    "coatnet_pico_rw_224": ((64, 64), (2, 2), None, True),
    "pvt_v2_b0": ((64, 96), (2, 3), None, True),
}
TOKENS = [name for name, (_, _, prefix, _) in KINDS.items() if prefix is not None]
REFUSED = {
    "deit_tiny_distilled_patch16_224": ((64, 64), "classifies from class tokens only"),
    "pit_ti_224": ((64, 64), "classifies from class tokens only"),
    "coat_tiny": ((64, 64), "a list of several scales"),
    "crossvit_9_240": ((240, 240), "a list of several scales"),
    "volo_d1_224": ((64, 64), "are no grid"),
    "levit_128s": ((64, 64), "its 1 tokens, 0 of them ahead of the patches, are no grid"),
}
OPTIONS = ExplainOptions(ig_steps=2, batch_size=4)
TARGETS = [2, 0]


@functools.cache
def _build(name: str) -> Any:
    torch.manual_seed(0)
    model = build_model(f"timm:{name}", 3, InputSpec(size=KINDS[name][0])).eval()
    for parameter in model.parameters():  # heads and norms that start at zero would make every map blank
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


def _picture(name: str, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *KINDS[name][0], generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("explainer", ["gradcam", "cam", "integrated_gradients"])
def test_a_map_of_the_patches_or_a_reason(name: str, explainer: str) -> None:
    size, grid, _, linear = KINDS[name]
    model, views = _build(name), {"image": _picture(name)}
    if explainer == "cam" and not linear:
        with pytest.raises(UsageError, match="the analytic CAM needs logits that are one linear layer"):
            explain_batch(model, views, TARGETS, explainer, options=OPTIONS)
        return
    maps = explain_batch(model, views, TARGETS, explainer, options=OPTIONS)["image"]
    assert maps.shape == (1, 2, *(size if explainer == "integrated_gradients" else grid))
    assert maps.isfinite().all()
    assert maps.flatten(2).std(dim=2).min() > 0, "no map is blank"


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_no_map_is_refused_with_the_reason_before_any_training(name: str) -> None:
    size, reason = REFUSED[name]
    with pytest.raises(UsageError, match=reason) as caught:
        build_model(f"timm:{name}", 3, InputSpec(size=size))
    assert caught.value.code == "no-spatial-map"


# --- tokens, by hand --------------------------------------------------------------------------------------


def _tokens(name: str) -> tuple[Any, Tensor]:
    """The network and its tokens ``(prefix + h·w, C)``, straight from timm."""
    net = _build(name).net
    with torch.no_grad():
        return net, net.forward_features(_picture(name))[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TOKENS if KINDS[name][3]])
def test_cams_are_the_head_on_each_patch_and_leave_the_tokens_ahead_of_them_out(name: str) -> None:
    """A slow twin: patch by patch, counted from the end of the prefix."""
    _, (height, width), prefix, _ = KINDS[name]
    net, tokens = _tokens(name)
    assert len(tokens) == prefix + height * width
    weight = net.get_classifier().weight.detach()
    found = explain_batch(_build(name), {"image": _picture(name)}, TARGETS, "cam")["image"][0]
    averaged = explain_batch(_build(name), {"image": _picture(name)}, TARGETS, "gradcam")["image"][0]
    for position, target in enumerate(TARGETS):
        for row in range(height):
            for column in range(width):
                patch = tokens[prefix + row * width + column]
                value = float((weight[target] * patch).sum())
                scale = float(found.abs().max())
                assert float(found[position, row, column]) == pytest.approx(value, abs=1e-4 * scale)
                share = value / (height * width)
                assert float(averaged[position, row, column]) == pytest.approx(share, abs=1e-4 * scale)


@pytest.mark.parametrize("name", [name for name in TOKENS if not KINDS[name][3]])
def test_grad_cam_weighs_channels_by_the_gradients_of_the_patches_alone(name: str) -> None:
    """A slow twin for heads that are not linear: gradients at timm's own tokens."""
    _, (height, width), prefix, _ = KINDS[name]
    net, tokens = _tokens(name)
    found = explain_batch(_build(name), {"image": _picture(name)}, TARGETS, "gradcam")["image"][0]
    for position, target in enumerate(TARGETS):
        at = tokens[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net.forward_head(at)[0, target], at)
        weights = gradient[0, prefix:].numpy().mean(axis=0)
        expected = (tokens[prefix:].numpy() * weights).sum(axis=1).reshape(height, width)
        np.testing.assert_allclose(found[position], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "cait_xxs24_224", "vit_tiny_patch16_224"])
def test_tokens_ahead_of_the_patches_change_no_logit_and_no_map(name: str) -> None:
    model, prefix = _build(name), KINDS[name][2]
    _, tokens = _tokens(name)
    grid, ahead = model.layout.to_map(tokens[None])
    assert ahead is not None and ahead.shape[1] == prefix
    with torch.no_grad():
        assert torch.equal(model.classify(grid, ahead), model.classify(grid, ahead + 100))
    changed = tokens[None].clone()
    changed[:, :prefix] += 100
    assert torch.equal(model.layout.to_map(changed)[0], grid)


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "xcit_nano_12_p16_224", "mvitv2_tiny"])
def test_the_patch_that_sees_the_change_is_the_one_that_moves_most(name: str) -> None:
    model, x = _build(name), _picture(name)
    (rows, columns), (height, width) = KINDS[name][1], KINDS[name][0]
    for row, column in ((0, columns - 1), (rows - 1, 0)):
        changed = x.clone()
        top, left = row * height // rows, column * width // columns
        changed[..., top : top + height // rows, left : left + width // columns] += 5
        with torch.inference_mode():
            before, after = (model({"image": each}).features["last"][0] for each in (x, changed))
        moved = (after - before).abs().sum(dim=0)
        assert divmod(int(moved.argmax()), columns) == (row, column)
