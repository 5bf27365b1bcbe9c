"""Input-level explanations and controls against hand-worked cases, slow twins, Captum and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from torch import Tensor, nn

from foveate.contract import Classifier, ModelOutput, Views
from foveate.errors import UsageError
from foveate.explain import ExplainOptions, completeness_gap, explain_batch
from foveate.explain.gradients import baseline_of
from tiny_classifiers import LinearScores, PlacesCnn, PooledCnn, TwoViewCnn, images

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


# --- Baselines ------------------------------------------------------------------------------------


def test_baselines_say_nothing_each_in_its_way() -> None:
    x = images(2, 20, 12) + 3
    assert not baseline_of(x, "zero").any()
    mean = baseline_of(x, "mean")
    np.testing.assert_allclose(mean[1, 2], np.full((20, 12), x[1, 2].numpy().mean()), rtol=1e-6)
    assert mean.shape == x.shape


@pytest.mark.parametrize("space", [(40, 20), (20, 10, 30)])
def test_the_blurred_baseline_is_scipys_gaussian_of_a_tenth_of_each_side(space: tuple[int, ...]) -> None:
    x = images(1, *space)
    widths = [side / 10 for side in space]
    expected = [scipy.ndimage.gaussian_filter(c, widths, mode="nearest", truncate=4) for c in x[0].numpy()]
    np.testing.assert_allclose(baseline_of(x, "blur")[0], expected, atol=1e-5)


# --- Integrated gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["zero", "mean", "blur"])
@pytest.mark.parametrize("space", SPACES)
def test_integrated_gradients_of_a_linear_score_are_weight_times_difference(
    baseline: str, space: tuple[int, ...]
) -> None:
    model = LinearScores(space, space)
    views = {"view0": images(3, *space, channels=2), "view1": images(3, *space, channels=2, seed=1)}
    options = ExplainOptions(baseline=baseline, ig_steps=3, batch_size=2)
    maps = explain_batch(model, views, [2, 0], "integrated_gradients", options=options)
    for (view, x), weight in zip(views.items(), model.weights, strict=True):
        difference = x - baseline_of(x, baseline)
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


@pytest.mark.parametrize("baseline", ["zero", "mean", "blur"])
def test_the_maps_of_all_views_add_up_to_the_rise_of_the_score(baseline: str) -> None:
    model = TwoViewCnn().eval()
    views = {"ct": images(2, 8, 8), "mr": images(2, 12, 6, seed=1)}
    options = ExplainOptions(baseline=baseline, ig_steps=400, batch_size=100)
    maps = explain_batch(model, views, [0, 3], "integrated_gradients", options=options)
    total = maps["ct"].sum(dim=(2, 3)) + maps["mr"].sum(dim=(2, 3))
    blank = {view: baseline_of(x, baseline) for view, x in views.items()}
    with torch.no_grad():
        rise = (model(views).logits - model(blank).logits)[:, [0, 3]]
    assert rise.abs().min() > 1e-3, "there is something to explain"
    torch.testing.assert_close(total, rise, rtol=0.01, atol=2e-4)


def test_the_completeness_gap_is_captums_convergence_delta() -> None:
    model = TwoViewCnn().eval()
    views = {"ct": images(2, 8, 8), "mr": images(2, 12, 6, seed=1)}
    options = ExplainOptions(baseline="mean", ig_steps=2)
    maps = explain_batch(model, views, [0, 3], "integrated_gradients", options=options)
    gap = completeness_gap(model, views, [0, 3], maps, options=options)

    def scores(ct: Tensor, mr: Tensor) -> Tensor:
        return model({"ct": ct, "mr": mr}).logits

    for position, target in enumerate([0, 3]):
        _, delta = IntegratedGradients(scores).attribute(
            tuple(views.values()),
            baselines=tuple(baseline_of(x, "mean") for x in views.values()),
            target=target,
            n_steps=2,
            return_convergence_delta=True,
        )
        assert delta.abs().max() > 1e-4, "two steps leave a gap to compare"
        torch.testing.assert_close(gap[:, position], delta, atol=1e-5, rtol=1e-3)


# --- SmoothGrad -----------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
def test_smoothgrad_of_a_linear_score_is_the_largest_weight(space: tuple[int, ...]) -> None:
    model = LinearScores(space)
    views = {"view0": images(2, *space, channels=2)}
    found = explain_batch(model, views, [1], "smoothgrad")["view0"]
    expected = model.weights[0][1].detach().abs().amax(dim=0).expand(2, 1, *space)
    torch.testing.assert_close(found, expected)


def test_smoothgrad_is_captums_noise_tunnel_with_the_same_noise() -> None:
    model, x = PlacesCnn().eval(), images(1, 8, 8)
    options = ExplainOptions(smoothgrad_samples=10, smoothgrad_noise=0.2, batch_size=10)
    found = explain_batch(model, {"image": x}, [2], "smoothgrad", options=options, seed=7)["image"]
    torch.manual_seed(7)
    tunnel = NoiseTunnel(Saliency(lambda inputs: model({"image": inputs}).logits))
    width = 0.2 * float(x.max() - x.min())
    mean = tunnel.attribute(x, nt_samples=10, stdevs=width, target=2, abs=False)
    torch.testing.assert_close(found[:, 0], mean.abs().amax(dim=1), rtol=1e-4, atol=1e-7)


def test_the_seed_changes_the_noise_and_nothing_else_does() -> None:
    model, views = PlacesCnn(), {"image": images(2, 8, 8)}

    def run(seed: int, batch_size: int) -> Tensor:
        options = ExplainOptions(smoothgrad_samples=7, batch_size=batch_size)
        return explain_batch(model, views, [0], "smoothgrad", options=options, seed=seed)["image"]

    torch.testing.assert_close(run(0, 3), run(0, 8))
    assert not torch.allclose(run(0, 8), run(1, 8))


# --- Occlusion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [(7, 5), (4, 3, 5)])
@pytest.mark.parametrize("baseline", ["zero", "blur"])
def test_occlusion_is_the_mean_drop_over_covering_windows(space: tuple[int, ...], baseline: str) -> None:
    """A slow twin in NumPy: each window in turn, the last ones pushed over the edge and cut."""
    torch.manual_seed(1)
    model = LinearScores(space, (3, 3))
    views = {"view0": images(2, *space, channels=2), "view1": images(2, 3, 3, channels=2, seed=1)}
    options = ExplainOptions(occlusion_window=3, occlusion_stride=2, baseline=baseline, batch_size=4)
    found = explain_batch(model, views, [2, 0], "occlusion", options=options)["view0"]
    blank = baseline_of(views["view0"], baseline).numpy()
    for row in range(2):
        x = views["view0"][row].numpy()
        for position, target in enumerate([2, 0]):
            weight = model.weights[0][target].detach().numpy()
            drops, covered = np.zeros(space), np.zeros(space)
            counts = [-(-(side - 3) // 2) + 1 for side in space]
            for corner in np.ndindex(*counts):
                window = tuple(slice(2 * at, 2 * at + 3) for at in corner)
                difference = (x - blank[row])[:, *window]
                drops[window] += float((weight[:, *window] * difference).sum())
                covered[window] += 1
            np.testing.assert_allclose(found[row, position], drops / covered, rtol=1e-3, atol=1e-4)


def test_occlusion_is_positive_where_the_window_spoke_for_the_class() -> None:
    model = LinearScores((4, 4), channels=1, classes=1)
    with torch.no_grad():
        model.weights[0].zero_()
        model.weights[0][0, 0, 0, 0], model.weights[0][0, 0, 3, 3] = 5.0, -2.0
    options = ExplainOptions(occlusion_window=2, occlusion_stride=2)
    views = {"view0": torch.ones(1, 1, 4, 4)}
    found = explain_batch(model, views, [0], "occlusion", options=options)["view0"][0, 0]
    expected = [[5.0, 5, 0, 0], [5, 5, 0, 0], [0, 0, -2, -2], [0, 0, -2, -2]]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize(
    ("window", "stride"), [(9, 1), (2, 3), (0, 1), (2, 0), ((2, 2, 2), 1)], ids=lambda value: str(value)
)
def test_windows_that_cannot_sweep_the_image_are_refused(window: int, stride: int) -> None:
    options = ExplainOptions(occlusion_window=window, occlusion_stride=stride)
    with pytest.raises(UsageError, match="does not sweep an image of \\(8, 8\\)"):
        explain_batch(PooledCnn(), {"image": images(1, 8, 8)}, [0], "occlusion", options=options)


# --- Controls -------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [(8, 12), (4, 8, 12)])
def test_the_centre_is_a_bump_with_its_half_height_at_the_middle_half(space: tuple[int, ...]) -> None:
    dimensions = len(space)
    model = PooledCnn(dimensions)
    found = explain_batch(model, {"image": images(2, *space)}, [0, 1], "centre")["image"]
    assert found.shape == (2, 2, *space)
    axes = np.meshgrid(*[(np.arange(side) + 0.5) / side for side in space], indexing="ij")
    distance = sum((axis - 0.5) ** 2 for axis in axes)  # 0 in the middle, 1/16 at a quarter of the side
    np.testing.assert_allclose(found[1, 1], 0.5 ** (16 * distance), rtol=1e-5)


def test_random_maps_are_uniform_and_belong_to_their_case_and_class() -> None:
    model = PooledCnn()
    views = {"image": images(40, 16, 16)}
    found = explain_batch(model, views, [0, 1, 2], "random")["image"]
    assert found.shape == (40, 3, 8, 8), "as coarse as the feature map"
    assert 0 <= found.min() < 0.01 < 0.99 < found.max() < 1
    assert abs(float(found.mean()) - 0.5) < 0.02
    flat = found.flatten(0, 1).flatten(1)
    assert len(torch.unique(flat, dim=0)) == 120, "no two cases or classes share a map"
    peaks = flat.argmax(dim=1)
    assert len(torch.unique(peaks)) > 40, "their maxima lie anywhere"
    alone = explain_batch(model, {"image": views["image"][5:6]}, [2], "random")["image"]
    assert torch.equal(alone[0, 0], found[5, 2])
    other = explain_batch(model, views, [0, 1, 2], "random", seed=1)["image"]
    assert not torch.equal(other, found)


# --- Options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"ig_steps": 0}, "ig_steps must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"smoothgrad_samples": 0}, "smoothgrad_samples must be at least 1"),
        ({"smoothgrad_noise": -0.1}, "smoothgrad_noise must be 0 or more"),
        ({"smoothgrad_noise": float("nan")}, "smoothgrad_noise must be 0 or more"),
        ({"baseline": "black"}, r"no baseline 'black'\n.*zero, mean, blur"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_senseless_options_are_refused(choice: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ExplainOptions(**choice)
