"""Gradients and guided maps against networks worked by hand and Captum's; what the guided rule refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from captum.attr import GuidedBackprop, GuidedGradCam, Saliency
from torch import Tensor, nn
from torch.nn import functional

from foveate.contract import Classifier, InputSpec, ModelOutput, Views
from foveate.errors import UsageError
from foveate.explain.explainers import explain_batch
from foveate.explain.options import ExplainOptions
from tiny_classifiers import LinearScores, PlacesCnn, PooledCnn, images
from zoo import ZOO

# Networks of nothing but ReLU modules, which are all that Captum sees: 2.5-D, 3-D, and two views.
OF_MODULES = ("dadrn50", "agf", "late_fusion", "timm:resnet18", "can", "can3d10", "resnet3d10")
ReLU = Callable[[Tensor], Tensor]
WAYS: dict[str, ReLU] = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "functional": functional.relu,
    "functional in place": lambda x: functional.relu(x, inplace=True),
    "torch": torch.relu,
    "torch in place": torch.relu_,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
}


class Chain(Classifier):
    """``score_k = Σ_j head_kj relu(Σ_i body_ji relu(stem x_i))`` of pixels x, with a ReLU of one's choice."""

    def __init__(self, relu: ReLU) -> None:
        super().__init__()
        self.input_spec = InputSpec(dimensions="2", channels=1)
        self.num_classes = 2
        self.cam_feature = {"image": "map"}
        self.relu = relu
        self.stem = nn.Conv2d(1, 1, 1, bias=False)
        self.body = nn.Linear(3, 2, bias=False)
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.stem.weight.fill_(2.0)
            self.body.weight.copy_(torch.tensor([[1.0, -1.0, 3.0], [-2.0, 4.0, 1.0]]))
            self.head.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 2.0]]))

    def forward(self, views: Views) -> ModelOutput:
        first = self.relu(self.stem(views["image"]))
        second = self.relu(self.body(first.flatten(1)))
        return ModelOutput(self.head(second), {"map": first})


X = torch.tensor([[[[1.0, 2.0, -1.0]]]])  # first = (2, 4, 0); second: −2 → 0 and 12


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _worker(model: Classifier) -> nn.Module:
    """A copy as Captum calls it: views by position, logits out, and no ReLU in place."""
    worker = copy.deepcopy(model).eval()
    for module in worker.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False

    class Positional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.worker = worker

        def forward(self, *inputs: Tensor) -> Tensor:
            logits: Tensor = worker(dict(zip(worker.input_spec.views, inputs, strict=True))).logits
            return logits

    return Positional()


def _leaves(views: Views) -> tuple[Tensor, ...]:
    """The views by position; Captum warns unless they ask for gradients themselves."""
    return tuple(x.clone().requires_grad_() for x in views.values())


# --- Plain gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [(6, 4), (4, 2, 6)])
def test_the_gradient_of_a_linear_score_is_its_largest_weight(space: tuple[int, ...]) -> None:
    model = LinearScores(space, (3, 3))
    views = {"view0": images(2, *space, channels=2), "view1": images(2, 3, 3, channels=2)}
    for view, values in explain_batch(model, views, [1, 0], "gradient").items():
        weights = model.weights[int(view[-1])].detach()[[1, 0]]
        torch.testing.assert_close(values, weights.abs().amax(dim=1).expand_as(values))


@pytest.mark.parametrize("score", ["logit", "softmax", "sigmoid"])
def test_the_gradient_is_captums_saliency(score: str) -> None:
    model, x = PlacesCnn().eval(), images(3, 8, 8)
    as_score = {"logit": lambda z: z, "softmax": lambda z: z.softmax(1), "sigmoid": torch.sigmoid}[score]
    found = explain_batch(model, {"image": x}, [2], "gradient", options=ExplainOptions(score=score))["image"]  # type: ignore[arg-type]
    method = Saliency(lambda inputs: as_score(model({"image": inputs}).logits))
    expected = method.attribute(x.clone().requires_grad_(), 2)
    torch.testing.assert_close(found[:, 0], expected.amax(dim=1))


def test_worked_by_hand_with_a_chain_of_two_relus() -> None:
    """Of class 0 only the second unit is on, with −1: −(−2, 4, ·) · 2. The rule stops at that −1."""
    views = {"image": X}
    plain = explain_batch(Chain(functional.relu), views, [0, 1], "gradient")["image"][0]
    torch.testing.assert_close(plain, torch.tensor([[[4.0, 8.0, 0.0]], [[8.0, 16.0, 0.0]]]))
    guided = explain_batch(Chain(functional.relu), views, [0, 1], "guided_backprop")["image"][0]
    # Of class 1 it passes 2 to the second unit; of its weights (−2, 4, 1) only the 4 passes the first ReLU.
    torch.testing.assert_close(guided, torch.tensor([[[0.0, 0.0, 0.0]], [[0.0, 16.0, 0.0]]]))


# --- The guided rule ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_relu_is_a_relu_however_it_is_called(way: str) -> None:
    found = explain_batch(Chain(WAYS[way]), {"image": X}, [1], "guided_backprop")["image"]
    torch.testing.assert_close(found, torch.tensor([[[[0.0, 16.0, 0.0]]]]))


@pytest.mark.filterwarnings(
    "ignore:Setting backward hooks on ReLU activations"
)  # Captum says so at every call
@pytest.mark.parametrize("kind", OF_MODULES)
def test_guided_maps_are_captums(kind: str) -> None:
    model, views = ZOO[kind].build(), ZOO[kind].views()
    found = explain_batch(model, views, [2], "guided_backprop")
    expected = GuidedBackprop(_worker(model)).attribute(_leaves(views), target=2)
    for values, each in zip(found.values(), expected, strict=True):
        scale = float(each.abs().max())
        torch.testing.assert_close(values[:, 0], each.abs().amax(dim=1), rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
@pytest.mark.parametrize("dimensions", [2, 3])
def test_guided_gradcam_is_captums_where_gradcam_is_positive_and_signed_elsewhere(dimensions: int) -> None:
    model = PooledCnn(dimensions).eval()
    with torch.no_grad():
        model.head.weight[1] = model.head.weight[1].abs()  # Grad-CAM of class 1 is nowhere negative
        model.head.weight[3] = -model.head.weight[1]  # and of class 3 its mirror image
    x = images(2, *(8,) * dimensions)
    found = explain_batch(model, {"image": x}, [1, 3], "guided_gradcam")["image"]
    worker = _worker(model)
    method = GuidedGradCam(worker, worker.worker.trunk[4])
    mode = {2: "bilinear", 3: "trilinear"}[dimensions]
    expected = method.attribute(*_leaves({"image": x}), target=1, interpolate_mode=mode).abs().amax(dim=1)
    assert expected.max() > 0
    torch.testing.assert_close(found[:, 0], expected)
    guided = explain_batch(model, {"image": x}, [3], "guided_backprop")["image"]
    cam = explain_batch(model, {"image": x}, [3], "gradcam")["image"]
    wide = functional.interpolate(cam, x.shape[2:], mode=mode, align_corners=False)
    torch.testing.assert_close(found[:, 1:], wide * guided)
    assert found[:, 1].max() <= 0


def test_guided_gradcam_takes_another_feature_by_its_name() -> None:
    model, views = PooledCnn(), {"image": images(2, 8, 8)}
    early = explain_batch(model, views, [0], "guided_gradcam:early")["image"]
    guided = explain_batch(model, views, [0], "guided_backprop")["image"]
    torch.testing.assert_close(early, guided * explain_batch(model, views, [0], "gradcam:early")["image"])
    with pytest.raises(UsageError, match="guided_backprop is made of the input"):
        explain_batch(model, views, [0], "guided_backprop:early")


# --- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["guided_backprop", "guided_gradcam"])
@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        (functional.gelu, "Chain has gelu where the rule needs ReLU"),
        (nn.SiLU(), "Chain has silu where the rule needs ReLU"),
        (nn.LeakyReLU(), "Chain has leaky_relu where the rule needs ReLU"),
        (nn.ReLU6(), "Chain has (relu6|hardtanh) where the rule needs ReLU"),
        (nn.ELU(inplace=True), "Chain has elu_? where the rule needs ReLU"),
        (torch.tanh, "Chain has no ReLU, to which the rule belongs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_networks_without_the_rule_are_refused_with_a_way_out(
    activation: ReLU, reason: str, name: str
) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        explain_batch(Chain(activation), {"image": X}, [0], name)
    assert "use gradient" in (caught.value.fix or "")
    assert torch._C._len_torch_function_stack() == 0
