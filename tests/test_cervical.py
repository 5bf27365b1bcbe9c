"""DenseNet-121 with channel attention, its baselines, and what the comparison's published tables hold."""

from __future__ import annotations

import copy
import functools
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import densenet121, resnet50

from foveate.contract import InputSpec
from foveate.errors import UsageError
from foveate.explain.explainers import explain_batch
from foveate.models import build_model
from foveate.models.cards import CARDS
from foveate.models.cervical.card import CERVICAL_CARDS, REBUILT

SPEC = InputSpec(size=(64, 64))
SMALL: Mapping[str, Any] = {"depths": (1, 1, 1, 3), "growth": 32}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@functools.cache
def _reference() -> nn.Module:
    """Torchvision's DenseNet-121, with statistics that matter: another implementation."""
    torch.manual_seed(0)
    network = densenet121(num_classes=5)
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def _with_reference_weights(placement: str) -> Any:
    model = build_model("densenet121_ca", 5, SPEC, options={"placement": placement})
    model.net.load_state_dict(_reference().state_dict())
    return model.eval()


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("densenet121_ca", {"placement": "authors"}, 6_959_143),
        ("densenet121_ca", {"placement": "all_dense"}, 6_958_981 + 16 * 162),
        ("densenet121_ca", {"placement": "rcab"}, 6_958_981 + 2 * 1024 * 64 + 64 + 1024),
    ],
)
def test_parameter_counts_with_five_classes(name: str, options: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        model = build_model(name, 5, InputSpec(), options=options)
    assert _count(model) == parameters
    assert _count(model.net) == 6_958_981


@pytest.mark.parametrize("name", ["timm:resnet50", "timm:densenet121"])
def test_baselines_have_the_published_size_and_dropout(name: str) -> None:
    model = build_model(name, 5, SPEC, options={"drop_rate": 0.5})
    assert _count(model) == CARDS[name].parameters
    assert CARDS[name].parameters in (23_518_277, 6_958_981)
    chances = [
        getattr(model.net, "drop_rate", 0),
        *(m.p for m in model.modules() if isinstance(m, nn.Dropout)),
    ]
    assert 0.5 in chances
    x = {"image": _noise(1, 3, 64, 64)}
    torch.manual_seed(0)
    with torch.inference_mode():
        for module in model.train().modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        assert not torch.equal(model(x).logits, model(x).logits)  # ahead of the last layer, in training
        assert torch.equal(model.eval()(x).logits, model(x).logits)


def test_each_card_has_the_size_of_its_model() -> None:
    for name, card in CERVICAL_CARDS.items():
        if name.startswith("timm:"):
            continue
        with torch.device("meta"):
            assert _count(build_model(name, card.classes, InputSpec())) == card.parameters
            for row in card.published:
                build_model(name, card.classes, InputSpec(), options=row.options)


# --- the gate ---------------------------------------------------------------------------------------------


def _before_last_norm(model: Any, x: Tensor) -> Tensor:
    kept: list[Tensor] = []
    hook = model.net.features.norm5.register_forward_pre_hook(
        lambda _m, inputs: kept.append(inputs[0].clone())
    )
    with torch.inference_mode():
        model({"image": x})
    hook.remove()
    return kept[0]


def _reference_map(x: Tensor) -> Tensor:
    features = _reference().features
    with torch.inference_mode():
        for name, part in features.named_children():
            if name != "norm5":
                x = part(x)
    return x


def test_the_published_gate_changes_the_last_32_of_1024_channels_only() -> None:
    x = _noise(2, 3, 64, 64)
    found, plain = _before_last_norm(_with_reference_weights("authors"), x), _reference_map(x)
    assert found.shape == (2, 1024, 2, 2)
    torch.testing.assert_close(found[:, :992], plain[:, :992], rtol=1e-4, atol=1e-5)
    changed = (found - plain).abs().amax(dim=(0, 2, 3)) > 1e-3
    assert changed[992:].all() and not changed[:992].any()


def test_a_gate_without_weights_halves_and_a_full_one_lets_everything_through() -> None:
    x, model = _noise(2, 3, 64, 64), _with_reference_weights("authors")
    (gate,) = (block.gates for block in model.gates.values())
    assert tuple(gate.fc1.weight.shape) == (2, 32, 1, 1)
    for parameter in gate.parameters():
        nn.init.zeros_(parameter)
    plain = _reference_map(x)
    with torch.inference_mode():
        (attention,) = model({"image": x}).attention
    assert attention.name == "channel_attention.denselayer16"
    assert torch.equal(attention.weights, torch.full((2, 32), 0.5))
    torch.testing.assert_close(_before_last_norm(model, x)[:, 992:], plain[:, 992:] / 2, rtol=1e-4, atol=1e-5)
    nn.init.constant_(gate.fc2.bias, 40.0)
    with torch.inference_mode():
        output, expected = model({"image": x}), _reference()(x)
    assert torch.equal(output.attention[0].weights, torch.ones(2, 32))
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-5)


def test_gates_are_their_formula() -> None:
    """On the block's own maps, channel by channel."""
    torch.manual_seed(0)
    model = build_model("densenet121_ca", 3, SPEC, options=SMALL | {"placement": "all_dense"}).eval()
    block, kept = model.net.features.denseblock4, []
    block.denselayer2.register_forward_hook(lambda _m, inputs, output: kept.append((inputs[0], output)))
    with torch.inference_mode():
        output = model({"image": _noise(1, 3, 64, 64)})
    names = [f"channel_attention.denselayer{number}" for number in (1, 2, 3)]
    assert [each.name for each in output.attention] == names
    maps, new = kept[0]
    gate = {
        name: value.numpy().squeeze() for name, value in model.gates["denselayer2"].gates.state_dict().items()
    }
    pooled = [float(new[0, channel].mean()) for channel in range(32)]
    hidden = [
        max(
            0.0,
            sum(float(gate["fc1.weight"][h][c]) * pooled[c] for c in range(32)) + float(gate["fc1.bias"][h]),
        )
        for h in range(2)
    ]
    for channel in range(32):
        score = sum(float(gate["fc2.weight"][channel][h]) * hidden[h] for h in range(2))
        expected = 1 / (1 + math.exp(-score - float(gate["fc2.bias"][channel])))
        assert float(output.attention[1].weights[0, channel]) == pytest.approx(expected, rel=1e-5)
    with torch.inference_mode():
        first = block.denselayer1([maps[0]]) * output.attention[0].weights[:, :, None, None]
    torch.testing.assert_close(maps[1], first)  # later layers read what earlier gates let through


def test_rcab_adds_the_gated_map_to_the_map() -> None:
    x, model = _noise(2, 3, 64, 64), _with_reference_weights("rcab")
    plain = _reference_map(x)
    with torch.inference_mode():
        (attention,) = model({"image": x}).attention
    expected = plain * (1 + attention.weights[:, :, None, None])
    torch.testing.assert_close(_before_last_norm(model, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("placement", ["authors", "all_dense", "rcab"])
def test_logits_are_the_linear_head_on_the_averaged_map(placement: str) -> None:
    model = _with_reference_weights(placement)
    with torch.inference_mode():
        output = model({"image": _noise(2, 3, 64, 64)})
        pooled = output.features["last"].mean(dim=(2, 3))
        torch.testing.assert_close(
            pooled @ model.linear_head.weight.T + model.linear_head.bias, output.logits
        )
    assert model.train()({"image": _noise(2, 3, 64, 64)}).attention == ()


@pytest.mark.parametrize(
    ("name", "options"), [("densenet121_ca", SMALL), ("residual_attention56", {"width": 0.125})]
)
def test_grad_cam_is_the_cam_over_the_number_of_places(name: str, options: Mapping[str, Any]) -> None:
    torch.manual_seed(0)
    model, views = build_model(name, 3, SPEC, options=options).eval(), {"image": _noise(2, 3, 64, 64)}
    output = model(views)
    features = output.features["last"]
    found = {each: explain_batch(model, views, [1], each)["image"][:, 0] for each in ("cam", "gradcam")}
    (gradients,) = torch.autograd.grad(output.logits[:, 1].sum(), features)
    expected = (gradients.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1).detach()
    torch.testing.assert_close(found["gradcam"], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["cam"] / features[0, 0].numel(), expected, rtol=1e-4, atol=1e-6)


# --- weights ----------------------------------------------------------------------------------------------


def _same_trunk(model: Any, state: Mapping[str, Tensor]) -> bool:
    own = model.net.state_dict()
    return all(
        torch.equal(own[key], value) for key, value in state.items() if not key.startswith("classifier.")
    )


@pytest.mark.parametrize("old_names", [False, True])
def test_weights_of_torchvision_load_whole(
    old_names: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = _reference().state_dict()
    stored = dict(state)
    if old_names:  # as in the file that torchvision serves
        for key, value in state.items():
            old = key
            for number in "12":
                for kind in ("norm", "conv"):
                    old = old.replace(f".{kind}{number}.", f".{kind}.{number}.")
            stored[old] = stored.pop(key) if old != key else value
        assert "features.denseblock1.denselayer1.norm.1.weight" in stored
    save_file(stored, tmp_path / "densenet121.safetensors")
    with caplog.at_level(logging.WARNING):
        model = build_model("densenet121_ca", 3, SPEC, pretrained=str(tmp_path / "densenet121.safetensors"))
    assert _same_trunk(model, state)
    assert model.net.classifier.weight.shape == (3, 1024)
    assert "net.classifier.weight" in caplog.text and "of other classes" in caplog.text


def test_a_download_fills_the_trunk_and_a_failed_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    build, asked = timm.create_model, []

    def create(name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:
        if pretrained:
            asked.append(name)
            return _reference()
        return build(name, **arguments)

    monkeypatch.setattr(timm, "create_model", create)
    assert _same_trunk(build_model("densenet121_ca", 3, SPEC, pretrained=True), _reference().state_dict())
    assert asked == ["densenet121.tv_in1k"]

    def fail(name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:
        if pretrained:
            raise OSError("no route to host")
        return build(name, **arguments)

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UsageError, match="could not be fetched: no route to host"):
        build_model("densenet121_ca", 3, SPEC, pretrained=True)


class _Gate(nn.Module):
    """RCAN's channel attention as the published code writes it."""

    def __init__(self) -> None:
        super().__init__()
        first, second = nn.Conv2d(32, 2, kernel_size=1), nn.Conv2d(2, 32, kernel_size=1)
        self.conv_du = nn.Sequential(first, nn.ReLU(), second, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(x.mean(dim=(2, 3), keepdim=True))


def _published_form(network: Any, head: str) -> Any:
    """Dropout ahead of the last layer, as all networks of the published code have it."""
    setattr(network, head, nn.Sequential(nn.Dropout(0.5), getattr(network, head)))
    return network.eval()


@pytest.mark.parametrize("parallel", [False, True])
def test_a_file_of_the_published_attention_network_gives_its_logits(parallel: bool, tmp_path: Path) -> None:
    network = _published_form(copy.deepcopy(_reference()), "classifier")
    block = network.features.denseblock4
    block.denselayer16 = nn.Sequential(block.denselayer16, _Gate())
    state = network.state_dict()
    assert "features.denseblock4.denselayer16.1.conv_du.2.bias" in state and "classifier.1.bias" in state
    torch.save({"module." + k if parallel else k: v for k, v in state.items()}, tmp_path / "model5")
    path = str(tmp_path / "model5")
    model = build_model("densenet121_ca", 5, SPEC, pretrained=path, options={"placement": "authors"}).eval()
    x = _noise(2, 3, 64, 64)
    with torch.inference_mode():
        found, expected = model({"image": x}).logits, network(x)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    with pytest.raises(UsageError, match=r"gates\.denselayer1\.(?s:.)*of the published code it is authors"):
        build_model("densenet121_ca", 5, SPEC, pretrained=path)


def test_a_model_of_our_own_loads_with_its_gates(tmp_path: Path) -> None:
    trained = build_model("densenet121_ca", 5, SPEC, options=SMALL)
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    again = build_model(
        "densenet121_ca", 5, SPEC, pretrained=str(tmp_path / "model.safetensors"), options=SMALL
    )
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in trained.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(("build", "head"), [(densenet121, "classifier"), (resnet50, "fc")])
def test_files_of_the_published_baselines_give_their_logits(
    build: Callable[..., nn.Module], head: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = _published_form(build(num_classes=5), head)
    torch.save(network.state_dict(), tmp_path / "baseline1")
    options, path = {"drop_rate": 0.5}, str(tmp_path / "baseline1")
    model = build_model(f"timm:{build.__name__}", 5, SPEC, pretrained=path, options=options).eval()
    x = _noise(2, 3, 64, 64)
    with torch.inference_mode():
        found, expected = model({"image": x}).logits, network(x)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_weights_of_other_networks_are_refused(tmp_path: Path) -> None:
    state = dict(_reference().state_dict())
    del state["features.norm5.weight"]
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(UsageError, match=r"norm5\.weight") as caught:
        build_model("densenet121_ca", 3, SPEC, pretrained=str(tmp_path / "short.safetensors"))
    assert caught.value.code == "weights-mismatch"


# --- published figures ------------------------------------------------------------------------------------


def test_published_accuracies_and_recalls_agree_in_two_rows_of_ten() -> None:
    rows = [row for card in CERVICAL_CARDS.values() for row in card.published if REBUILT in row.figures]
    assert len(rows) == 10
    apart = []
    for row in rows:
        total = 409 if "409" in row.data else 101
        counts = [row.figures[key] * total for key in ("accuracy", REBUILT)]
        assert all(count == pytest.approx(round(count), abs=0.021) for count in counts)  # whole images
        apart.append(abs(round(counts[0]) - round(counts[1])))
    assert sorted(apart)[:3] == [0, 0, 1]
    assert max(apart) == 6
