"""The DADRN family against published sizes, torchvision's and timm's networks, and its own promises."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck as TorchvisionBottleneck
from torchvision.models.resnet import ResNet

from foveate.contract import InputSpec
from foveate.errors import InputRefused, UsageError
from foveate.models import build_model
from foveate.models.cards import CARDS
from foveate.models.dadrn.card import DADRN_CARDS
from foveate.models.dadrn.trunk import ResidualTrunk

SMALL: Mapping[str, Any] = {"width": 0.125, "depths": (1, 1, 1, 1)}
SPEC = InputSpec(size=(64, 64))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _randomise_statistics(module: nn.Module) -> None:
    """Batch norms with statistics and scales that matter."""
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values, low, high in ((layer.running_var, 0.5, 1.5), (layer.weight.data, 0.5, 1.5)):
                values.uniform_(low, high, generator=generator)
            for values in (layer.running_mean, layer.bias.data):
                values.normal_(0, 0.1, generator=generator)


@functools.cache
def _torchvision_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = resnet50()
    _randomise_statistics(network)
    return network.state_dict()


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("drn50", {}, 23_518_277),
        ("drn50", {"first_block": "fyu"}, 23_518_277),
        ("sadrn50", {}, 28_763_718),
        ("cadrn50", {}, 23_518_278),
        ("dadrn50", {"fusion": "sum"}, 28_763_719),
        ("dadrn50", {"fusion": "concat"}, 28_773_959),
        ("dadrn50", {"fusion": "concat", "reduce": "after"}, 37_154_375),
        ("dadrn50", {"fusion": "sum", "reduce": "before"}, 42_715_335),
        ("seresnet50", {}, 26_049_269),
    ],
)
def test_parameter_counts_with_five_classes(name: str, options: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):  # sizes without the time to draw them
        model = build_model(name, 5, InputSpec(), options=options)
    assert _count(model) == parameters


def test_parameter_counts_of_the_parts_and_with_a_thousand_classes() -> None:
    with torch.device("meta"):
        dadrn = build_model("dadrn50", 5, InputSpec())
        assert _count(dadrn.trunk) == 23_508_032
        assert _count(dadrn.attention.paths["spatial"]) == 5_245_441
        assert _count(dadrn.attention.paths["channel"]) == 1
        assert _count(build_model("drn50", 1000, InputSpec())) == 25_557_032
        assert _count(build_model("seresnet50", 1000, InputSpec())) == 28_088_024


@pytest.mark.parametrize("name", DADRN_CARDS)
def test_each_card_has_the_size_of_its_model_and_options_that_it_takes(name: str) -> None:
    with torch.device("meta"):
        assert _count(build_model(name, 5, InputSpec())) == CARDS[name].parameters
    for row in CARDS[name].published:
        build_model(name, 5, SPEC, options=SMALL | dict(row.options))


def test_shapes_at_full_width() -> None:
    model = build_model("dadrn50", 5, InputSpec()).eval()
    with torch.inference_mode():
        output = model({"image": _noise(1, 3, 224, 224)})
        x = model.trunk.maxpool(model.trunk.conv1(_noise(1, 3, 224, 224)))
        shapes = []
        for group in (model.trunk.layer1, model.trunk.layer2, model.trunk.layer3, model.trunk.layer4):
            for block in group:
                x, _ = block(x)
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(256, 56, 56), (512, 28, 28), (1024, 28, 28), (2048, 28, 28)]
    assert output.logits.shape == (1, 5)
    assert {name: tuple(value.shape[1:]) for name, value in output.features.items()} == {
        "group5": (2048, 28, 28),
        "spatial": (2048, 28, 28),
        "channel": (2048, 28, 28),
        "fused": (4096, 28, 28),
    }
    assert [tuple(each.weights.shape[1:]) for each in output.attention] == [(28,) * 4, (2048, 2048)]


@pytest.mark.parametrize(
    ("first_block", "group4", "group5"),
    [("torchvision", [1, 2, 2, 2, 2, 2], [2, 4, 4]), ("fyu", [1, 2, 2, 2, 2, 2], [1, 4, 4])],
)
def test_dilations(first_block: str, group4: list[int], group5: list[int]) -> None:
    with torch.device("meta"):
        trunk = build_model("drn50", 5, InputSpec(), options={"first_block": first_block}).trunk
    assert [block.conv2.dilation[0] for block in trunk.layer4] == group5
    assert [block.conv2.dilation[0] for block in trunk.layer3] == group4
    strides = {block.conv2.stride for group in (trunk.layer3, trunk.layer4) for block in group}
    assert strides == {(1, 1)}


@pytest.mark.parametrize(
    ("output_stride", "dilate"),
    [(8, [False, True, True]), (16, [False, False, True]), (32, [False, False, False])],
)
def test_trunk_equals_torchvision_s_resnet50(output_stride: Any, dilate: list[bool]) -> None:
    """With torchvision's weights under torchvision's names: another implementation of the same network."""
    reference = ResNet(TorchvisionBottleneck, [3, 4, 6, 3], replace_stride_with_dilation=dilate)
    reference.load_state_dict(_torchvision_state())
    trunk = ResidualTrunk(output_stride=output_stride)
    trunk.load_state_dict({key: value for key, value in _torchvision_state().items() if key[:2] != "fc"})
    x = _noise(1, 3, 64, 64)
    features = nn.Sequential(*list(reference.eval().children())[:-2])
    with torch.inference_mode():
        expected, found = features(x), trunk.eval()(x)[0]
    assert found.shape[-1] == 64 // output_stride
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_fyu_differs_from_torchvision_in_one_dilation_only() -> None:
    state = {key: value for key, value in _torchvision_state().items() if key[:2] != "fc"}
    trunks = {form: ResidualTrunk(first_block=form).eval() for form in ("torchvision", "fyu")}
    for trunk in trunks.values():
        trunk.load_state_dict(state)
    x = _noise(1, 3, 64, 64)
    with torch.inference_mode():
        ours, fyu = trunks["torchvision"](x)[0], trunks["fyu"](x)[0]
        assert (ours - fyu).abs().max() > 0.05 * ours.abs().max()
        single = trunks["torchvision"].layer4[0].conv2
        single.dilation = single.padding = (1, 1)
        assert torch.equal(trunks["torchvision"](x)[0], fyu)


def test_seresnet50_equals_timm_s() -> None:
    torch.manual_seed(0)
    reference = timm.create_model("seresnet50", num_classes=5).eval()
    _randomise_statistics(reference)
    model = build_model("seresnet50", 5, SPEC).eval()
    state = reference.state_dict()
    model.head.load_state_dict({"weight": state.pop("fc.weight"), "bias": state.pop("fc.bias")})
    model.trunk.load_state_dict(state)
    x = _noise(1, 3, 64, 64)
    with torch.inference_mode():
        output, expected = model({"image": x}), reference(x)
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-4)
    assert len(output.attention) == 16
    assert output.attention[-1].name == "squeeze_excitation.group5.2"


def test_convolutions_start_as_the_paper_s_code_draws_them() -> None:
    torch.manual_seed(0)
    weight = build_model("drn50", 5, SPEC, options={"depths": (1, 1, 1, 1)}).trunk.layer4[0].conv3.weight
    assert float(weight.detach().std()) == pytest.approx((2 / 2048) ** 0.5, rel=0.01)
    assert float(weight.detach().mean()) == pytest.approx(0, abs=1e-4)


def _options(**changes: Any) -> dict[str, Any]:
    return {**SMALL, **changes}


def test_fusion_by_sum_and_by_concatenation() -> None:
    x = {"image": _noise(2, 3, 64, 64)}
    for fusion in ("sum", "concat"):
        torch.manual_seed(0)
        model = build_model("dadrn50", 5, SPEC, options=_options(fusion=fusion)).eval()
        nn.init.constant_(model.attention.paths["spatial"].beta, 0.01)
        nn.init.constant_(model.attention.paths["channel"].beta, 0.02)
        with torch.inference_mode():
            maps = model(x).features
        paths = (maps["spatial"], maps["channel"])
        expected = paths[0] + paths[1] if fusion == "sum" else torch.cat(paths, dim=1)
        assert torch.equal(maps["fused"], expected)
        assert not torch.equal(*paths)


@pytest.mark.parametrize(("variant", "saturated"), [("paper", True), ("corrected", False)])
@pytest.mark.parametrize("name", ["cadrn50", "dadrn50"])
def test_variant_decides_the_scale_of_the_gram_matrix(name: str, variant: str, saturated: bool) -> None:
    torch.manual_seed(0)
    model = build_model(name, 5, SPEC, options=_options(variant=variant)).eval()
    with torch.inference_mode():
        output = model({"image": _noise(1, 3, 64, 64)})
        a = output.features["group5"].flatten(2)
    gram = a @ a.mT / (1 if saturated else a.shape[2])
    torch.testing.assert_close(output.attention[-1].weights, gram.sigmoid(), rtol=1e-5, atol=1e-6)


def test_logits_are_the_linear_head_on_the_averaged_fused_map() -> None:
    model = build_model("dadrn50", 5, SPEC, options=SMALL).eval()
    with torch.no_grad():
        output = model({"image": _noise(2, 3, 64, 64)})
        pooled = output.features[model.cam_feature["image"]].flatten(2).mean(dim=2)
    expected = pooled @ model.linear_head.weight.T + model.linear_head.bias
    torch.testing.assert_close(output.logits, expected)


def test_attention_is_not_kept_during_training() -> None:
    model = build_model("dadrn50", 5, SPEC, options=SMALL).train()
    assert model({"image": _noise(2, 3, 64, 64)}).attention == ()


@pytest.mark.parametrize(("variant", "mean"), [("paper", False), ("corrected", True)])
def test_variant_decides_whether_sigmoid_weights_sum_or_average(variant: str, mean: bool) -> None:
    for name, paths in (
        ("sadrn50", {"spatial"}),
        ("cadrn50", {"channel"}),
        ("dadrn50", {"spatial", "channel"}),
    ):
        model = build_model(name, 5, SPEC, options=_options(variant=variant))
        assert {key: block.mean for key, block in model.attention.paths.items()} == dict.fromkeys(paths, mean)


def test_new_layers_learn_faster_and_every_parameter_learns_once() -> None:
    model = build_model("dadrn50", 5, SPEC, options=_options(new_layers_lr_factor=10))
    trunk, new = model.parameter_groups(1e-3, 1e-4)
    assert (trunk["lr"], new["lr"]) == (1e-3, pytest.approx(1e-2))
    assert {trunk["weight_decay"], new["weight_decay"]} == {1e-4}
    assert {id(p) for p in trunk["params"]} == {id(p) for p in model.trunk.parameters()}
    everything = [id(p) for group in (trunk, new) for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())


# --- pretrained weights ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet50_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet50.safetensors"
    save_file(_torchvision_state(), path)
    return path


def _same_trunk(model: Any) -> bool:
    state = model.trunk.state_dict()
    return all(torch.equal(state[key], value) for key, value in _torchvision_state().items() if key in state)


def test_resnet50_weights_load_whole(resnet50_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = build_model("dadrn50", 5, SPEC, pretrained=str(resnet50_file))
    assert _same_trunk(model)
    assert set(model.trunk.state_dict()) == {key for key in _torchvision_state() if key[:2] != "fc"}
    assert "fc.bias, fc.weight" in caplog.text


def test_a_checkpoint_of_torch_loads_without_running_its_code(tmp_path: Path) -> None:
    torch.save({"state_dict": _torchvision_state()}, tmp_path / "resnet50.pth")
    assert _same_trunk(build_model("drn50", 5, SPEC, pretrained=str(tmp_path / "resnet50.pth")))

    torch.save({"state_dict": Path("/")}, tmp_path / "pickled.pth")
    with pytest.raises(InputRefused, match="not readable as a state dict"):
        build_model("drn50", 5, SPEC, pretrained=str(tmp_path / "pickled.pth"))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, resnet50_file: Path) -> None:
    with pytest.raises(UsageError, match=r"not of this network(?s:.)*conv1\.weight") as refused:
        build_model("drn50", 5, SPEC, pretrained=str(resnet50_file), options={"width": 0.5})
    assert refused.value.code == "weights-mismatch"

    state = dict(_torchvision_state())
    del state["layer3.4.bn2.weight"]
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(UsageError, match=r"layer3\.4\.bn2\.weight"):
        build_model("drn50", 5, SPEC, pretrained=str(tmp_path / "short.safetensors"))


@pytest.mark.slow
def test_missing_and_damaged_files_are_refused(tmp_path: Path, resnet50_file: Path) -> None:
    with pytest.raises(UsageError, match="no file of weights here"):
        build_model("drn50", 5, SPEC, pretrained=str(tmp_path / "absent.pth"))
    with pytest.raises(UsageError, match=r"pretrained: \."):
        build_model("drn50", 5, SPEC, pretrained="")
    (tmp_path / "notes.txt").write_text("weights")
    with pytest.raises(UsageError, match=r"a '\.txt' file is none of weights"):
        build_model("drn50", 5, SPEC, pretrained=str(tmp_path / "notes.txt"))
    torch.save({"conv1.weight": torch.zeros(999)}, tmp_path / "whole.pth")
    whole = {"safetensors": resnet50_file.read_bytes()[:5000], "pth": (tmp_path / "whole.pth").read_bytes()}
    for content in (whole["safetensors"], whole["pth"][:-500], b"", b"\x80weights", b"<html>"):
        for suffix in whole:
            path = tmp_path / f"damaged.{suffix}"
            path.write_bytes(content)
            with pytest.raises(InputRefused, match="not readable as a state dict"):
                build_model("drn50", 5, SPEC, pretrained=str(path))


def test_a_download_that_fails_says_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_network(name: str, *, pretrained: bool) -> nn.Module:
        asked.append((name, pretrained))
        raise OSError("Name or service not known\nmore")

    monkeypatch.setattr(timm, "create_model", no_network)
    for name in ("dadrn50", "seresnet50"):
        with pytest.raises(UsageError, match=r"could not be fetched: Name or service not known(?s:.)*folder"):
            build_model(name, 5, SPEC, pretrained=True)
    assert asked == [("resnet50.tv_in1k", True), ("seresnet50.ra2_in1k", True)]


def test_a_download_fills_the_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    network = resnet50()
    network.load_state_dict(_torchvision_state())
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: network)
    assert _same_trunk(build_model("sadrn50", 5, SPEC, pretrained=True))


# --- options and inputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dadrn50", {"normalisation": "sigmoid"}, "did you mean 'normalization'"),
        ("dadrn50", {"pretrained": True}, "no option 'pretrained'"),
        ("dadrn50", {"normalization": "relu"}, r"normalization: Input should be 'sigmoid' or 'softmax'"),
        ("dadrn50", {"depths": (1, 1)}, "depths"),
        ("dadrn50", {"fusion": "sum", "reduce": "after"}, "nothing to reduce"),
        ("drn50", {"output_stride": 4}, "output_stride: Input should be 8, 16 or 32"),
        ("drn50", {"variant": "paper"}, "its options are: width"),
        ("drn50", {"width": 0}, "width: Input should be greater than 0"),
    ],
)
def test_options_that_do_not_exist_or_fit_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(name, 5, SPEC, options=options)


def test_options_may_come_from_json() -> None:
    model = build_model("drn50", 5, SPEC, options={"width": 1 / 8, "depths": [1, 2, 1, 1]})
    assert len(model.trunk.layer2) == 2


@pytest.mark.parametrize(
    ("name", "hint"),
    [("dadrn5", "dadrn50"), ("resnet18", "timm:resnet18"), ("something", "choose from: drn50")],
)
def test_unknown_models_are_refused_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        build_model(name, 5, SPEC)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (InputSpec(views=("ct", "mr")), "takes one view, the study has 2: ct, mr"),
        (InputSpec(dimensions="3", size=(32, 64, 64)), r"takes pictures \(H, W\)"),
    ],
)
def test_studies_with_other_inputs_are_refused(spec: InputSpec, message: str) -> None:
    for name in ("dadrn50", "timm:resnet18"):
        with pytest.raises(UsageError, match=message):
            build_model(name, 5, spec)


def test_batches_with_other_inputs_are_refused() -> None:
    model = build_model("drn50", 5, SPEC, options=SMALL)
    with pytest.raises(UsageError, match="takes the view 'image', and was given: ct"):
        model({"ct": _noise(2, 3, 64, 64)})
    with pytest.raises(UsageError, match=r"takes \(B, 3, H, W\), and was given \(2, 1, 64, 64\)"):
        model({"image": _noise(2, 1, 64, 64)})
    with pytest.raises(UsageError, match="at least one class"):
        build_model("drn50", 0, SPEC, options=SMALL)
