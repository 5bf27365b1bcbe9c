"""Integrated gradients and their baselines against slow twins, Captum and SciPy; views that are missing."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from foveate.contract import Classifier, InputSpec, ModelOutput, Views, given
from foveate.explain.baselines import baselines_of
from foveate.explain.explainers import explain_batch
from foveate.explain.gradients import (
    completeness,
    completeness_gap,
    integrated_gradients,
    occlusion,
    smooth_grad,
)
from foveate.explain.options import ExplainOptions
from tiny_classifiers import LinearScores, PooledCnn, TwoViewCnn, images

SPACES = [(6, 4), (4, 2, 6)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Smooth(Classifier):
    """One view, a score without kinks, so that a path integral can be known to many digits."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.input_spec = PooledCnn().input_spec
        self.num_classes = 3
        self.cam_feature = {}
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, views: Views) -> ModelOutput:
        return ModelOutput(self.net(views["image"]))


class Told(Classifier):
    """Two views, either of which may be missing; the score says which."""

    tolerates_missing = True

    def __init__(self) -> None:
        super().__init__()
        self.input_spec = InputSpec(views=("ct", "mr"), size=(4, 5))
        self.num_classes = 3
        self.cam_feature = {}
        self.nets = nn.ModuleList(nn.Sequential(nn.Flatten(), nn.Linear(60, 6), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(14, 3)

    def forward(self, views: Views) -> ModelOutput:
        parts = []
        for name, net in zip(("ct", "mr"), self.nets, strict=True):
            x, there = given(views[name])
            parts.append(torch.cat([net(x) * there[:, None], there[:, None].to(x)], dim=1))
        return ModelOutput(self.head(torch.cat(parts, dim=1)))


def _baseline(x: Tensor, kind: Any, view: str = "image") -> Tensor:
    (only,) = baselines_of(x, view, ExplainOptions(baseline=kind), 0)
    return only


# --- Baselines ------------------------------------------------------------------------------------


def test_baselines_say_nothing_each_in_its_way() -> None:
    x = images(2, 20, 12) + 3
    assert not _baseline(x, "zero").any()
    mean = _baseline(x, "mean")
    np.testing.assert_allclose(mean[1, 2], np.full((20, 12), x[1, 2].numpy().mean()), rtol=1e-6)
    assert mean.shape == x.shape
    black = _baseline(x, "black")
    np.testing.assert_array_equal(black[1, 2], np.full((20, 12), x[1, 2].numpy().min()))
    assert black.shape == x.shape


@pytest.mark.parametrize("space", [(40, 20), (20, 10, 30)])
def test_the_blurred_baseline_is_scipys_gaussian_of_a_tenth_of_each_side(space: tuple[int, ...]) -> None:
    x = images(1, *space)
    widths = [side / 10 for side in space]
    expected = [scipy.ndimage.gaussian_filter(c, widths, mode="nearest", truncate=4) for c in x[0].numpy()]
    np.testing.assert_allclose(_baseline(x, "blur")[0], expected, atol=1e-5)


def test_black_and_white_are_what_normalization_makes_of_them() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    black = [(0 - m) / s for m, s in zip(mean, std, strict=True)]
    white = [(1 - m) / s for m, s in zip(mean, std, strict=True)]
    x = images(2, 30, 40)
    options = ExplainOptions(baseline="black", black={"image": black})
    (found,) = baselines_of(x, "image", options, 0)
    for channel in range(3):
        np.testing.assert_allclose(found[1, channel], np.full((30, 40), black[channel]), rtol=1e-6)
    options = ExplainOptions(baseline="random", black={"image": black}, white={"image": white})
    drawn = baselines_of(x, "image", options, 3)
    assert len(drawn) == 10
    pixels = torch.stack(drawn)[:, 0] * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    assert -1e-6 < pixels.min() < 0.001 < 0.999 < pixels.max() < 1 + 1e-6
    for values in pixels.transpose(0, 1).flatten(1):  # each channel: uniform
        np.testing.assert_allclose(np.quantile(values, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.02)


def test_random_baselines_are_the_seed_s_and_the_view_s_and_not_the_case_s() -> None:
    x = images(2, 8, 8)
    black, white = {"a": [0.0] * 3, "b": [0.0] * 3}, {"a": [1.0] * 3, "b": [1.0] * 3}
    options = ExplainOptions(baseline="random", baselines=2, black=black, white=white)
    first, second = baselines_of(x, "a", options, 0)
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    assert torch.equal(baselines_of(x + 1, "a", options, 0)[1], second)
    assert not torch.equal(baselines_of(x, "b", options, 0)[0], first)
    assert not torch.equal(baselines_of(x, "a", options, 1)[0], first)


# --- Integrated gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["zero", "mean", "blur", "black"])
@pytest.mark.parametrize("space", SPACES)
def test_integrated_gradients_of_a_linear_score_are_weight_times_difference(
    baseline: str, space: tuple[int, ...]
) -> None:
    model = LinearScores(space, space)
    views = {"view0": images(3, *space, channels=2), "view1": images(3, *space, channels=2, seed=1)}
    options = ExplainOptions(baseline=baseline, ig_steps=3, batch_size=2)
    maps = explain_batch(model, views, [2, 0], "integrated_gradients", options=options)
    for (view, x), weight in zip(views.items(), model.weights, strict=True):
        difference = x - _baseline(x, baseline, view)
        for position, target in enumerate([2, 0]):
            expected = (difference * weight[target].detach()).sum(dim=1)  # over channels
            torch.testing.assert_close(maps[view][:, position], expected, atol=1e-5, rtol=1e-5)


def test_integrated_gradients_are_the_integral() -> None:
    """A slow twin: the midpoint rule with 4000 points, one gradient at a time."""
    model, x = Smooth(3 * 4 * 5), images(1, 4, 5)
    points = 4000
    total = torch.zeros_like(x, dtype=torch.float64)
    for step in range(points):
        at = ((step + 0.5) / points * x).requires_grad_()
        total += torch.autograd.grad(model({"image": at}).logits[0, 1], at)[0]
    expected = (total / points * x).sum(dim=1)
    found = explain_batch(model, {"image": x}, [1], "integrated_gradients")["image"]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("baseline", ["zero", "mean", "blur", "black"])
def test_the_maps_of_all_views_add_up_to_the_rise_of_the_score(baseline: str) -> None:
    model = TwoViewCnn().eval()
    views = {"ct": images(2, 8, 8), "mr": images(2, 12, 6, seed=1)}
    options = ExplainOptions(baseline=baseline, ig_steps=400, batch_size=100)
    maps = explain_batch(model, views, [0, 3], "integrated_gradients", options=options)
    total = maps["ct"].sum(dim=(2, 3)) + maps["mr"].sum(dim=(2, 3))
    blank = {view: _baseline(x, baseline, view) for view, x in views.items()}
    with torch.no_grad():
        rise = (model(views).logits - model(blank).logits)[:, [0, 3]]
    assert rise.abs().min() > 1e-3, "there is something to explain"
    torch.testing.assert_close(total, rise, rtol=0.01, atol=2e-4)


def test_the_completeness_gap_is_captums_convergence_delta() -> None:
    model = TwoViewCnn().eval()
    views = {"ct": images(2, 8, 8), "mr": images(2, 12, 6, seed=1)}
    options = ExplainOptions(baseline="mean", ig_steps=2, ig_rule="gauss_legendre")
    maps = explain_batch(model, views, [0, 3], "integrated_gradients", options=options)
    gap = completeness_gap(model, views, [0, 3], maps, options=options)

    def scores(ct: Tensor, mr: Tensor) -> Tensor:
        return model({"ct": ct, "mr": mr}).logits

    for position, target in enumerate([0, 3]):
        _, delta = IntegratedGradients(scores).attribute(
            tuple(views.values()),
            baselines=tuple(_baseline(x, "mean") for x in views.values()),
            target=target,
            n_steps=2,
            return_convergence_delta=True,
        )
        assert delta.abs().max() > 1e-4, "two steps leave a gap to compare"
        torch.testing.assert_close(gap[:, position], delta, atol=1e-5, rtol=1e-3)


def _twin(model: Classifier, x: Tensor, blank: Tensor, points: list[float], score: str) -> Tensor:
    """Integrated gradients one point at a time, in float64."""
    double, total = copy.deepcopy(model).double(), torch.zeros_like(x, dtype=torch.float64)
    start = blank.double()
    for point in points:
        at = (start + point * (x.double() - start)).requires_grad_()
        logits = double({"image": at}).logits
        value = logits.softmax(dim=1) if score == "softmax" else logits
        value = value.sigmoid() if score == "sigmoid" else value
        total += torch.autograd.grad(value[0, 1], at)[0] / len(points)
    return (total * (x.double() - start)).sum(dim=1)[0]


@pytest.mark.parametrize("score", ["logit", "softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("rule", "points"),
    [
        ("midpoint", [(step + 0.5) / 50 for step in range(50)]),
        ("left", [step / 50 for step in range(50)]),
        ("gauss_legendre", None),
    ],
)
def test_each_rule_takes_its_points_and_each_score_its_gradient(
    rule: Any, points: list[float] | None, score: Any
) -> None:
    model, x = Smooth(3 * 4 * 5), images(1, 4, 5)
    options = ExplainOptions(ig_rule=rule, score=score, baseline="black", batch_size=7)
    found = explain_batch(model, {"image": x}, [1], "integrated_gradients", options=options)["image"][0, 0]
    fine = [(step + 0.5) / 1000 for step in range(1000)]  # of Gauss–Legendre: what it comes near to
    expected = _twin(model, x, _baseline(x, "black"), points or fine, score)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_twice_the_steps_halve_the_gap_of_the_left_rule_and_quarter_that_of_the_midpoint_rule() -> None:
    model, views = Smooth(3 * 4 * 5).double(), {"image": images(3, 4, 5)}
    gaps = {}
    for rule, steps in itertools.product(("left", "midpoint"), (25, 50)):
        options = ExplainOptions(ig_rule=rule, ig_steps=steps)
        maps = explain_batch(model, views, [0, 1, 2], "integrated_gradients", options=options)
        gaps[rule, steps] = completeness(model, views, [0, 1, 2], maps, options=options).gap.abs().max()
    assert gaps["left", 25] / gaps["left", 50] == pytest.approx(2, rel=0.05)
    assert gaps["midpoint", 25] / gaps["midpoint", 50] == pytest.approx(4, rel=0.05)
    assert gaps["midpoint", 50] < 0.01 * gaps["left", 50]


def test_with_random_baselines_maps_and_gaps_are_means_over_them() -> None:
    model = TwoViewCnn().eval()
    views = {"ct": images(2, 8, 8), "mr": images(2, 12, 6, seed=1)}
    options = ExplainOptions(baseline="random", baselines=3, ig_steps=5, batch_size=3)
    maps = explain_batch(model, views, [3, 0], "integrated_gradients", options=options, seed=4)
    checked = completeness(model, views, [3, 0], maps, options=options, seed=4)
    starts = [baselines_of(x, view, options, 4) for view, x in views.items()]

    def scores(ct: Tensor, mr: Tensor) -> Tensor:
        return model({"ct": ct, "mr": mr}).logits

    for position, target in enumerate([3, 0]):
        expected, deltas = torch.zeros(2, 8, 8), torch.zeros(2)
        for start in zip(*starts, strict=True):
            (ct, _), delta = IntegratedGradients(scores).attribute(
                tuple(views.values()),
                baselines=start,
                target=target,
                n_steps=5,
                method="riemann_middle",
                return_convergence_delta=True,
            )
            expected, deltas = expected + ct.sum(dim=1) / 3, deltas + delta / 3
        torch.testing.assert_close(maps["ct"][:, position], expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(checked.gap[:, position], deltas, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(checked.gap, completeness(model, views, [3, 0], maps, options=options).gap)


@pytest.mark.parametrize("score", ["logit", "softmax", "sigmoid"])
def test_completeness_tells_the_rise_of_the_score_that_was_explained(score: Any) -> None:
    model, x = Smooth(3 * 4 * 5), images(2, 4, 5)
    options = ExplainOptions(score=score, baseline="blur", ig_steps=200)
    maps = explain_batch(model, {"image": x}, [0, 2], "integrated_gradients", options=options)
    checked = completeness(model, {"image": x}, [0, 2], maps, options=options)
    with torch.no_grad():
        both = [model({"image": each}).logits for each in (x, _baseline(x, "blur"))]
    change = {"logit": lambda z: z, "softmax": lambda z: z.softmax(dim=1), "sigmoid": torch.sigmoid}[score]
    torch.testing.assert_close(checked.rise, (change(both[0]) - change(both[1]))[:, [0, 2]])
    torch.testing.assert_close(maps["image"].sum(dim=(2, 3)) - checked.rise, checked.gap, rtol=0, atol=1e-6)
    assert checked.relative.max() < 1e-3
    torch.testing.assert_close(checked.relative, checked.gap.abs() / checked.rise.abs())


# --- Missing views --------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["zero", "mean", "blur", "black", "random"])
@pytest.mark.parametrize("method", [integrated_gradients, smooth_grad, occlusion])
def test_a_missing_view_gets_zeros_and_the_model_is_told_that_it_is_missing(
    method: Any, baseline: Any
) -> None:
    """Against a model of the other view alone, in which what the model says of the missing one is fixed."""
    model = Told().eval()
    views = {"ct": images(3, 4, 5), "mr": images(3, 4, 5, seed=1)}
    views["mr"][1], views["ct"][2] = torch.nan, torch.nan
    options = ExplainOptions(baseline=baseline, batch_size=4, occlusion_window=2, occlusion_stride=1)
    found = method(model, views, [2, 0], options, 0)
    assert not found["mr"][1].any() and not found["ct"][2].any()
    assert all(values.isfinite().all() for values in found.values())

    class Alone(Classifier):
        input_spec, num_classes, cam_feature = InputSpec(views=("ct",)), 3, {}

        def forward(self, views: Views) -> ModelOutput:
            return model({"ct": views["ct"], "mr": torch.full((len(views["ct"]), 3, 4, 5), torch.nan)})

    expected = method(Alone(), {"ct": views["ct"][1:2]}, [2, 0], options, 0)["ct"]
    torch.testing.assert_close(found["ct"][1:2], expected)
    assert expected.any()


def test_maps_are_complete_also_where_views_are_missing() -> None:
    model = Told().eval()
    views = {"ct": images(3, 4, 5), "mr": images(3, 4, 5, seed=1)}
    views["mr"][1], views["ct"][2] = torch.nan, torch.nan
    options = ExplainOptions(ig_steps=100)
    maps = integrated_gradients(model, views, [2, 0], options, 0)
    checked = completeness(model, views, [2, 0], maps, options=options)
    with torch.no_grad():
        blank = {view: x * 0 for view, x in views.items()}  # NaN stays NaN
        rise = (model(views).logits - model(blank).logits)[:, [2, 0]]
    torch.testing.assert_close(checked.rise, rise)
    assert checked.relative.max() < 1e-3
