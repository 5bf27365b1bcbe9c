"""The AGF-style network against slow twins, worked cases, timm's own features, and its promises."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from foveate.contract import InputSpec, ModelOutput
from foveate.errors import UsageError
from foveate.explain.explainers import explain_batch
from foveate.models import build_model, make_criterion
from foveate.models.agf.local_attention import LocalAttention
from foveate.models.agf.network import AgfClassifier, AgfOutput, agf
from foveate.models.agf.reconstruction import (
    FeatureReconstruction,
    ReconstructionPlan,
    reconstruction_loss,
    token_importance,
    top_tokens,
)
from foveate.models.agf.stages import Stages
from foveate.models.cards import CARDS

VIEWS = ("clinical", "ultrasound")
PAIR = InputSpec(views=VIEWS, size=(64, 64))
Array = NDArray[np.float64]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _pictures(batch: int = 3, side: int = 64, seed: int = 0) -> list[Tensor]:
    return list(_noise(2, batch, 3, side, side, seed=seed))


def _small(seed: int = 0, spec: InputSpec = PAIR, **options: Any) -> AgfClassifier:
    """A small network in which everything matters: attention, gate, batch norms, stand-ins."""
    torch.manual_seed(seed)
    model = agf(4, spec, **{"encoder": "resnet10t", **options})
    for name, values in model.named_parameters():
        if name.endswith("beta") or name == "stand_in":
            nn.init.normal_(values)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
    model.criterion = make_criterion("multiclass", class_counts=[1] * 4)
    return model


# --- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total", "parts"),
    [
        ("agf_resnet18", 29_853_202, (22_353_024, 865_100, 461_824)),
        ("agf_resnet50", 68_809_682, (47_016_064, 13_782_284, 1_838_080)),
    ],
)
def test_parameter_counts_with_six_classes(name: str, total: int, parts: tuple[int, ...]) -> None:
    model = build_model(name, 6, InputSpec(views=VIEWS, size=(64, 64)), options={"missing": "refuse"})
    assert isinstance(model, AgfClassifier)
    assert _count(model) == total
    halves: Any = list(model.modalities)
    assert sum(_count(half.encoder) for half in halves) == parts[0]
    assert _count(model.local) == parts[1]
    assert sum(_count(half.laterals) for half in halves) == parts[2]
    assert sum(_count(half.mix) for half in halves) == 788_480
    assert model.gate is not None and _count(model.gate) == 132_160
    assert _count(model.head) == 6_150
    assert model.rebuild is not None and _count(model.rebuild.decoder) == 5_245_440
    assert model.rebuild.token.numel() == 1024
    # What may be missing has a vector of 512 for each modality on top of the design's number.
    assert (CARDS[name].parameters, CARDS[name].classes) == (total + 2 * 512, 6)


def test_stand_ins_are_what_missing_adds() -> None:
    with_them, without = _small(), _small(missing="refuse")
    assert _count(with_them) - _count(without) == 1024
    assert with_them.tolerates_missing and not without.tolerates_missing


@pytest.mark.parametrize(
    ("channels", "parameters"),
    [(128, 41_668), (256, 165_252), (512, 658_180), (1024, 2_627_076), (2048, 10_497_028)],
)
def test_parameter_counts_of_local_attention(channels: int, parameters: int) -> None:
    with torch.device("meta"):
        assert _count(LocalAttention(channels)) == parameters


def test_shapes_at_full_size() -> None:
    model = _small(spec=InputSpec(views=VIEWS, size=(224, 224))).eval()
    with torch.no_grad():
        output = model(dict(zip(VIEWS, _pictures(1, 224), strict=True)))
    assert {view: tuple(x.shape) for view, x in output.features.items()} == dict.fromkeys(
        VIEWS, (1, 512, 7, 7)
    )
    names = [f"stage{k}.{view}.{kind}" for k in (2, 3, 4) for view in VIEWS for kind in ("intra", "inter")]
    assert [each.name for each in output.attention] == names
    places = {2: (28, 28, 14, 14), 3: (14, 14, 14, 14), 4: (7, 7, 7, 7)}
    for each in output.attention:
        assert tuple(each.weights.shape[1:]) == places[int(each.name[5])]
        rows = each.weights.sum(dim=each.normalized_over)
        assert (rows - 1).abs().max() < 1e-6
        assert each.weights.std() > 0


# --- local attention --------------------------------------------------------------------------------------


def _pool_by_hand(x: Array, most: int) -> Array:
    """Average pooling to at most ``most`` bins a side, from the definition of the bins."""
    channels, height, width = x.shape
    h, w = min(height, most), min(width, most)
    out = np.zeros((channels, h, w))
    for i in range(h):
        for j in range(w):
            rows = slice(i * height // h, math.ceil((i + 1) * height / h))
            columns = slice(j * width // w, math.ceil((j + 1) * width / w))
            out[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))
    return out


def _conv(layer: nn.Conv2d, x: Array) -> Array:
    assert layer.bias is not None
    weight, bias = layer.weight.detach().double().numpy()[:, :, 0, 0], layer.bias.detach().double().numpy()
    return weight @ x + bias[:, None]


def _local_attention_by_hand(block: Any, maps: list[Array]) -> list[Array]:
    """ALL for one case, a place at a time, as it is written down."""
    d = block.branches[0].query.out_channels
    flat = [x.reshape(len(x), -1) for x in maps]
    pooled = [_pool_by_hand(x, 14).reshape(len(x), -1) for x in maps]
    results = []
    for i, branch in enumerate(block.branches):
        query, result = _conv(branch.query, flat[i]), flat[i].copy()
        for kind, gather in branch.gather.items():
            source = i if kind == "intra" else 1 - i
            key = _conv(block.branches[source].key, pooled[source])
            value = _conv(block.branches[source].value, pooled[source])
            gathered = np.zeros((d, flat[i].shape[1]))
            for n in range(gathered.shape[1]):
                scores = np.exp([query[:, n] @ key[:, m] / math.sqrt(d) for m in range(key.shape[1])])
                gathered[:, n] = value @ (scores / scores.sum())
            result += gather.beta.item() * _conv(gather.out, gathered)
        results.append(result.reshape(maps[i].shape))
    return results


@pytest.mark.parametrize("kinds", [("intra",), ("inter",), ("intra", "inter")])
def test_local_attention_is_its_slow_twin(kinds: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    block = LocalAttention(8, kinds).double()
    for name, values in block.named_parameters():
        nn.init.normal_(values, std=1.0 if name.endswith("beta") else 0.5)
    maps = list(_noise(2, 2, 8, 3, 17).double())  # 17 columns become 14 bins that overlap
    found, _ = block(maps)
    for case in range(2):
        expected = _local_attention_by_hand(block, [x[case].numpy() for x in maps])
        for modality in range(2):
            difference = np.abs(found[modality][case].detach().numpy() - expected[modality]).max()
            assert difference < 1e-12
            assert np.abs(expected[modality] - maps[modality][case].numpy()).max() > 0.1


def test_fresh_local_attention_is_the_identity() -> None:
    maps = list(_noise(2, 2, 16, 4, 4))
    found, _ = LocalAttention(16)(maps)
    assert all(torch.equal(after, before) for after, before in zip(found, maps, strict=True))
    torch.manual_seed(0)
    fresh, without = agf(4, PAIR, encoder="resnet10t").eval(), agf(4, PAIR, encoder="resnet10t", local="none")
    state = fresh.state_dict()
    without.eval().load_state_dict({key: state[key] for key in without.state_dict()})
    with torch.no_grad():
        views = dict(zip(VIEWS, _pictures(), strict=True))
        assert torch.equal(fresh(views).logits, without(views).logits)


def test_extreme_similarities_keep_their_order_in_low_precision() -> None:
    block = LocalAttention(8)
    for branch in block.branches:
        nn.init.constant_(branch.key.weight, 3.0)
        nn.init.constant_(branch.query.weight, 3.0)
    maps = list(_noise(2, 1, 8, 4, 4).abs() * 5)
    with torch.autocast("cpu", torch.bfloat16):
        _, weights = block(maps)
    for each in weights[0].values():
        assert each.dtype == torch.float32
        assert (each.sum(dim=(3, 4)) - 1).abs().max() < 1e-5


# --- the whole network ------------------------------------------------------------------------------------


def _resnet_of(stages: Any) -> Any:
    """timm's own network with an encoder's weights."""
    net = timm.create_model("resnet10t", num_classes=0).eval()
    state = {name: value for part in stages.parts for name, value in part.state_dict().items()}
    net.load_state_dict(state, strict=True)
    return net


def _layer_by_hand(layer: Any, x: Tensor) -> Tensor:
    x = torch.einsum("oc,bchw->bohw", layer[0].weight[:, :, 0, 0], x)
    norm = layer[1]
    shape = (1, -1, 1, 1)
    x = (x - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + 1e-5).sqrt()
    return (x * norm.weight.view(shape) + norm.bias.view(shape)).clamp(min=0)


def _forward_by_hand(model: Any, pictures: list[Tensor]) -> Tensor:
    """The network for complete cases, from its description, on timm's own encoders."""
    nets = [_resnet_of(half.encoder) for half in model.modalities]
    stems = [net.maxpool(net.act1(net.bn1(net.conv1(x)))) for net, x in zip(nets, pictures, strict=True)]
    maps = [net.layer2(net.layer1(x)) for net, x in zip(nets, stems, strict=True)]
    scales: list[list[Tensor]] = [[], []]
    for stage, layer in enumerate(["layer2", "layer3", "layer4"]):
        if stage:
            maps = [getattr(net, layer)(x) for net, x in zip(nets, maps, strict=True)]
        cases = [
            _local_attention_by_hand(model.local[stage], [x[case].double().numpy() for x in maps])
            for case in range(len(maps[0]))
        ]
        maps = [torch.from_numpy(np.stack([case[i] for case in cases])).float() for i in range(2)]
        for i, half in enumerate(model.modalities):
            lateral = _layer_by_hand(half.laterals[stage], maps[i])
            side = lateral.shape[2] // 2  # 64 pixels end in 2 × 2 places
            scales[i].append(functional.avg_pool2d(lateral, side))
    parts = [
        _layer_by_hand(half.mix, torch.cat(x, dim=1))
        for half, x in zip(model.modalities, scales, strict=True)
    ]
    local = torch.cat(parts, dim=1)
    down, _, up, _ = model.gate
    hidden = (local.mean(dim=(2, 3)) @ down.weight.T + down.bias).clamp(min=0)
    gate = 1 / (1 + (-(hidden @ up.weight.T + up.bias)).exp())
    fused = local * (1 + gate)[:, :, None, None]
    return fused.mean(dim=(2, 3)) @ model.head.weight.T + model.head.bias


def test_the_network_is_its_slow_twin() -> None:
    model, pictures = _small().eval(), _pictures(2)
    with torch.no_grad():
        found = model(dict(zip(VIEWS, pictures, strict=True))).logits
        expected = _forward_by_hand(model, pictures)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_swapping_views_and_all_that_is_theirs_changes_nothing() -> None:
    model, other, pictures = _small(seed=1).eval(), _small(seed=2).eval(), _pictures()
    swapped = {}
    for name, values in model.state_dict().items():
        for list_name in ("modalities.", "branches."):
            if list_name in name:
                before, after = name.split(list_name)
                name = f"{before}{list_name}{1 - int(after[0])}{after[1:]}"
        if name in ("head.weight", "gate.0.weight"):
            values = values.roll(512, dims=1)
        if name in ("gate.2.weight", "gate.2.bias"):
            values = values.roll(512, dims=0)
        swapped[name] = values.flip(0) if name == "stand_in" else values
    other.load_state_dict(swapped, strict=True)
    present = torch.tensor([[True, True], [True, False], [False, True]])
    with torch.no_grad():
        expected = model.fuse(pictures, present).logits
        found = other.fuse(pictures[::-1], present.flip(1)).logits
        assert (model.fuse(pictures[::-1], present).logits - expected).abs().max() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_maps_of_the_views_add_up_to_the_logit() -> None:
    model, pictures = _small().eval(), _pictures(2)
    views = dict(zip(VIEWS, pictures, strict=True))
    maps = explain_batch(model, views, [0, 2], "gradcam")
    with torch.no_grad():
        logits = model(views).logits[:, [0, 2]] - model.head.bias[[0, 2]]
    total = sum(x.sum(dim=(2, 3)) for x in maps.values())
    torch.testing.assert_close(total, logits, rtol=1e-4, atol=1e-4)
    half = torch.einsum("kc,bchw->bkhw", model.head.weight[[0, 2], 512:], model(views).features["ultrasound"])
    torch.testing.assert_close(maps["ultrasound"], half / 4, rtol=1e-4, atol=1e-5)


# --- encoders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224", "efficientnet_lite0", "regnetx_002"],
)
def test_stages_hand_out_the_features_of_timm(name: str) -> None:
    torch.manual_seed(3)
    stages = Stages(name, InputSpec(views=("a",), size=(64, 64))).eval()
    torch.manual_seed(3)
    arguments = {"img_size": 64} if name.startswith("swin") else {}
    net = timm.create_model(name, features_only=True, out_indices=(-3, -2, -1), **arguments).eval()
    assert stages.channels == tuple(net.feature_info.channels())
    ours = [values for part in stages.parts for values in part.state_dict().values()]
    for values, own in zip(net.state_dict().values(), ours, strict=True):
        values.copy_(own)
    x = _noise(2, 3, 64, 64)
    with torch.no_grad():
        for part, expected in enumerate(net(x)):
            x = stages.run(part, x)
            expected = expected.permute(0, 3, 1, 2) if name.startswith("swin") else expected
            assert torch.equal(x, expected)


@pytest.mark.parametrize(
    ("name", "why"), [("vit_tiny_patch16_224", "no stage at stride 8"), ("hrnet_w18_small", "one after the")]
)
def test_encoders_without_a_chain_of_stages_are_refused(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        agf(4, PAIR, encoder=name)
    assert caught.value.code == "no-stages"


def test_both_encoders_take_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = timm.create_model("resnet10t")
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    model: Any = agf(4, PAIR, encoder="resnet10t", pretrained=str(tmp_path / "weights.safetensors"))
    for half in model.modalities:
        loaded = _resnet_of(half.encoder).state_dict()
        assert all(torch.equal(values, net.state_dict()[name]) for name, values in loaded.items())


# --- missing modalities -----------------------------------------------------------------------------------

SOME = torch.tensor([[True, True], [True, False], [False, True], [True, True]])


def _everything(output: ModelOutput) -> list[Tensor]:
    return [output.logits, *output.features.values(), *(each.weights for each in output.attention)]


@pytest.mark.parametrize("local", ["none", "both"])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_depends_on_the_content_of_what_is_missing(local: str, training: bool) -> None:
    pictures, states, outputs = _pictures(4), [], []
    for garbage in (0.0, 50.0):
        model = _small(local=local).train(training)
        given = [torch.where(SOME[:, i, None, None, None], x, garbage) for i, x in enumerate(pictures)]
        output = model.fuse(given, SOME)
        torch.manual_seed(0)
        terms = model.objective(output, torch.tensor([0, 1, 2, 3]), 0.5)
        terms["total"].backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        outputs.append([*_everything(output), *terms.values(), *gradients])
        states.append(list(model.state_dict().values()))
    assert len(outputs[0]) == len(outputs[1])
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_rows_of_nan_are_missing_and_leave_the_others_alone() -> None:
    model, pictures = _small().eval(), _pictures(4)
    views = {
        view: torch.where(SOME[:, i, None, None, None], pictures[i], torch.nan)
        for i, view in enumerate(VIEWS)
    }
    with torch.no_grad():
        output = model(views)
        complete = model.fuse(pictures, torch.ones_like(SOME))
        alone = torch.cat([model({v: x[i : i + 1] for v, x in views.items()}).logits for i in range(4)])
    assert all(values.isfinite().all() for values in _everything(output))
    torch.testing.assert_close(output.logits, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.logits[[0, 3]], complete.logits[[0, 3]], rtol=1e-5, atol=1e-5)
    assert ((output.logits - complete.logits)[[1, 2]].abs().amax(dim=1) > 1e-2).all()
    for each in output.attention:  # from or to what is missing all places weigh the same
        off = [row for row in (1, 2) if not (SOME[row].all() or _own(each.name, row))]
        assert each.weights[off].flatten(3).diff().abs().max() == 0
        assert each.weights[0].flatten(2).diff().abs().max() > 0


def _own(name: str, row: int) -> bool:
    """Whether these are weights within the one modality that the case has."""
    view = VIEWS[0] if SOME[row, 0] else VIEWS[1]
    return name.endswith(f"{view}.intra")


def test_a_missing_modality_is_its_stand_in() -> None:
    model, pictures = _small(global_gate=False, local="intra").eval(), _pictures(4)
    assert model.stand_in is not None
    with torch.no_grad():
        features = model.fuse(pictures, SOME).features
    assert torch.equal(features["ultrasound"][1], model.stand_in[1, :, None, None].expand(-1, 2, 2))
    assert torch.equal(features["clinical"][2], model.stand_in[0, :, None, None].expand(-1, 2, 2))
    assert agf(4, PAIR, encoder="resnet10t").stand_in.count_nonzero() == 0  # type: ignore[union-attr]


def test_missing_pictures_enter_no_batch_norm() -> None:
    some, none, pictures = _small().train(), _small().train(), _pictures(4)
    some.fuse(pictures, SOME)
    encoder: Any = _small().train().modalities[0]
    encoder.encoder.run(0, pictures[0][SOME[:, 0]])
    for name, values in encoder.encoder.parts[0].state_dict().items():
        own: Any = some.modalities[0]
        torch.testing.assert_close(own.encoder.parts[0].state_dict()[name], values)
    before = {name: values.clone() for name, values in none.state_dict().items()}
    none.fuse(pictures, torch.tensor([[True, False]] * 4)).logits.sum().backward()
    for name, values in none.state_dict().items():
        if name.startswith("modalities.1"):
            assert torch.equal(values, before[name]), name
    assert not torch.equal(
        none.state_dict()["modalities.0.mix.1.running_mean"], before["modalities.0.mix.1.running_mean"]
    )
    assert all(module.training for module in none.modules())
    assert all(p.grad is not None for name, p in none.named_parameters() if "rebuild" not in name)


def test_missing_can_be_refused_and_one_view_is_needed() -> None:
    views = dict(zip(VIEWS, _pictures(2), strict=True))
    views["ultrasound"][1] = torch.nan
    with pytest.raises(UsageError, match=r"missing .* at batch positions 1"):
        _small(missing="refuse")(views)
    views["clinical"][1] = torch.nan
    with pytest.raises(UsageError, match=r"missing .* at batch positions 1"):
        _small()(views)


# --- reconstruction ---------------------------------------------------------------------------------------


def test_exactly_fifteen_of_49_tokens_are_hidden_and_they_are_the_highest() -> None:
    importance = _noise(5, 7, 7)
    hidden = top_tokens(importance, 0.3)
    for values, mask in zip(importance, hidden, strict=True):
        assert mask.sum() == math.ceil(0.3 * 49) == 15
        assert values[mask].min() > values[~mask].max()
    assert top_tokens(_noise(1, 10, 10), 0.07).sum() == 7  # though 0.07 · 100 is 7.000000000000001
    assert top_tokens(_noise(1, 1, 2), 0.3).sum() == 1


@pytest.mark.parametrize("masking", ["attended", "random", "cross_modal"])
def test_what_each_masking_hides(masking: Any) -> None:
    rebuild = FeatureReconstruction(4, ReconstructionPlan(masking))
    importance = torch.arange(49.0).view(1, 7, 7).expand(40, 7, 7)
    present = torch.ones(40, 2, dtype=torch.bool)
    present[0, 1] = present[1, 0] = False
    torch.manual_seed(0)
    hidden = rebuild.hide(importance, present)
    assert hidden.shape == (40, 2, 7, 7)
    if masking == "cross_modal":
        parts = hidden.flatten(2)
        assert torch.equal(parts.all(dim=2), parts.any(dim=2))  # all of a part or nothing of it
        assert (parts.all(dim=2).sum(dim=1) == 1).all()  # and of one part
        assert parts[0, 1].all() and parts[1, 0].all()  # where one is missing, that one
        assert 5 < parts[2:, 0, 0].sum() < 33
    else:
        assert torch.equal(hidden[:, 0], hidden[:, 1])
        assert (hidden[:, 0].flatten(1).sum(dim=1) == 15).all()
        highest = torch.equal(hidden[0, 0], importance[0] >= 34)
        assert highest is (masking == "attended")


def test_reconstruction_loss_by_hand() -> None:
    fused, everywhere = _noise(2, 6, 2, 2), torch.ones(2, 2, 2, 2, dtype=torch.bool)
    assert reconstruction_loss(fused, fused, everywhere).abs() < 1e-6
    assert (reconstruction_loss(-3 * fused, fused, everywhere) - 2).abs() < 1e-6
    assert reconstruction_loss(-fused, fused, ~everywhere) == 0
    # Two places: one rebuilt at a right angle (loss 1), one at 60° (loss 1/2); the third is not hidden.
    truth = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]).view(1, 2, 1, 3)
    found = torch.tensor([[0.0, 0.5, -1.0], [1.0, 0.75**0.5, 0.0]]).view(1, 2, 1, 3)
    hidden = torch.tensor([True, True, False]).expand(1, 2, 1, 3)
    assert (reconstruction_loss(found, truth, hidden) - 0.75).abs() < 1e-6


def test_reconstruction_loss_sees_counted_channels_only() -> None:
    fused, rebuilt = _noise(3, 8, 2, 2), _noise(3, 8, 2, 2, seed=1)
    counted = torch.zeros(3, 2, 2, 2, dtype=torch.bool)
    counted[0, 1] = counted[2] = True
    terms = []
    for case in range(3):
        for y in range(2):
            for x in range(2):
                channels = counted[case, :, y, x].repeat_interleave(4).numpy()
                if channels.any():
                    a, b = (v[case, :, y, x].double().numpy()[channels] for v in (rebuilt, fused))
                    terms.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert len(terms) == 8
    assert abs(reconstruction_loss(rebuilt, fused, counted).item() - np.mean(terms)) < 1e-6


def test_the_truth_of_the_reconstruction_gets_no_gradient() -> None:
    fused, rebuilt = _noise(2, 8, 2, 2).requires_grad_(), _noise(2, 8, 2, 2, seed=1).requires_grad_()
    reconstruction_loss(rebuilt, fused, torch.ones(2, 2, 2, 2, dtype=torch.bool)).backward()
    assert fused.grad is None
    assert rebuilt.grad is not None and rebuilt.grad.any()


def test_importance_is_what_speaks_for_the_truth() -> None:
    fused, weight = (
        torch.tensor([[1.0, 2.0], [3.0, -1.0]]).view(1, 2, 1, 2),
        torch.tensor([[1.0, 0.5], [2, -1]]),
    )
    assert token_importance(fused, weight, torch.tensor([1])).tolist() == [[[-1.0, 5.0]]]
    several = token_importance(fused, weight, torch.tensor([[1.0, 0.0]]))  # (1, 0.5) − (2, −1) = (−1, 1.5)
    assert several.tolist() == [[[3.5, -3.5]]]
    unknown = token_importance(fused, weight, torch.tensor([[torch.nan, 1.0]]))
    assert unknown.tolist() == [[[-1.0, 5.0]]]


def test_weights_of_the_terms_rise_over_the_ramp() -> None:
    plan = ReconstructionPlan(ramp=0.1)
    assert [plan.weight(at) for at in (0.0, 0.05, 0.1, 0.7, 1.0)] == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert ReconstructionPlan(ramp=0.0).weight(0.0) == 1.0


def test_the_objective_is_the_sum_of_its_parts() -> None:
    model, views = _small(lambda_r=2.0, lambda_c=0.25).train(), dict(zip(VIEWS, _pictures(), strict=True))
    targets = torch.tensor([0, 3, 1])
    output = model(views)
    assert model.rebuild is not None
    terms = model.objective(output, targets, progress=0.05)
    fused = torch.cat([output.features[view] for view in VIEWS], dim=1)
    score = (fused * model.head.weight[targets][:, :, None, None]).sum(dim=1)
    hidden = torch.zeros_like(score, dtype=torch.bool)
    for case in range(3):  # 2 of 4 places
        hidden[case].view(-1)[score[case].flatten().argsort(descending=True)[:2]] = True
    visible = torch.where(hidden[:, None], model.rebuild.token.view(1, -1, 1, 1), fused)
    rebuilt = model.rebuild.decoder(visible)
    a, b = (x.permute(0, 2, 3, 1)[hidden] for x in (rebuilt, fused))
    cosine = (a * b).sum(dim=1) / a.norm(dim=1) / b.norm(dim=1)
    entropy = functional.cross_entropy(
        rebuilt.mean(dim=(2, 3)) @ model.head.weight.T + model.head.bias, targets
    )
    torch.testing.assert_close(terms["classification"], functional.cross_entropy(output.logits, targets))
    torch.testing.assert_close(terms["reconstruction"], 0.5 * 2.0 * (1 - cosine).mean())
    torch.testing.assert_close(terms["rebuilt_classification"], 0.5 * 0.25 * entropy)
    parts = [value for name, value in terms.items() if name != "total"]
    torch.testing.assert_close(terms["total"], torch.stack(parts).sum())


def test_what_is_missing_is_not_to_be_rebuilt() -> None:
    model, targets = _small().train(), torch.tensor([0, 3, 1, 2])
    output = model.fuse(_pictures(4), SOME)
    assert model.rebuild is not None
    found = model.objective(output, targets, progress=1.0)["reconstruction"].item()
    fused = torch.cat([output.features[view] for view in VIEWS], dim=1)
    hidden = top_tokens(token_importance(fused, model.head.weight, targets), 0.3)
    rebuilt = model.rebuild(fused, hidden[:, None].expand(-1, 2, -1, -1))
    terms = []
    for case, y, x in hidden.nonzero().tolist():
        there = SOME[case].repeat_interleave(512)
        a, b = (values[case, :, y, x][there].detach().double().numpy() for values in (rebuilt, fused))
        terms.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert len(terms) == 8  # 2 of 4 places of each case
    assert abs(found - np.mean(terms)) < 1e-5


def test_findings_can_be_several() -> None:
    model = _small(masking="attended").train()
    model.criterion = make_criterion("multilabel", class_counts=[[1, 1]] * 4)
    targets = torch.tensor([[1.0, 0, torch.nan, 1], [0, 0, 0, 0], [torch.nan] * 4])
    terms = model.objective(model(dict(zip(VIEWS, _pictures(), strict=True))), targets, 1.0)
    terms["total"].backward()
    assert len(terms) == 4 and terms["total"].isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_reconstruction_is_for_training_only() -> None:
    model, without = _small().eval(), _small(reconstruction=False).eval()
    state = model.state_dict()
    without.load_state_dict({name: state[name] for name in without.state_dict()}, strict=True)
    assert {name.split(".")[0] for name in state.keys() - without.state_dict().keys()} == {"rebuild"}
    views = dict(zip(VIEWS, _pictures(), strict=True))
    with torch.no_grad():
        output = model(views)
        assert torch.equal(output.logits, without(views).logits)
    assert set(model.objective(output, torch.tensor([0, 1, 2]), 1.0)) == {"classification", "total"}
    trained = without.train()(views)
    assert isinstance(trained, AgfOutput) and trained.attention == ()
    assert set(without.objective(trained, torch.tensor([0, 1, 2]), 1.0)) == {"classification", "total"}


# --- what it refuses, and the grid ------------------------------------------------------------------------


@pytest.mark.parametrize("views", [("clinical",), ("a", "b", "c")])
def test_other_numbers_of_views_are_refused(views: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=f"takes two views, the study has {len(views)}") as caught:
        build_model("agf_resnet18", 4, InputSpec(views=views))
    assert "late_fusion" in str(caught.value)


@pytest.mark.parametrize(
    "option", [{"rho": 0.0}, {"rho": 1.0}, {"local": "all"}, {"ramp": 2}, {"lambda_r": -1}]
)
def test_options_out_of_range_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        build_model("agf", 4, PAIR, options=option)


def test_volumes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"takes 2 or 2\.5-D input"):
        agf(4, InputSpec(views=VIEWS, dimensions="3", size=(16, 64, 64), channels=1))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"local": "intra", "global_gate": False, "reconstruction": False}, {"intra"}),
        ({"local": "inter", "global_gate": False, "reconstruction": False}, {"inter"}),
        ({"global_gate": False, "reconstruction": False}, {"intra", "inter"}),
        ({"reconstruction": False}, {"intra", "inter", "gate"}),
        ({"global_gate": False}, {"intra", "inter", "rebuild"}),
        ({}, {"intra", "inter", "gate", "rebuild"}),
    ],
)
def test_rows_of_the_ablation_hold_what_they_say(options: dict[str, Any], parts: set[str]) -> None:
    model = build_model("agf", 4, PAIR, options={"encoder": "resnet10t", **options})
    words = {word for name, _ in model.named_parameters() for word in name.split(".")}
    assert words & {"intra", "inter", "gate", "rebuild"} == parts
