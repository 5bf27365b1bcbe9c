"""SmoothGrad, occlusion and controls against hand-worked cases and slow twins; what options refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel, Saliency
from torch import Tensor

from foveate.errors import UsageError
from foveate.explain.baselines import baselines_of
from foveate.explain.explainers import explain_batch
from foveate.explain.options import ExplainOptions
from tiny_classifiers import LinearScores, PlacesCnn, PooledCnn, images

SPACES = [(6, 4), (4, 2, 6)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


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
    blank = baselines_of(views["view0"], "view0", options, 0)[0].numpy()
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


@pytest.mark.parametrize("space", [(6, 8), (4, 6, 8)])
def test_the_edge_of_a_step_is_where_the_step_is(space: tuple[int, ...]) -> None:
    x = torch.zeros(1, 3, *space)
    x[0, 0, ..., 4:] = 1  # a step of one in the first of three channels, along the last axis
    model = PooledCnn(len(space))
    found = explain_batch(model, {"image": x}, [0, 2], "edge")["image"]
    assert found.shape == (1, 2, *space)
    expected = torch.zeros(space)
    expected[..., 3:5] = 4 ** (len(space) - 1) / 3  # weights 1, 2, 1 along each other axis
    torch.testing.assert_close(found, expected.expand_as(found))


def test_edges_are_those_of_sobels_masks_channel_by_channel() -> None:
    x = images(2, 9, 7)
    mask = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    slopes = [
        torch.nn.functional.conv2d(x.flatten(0, 1)[:, None], each[None, None]) for each in (mask, mask.T)
    ]
    magnitude = (slopes[0] ** 2 + slopes[1] ** 2).sqrt().unflatten(0, (2, 3)).squeeze(2).mean(dim=1)
    found = explain_batch(PooledCnn(), {"image": x}, [1], "edge")["image"]
    torch.testing.assert_close(found[:, 0, 1:-1, 1:-1], magnitude)
    assert torch.equal(found, explain_batch(PooledCnn(classes=2), {"image": x}, [0], "edge")["image"])


# --- Options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"ig_steps": 1}, "ig_steps must be at least 2, got 1"),
        ({"baselines": 0}, "baselines must be at least 1, got 0"),
        ({"ig_rule": "right"}, r"no ig_rule 'right'\n.*midpoint, gauss_legendre, left"),
        ({"score": "probability"}, r"no score 'probability'\n.*logit, softmax, sigmoid"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"smoothgrad_samples": 0}, "smoothgrad_samples must be at least 1"),
        ({"smoothgrad_noise": -0.1}, "smoothgrad_noise must be 0 or more"),
        ({"smoothgrad_noise": float("nan")}, "smoothgrad_noise must be 0 or more"),
        ({"baseline": "white"}, r"no baseline 'white'\n.*zero, mean, blur, black, random"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_senseless_options_are_refused(choice: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ExplainOptions(**choice)
