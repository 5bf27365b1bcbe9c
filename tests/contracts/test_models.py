"""What every model promises, over the zoo: each entry of the table at small size, and some timm backbones."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foveate.contract import Classifier
from foveate.errors import UsageError
from foveate.models import MODELS, list_models, make_criterion
from foveate.train.tuning.convolution import Convolution, Way
from foveate.train.tuning.kernel_check import KernelCheck
from foveate.types import Task
from reduced_precision import checked_ways, convolutions, gradient
from zoo import CLASSES, QUICK, ZOO, Tiny

_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in ZOO],
)
def kind(request: pytest.FixtureRequest) -> str:
    """A name in the zoo; of this scope, so that all tests of one model run together."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def built(kind: str) -> Classifier:
    """The model as it is built; tests that change it take ``model``."""
    return ZOO[kind].build()


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> KernelCheck:
    return KernelCheck(torch.device("cpu"), tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def model(built: Classifier) -> Classifier:
    """A copy of the model, in which attention matters: what starts at 0 does not."""
    mine: Classifier = copy.deepcopy(built)
    for parameter in mine.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return mine


@pytest.fixture
def tiny(kind: str) -> Tiny:
    return ZOO[kind]


def _bytes(model: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def _ready(model: Classifier, targets: Tensor) -> Classifier:
    """In training mode, with the loss and the class counts that a trainer would set."""
    counts = [[2, 1]] * CLASSES if targets.ndim == 2 else [1] * CLASSES
    task: Task = "multilabel" if targets.ndim == 2 else "multiclass"
    model.criterion = make_criterion(task, class_counts=counts)
    model.learn_counts(task, counts)
    return model.train()


def _with_gaps(model: Classifier, views: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each of the first cases lacks a view of its own, where the model tolerates that."""
    if model.tolerates_missing and len(views) > 1:
        for row, view in enumerate(list(views)[: len(next(iter(views.values()))) - 1]):
            views[view][row] = torch.nan
    return views


def _without_dropout(module: nn.Module) -> None:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        module.eval()


def _last(views: dict[str, Tensor]) -> dict[str, Tensor]:
    """The views with their channels last in memory."""
    kinds = {4: torch.channels_last, 5: torch.channels_last_3d}
    return {view: x.contiguous(memory_format=kinds[x.ndim]) for view, x in views.items()}


def _channels_last(model: Classifier) -> Classifier:
    volumes = model.input_spec.dimensions == "3"
    return model.to(memory_format=torch.channels_last_3d if volumes else torch.channels_last)


def test_the_list_and_the_zoo_hold_every_model_of_the_table() -> None:
    rows = list_models()
    listed = [name for name, *_ in rows]
    assert {name for name in listed if not name.startswith("timm:")} == set(MODELS)
    assert "timm:<name>" in listed and len(set(listed)) == len(listed)
    assert all(len(row) == 4 and all(row) for row in rows)
    assert set(MODELS) <= {each.name for each in ZOO.values()}


def test_forward_hands_out_what_it_declares(model: Classifier, tiny: Tiny) -> None:
    with torch.no_grad():
        output = model.eval()(tiny.views())
    assert output.logits.shape == (2, CLASSES) and output.logits.isfinite().all()
    assert model.num_classes == CLASSES
    assert model.input_spec == tiny.spec
    assert set(model.cam_feature) == set(tiny.spec.views)
    for name, feature in output.features.items():
        assert len(feature) == 2 and feature.isfinite().all(), name
    for name in set(model.cam_feature.values()):
        space = output.features[name].shape[2:]
        assert len(space) == len(tiny.spec.size) and space.numel() > 1
        height, width = tiny.spec.size[-2:]
        assert space[-2] / space[-1] == pytest.approx(height / width)


def test_attention_sums_to_one_over_the_axes_it_names(model: Classifier, tiny: Tiny) -> None:
    with torch.no_grad():
        attention = model.eval()(_with_gaps(model, tiny.views())).attention
    assert len({each.name for each in attention}) == len(attention)
    for each in attention:
        assert len(each.weights) == 2
        assert ((each.weights >= 0) & (each.weights <= 1 + 1e-6)).all(), each.name
        if each.normalized_over is not None:
            total = each.weights.float().sum(dim=each.normalized_over)
            torch.testing.assert_close(total, torch.ones_like(total))


def test_every_parameter_learns(model: Classifier, tiny: Tiny) -> None:
    targets = torch.tensor([0, 1, 3, 2])
    _ready(model, targets)
    views = _with_gaps(model, tiny.views(4))
    terms = model.objective(model(views), targets, progress=0.5)
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
    terms["total"].backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert unused == []
    parameters = {id(p) for group in model.parameter_groups(1e-3, 1e-4) for p in group["params"]}  # type: ignore[attr-defined]
    assert parameters == {id(p) for p in model.parameters()}


def test_steps_lower_the_loss(built: Classifier, tiny: Tiny) -> None:
    targets = torch.tensor([0, 1, 2, 3])
    losses: list[float] = []
    model = _ready(copy.deepcopy(built), targets)
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-3, 0.0))
    views = tiny.views(4)
    torch.manual_seed(0)
    for _ in range(6):
        loss = model.objective(model(views), targets, progress=0.0)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if losses[-1] < losses[0]:
            return
    pytest.fail(f"the loss never fell: {losses}")


def test_features_lie_on_the_way_to_the_logits(model: Classifier, tiny: Tiny) -> None:
    if model.linear_head is not None:
        return  # the next test proves more: the logits are that layer on the average of the feature
    output = model.eval()(tiny.views())
    wanted = sorted(set(model.cam_feature.values()))
    gradients = torch.autograd.grad(output.logits[:, 1].sum(), [output.features[name] for name in wanted])
    for name, each in zip(wanted, gradients, strict=True):
        assert each.any(), name


def test_a_declared_linear_head_is_one(model: Classifier, tiny: Tiny) -> None:
    head = model.eval().linear_head
    if head is None:
        assert all(head is not found for found in model.modules())
        return
    (name,) = set(model.cam_feature.values())
    with torch.no_grad():
        output = model(tiny.views())
        pooled = output.features[name].flatten(2).mean(dim=2)
        torch.testing.assert_close(head(pooled), output.logits, rtol=1e-4, atol=1e-5)


def test_weights_come_back_from_a_file(model: Classifier, tiny: Tiny, tmp_path: Path) -> None:
    model, other = model.eval(), tiny.build(seed=2).eval()
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "w.safetensors"
    )
    assert _bytes(other) != _bytes(model)
    other.load_state_dict(load_file(tmp_path / "w.safetensors"), strict=True)
    with torch.no_grad():
        assert torch.equal(other(tiny.views()).logits, model(tiny.views()).logits)


def test_a_seed_decides_every_weight(built: Classifier, tiny: Tiny) -> None:
    first = _bytes(built)
    assert _bytes(tiny.build(seed=0)) == first
    assert _bytes(tiny.build(seed=6)) != first


def test_cases_do_not_touch_each_other_in_evaluation(model: Classifier, tiny: Tiny) -> None:
    model.eval()
    views = _with_gaps(model, tiny.views(3))
    with torch.no_grad():
        together = model(views).logits
        alone = [
            model({view: x[row : row + 1] for view, x in views.items()}).logits
            for row in range(len(together))
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_missing_views_are_tolerated_or_refused(model: Classifier, tiny: Tiny) -> None:
    views = tiny.views()
    if len(views) == 1:
        assert len(tiny.spec.views) == 1, "one view cannot be missing"
        return
    first = tiny.spec.views[0]
    with torch.no_grad():
        whole = model.eval()(views).logits
        views[first][1] = torch.nan
        if not model.tolerates_missing:
            with pytest.raises(UsageError, match="at batch positions 1") as caught:
                model(views)
            assert caught.value.code == "view-missing"
            return
        without = model(views).logits
        assert without.isfinite().all() and not torch.equal(without[1], whole[1])
        torch.testing.assert_close(without[0], whole[0], rtol=1e-4, atol=1e-5)
        for x in views.values():
            x[1] = torch.nan
        with pytest.raises(UsageError, match="at batch positions 1"):
            model(views)


def test_bf16_and_channels_last_stay_close_to_full_precision(built: Classifier, tiny: Tiny) -> None:
    model, views = copy.deepcopy(built).eval(), tiny.views()
    with torch.no_grad():
        expected = model(views).logits
        last = _last(views)
        _channels_last(model)
        torch.testing.assert_close(model(last).logits, expected, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            low = model(last).logits.float()
    assert (low - expected).abs().max() < 0.05 * expected.abs().max() + 0.02


def test_training_in_bf16_has_right_gradients_on_this_processor(
    built: Classifier, tiny: Tiny, kernels: KernelCheck
) -> None:
    """As training computes them, beside weight gradients that are all computed in float32."""
    targets = torch.tensor([[1.0, 0, 0, float("nan")], [0, 1, 0, 1]])
    model, views = _channels_last(_ready(copy.deepcopy(built), targets)).apply(_without_dropout), tiny.views()

    def loss(trained: Classifier) -> Tensor:
        return trained.criterion(trained(_last(views)).logits.float(), targets)

    shapes = convolutions(model, loss)
    ways = checked_ways(kernels, shapes)
    wide: dict[Convolution, Way] = {
        shape: "float32" if ways[shape] == "float32" else "wide" for shape in shapes
    }
    mine, true = gradient(model, loss, ways), gradient(model, loss, wide)
    assert mine.isfinite().all()
    assert torch.cosine_similarity(mine, true, dim=0) > 0.999, ways


def test_training_and_evaluation_are_two_modes(model: Classifier, tiny: Tiny) -> None:
    assert all(module.training for module in model.modules())  # as built, ready to train
    before = _bytes(model)
    with torch.no_grad():
        first, second = (model.eval()(tiny.views()).logits for _ in range(2))
        assert torch.equal(first, second)
        assert _bytes(model) == before  # nothing is learned in evaluation
        model.train()(tiny.views())
    learns = any(isinstance(module, _NORMS) and module.training for module in model.modules())
    assert (_bytes(model) != before) is learns


def test_one_case_and_a_copy_of_the_model_are_enough(model: Classifier, tiny: Tiny) -> None:
    views = {view: x[:1] for view, x in tiny.views().items()}
    with torch.no_grad():
        expected = model.eval()(views).logits
        assert torch.equal(copy.deepcopy(model)(views).logits, expected)
