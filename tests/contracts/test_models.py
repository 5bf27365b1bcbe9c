"""What every model promises, over the table and over kinds of timm backbones, at small size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foveate.contract import Classifier, InputSpec
from foveate.models import MODELS, build_model, list_models, make_criterion

TINY = {"width": 0.125, "depths": (1, 1, 1, 1)}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, TINY) for name in MODELS},
    "sadrn50-B": ("sadrn50", TINY | {"normalization": "softmax", "spatial_mean": True}),
    "cadrn50-B": ("cadrn50", TINY | {"normalization": "softmax", "variant": "paper"}),
    "dadrn50-A": ("dadrn50", TINY | {"fusion": "sum", "normalization": "softmax", "variant": "paper"}),
    "dadrn50-narrow": ("dadrn50", TINY | {"reduce": "before", "fusion": "sum", "first_block": "fyu"}),
    "dadrn50-back": ("dadrn50", TINY | {"reduce": "after", "output_stride": 16}),
    "timm:resnet18": ("timm:resnet18", {}),
    "timm:vit_tiny_patch16_224": ("timm:vit_tiny_patch16_224", {}),
    "timm:convnext_atto": ("timm:convnext_atto", {}),
}
SIZE = (64, 96)
CLASSES = 4
each_model = pytest.mark.parametrize("case", CASES)


def _build(case: str, seed: int = 0) -> Classifier:
    name, options = CASES[case]
    torch.manual_seed(seed)
    return build_model(name, CLASSES, InputSpec(views=("ct",), dimensions="2.5", size=SIZE), options=options)


def _views(batch: int = 2) -> dict[str, Tensor]:
    return {"ct": torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(0))}


def _bytes(model: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def _attend(model: Classifier) -> None:
    """Let attention matter: its β starts at 0."""
    for name, parameter in model.named_parameters():
        if name.endswith("beta"):
            nn.init.constant_(parameter, 1e-3)


def test_the_list_names_every_model_of_the_table() -> None:
    rows = list_models()
    names = [name for name, *_ in rows]
    assert {name for name in names if not name.startswith("timm:")} == set(MODELS)
    assert names[-1] == "timm:<name>"
    assert all(len(row) == 4 and all(row) for row in rows)


@each_model
def test_forward_hands_out_what_it_declares(case: str) -> None:
    model = _build(case).eval()
    with torch.no_grad():
        output = model(_views())
    assert output.logits.shape == (2, CLASSES)
    assert output.logits.isfinite().all()
    assert model.num_classes == CLASSES
    assert model.input_spec.views == ("ct",)
    assert set(model.cam_feature) == {"ct"}
    for name, feature in output.features.items():
        assert feature.ndim == 4, name
        assert len(feature) == 2
        assert feature[0, 0].numel() > 1
        assert feature.shape[2] / feature.shape[3] == SIZE[0] / SIZE[1]
    assert model.cam_feature["ct"] in output.features


@each_model
def test_attention_sums_to_one_over_the_axes_it_names(case: str) -> None:
    model = _build(case).eval()
    with torch.no_grad():
        attention = model(_views()).attention
    assert bool(attention) is (not case.startswith(("drn50", "timm:")))
    assert len({each.name for each in attention}) == len(attention)
    for each in attention:
        assert len(each.weights) == 2
        assert ((each.weights >= 0) & (each.weights <= 1)).all()
        if each.normalized_over is not None:
            total = each.weights.sum(dim=each.normalized_over)
            torch.testing.assert_close(total, torch.ones_like(total))
    assert any(each.normalized_over for each in attention) is (
        "softmax" in str(CASES[case][1].get("normalization"))
    )


@each_model
def test_every_parameter_learns(case: str) -> None:
    model = _build(case).train()
    _attend(model)
    model.criterion = make_criterion("multiclass", class_counts=[1] * CLASSES)
    terms = model.objective(model(_views(3)), torch.tensor([0, 1, 3]), progress=0.5)
    assert torch.equal(terms["total"], terms["classification"])
    terms["total"].backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert unused == []
    parameters = {id(p) for group in model.parameter_groups(1e-3, 1e-4) for p in group["params"]}
    assert parameters == {id(p) for p in model.parameters()}


@each_model
def test_steps_lower_the_loss(case: str) -> None:
    model = _build(case).train()
    criterion = make_criterion("multiclass", class_counts=[1] * CLASSES)
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-3, 0.0))
    views, targets, losses = _views(4), torch.tensor([0, 1, 2, 3]), []
    for _ in range(6):
        loss = criterion(model(views).logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[1:]) < losses[0]


@each_model
def test_features_lie_on_the_way_to_the_logits(case: str) -> None:
    model = _build(case).eval()
    _attend(model)
    for parameter in model.parameters():  # some heads start at zero
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    output = model(_views())
    gradients = torch.autograd.grad(output.logits[:, 1].sum(), list(output.features.values()))
    for name, gradient in zip(output.features, gradients, strict=True):
        assert gradient.any(), name


@each_model
def test_a_declared_linear_head_is_one(case: str) -> None:
    model = _build(case).eval()
    head = model.linear_head
    assert (head is None) is (case == "timm:convnext_atto")
    if head is not None:
        with torch.no_grad():
            output = model(_views())
            pooled = output.features[model.cam_feature["ct"]].flatten(2).mean(dim=2)
            torch.testing.assert_close(head(pooled), output.logits, rtol=1e-4, atol=1e-5)


@each_model
def test_weights_come_back_from_a_file(case: str, tmp_path: Path) -> None:
    model, other = _build(case, seed=1).eval(), _build(case, seed=2).eval()
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "w.safetensors"
    )
    assert _bytes(other) != _bytes(model)
    other.load_state_dict(load_file(tmp_path / "w.safetensors"), strict=True)
    with torch.no_grad():
        assert torch.equal(other(_views()).logits, model(_views()).logits)


@each_model
def test_a_seed_decides_every_weight(case: str) -> None:
    first = _bytes(_build(case, seed=5))
    assert _bytes(_build(case, seed=5)) == first
    assert _bytes(_build(case, seed=6)) != first


@each_model
def test_cases_do_not_touch_each_other_in_evaluation(case: str) -> None:
    model = _build(case).eval()
    _attend(model)
    views = _views(3)
    with torch.no_grad():
        together = model(views).logits
        alone = torch.cat([model({"ct": views["ct"][row : row + 1]}).logits for row in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@each_model
def test_bf16_and_channels_last_stay_close_to_full_precision(case: str) -> None:
    model = _build(case).eval()
    _attend(model)
    views = _views()
    with torch.no_grad():
        expected = model(views).logits
        model.to(memory_format=torch.channels_last)
        last = {"ct": views["ct"].to(memory_format=torch.channels_last)}
        torch.testing.assert_close(model(last).logits, expected, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            low = model(last).logits.float()
    assert (low - expected).abs().max() < 0.05 * expected.abs().max() + 0.02


@each_model
def test_training_in_bf16_and_channels_last_stays_finite(case: str) -> None:
    model = _build(case).train().to(memory_format=torch.channels_last)
    criterion = make_criterion("multilabel", class_counts=[[1, 1]] * CLASSES)
    last = {"ct": _views(2)["ct"].to(memory_format=torch.channels_last)}
    with torch.autocast("cpu", torch.bfloat16):
        loss = criterion(model(last).logits, torch.tensor([[1.0, 0, 0, float("nan")], [0, 1, 0, 1]]))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@each_model
def test_training_and_evaluation_are_two_modes(case: str) -> None:
    model = _build(case)
    assert all(module.training for module in model.modules())  # as built, ready to train
    before = _bytes(model)
    with torch.no_grad():
        first, second = (model.eval()(_views()).logits for _ in range(2))
        assert torch.equal(first, second)
        assert _bytes(model) == before  # nothing is learned in evaluation
        model.train()(_views())
    has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert (_bytes(model) != before) is has_batch_norm
