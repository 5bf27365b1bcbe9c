"""Explaining several views of which a case may lack some, and the model's own attention over them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from foveate.contract import AttentionMap, Classifier, InputSpec, ModelOutput, Views, given
from foveate.errors import RunFailed, UsageError
from foveate.explain.attention import attention_map, places
from foveate.explain.explainers import EXPLAINERS, explain_batch
from foveate.explain.gradients import completeness_gap
from foveate.explain.options import ExplainOptions
from tiny_classifiers import images

OPTIONS = ExplainOptions(
    batch_size=2, ig_steps=2, smoothgrad_samples=2, occlusion_window=4, occlusion_stride=4
)
MAPPED = [name for name in EXPLAINERS if name != "cam"]


class Towers(Classifier):
    """A trunk per view, or one for both (early fusion); a missing view adds nothing."""

    def __init__(self, *, fused: bool = False, tolerates: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.input_spec = InputSpec(views=("ct", "mr"), size=(8, 12))
        self.num_classes = 3
        self.fused = fused
        self.tolerates_missing = tolerates
        self.cam_feature = {"ct": "fused", "mr": "fused"} if fused else {"ct": "ct", "mr": "mr"}
        self.trunks = nn.ModuleDict(
            {view: nn.Conv2d(3, 4, 3, stride=2, padding=1) for view in self.input_spec.views}
        )
        self.head = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        self.calls = 0

    def forward(self, views: Views) -> ModelOutput:
        self.calls += 1
        maps, total = {}, torch.zeros(())
        for view in self.input_spec.views:
            picture, has = given(views[view])
            maps[view] = self.trunks[view](picture).relu()
            weight = has.to(picture.dtype).view(-1, 1, 1, 1)
            total = total + maps[view] * weight if has.any() else total
        features = maps | {"fused": total} if self.fused else maps
        gates = {view: x.mean(dim=1, keepdim=True).sigmoid() for view, x in maps.items()}
        return ModelOutput(
            self.head(total.flatten(2).mean(2)),
            features,
            tuple(AttentionMap(f"gate.{view}", gate) for view, gate in gates.items()),
        )


def two_views(cases: int = 3) -> dict[str, Tensor]:
    return {"ct": images(cases, 8, 12), "mr": images(cases, 8, 12, seed=1)}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", MAPPED)
def test_the_map_of_a_missing_view_is_zero_and_the_others_are_as_alone(name: str, fused: bool) -> None:
    model, views = Towers(fused=fused), two_views()
    views["mr"][1], views["ct"][2] = torch.nan, torch.nan
    maps = explain_batch(model, views, [2, 0], name, options=OPTIONS)
    assert (maps["mr"][1] == 0).all() and (maps["ct"][2] == 0).all()
    assert all(maps["ct"][row].any() for row in (0, 1)) and all(maps["mr"][row].any() for row in (0, 2))
    for row in range(3):
        alone = explain_batch(
            model, {v: x[row : row + 1] for v, x in views.items()}, [2, 0], name, options=OPTIONS
        )
        for view in views:
            torch.testing.assert_close(alone[view][0], maps[view][row], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["gradcam", "gradcam++", "hirescam"])
def test_a_view_that_no_case_has_needs_no_gradient(name: str) -> None:
    model, views = Towers(), two_views(2)
    views["mr"][:] = torch.nan  # its trunk is then beside the way to the logits
    maps = explain_batch(model, views, [1], name)
    assert maps["ct"].any() and not maps["mr"].any() and maps["mr"].shape == (2, 1, 4, 6)


def test_views_of_one_feature_share_its_map() -> None:
    model, views = Towers(fused=True), two_views()
    model.calls = 0
    maps = explain_batch(model, views, [0, 1, 2], "gradcam")
    assert model.calls == 1
    assert torch.equal(maps["ct"], maps["mr"])
    views["mr"][0] = torch.nan
    found = explain_batch(model, views, [0, 1, 2], "gradcam")
    assert found["ct"][0].any() and not found["mr"][0].any(), "blanking one leaves the other"


@pytest.mark.parametrize("name", EXPLAINERS)
def test_missing_views_are_refused_where_the_model_cannot_do_without(name: str) -> None:
    views = two_views()
    views["mr"][1] = torch.nan
    with pytest.raises(UsageError, match=r"missing at batch positions 1\n.*cannot do without") as caught:
        explain_batch(Towers(tolerates=False), views, [0], name)
    assert caught.value.code == "view-missing"
    views["ct"][1] = torch.nan
    with pytest.raises(UsageError, match=r"missing at batch positions 1\n.*without any view"):
        explain_batch(Towers(), views, [0], name)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_view_that_is_nan_in_part_is_no_missing_view(broken: float) -> None:
    views = two_views()
    views["ct"][0], views["mr"][2, 1, 3, 3] = torch.nan, broken
    with pytest.raises(
        RunFailed, match=r"view 'mr' holds values that are not finite, at batch positions 2\n"
    ):
        explain_batch(Towers(), views, [0], "gradcam")


def test_a_feature_can_be_named_with_the_explainer() -> None:
    model, views = Towers(), two_views()
    by_name = explain_batch(model, views, [1], "gradcam:ct")
    by_option = explain_batch(model, views, [1], "gradcam", options=ExplainOptions(feature="ct"))
    assert torch.equal(by_name["mr"], by_option["mr"]) and torch.equal(by_name["mr"], by_name["ct"])
    with pytest.raises(UsageError, match="hands out no feature 'x'"):
        explain_batch(model, views, [1], "gradcam:x")
    with pytest.raises(UsageError, match="occlusion is made of the input"):
        explain_batch(model, views, [1], "occlusion:ct")


def test_attention_lies_over_the_view_in_its_name() -> None:
    model, views = Towers(), two_views()
    maps = explain_batch(model, views, [2, 0], "attention")
    output = model.eval()(views)
    for position, view in enumerate(views):
        gate = output.attention[position].weights
        torch.testing.assert_close(maps[view], gate.detach().expand(-1, 2, -1, -1))
    one = explain_batch(model, views, [0], "attention:gate.ct")
    assert torch.equal(one["ct"][:, 0], maps["ct"][:, 0])
    assert not one["mr"].any(), "the gate of one view says nothing of the other"
    with pytest.raises(UsageError, match=r"hands out no attention 'gate'\n.*gate.ct, gate.mr"):
        explain_batch(model, views, [0], "attention:gate")


def _output(*attention: AttentionMap, space: tuple[int, ...] = (2, 3)) -> ModelOutput:
    return ModelOutput(torch.zeros(1, 2), {"map": torch.zeros(1, 4, *space)}, attention)


SQUARE = torch.arange(6.0).view(1, 2, 3)
READ = torch.arange(36.0).view(1, 2, 3, 2, 3)


@pytest.mark.parametrize(
    ("weights", "over", "expected"),
    [
        (SQUARE, (1, 2), SQUARE),
        (torch.stack([SQUARE, 3 * SQUARE], dim=1), None, 2 * SQUARE),
        (torch.ones(1, 1, 5, 7), None, torch.ones(1, 5, 7)),  # a gate finer than any feature
        (READ, (3, 4), 15.0 + SQUARE),  # the mean over readers: 0, 6, … 30
        (SQUARE.flatten(1), (1,), SQUARE),
        (torch.ones(1, 6), None, None),  # gates of six channels
        (torch.ones(1, 4, 4), None, None),  # channels by channels
        (torch.ones(1, 2, 3), (2,), None),  # rows that sum to one are no map
        (torch.ones(1, 2), (1,), None),  # weights of two views
        (torch.ones(1, 3, 5, 7), None, None),
    ],
)
def test_what_lies_over_places(
    weights: Tensor, over: tuple[int, ...] | None, expected: Tensor | None
) -> None:
    attention = AttentionMap("a", weights, over)
    found = places(attention, _output(attention), axes=2)
    assert (found is None) is (expected is None)
    if found is not None and expected is not None:
        torch.testing.assert_close(found, expected)


def test_attention_over_volumes() -> None:
    weights = torch.rand(2, 3, 4, 5)
    output = ModelOutput(torch.zeros(2, 2), {"map": torch.zeros(2, 1, 3, 4, 5)})
    for shown in (weights, weights[:, None], weights.flatten(1)):
        over = (1,) if shown.ndim == 2 else None
        found = places(AttentionMap("a", shown, over), output, axes=3)
        assert found is not None and torch.equal(found, weights)


class Handing(Classifier):
    """Hands out the given attention."""

    def __init__(self, attention: Mapping[str, Tensor], *views: str) -> None:
        super().__init__()
        self.input_spec = InputSpec(views=views, size=(4, 6))
        self.num_classes, self.cam_feature = 2, {}
        self.attention = tuple(AttentionMap(name, weights) for name, weights in attention.items())

    def forward(self, views: Views) -> ModelOutput:
        return ModelOutput(torch.zeros(1, 2), {"map": torch.zeros(1, 1, 2, 3)}, self.attention)


def _drawn(model: Classifier, feature: str | None = None) -> dict[str, float]:
    views = {view: torch.zeros(1, 3, 4, 6) for view in model.input_spec.views}
    maps = attention_map(model, views, [0], ExplainOptions(feature=feature), seed=0)
    return {view: values.mean().item() for view, values in maps.items()}


def test_the_attention_nearest_to_the_logits_is_drawn() -> None:
    flat = torch.ones(1, 2, 3)
    plain = Handing({"first": flat, "last": 2 * flat, "channels": torch.ones(1, 9)}, "image")
    assert _drawn(plain) == {"image": 2.0} and _drawn(plain, "first") == {"image": 1.0}
    crossed = {"s.a.intra": flat, "s.a.inter": 2 * flat, "s.b.intra": 3 * flat, "s.b.inter": 4 * flat}
    assert _drawn(Handing(crossed, "a", "b")) == {"a": 1.0, "b": 3.0}
    only_across = {name: weights for name, weights in crossed.items() if name.endswith("inter")}
    assert _drawn(Handing(only_across, "a", "b")) == {"a": 4.0, "b": 2.0}, "inter lies over what is read"
    phases = {"patch.c_arterial": flat, "patch.c_arterial_late": 2 * flat}
    assert _drawn(Handing(phases, "c_arterial", "c_arterial_late")) == {
        "c_arterial": 1.0,
        "c_arterial_late": 2.0,
    }


def test_models_without_attention_over_places_are_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match=r"over the places of view 'image': it has none\n.*use gradcam"):
        _drawn(Handing({}, "image"))
    gates = Handing({"squeeze": torch.ones(1, 9)}, "image")
    with pytest.raises(UsageError, match="hands out squeeze, none of it over places"):
        _drawn(gates)


@pytest.mark.parametrize("baseline", ["zero", "mean", "blur"])
def test_integrated_gradients_add_up_over_the_views_that_are_there(baseline: str) -> None:
    model, views = Towers(), two_views()
    views["mr"][1] = torch.nan
    options = ExplainOptions(ig_steps=64, baseline=baseline)  # type: ignore[arg-type]
    maps = explain_batch(model, views, [0, 2], "integrated_gradients", options=options)
    gap = completeness_gap(model, views, [0, 2], maps, options=options)
    assert gap.abs().max() < 2e-3
