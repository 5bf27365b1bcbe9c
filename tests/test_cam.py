"""Class activation maps against hand-worked cases, the papers' formulas, and the grad-cam package."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from foveate.contract import Classifier
from foveate.errors import RunFailed, UsageError
from foveate.explain.cam import grad_cam, grad_cam_plus_plus, hires_cam
from foveate.explain.explainers import explain_batch
from foveate.explain.options import ExplainOptions
from tiny_classifiers import LyingCnn, PlacesCnn, PooledCnn, TwoViewCnn, images

SPACES = {2: (10, 8), 3: (6, 4, 8)}
CAMS = ["cam", "gradcam", "gradcam++", "hirescam"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# Two channels, two places: every number can be followed on paper.
A = torch.tensor([[[1.0, 3.0], [2.0, 0.0]]])
G = torch.tensor([[[1.0, -1.0], [2.0, 4.0]]])


def test_gradcam_by_hand() -> None:
    # channel means of G: 0 and 3
    assert grad_cam(A, G).tolist() == [[6.0, 0.0]]


def test_hirescam_by_hand_keeps_its_sign() -> None:
    # 1·1 + 2·2 and 3·(−1) + 0·4
    assert hires_cam(A, G).tolist() == [[5.0, -3.0]]


def test_gradcam_plus_plus_by_hand() -> None:
    # sums of A: 4 and 2. Channel 1: 1/(2+4)·1 = 1/6, its negative gradient counts nothing.
    # Channel 2: 1/(2+4)·2 + 1/(2+8)·4 = 11/15. Map: 1/6 + 2·11/15 and 3·1/6.
    torch.testing.assert_close(grad_cam_plus_plus(A, G), torch.tensor([[49 / 30, 1 / 2]]))


def test_gradcam_plus_plus_is_the_papers_formula_with_true_third_derivatives() -> None:
    """Equations 5 to 10 for Y = exp(S), each derivative taken by autograd, one place at a time."""
    features = torch.rand(3, 2, 2, dtype=torch.float64)
    slopes = torch.randn(3, 2, 2, dtype=torch.float64)  # S is linear in A, as the paper assumes
    expected = torch.zeros(2, 2, dtype=torch.float64)
    for k in range(3):
        weight = 0.0
        for place in np.ndindex(2, 2):
            value = features[k][place].clone().requires_grad_()
            y = ((slopes * features).sum() + slopes[k][place] * (value - features[k][place])).exp()
            (first,) = torch.autograd.grad(y, value, create_graph=True)
            (second,) = torch.autograd.grad(first, value, create_graph=True)
            (third,) = torch.autograd.grad(second, value)
            alpha = second / (2 * second + features[k].sum() * third)
            weight += float((alpha * first.relu()).detach())
        expected += weight * features[k]
    scale = (slopes * features).sum().exp()
    torch.testing.assert_close(grad_cam_plus_plus(features[None], slopes[None])[0], expected / scale)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("declare", [True, False], ids=["closed-form", "autograd"])
def test_gradcam_of_a_pooled_linear_head_is_the_analytic_cam_over_n(dimensions: int, declare: bool) -> None:
    model = PooledCnn(dimensions, declare=declare).eval()
    views = {"image": images(3, *SPACES[dimensions])}
    output = model(views)
    features = output.features["map"].detach().double().numpy()
    weights = model.head.weight.detach().double().numpy()
    places = features[0, 0].size
    cam = np.einsum("kc,bc...->bk...", weights, features)
    for name in ("gradcam", "hirescam"):  # constant gradients: both are the same
        found = explain_batch(model, views, range(4), name)["image"].numpy()
        np.testing.assert_allclose(found, cam / places, rtol=0, atol=1e-6)
    # the mean of the analytic CAM and the bias make the score
    total = cam.reshape(3, 4, -1).mean(axis=2) + model.head.bias.detach().numpy()
    np.testing.assert_allclose(total, output.logits.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["gradcam", "gradcam++", "hirescam"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_closed_form_and_autograd_agree(name: str, dimensions: int) -> None:
    views = {"image": images(2, *SPACES[dimensions])}
    told, untold = PooledCnn(dimensions), PooledCnn(dimensions, declare=False)
    untold.load_state_dict(told.state_dict())
    torch.testing.assert_close(
        explain_batch(told, views, [3, 1], name)["image"],
        explain_batch(untold, views, [3, 1], name)["image"],
        rtol=0,
        atol=1e-6,
    )
    assert not told.graph_kept, "the closed form keeps no graph of the trunk"
    assert untold.graph_kept


def test_analytic_cam_is_n_times_gradcam() -> None:
    model, views = PooledCnn(), {"image": images(2, 8, 8)}
    cam, gradcam = (explain_batch(model, views, [0, 2], name)["image"] for name in ("cam", "gradcam"))
    torch.testing.assert_close(cam, 16 * gradcam)
    assert cam.min() < 0 < cam.max(), "signed"


@pytest.mark.parametrize("name", CAMS)
def test_all_classes_come_from_one_forward_pass(name: str) -> None:
    model = PooledCnn()
    assert explain_batch(model, {"image": images(5, 8, 8)}, range(4), name)["image"].shape == (5, 4, 4, 4)
    assert model.calls == 1
    if name != "cam":
        bent = PlacesCnn()
        explain_batch(bent, {"image": images(5, 8, 8)}, range(4), name)
        assert bent.calls == 1


class _Plain(nn.Module):
    """A classifier as the grad-cam package wants it: a tensor in, logits out."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model({"image": x}).logits


def _package_maps(
    method: Callable[..., GradCAM], model: Classifier, layer: nn.Module, x: Tensor, target: int
) -> NDArray[np.float32]:
    """The package's map before it cuts at zero, stretches and enlarges."""
    wanted = [ClassifierOutputTarget(target)] * len(x)
    with method(_Plain(model), [layer]) as package:
        package(input_tensor=x, targets=wanted)
        (values,), (gradients,) = (
            package.activations_and_grads.activations,
            package.activations_and_grads.gradients,
        )
        return package.get_cam_image(x, layer, wanted, values.numpy(), gradients.numpy(), False)


@pytest.mark.parametrize(
    ("name", "method"), [("gradcam", GradCAM), ("gradcam++", GradCAMPlusPlus), ("hirescam", HiResCAM)]
)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_agrees_with_the_grad_cam_package(name: str, method: Callable[..., GradCAM], dimensions: int) -> None:
    model = PlacesCnn(dimensions).eval()
    with torch.no_grad():
        model.head[-1].weight *= 300  # gradients far above the 1e-6 that the package adds in Grad-CAM++
    x = images(3, *[8] * dimensions)
    found = explain_batch(model, {"image": x}, [2, 0], name)["image"]
    for position, target in enumerate([2, 0]):
        expected = _package_maps(method, model, model.trunk[-1], x, target)
        np.testing.assert_allclose(
            found[:, position], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
        )


def test_another_feature_can_be_chosen() -> None:
    model, x = PooledCnn().eval(), images(2, 8, 8)
    options = ExplainOptions(feature="early")
    found = explain_batch(model, {"image": x}, [1], "gradcam", options=options)["image"]
    assert found.shape == (2, 1, 8, 8)
    expected = _package_maps(GradCAM, model, model.trunk[2], x, 1)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-7)


def test_each_view_gets_the_map_of_its_own_feature() -> None:
    model = TwoViewCnn().eval()
    views = {"ct": images(2, 8, 8), "mr": images(2, 12, 6, seed=1)}
    found = explain_batch(model, views, [3], "gradcam")
    output = model(views)
    for view, key in model.cam_feature.items():
        features = output.features[key]
        for row in range(2):  # the slow way: one case, one score, one backward pass at a time
            (gradient,) = torch.autograd.grad(output.logits[row, 3], features, retain_graph=True)
            expected = sum(gradient[row, k].mean() * features[row, k] for k in range(4))
            torch.testing.assert_close(found[view][row, 0], expected.detach())
    assert found["ct"].shape == (2, 1, 4, 4)
    assert found["mr"].shape == (2, 1, 6, 3)


def test_frozen_models_have_gradients_too() -> None:
    model, views = PlacesCnn(), {"image": images(2, 8, 8)}
    before = explain_batch(model, views, [0], "gradcam")["image"]
    model.requires_grad_(False)
    torch.testing.assert_close(explain_batch(model, views, [0], "gradcam")["image"], before)


def test_a_false_word_about_the_head_is_noticed() -> None:
    for name in CAMS:
        with pytest.raises(RunFailed, match="declares a linear_head") as caught:
            explain_batch(LyingCnn(), {"image": images(2, 8, 8)}, [0], name)
        assert caught.value.code == "linear-head-mismatch"


def test_the_analytic_cam_needs_a_linear_head() -> None:
    with pytest.raises(UsageError, match="use gradcam"):
        explain_batch(PlacesCnn(), {"image": images(1, 8, 8)}, [0], "cam")
    with pytest.raises(UsageError, match="use gradcam"):
        options = ExplainOptions(feature="early")
        explain_batch(PooledCnn(), {"image": images(1, 8, 8)}, [0], "cam", options=options)


@pytest.mark.parametrize("feature", ["detached", "aside"])
def test_a_feature_beside_the_way_to_the_logits_is_refused(feature: str) -> None:
    with pytest.raises(RunFailed, match=f"'{feature}' is not on the way to the logits"):
        options = ExplainOptions(feature=feature)
        explain_batch(PlacesCnn(), {"image": images(1, 8, 8)}, [0], "gradcam", options=options)


def test_features_that_cannot_be_maps_are_refused() -> None:
    views = {"image": images(1, 8, 8)}
    with pytest.raises(UsageError, match=r"no feature 'nose'.*\n.*early, map, pooled"):
        explain_batch(PooledCnn(), views, [0], "gradcam", options=ExplainOptions(feature="nose"))
    with pytest.raises(UsageError, match=r"'pooled' of shape \(1, 6\) is no spatial map"):
        explain_batch(PooledCnn(), views, [0], "gradcam", options=ExplainOptions(feature="pooled"))
    unnamed = PooledCnn()
    unnamed.cam_feature = {}
    with pytest.raises(UsageError, match="names no feature map for image"):
        explain_batch(unnamed, views, [0], "gradcam")
