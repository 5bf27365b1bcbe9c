"""Attention blocks on timm backbones: the head sees the attended map; blocks learn, return or are refused."""

from __future__ import annotations

import copy
import inspect
import math
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from foveate.contract import Classifier, InputSpec
from foveate.errors import UsageError
from foveate.explain.explainers import explain_batch
from foveate.models import build_model, make_criterion
from foveate.models.timm.attended import AttendedClassifier, instance_loss
from foveate.models.timm.backbones import TimmClassifier
from foveate.models.timm.placed import BLOCKS as PLACED
from foveate.study.study import Study

CLASSES = 3
SPEC = InputSpec(size=(64, 96))
# Channels of the last map, its size, and whether the logits are linear in its average.
BACKBONES = {
    "resnet10t": (512, (2, 3), True),
    "test_vit": (64, (4, 6), True),  # tokens, one class token ahead
    "convnext_atto": (320, (2, 3), False),  # a norm after pooling
}
BLOCKS: dict[str, dict[str, Any]] = {
    "spatial": {},
    "channel": {"normalization": "softmax"},
    "dual": {"fusion": "concat"},
    "se": {"reduction": 4},
    "rca": {"residual": "skip"},
    "loss": {"instance_weight": 0.5},
    "gated_mil": {"hidden": 8},
    "query_key": {"pooled": 2},
    "hadamard": {"partner": "test_resnet"},
}
IDENTITY = ("spatial", "channel", "query_key")  # at the start, since their β is 0
each_backbone = pytest.mark.parametrize("backbone", BACKBONES)
each_block = pytest.mark.parametrize("block", BLOCKS)


def _build(backbone: str, attention: str, options: dict[str, Any] | None = None, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    given = {
        "attention": attention,
        "attention_options": BLOCKS.get(attention, {}) if options is None else options,
    }
    model = build_model(f"timm:{backbone}", CLASSES, SPEC, options=given)
    with torch.no_grad():  # some heads start at zero, and so do scales of attention
        head = model.plain.net.get_classifier()
        nn.init.normal_(head.weight, std=0.1)
    return model


def _attend(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("beta"):
            nn.init.constant_(parameter, 0.1)


def _views(batch: int = 2) -> dict[str, Tensor]:
    return {"image": torch.randn(batch, 3, *SPEC.size, generator=torch.Generator().manual_seed(0))}


def _plain_logits(model: AttendedClassifier, grid: Tensor) -> Tensor:
    """timm's own head on a map, by timm's own layout."""
    net: Any = model.plain.net
    if hasattr(net, "cls_token"):
        ahead = net.forward_features(_views()["image"])[:, :1]
        return net.forward_head(torch.cat([ahead, grid.flatten(2).mT], dim=1))
    return net.forward_head(grid)


@pytest.mark.slow
@each_backbone
@each_block
def test_the_head_sees_the_attended_map(backbone: str, block: str) -> None:
    channels, size, linear = BACKBONES[backbone]
    model = _build(backbone, block).eval()
    _attend(model)
    with torch.no_grad():
        output = model(_views())
        assert tuple(output.features["last"].shape) == (2, channels, *size)
        attended = output.features[model.cam_feature["image"]]
        torch.testing.assert_close(output.logits, _plain_logits(model, attended))
        torch.testing.assert_close(model.plain(_views()).features["last"], output.features["last"])
        assert (model.linear_head is not None) is linear
        if linear:
            pooled = attended.flatten(2).mean(dim=2)
            torch.testing.assert_close(model.linear_head(pooled), output.logits, rtol=1e-4, atol=1e-5)


@each_backbone
@pytest.mark.parametrize("block", IDENTITY)
def test_a_fresh_block_leaves_the_logits_of_the_plain_backbone(backbone: str, block: str) -> None:
    model = _build(backbone, block).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(_views()).logits, model.plain(_views()).logits)
        _attend(model)
        assert not torch.allclose(model(_views()).logits, model.plain(_views()).logits, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@each_backbone
@each_block
def test_gradients_reach_the_block_and_the_trunk(backbone: str, block: str) -> None:
    model = _build(backbone, block).train()
    _attend(model)
    model.criterion = make_criterion("multiclass", class_counts=[1] * CLASSES)
    terms = model.objective(model(_views()), torch.tensor([0, 2]), progress=0.5)
    terms["total"].backward()
    parameters = dict(model.named_parameters())
    assert all(each.grad is not None and each.grad.isfinite().all() for each in parameters.values())
    assert all(parameters[name].grad.any() for name in parameters if name.startswith("block.block."))
    first = next(name for name in parameters if name.startswith("plain.net."))
    assert parameters[first].grad.any() or "cls_token" in first
    assert set(terms) == {"classification", "total"} | ({"instances"} if block == "loss" else set())


@pytest.mark.slow
@each_backbone
@each_block
def test_weights_come_back_from_a_file(backbone: str, block: str, tmp_path: Path) -> None:
    model, other = _build(backbone, block, seed=1).eval(), _build(backbone, block, seed=2).eval()
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "w.safetensors"
    )
    other.load_state_dict(load_file(tmp_path / "w.safetensors"), strict=True)
    with torch.no_grad():
        assert torch.equal(other(_views()).logits, model(_views()).logits)
        assert torch.equal(copy.deepcopy(model)(_views()).logits, model(_views()).logits)


@each_backbone
@pytest.mark.parametrize("block", ["loss", "gated_mil"])
def test_pooling_blocks_average_positions_by_their_weights(backbone: str, block: str) -> None:
    model = _build(backbone, block).eval()
    with torch.no_grad():
        output = model(_views())
        (attention,) = output.attention
        assert attention.normalized_over == (1, 2)
        torch.testing.assert_close(attention.weights.sum(dim=(1, 2)), torch.ones(2))
        expected = torch.einsum("bhw,bchw->bc", attention.weights, output.features["last"])
        torch.testing.assert_close(output.features["attended"].mean(dim=(2, 3)), expected)
        even = expected[:, :, None, None].expand_as(output.features["last"])
        torch.testing.assert_close(_plain_logits(model, even), output.logits, rtol=1e-4, atol=1e-4)


def test_the_product_is_that_with_the_partner_s_map() -> None:
    for fusion in ("product", "sum+product"):
        options = {"partner": "test_resnet", "fusion": fusion}
        model = _build("test_resnet", "hadamard", options).eval()
        with torch.no_grad():
            output = model(_views())
            partner = model.block.partner(_views()["image"])
        last = output.features["last"]
        expected = last * partner + (last + partner if fusion == "sum+product" else 0)
        torch.testing.assert_close(output.features["attended"], expected)
        assert not torch.allclose(last, partner)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_instance_loss_by_a_loop_over_its_formula(task: str) -> None:
    chance = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 3, generator=chance)
    weights = torch.rand(2, 4, generator=chance)
    classes, findings = torch.tensor([1, 2]), torch.tensor([[1.0, 0, math.nan], [0, 1, 1]])
    total = 0.0
    for b in range(2):
        for n in range(4):
            z = logits[b, n].tolist()
            if task == "multiclass":
                loss = -z[classes[b]] + math.log(sum(map(math.exp, z)))
            else:
                known = [(score, t) for score, t in zip(z, findings[b].tolist(), strict=True) if t == t]
                loss = sum(math.log1p(math.exp(-score if t else score)) for score, t in known) / len(known)
            total += weights[b, n].item() * loss
    found = instance_loss(logits, weights, classes if task == "multiclass" else findings)
    assert found.item() == pytest.approx(total / 2, rel=1e-5)


def test_the_objective_adds_the_weighted_loss_of_the_positions() -> None:
    model = _build("resnet10t", "loss", {"instance_weight": 0.25, "weighting": "exp_sum"})
    model.criterion = make_criterion("multiclass", class_counts=[1] * CLASSES)
    output, targets = model(_views()), torch.tensor([0, 2])
    terms = model.objective(output, targets, 0.0)
    classification = functional.cross_entropy(output.logits, targets)
    torch.testing.assert_close(terms["classification"], classification)
    extra = 0.25 * instance_loss(output.pooling.logits, output.pooling.weights, targets)
    torch.testing.assert_close(terms["instances"], extra)
    torch.testing.assert_close(terms["total"], classification + extra)
    positions = output.features["last"].flatten(2).mT
    torch.testing.assert_close(output.pooling.logits, model.block.block.classifier(positions))


def test_none_is_the_plain_backbone_bit_for_bit() -> None:
    torch.manual_seed(0)
    expected = timm.create_model("resnet10t", num_classes=CLASSES).state_dict()
    torch.manual_seed(0)
    model = build_model("timm:resnet10t", CLASSES, SPEC, options={"attention": "none"})
    assert type(model) is TimmClassifier
    assert {f"net.{key}" for key in expected} == set(model.state_dict())
    assert all(torch.equal(model.state_dict()[f"net.{key}"], value) for key, value in expected.items())


@each_block
def test_bf16_stays_close_to_full_precision(block: str) -> None:
    model = _build("resnet10t", block).eval()
    _attend(model)
    with torch.no_grad():
        expected = model(_views()).logits
        with torch.autocast("cpu", torch.bfloat16):
            low = model(_views()).logits.float()
    assert (low - expected).abs().max() < 0.05 * expected.abs().max() + 0.02


@pytest.mark.parametrize("block", ["se", "loss", "query_key"])
def test_maps_of_the_linear_head_are_those_of_gradients(block: str) -> None:
    model: Classifier = _build("resnet10t", block).eval()
    _attend(model)
    output = model(_views())
    feature = output.features["attended"]
    (gradient,) = torch.autograd.grad(output.logits[:, 1].sum(), feature)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * feature).sum(dim=1)
    found = explain_batch(model, _views(), [1], "gradcam")["image"][:, 0]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(explain_batch(model, _views(), [1], "cam")["image"][:, 0], 6 * expected)


def test_a_partner_of_the_same_weights_starts_apart(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=5).state_dict()
    save_file(state, tmp_path / "test_resnet.safetensors")
    options = {"attention": "hadamard", "attention_options": {"partner": "test_resnet"}}
    model: Any = build_model(
        "timm:test_resnet",
        CLASSES,
        SPEC,
        pretrained=str(tmp_path / "test_resnet.safetensors"),
        options=options,
    )
    key = "conv1.0.weight"
    assert torch.equal(model.plain.net.state_dict()[key], state[key])
    moved = model.block.partner.net.state_dict()[key] - state[key]
    assert 0.03 < (moved.std() / state[key].std()).item() < 0.07


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("resnet10t", {"attention": "sea"}, "'none', 'spatial', 'channel'"),
        ("resnet10t", {"attention": "se", "attention_options": {"reducton": 2}}, "did you mean 'reduction'"),
        (
            "resnet10t",
            {"attention": "se", "attention_options": {"reduction": 0}},
            "reduction: .*greater than 0",
        ),
        (
            "resnet10t",
            {"attention": "se", "attention_options": {"reduction": "many"}},
            "reduction: .*integer",
        ),
        ("resnet10t", {"attention_options": {"reduction": 2}}, "attention is none and has no options"),
        ("resnet10t", {"attention": "hadamard"}, "partner: Missing"),
        (
            "resnet10t",
            {"attention": "hadamard", "attention_options": {"partner": "resnet1"}},
            "no architecture",
        ),
        ("resnet10t", {"attention": "loss", "global_pool": "max"}, "does not take the average"),
        ("resnet10t", {"attention": "gated_mil", "global_pool": "catavgmax"}, "does not take the average"),
        ("vit_tiny_patch16_224", {"attention": "spatial", "global_pool": "token"}, "class token"),
        ("deit_tiny_distilled_patch16_224", {"attention": "se"}, "class tokens only"),
    ],
)
def test_what_cannot_be_placed_is_refused_with_the_reason(
    backbone: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(f"timm:{backbone}", CLASSES, SPEC, options=options)


PAGE = Path(__file__).parents[1] / "docs" / "attention.md"


def test_the_page_on_attention_lists_every_block_with_its_options() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", PAGE.read_text(encoding="utf-8"), re.M)
    shown = {name: re.findall(r"`(\w+)(?:: ([^`]*))?`", options) for name, options in rows}
    assert list(shown) == list(PLACED)
    for name, function in PLACED.items():
        options = [each for each in inspect.signature(function).parameters.values() if each.name != "place"]
        expected = [
            (each.name, "" if each.default is each.empty else yaml.safe_dump(each.default).split("\n")[0])
            for each in options
        ]
        assert shown[name] == expected


def test_studies_on_the_page_build_what_they_name() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        study = Study.model_validate(yaml.safe_load(block))
        model = build_model(study.model.name, CLASSES, SPEC, options=study.model.options)
        assert isinstance(model, AttendedClassifier)
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.DOTALL)
    exec(compile(example, str(PAGE), "exec"), {})
