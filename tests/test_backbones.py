"""Any timm backbone: its own logits, a map on the way to them, and weights that fit or are refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from foveate.contract import InputSpec
from foveate.errors import InputRefused, UsageError
from foveate.models import build_model
from foveate.models.timm.backbones import BackboneLayout, TimmClassifier, timm_classifier


def _spec(*size: int) -> InputSpec:
    return InputSpec(size=size)


def _build(name: str, *size: int, classes: int = 3, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return build_model(f"timm:{name}", classes, _spec(*size), **arguments).eval()


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# Size, shape of the last map, and whether the logits are linear in its average.
KINDS = {
    "resnet18": ((64, 96), (512, 2, 3), True),
    "mobilenetv3_small_050": ((64, 64), (288, 2, 2), False),  # a layer between pooling and classifier
    "convnext_atto": ((64, 64), (320, 2, 2), False),  # a norm between them, and a head that starts at 0
    "regnetx_002": ((64, 64), (368, 2, 2), True),
    "vit_tiny_patch16_224": ((64, 96), (192, 4, 6), True),  # tokens, one class token ahead
    "vit_small_patch16_dinov3": ((64, 64), (384, 4, 4), True),  # five tokens ahead
    "mixer_s32_224": ((64, 64), (512, 2, 2), True),  # tokens, none ahead, and a head that starts at 0
    "swin_tiny_patch4_window7_224": ((64, 64), (768, 2, 2), True),  # channels last
    "eva02_tiny_patch14_224": ((56, 56), (192, 4, 4), False),  # a norm after pooling
}


@pytest.fixture(scope="module")
def models() -> dict[str, TimmClassifier]:
    return {name: _build(name, *size) for name, (size, _, _) in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
def test_logits_are_timm_s_own(name: str, models: dict[str, TimmClassifier]) -> None:
    model, x = models[name], _noise(2, 3, *KINDS[name][0])
    with torch.inference_mode():
        output, expected = model({"image": x}), model.net(x)
    torch.testing.assert_close(output.logits, expected)
    assert tuple(output.features["last"].shape) == (2, *KINDS[name][1])


@pytest.mark.parametrize("name", KINDS)
def test_the_map_is_on_the_way_to_the_logits(name: str, models: dict[str, TimmClassifier]) -> None:
    model = models[name]
    head = model.net.get_classifier()
    nn.init.normal_(head.weight, std=0.1)
    output = model({"image": _noise(1, 3, *KINDS[name][0])})
    (gradient,) = torch.autograd.grad(output.logits[0, 1], output.features[model.cam_feature["image"]])
    assert gradient.flatten(2).abs().sum(dim=1).min() > 0  # at every place


@pytest.mark.parametrize("name", KINDS)
def test_a_linear_head_is_declared_exactly_where_it_is_one(
    name: str, models: dict[str, TimmClassifier]
) -> None:
    model = models[name]
    assert (model.linear_head is not None) is KINDS[name][2]
    if model.linear_head is not None:
        output = model({"image": _noise(2, 3, *KINDS[name][0])})
        pooled = output.features["last"].flatten(2).mean(dim=2)
        torch.testing.assert_close(model.linear_head(pooled), output.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mixer_s32_224", "swin_tiny_patch4_window7_224"])
def test_rows_and_columns_of_a_grid_are_those_of_the_picture(name: str) -> None:
    """What changes most where one corner of the picture changes is that corner of the map."""
    model = _build(name, 128, 192) if "swin" not in name else _build(name, 128, 128)
    x = _noise(1, 3, *model.input_spec.size)
    changed = x.clone()
    changed[..., :32, -32:] += 3
    with torch.inference_mode():
        before, after = (model({"image": each}).features["last"][0] for each in (x, changed))
    moved = (after - before).abs().sum(dim=0)
    height, width = moved.shape
    row, column = divmod(int(moved.argmax()), width)
    assert row < height / 4
    assert column >= width - max(1, width // 4)


def test_layouts_go_there_and_back() -> None:
    tokens = _noise(2, 8, 5)
    grid, prefix = BackboneLayout(tokens=True, prefix=2, grid=(2, 3)).to_map(tokens)
    assert grid.shape == (2, 5, 2, 3)
    assert torch.equal(grid[0, :, 1, 0], tokens[0, 2 + 3])
    assert torch.equal(BackboneLayout(tokens=True, prefix=2, grid=(2, 3)).from_map(grid, prefix), tokens)
    picture = _noise(2, 3, 4, 5)
    last = BackboneLayout(channels_last=True)
    assert last.to_map(picture)[0].shape == (2, 5, 3, 4)
    assert torch.equal(last.from_map(*last.to_map(picture)), picture)


def test_building_leaves_the_head_and_the_random_numbers_alone() -> None:
    torch.manual_seed(0)
    plain = timm.create_model("resnet18", num_classes=3).state_dict()
    after = torch.rand(())
    torch.manual_seed(0)
    state = build_model("timm:resnet18", 3, _spec(64, 64)).net.state_dict()
    assert torch.equal(torch.rand(()), after)
    assert all(torch.equal(state[key], value) for key, value in plain.items())


def test_options_reach_the_network() -> None:
    model = _build(
        "resnet18", 64, 64, options={"global_pool": "max", "drop_rate": 0.5, "drop_path_rate": 0.1}
    )
    assert model.linear_head is None  # a maximum is no average
    assert model.net.drop_rate == 0.5


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("resnet1", (64, 64), "timm has no architecture 'resnet1'(?s:.)*resnet18"),
        ("crossvit_9_240", (240, 240), "features are a list of several scales"),
        ("volo_d1_224", (64, 64), "tokens, 0 of them ahead of the patches, are no grid"),
        ("deit_tiny_distilled_patch16_224", (64, 64), "classifies from class tokens only"),
        ("vit_tiny_patch16_224", (8, 8), "cannot"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(name: str, size: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _build(name, *size)


def test_a_class_token_s_logits_are_refused_when_asked_for() -> None:
    with pytest.raises(UsageError, match="do not depend on its last map"):
        _build("vit_tiny_patch16_224", 64, 64, options={"global_pool": "token"})


def test_options_that_a_network_lacks_are_refused() -> None:
    with pytest.raises(UsageError, match=r"cannot build it with in_chans=3, drop_path_rate=0\.1"):
        _build("vgg11", 64, 64, options={"drop_path_rate": 0.1})
    with pytest.raises(UsageError, match="its options are: global_pool, drop_rate, drop_path_rate"):
        _build("resnet18", 64, 64, options={"width": 0.5})


# --- pretrained weights ---------------------------------------------------------------------------------


def _pretrained(classes: int = 10) -> nn.Module:
    torch.manual_seed(7)
    network = timm.create_model("resnet18", num_classes=classes)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    return network


def _folder(path: Path, network: nn.Module, **config: Any) -> Path:
    """A folder as timm's hub has it."""
    path.mkdir()
    save_file(network.state_dict(), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"architecture": "resnet18", **config}))
    return path


def _same_besides_head(model: TimmClassifier, network: nn.Module) -> bool:
    state = model.net.state_dict()
    return all(
        torch.equal(state[key], value) for key, value in network.state_dict().items() if key[:3] != "fc."
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["folder", "bin-folder", "safetensors", "pth", "wrapped", "run"])
def test_weights_load_from_every_form_of_file(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, path = _pretrained(), tmp_path / "weights"
    if form.endswith("folder"):
        _folder(path, network)
        if form == "bin-folder":
            (path / "model.safetensors").unlink()
            torch.save(network.state_dict(), path / "pytorch_model.bin")
    elif form == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(network.state_dict(), path)
    elif form == "run":
        path = path.with_suffix(".safetensors")
        trained = _build("resnet18", 64, 64, classes=10)
        trained.net.load_state_dict(network.state_dict())
        save_file(trained.state_dict(), path)  # as a bundle has it
    else:
        path = path.with_suffix(".pth")
        torch.save({"state_dict": network.state_dict()} if form == "wrapped" else network.state_dict(), path)
    with caplog.at_level(logging.WARNING):
        model = _build("resnet18", 64, 64, pretrained=str(path))
    assert _same_besides_head(model, network)
    assert model.net.fc.weight.shape == (3, 512)
    assert "its head has 10 classes" in caplog.text


def test_a_head_of_the_same_number_of_classes_loads_too(tmp_path: Path) -> None:
    network = _pretrained(3)
    model = _build("resnet18", 64, 64, pretrained=str(_folder(tmp_path / "weights", network)))
    x = _noise(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model({"image": x}).logits, network.eval()(x))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_no_network_starts_sure_of_a_class(name: str) -> None:
    """timm's own logits of three classes do: of the size of 3 and more."""
    x = _noise(8, 3, 64, 64)
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=3).train()
    ours = _build(name, 64, 64).train()
    assert theirs(x).std() > 1
    assert ours({"image": x}).logits.std() < 0.5
    assert torch.equal(ours.net.conv_stem.weight, theirs.conv_stem.weight)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_heads_that_start_small_are_timm_s_own(name: str) -> None:
    ours = _build(name, 64, 64)
    torch.manual_seed(0)
    options = {"img_size": (64, 64), "global_pool": "avg"} if name.startswith("vit") else {}
    theirs = timm.create_model(name, num_classes=3, **options)
    expected = theirs.get_classifier().weight.std()
    assert ours.net.get_classifier().weight.std().item() == pytest.approx(expected.item(), rel=0.1)


def test_weights_without_a_head_load(tmp_path: Path) -> None:
    network = _pretrained()
    path = tmp_path / "trunk.safetensors"
    save_file({key: value for key, value in network.state_dict().items() if key[:3] != "fc."}, path)
    model = _build("resnet18", 64, 64, pretrained=str(path))
    assert _same_besides_head(model, network)
    assert model.net.fc.weight.shape == (3, 512)


def test_a_transformer_keeps_its_final_norm_and_adapts_its_positions(tmp_path: Path) -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=64)
    nn.init.normal_(network.norm.weight)
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    model = _build("vit_tiny_patch16_224", 96, 96, pretrained=str(tmp_path / "vit.safetensors"))
    assert torch.equal(model.net.norm.weight, network.norm.weight)
    assert torch.equal(model.net.blocks[3].mlp.fc1.weight, network.blocks[3].mlp.fc1.weight)
    assert model.net.pos_embed.shape == (1, 1 + 36, 192)
    assert not model.net.pos_embed.allclose(_build("vit_tiny_patch16_224", 96, 96).net.pos_embed)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = dict(_pretrained().state_dict())
    del state["layer2.0.conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"layer2\.0\.conv1\.weight(?s:.)*layer9\.weight"):
        _build("resnet18", 64, 64, pretrained=str(tmp_path / "other.safetensors"))
    with pytest.raises(UsageError, match="not of this network"):
        _build("resnet26", 64, 64, pretrained=str(tmp_path / "other.safetensors"))


def test_folders_of_another_architecture_are_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "weights", _pretrained())
    with pytest.raises(UsageError, match="weights of resnet18 do not fit a model of resnet34"):
        _build("resnet34", 64, 64, pretrained=str(folder))
    altered = _folder(tmp_path / "altered", _pretrained(), model_args={"act_layer": "gelu", "in_chans": 3})
    with pytest.raises(UsageError, match="built with act_layer do not fit"):
        _build("resnet18", 64, 64, pretrained=str(altered))
    (altered / "config.json").unlink()
    with pytest.raises(UsageError, match=r"no config\.json"):
        _build("resnet18", 64, 64, pretrained=str(altered))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="no file of weights here"):
        _build("resnet18", 64, 64, pretrained=str(folder))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(InputRefused, match="not readable as a state dict"):
        _build("resnet18", 64, 64, pretrained=str(tmp_path / "damaged.safetensors"))


def _download(monkeypatch: pytest.MonkeyPatch, outcome: nn.Module | Exception) -> None:
    """Stand in for timm's download only; networks without weights are built as ever."""
    build = timm.create_model

    def create(name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:
        if not pretrained:
            return build(name, **arguments)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(timm, "create_model", create)


def test_a_download_fills_all_but_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    network = _pretrained(1000)
    _download(monkeypatch, network)
    model = _build("resnet18.a1_in1k", 64, 64, pretrained=True)
    assert _same_besides_head(model, network)
    assert model.net.fc.weight.shape == (3, 512)


def test_a_download_that_fails_is_never_a_random_network(monkeypatch: pytest.MonkeyPatch) -> None:
    _download(monkeypatch, OSError("no route to host"))
    with pytest.raises(
        UsageError, match=r"could not be fetched: no route to host(?s:.)*pretrained: <folder>"
    ):
        _build("resnet18", 64, 64, pretrained=True)


def test_architectures_without_published_weights_say_so() -> None:
    with pytest.raises(UsageError, match="No pretrained weights exist for convnext_atto_rms"):
        _build("convnext_atto_rms", 64, 64, pretrained=True)  # found out without any network


def test_an_output_stride_makes_maps_finer_with_the_same_weights() -> None:
    spec = InputSpec(size=(96, 96))
    coarse, fine = (timm_classifier("resnet10t", 3, spec, output_stride=stride) for stride in (None, 8))
    fine.load_state_dict(coarse.state_dict())
    views = {"image": torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))}
    shapes = [model.eval()(views).features["last"].shape[2:] for model in (coarse, fine)]
    assert shapes == [(3, 3), (12, 12)]
    with pytest.raises(UsageError, match="output_stride"):
        timm_classifier("vit_tiny_patch16_224", 3, InputSpec(), output_stride=8)
