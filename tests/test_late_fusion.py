"""Late fusion against timm's own classifiers, hand calculation, and its promises about missing views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from foveate.contract import InputSpec
from foveate.errors import UsageError
from foveate.explain.explainers import explain_batch
from foveate.models import build_model
from foveate.models.agf.baseline import LateFusion, late_fusion

VIEWS = ("clinical", "ultrasound", "dermoscopic")
THREE = InputSpec(views=VIEWS, size=(64, 64))
SOME = torch.tensor([[True, True, True], [True, False, True], [False, False, True], [False, True, False]])


def _pictures(batch: int = 4, views: tuple[str, ...] = VIEWS) -> dict[str, Tensor]:
    noise = torch.randn(len(views), batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return dict(zip(views, noise, strict=True))


def _small(spec: InputSpec = THREE, **options: Any) -> LateFusion:
    torch.manual_seed(0)
    model = late_fusion(4, spec, **{"encoder": "resnet10t", **options})
    if model.stand_in is not None:
        nn.init.normal_(model.stand_in)
    return model


def _pooled(encoder: Any, picture: Tensor) -> Tensor:
    """Features that timm's own network gives with an encoder's weights."""
    net = timm.create_model("resnet10t", num_classes=0).eval()
    net.load_state_dict(encoder.net.state_dict(), strict=True)
    pooled: Tensor = net(picture)
    return pooled


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"missing": "refuse"}, 22_353_024 + 6 * 1024 + 6),  # two encoders and the head
        ({}, 22_353_024 + 6 * 1024 + 6 + 2 * 512),
        ({"fusion": "mean"}, 22_353_024 + 6 * 512 + 6),
        ({"shared": True, "missing": "refuse"}, 11_176_512 + 6 * 1024 + 6),
    ],
)
def test_parameter_counts_of_two_resnet18(options: dict[str, Any], parameters: int) -> None:
    spec = InputSpec(views=VIEWS[:2], size=(64, 64))
    assert _count(build_model("late_fusion", 6, spec, options=options)) == parameters


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "vit_tiny_patch16_224"])
def test_with_one_view_it_is_the_encoder_with_its_head(name: str) -> None:
    spec = InputSpec(views=("clinical",), size=(64, 64))
    classifier: Any = build_model(f"timm:{name}", 4, spec).eval()
    nn.init.normal_(classifier.net.get_classifier().weight)  # some heads start at zero
    model = _small(spec, encoder=name).eval()
    whole, head = classifier.net.state_dict(), classifier.net.get_classifier()
    model.encoders[0].net.load_state_dict(  # type: ignore[union-attr]
        {key: whole[key] for key in model.encoders[0].net.state_dict()}  # type: ignore[union-attr]
    )
    model.head.load_state_dict(head.state_dict())
    views = _pictures(2, ("clinical",))
    with torch.no_grad():
        torch.testing.assert_close(model(views).logits, classifier(views).logits, rtol=1e-4, atol=1e-4)
    assert model.stand_in is None and not model.tolerates_missing
    assert (model.linear_head is None) is (classifier.linear_head is None)


def test_concatenation_by_hand() -> None:
    model, views = _small().eval(), _pictures(2)
    with torch.no_grad():
        parts = [_pooled(encoder, views[v]) for encoder, v in zip(model.encoders, VIEWS, strict=True)]
        expected = torch.cat(parts, dim=1) @ model.head.weight.T + model.head.bias
        torch.testing.assert_close(model(views).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_missing_view_is_its_vector_in_a_concatenation() -> None:
    model, views = _small().eval(), _pictures()
    assert model.stand_in is not None
    with torch.no_grad():
        parts = torch.stack(
            [_pooled(encoder, views[v]) for encoder, v in zip(model.encoders, VIEWS, strict=True)], dim=1
        )
        for case, row in zip(parts, SOME, strict=True):
            case[~row] = model.stand_in[~row]
        expected = parts.flatten(1) @ model.head.weight.T + model.head.bias
        found = model({v: _without(views[v], SOME[:, i]) for i, v in enumerate(VIEWS)}).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_the_mean_is_over_the_views_that_are_there(shared: bool) -> None:
    model, views = _small(fusion="mean", shared=shared).eval(), _pictures()
    encoders = [model.encoders[0 if shared else i] for i in range(3)]
    with torch.no_grad():
        parts = torch.stack([_pooled(encoders[i], views[v]) for i, v in enumerate(VIEWS)], dim=1)
        means = torch.stack([case[row].mean(dim=0) for case, row in zip(parts, SOME, strict=True)])
        expected = means @ model.head.weight.T + model.head.bias
        found = model({v: _without(views[v], SOME[:, i]) for i, v in enumerate(VIEWS)}).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def _without(picture: Tensor, there: Tensor) -> Tensor:
    return torch.where(there[:, None, None, None], picture, torch.nan)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["concat", "mean"])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_depends_on_the_content_of_what_is_missing(fusion: str, training: bool) -> None:
    found = []
    for garbage in (0.0, 50.0):
        model = _small(fusion=fusion).train(training)
        views = {
            v: torch.where(SOME[:, i, None, None, None], x, garbage)
            for i, (v, x) in enumerate(_pictures().items())
        }
        logits = model.fuse(views, SOME).logits
        logits.square().sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([logits, *gradients, *model.state_dict().values()])
    assert len(found[0]) == len(found[1])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_missing_pictures_enter_no_batch_norm() -> None:
    model, views = _small().train(), _pictures()
    there = torch.tensor([[True, False, True]] * 3 + [[False, False, True]])
    before = {name: values.clone() for name, values in model.state_dict().items()}
    model.fuse(views, there).logits.sum().backward()
    alone: Any = _small().train().encoders[0]
    alone.net.forward_features(views["clinical"][:3])
    for name, values in alone.state_dict().items():
        torch.testing.assert_close(model.state_dict()[f"encoders.0.{name}"], values)
    for name, values in model.state_dict().items():
        assert not name.startswith("encoders.1") or torch.equal(values, before[name]), name
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("options", [{}, {"fusion": "mean"}, {"shared": True}])
def test_maps_of_the_views_add_up_to_the_logit(options: dict[str, Any]) -> None:
    model, views = _small(**options).eval(), _pictures(2)
    maps = explain_batch(model, views, [1, 3], "gradcam")
    with torch.no_grad():
        logits = model(views).logits[:, [1, 3]] - model.head.bias[[1, 3]]
    torch.testing.assert_close(sum(x.sum(dim=(2, 3)) for x in maps.values()), logits, rtol=1e-4, atol=1e-5)
    assert (maps["clinical"] - maps["ultrasound"]).abs().max() > 1e-3


def test_one_view_has_the_analytic_map() -> None:
    model = _small(InputSpec(views=("clinical",), size=(64, 64))).eval()
    views = _pictures(2, ("clinical",))
    analytic, gradient = (explain_batch(model, views, [0], name)["clinical"] for name in ("cam", "gradcam"))
    torch.testing.assert_close(analytic, 4 * gradient)
    assert _small().linear_head is None


def test_missing_can_be_refused_and_one_view_is_needed() -> None:
    views = _pictures(2)
    views["ultrasound"][1] = torch.nan
    with pytest.raises(UsageError, match=r"missing .* at batch positions 1"):
        _small(missing="refuse")(views)
    views["clinical"][1] = views["dermoscopic"][1] = torch.nan
    for fusion in ("concat", "mean"):
        with pytest.raises(UsageError, match=r"missing .* at batch positions 1"):
            _small(fusion=fusion)(views)


def test_every_encoder_takes_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=4)
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    model: Any = _small(pretrained=str(tmp_path / "weights.safetensors"))
    for encoder in model.encoders:
        assert all(torch.equal(v, net.state_dict()[k]) for k, v in encoder.net.state_dict().items())
    assert len({id(encoder) for encoder in model.encoders}) == 3


def test_encoders_without_one_linear_layer_at_their_end_are_refused() -> None:
    with pytest.raises(UsageError, match="one linear layer"):
        late_fusion(4, InputSpec(views=VIEWS, size=(64, 64)), encoder="levit_conv_128s")
