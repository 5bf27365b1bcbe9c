"""CAN: published sizes, the numbers worked by hand, and what its formulas imply."""

from __future__ import annotations

import copy
import logging
import math
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from sklearn.metrics import log_loss
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.recipe import STUDIES, gradient_norm, on_a_phantom, training_steps
from foveate.bundle.bundle import load_bundle
from foveate.contract import InputSpec
from foveate.errors import UsageError
from foveate.models import build_model, make_criterion
from foveate.models.attention import HadamardCross
from foveate.models.can.balance import BalanceLoss, balance_weights
from foveate.models.can.network import CrossAttentionClassifier, attention_loss
from foveate.models.cards import CARDS
from foveate.models.timm.timm_trunk import TimmTrunk, load_pair
from foveate.predict import predict_case
from foveate.train.fit import fit
from tiny_training import tiny_cohort, tiny_splits, tiny_study

SPEC = InputSpec(size=(64, 96))
TINY = {"first": "test_resnet", "second": "test_resnet"}
FUSIONS = ("product", "sum+product", "cat", "sum", "average_logits")
SCORES = torch.tensor([[0.0, 2.0], [-1.0, -3.0]])
TRUTH = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def _build(seed: int = 0, name: str = "can", classes: int = 3, **options: Any) -> Any:
    torch.manual_seed(seed)
    return build_model(name, classes, SPEC, options=TINY | options)


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _views(batch: int = 2) -> dict[str, Tensor]:
    return {"image": _noise(batch, 3, *SPEC.size)}


def _map(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows)[None, None]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("can_densenet121", {}, 13_922_062),
        ("can_densenet121", {"fusion": "cat"}, 13_950_734),
        ("can_densenet121", {"transition": "always"}, 16_023_310),
        ("can_densenet121", {"transition": "always", "fusion": "cat"}, 16_051_982),
        ("can_resnet50_densenet121", {}, 33_626_062),
        ("can_resnet50_densenet121", {"fusion": "cat"}, 33_654_734),
    ],
)
def test_sizes_are_those_of_the_specification(name: str, options: dict[str, Any], parameters: int) -> None:
    model = build_model(name, 14, InputSpec(size=(64, 64)), options=options)
    assert _count(model) == parameters
    if not options:
        assert CARDS[name].parameters == parameters


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parameters"), [("densenet121", 6_953_856), ("resnet50", 23_508_032)])
def test_a_trunk_is_timm_s_without_its_head(name: str, parameters: int) -> None:
    trunk = TimmTrunk(name, InputSpec(size=(64, 64))).eval()
    assert _count(trunk) == parameters
    whole = timm.create_model(name, num_classes=1).eval()
    whole.load_state_dict(trunk.net.state_dict(), strict=False)
    x = _noise(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(trunk(x), whole.forward_features(x))


@pytest.mark.slow
def test_the_published_pair_keeps_a_map_of_a_32nd() -> None:
    model = build_model("can_densenet121", 14, InputSpec()).eval()
    with torch.inference_mode():
        output = model({"image": _noise(1, 3, 224, 224)})
    assert {name: tuple(each.shape) for name, each in output.features.items()} == {
        name: (1, 1024, 7, 7) for name in ("first", "second", "crossed")
    }
    assert output.logits.shape == (1, 14)
    assert (output.features["first"] >= 0).all()  # after the last batch norm comes a ReLU


def test_layers_of_a_head_are_left_out_of_a_trunk() -> None:
    trunk = TimmTrunk("convnext_atto", InputSpec(size=(64, 64)))
    whole = timm.create_model("convnext_atto", num_classes=1)
    head = _count(whole.head)
    assert _count(trunk) == _count(whole) - head
    assert trunk.channels == 320
    assert trunk.grid == (2, 2)


@pytest.mark.parametrize(
    ("other", "distance"), [([[3, 0], [4, 0]], 0.0), ([[0, 1], [0, 0]], 2.0), ([[1, 0], [0, 0]], 0.8)]
)
def test_attention_loss_of_the_maps_worked_by_hand(other: list[list[float]], distance: float) -> None:
    first, second = _map([[3.0, 0.0], [4.0, 0.0]]), _map([[float(x) for x in row] for row in other])
    assert attention_loss(first, second).item() == pytest.approx(distance, abs=1e-6)
    assert attention_loss(second, first).item() == pytest.approx(distance, abs=1e-6)
    assert attention_loss(7 * first, -second).item() == pytest.approx(distance, abs=1e-6)  # of magnitudes


def test_attention_loss_is_two_minus_twice_the_cosine() -> None:
    first, second = _noise(3, 5, 4, 6), _noise(3, 5, 4, 6, seed=1)
    magnitudes = (each.abs().sum(dim=1).flatten(1) for each in (first, second))
    spatial = (2 - 2 * functional.cosine_similarity(*magnitudes, dim=1)).mean()
    torch.testing.assert_close(attention_loss(first, second), spatial)
    channel = (2 - 2 * functional.cosine_similarity(first, second, dim=1)).mean()
    torch.testing.assert_close(attention_loss(first, second, "channel"), channel)


@pytest.mark.parametrize("form", ["spatial", "channel"])
def test_attention_loss_of_empty_maps_has_a_finite_gradient(form: Any) -> None:
    first = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention_loss(first.relu(), _noise(2, 3, 4, 4), form).backward()
    assert first.grad is not None
    assert first.grad.isfinite().all()


@pytest.mark.parametrize(
    ("gamma", "weights", "loss"),
    [(2.0, None, 1.1531), (0.0, None, 1.5455), (2.0, [[0.1, 0.9], [0.1, 0.9]], 0.7032)],
)
def test_balance_loss_of_the_scores_worked_by_hand(gamma: float, weights: Any, loss: float) -> None:
    given = None if weights is None else torch.tensor(weights)
    assert BalanceLoss(gamma, given)(SCORES, TRUTH).item() == pytest.approx(loss, abs=5e-5)


def test_balance_loss_by_a_loop_over_its_formula() -> None:
    scores, truth = _noise(4, 3, seed=2), (_noise(4, 3, seed=3) > 0).float()
    truth[1, 2] = truth[3, 0] = math.nan
    weights, gamma = _noise(3, 2, seed=4).abs(), 1.5
    terms = []
    for row, column in np.ndindex(4, 3):
        t, p = truth[row, column].item(), 1 / (1 + math.exp(-scores[row, column].item()))
        if t == 1:
            terms.append(-weights[column, 1].item() * (1 - p) ** gamma * math.log(p))
        elif t == 0:
            terms.append(-weights[column, 0].item() * p**gamma * math.log(1 - p))
    assert len(terms) == 10
    expected = sum(terms) / len(terms)
    assert BalanceLoss(gamma, weights)(scores, truth).item() == pytest.approx(expected, rel=1e-5)


def test_balance_loss_of_classes_by_a_loop_over_its_formula() -> None:
    scores, truth = _noise(5, 3, seed=2), torch.tensor([0, 2, 1, 1, 0])
    weights, gamma = torch.tensor([0.2, 0.9, 0.4]), 2.0
    terms = []
    for row, y in zip(scores.tolist(), truth.tolist(), strict=True):
        p = math.exp(row[y]) / sum(map(math.exp, row))
        terms.append(-weights[y].item() * (1 - p) ** gamma * math.log(p))
    expected = sum(terms) / len(terms)
    assert BalanceLoss(gamma, weights)(scores, truth).item() == pytest.approx(expected, rel=1e-5)
    plain = log_loss(truth.numpy(), scores.double().softmax(dim=1).numpy(), labels=[0, 1, 2])
    assert BalanceLoss(0.0)(scores, truth).item() == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_balance_loss_stays_finite_at_extreme_scores(gamma: float) -> None:
    for truth in (torch.tensor([[1.0, 0.0]]), torch.tensor([0])):
        scores = torch.tensor([[200.0, -200.0]], requires_grad=True)
        right = BalanceLoss(gamma)(scores, truth)
        wrong = BalanceLoss(gamma)(-scores, truth)
        (right + wrong).backward()
        assert right.item() == 0
        assert wrong.item() >= 200
        assert scores.grad is not None
        assert scores.grad.isfinite().all()


def test_weights_of_answers_are_the_share_of_the_other_answer() -> None:
    """90 without and 10 with a finding; then 30 of 40 with it; then nothing known."""
    found = balance_weights("multilabel", [[90, 10], [10, 30], [0, 0]], "shares")
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.9], [0.75, 0.25], [0, 0]]))
    classes = balance_weights("multiclass", np.array([6, 3, 1]), "shares")
    torch.testing.assert_close(classes, torch.tensor([0.4, 0.7, 0.9]))


def test_unit_weights_are_the_shares_divided_by_their_mean_over_the_training_cases() -> None:
    """The mean of 90 × 0.1 + 10 × 0.9 + 10 × 0.75 + 30 × 0.25 over 140 answers; of 6, 3, 1 cases over 10."""
    found = balance_weights("multilabel", [[90, 10], [10, 30], [0, 0]])
    mean = (9 + 9 + 7.5 + 7.5) / 140
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.9], [0.75, 0.25], [0, 0]]) / mean)
    classes = balance_weights("multiclass", np.array([6, 3, 1]))
    torch.testing.assert_close(classes, torch.tensor([0.4, 0.7, 0.9]) / 0.54)
    assert balance_weights("multiclass", np.array([5, 0])).tolist() == [0, 1]  # nothing to balance, no mean


@pytest.mark.parametrize("transition", ["auto", "always"])
def test_the_product_is_symmetric_and_one_leaves_a_map_as_it_is(transition: Any) -> None:
    cross = HadamardCross(4, 4, transition=transition).eval()
    first, second = _noise(2, 4, 3, 3), _noise(2, 4, 3, 3, seed=1)
    a, b, h = cross(first, second)
    torch.testing.assert_close(h, torch.einsum("bchw,bchw->bchw", a, b))
    if transition == "auto":
        assert torch.equal(a, first)
        assert torch.equal(cross(second, first)[2], h)
        assert torch.equal(cross(first, torch.ones_like(first))[2], first)


def test_the_finer_map_is_averaged_down() -> None:
    fine, coarse = _noise(1, 2, 4, 6), torch.ones(1, 2, 2, 3)
    a, _, h = HadamardCross(2, 2)(fine, coarse)
    blocks = fine.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5))
    torch.testing.assert_close(a, blocks)
    torch.testing.assert_close(h, blocks)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["product", "sum+product", "sum"])
def test_swapping_the_branches_leaves_the_logits(fusion: str) -> None:
    model = _build(fusion=fusion).eval()
    swapped = copy.deepcopy(model)
    swapped.first, swapped.second = swapped.second, swapped.first
    with torch.no_grad():
        torch.testing.assert_close(swapped(_views()).logits, model(_views()).logits)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_is_pooled_is_the_fusion_by_name(fusion: str) -> None:
    model = _build(fusion=fusion).eval()
    with torch.no_grad():
        output = model(_views())
        a, b = output.features["first"], output.features["second"]
        expected = {
            "product": a * b,
            "sum+product": a + a * b + b,
            "cat": torch.cat([a, a * b, b], dim=1),
            "sum": a + b,
            "average_logits": torch.cat([a, b], dim=1),
        }[fusion]
        torch.testing.assert_close(output.features["crossed"], expected)
        torch.testing.assert_close(model.linear_head(expected.mean(dim=(2, 3))), output.logits)
        if fusion == "average_logits":
            by_hand = [head(each.mean(dim=(2, 3))) for head, each in zip(model.heads, (a, b), strict=True)]
            torch.testing.assert_close(output.logits, (by_hand[0] + by_hand[1]) / 2)
            torch.testing.assert_close(list(output.branch_logits), by_hand)


def test_two_networks_learn_as_if_alone() -> None:
    model = _build(fusion="average_logits", attention_loss="none", loss="study")
    model.criterion = make_criterion("multilabel", class_counts=[[1, 1]] * 3)
    model.eval()  # batch norms as they are
    truth = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
    model.objective(model(_views()), truth, 0.0)["total"].backward()
    logits = model.heads[0](model.first(_views()["image"]).mean(dim=(2, 3)))
    alone = functional.binary_cross_entropy_with_logits(logits, truth) / 2  # the mean of two losses
    for parameter, expected in zip(
        model.first.parameters(), torch.autograd.grad(alone, list(model.first.parameters())), strict=True
    ):
        torch.testing.assert_close(parameter.grad, expected)


def test_attention_maps_are_unit_vectors_of_summed_magnitudes() -> None:
    model = _build().eval()
    with torch.no_grad():
        output = model(_views())
    names = ("first", "second", "crossed")
    assert [each.name for each in output.attention] == [f"{name}_attention" for name in names]
    for key, attention in zip(names, output.attention, strict=True):
        summed = output.features[key].abs().sum(dim=1)
        length = summed.square().sum(dim=(1, 2), keepdim=True).sqrt()
        torch.testing.assert_close(attention.weights, summed / length)
    assert model.train()(_views()).attention == ()


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_without_focus_weights_and_attention_loss_it_is_cross_entropy(task: Any) -> None:
    model = _build(focal_gamma=0, attention_weight=0)
    output = model(_views())
    if task == "multilabel":
        targets = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
        expected = functional.binary_cross_entropy_with_logits(output.logits, targets)
    else:
        targets = torch.tensor([0, 2])
        expected = functional.cross_entropy(output.logits, targets)
    torch.testing.assert_close(model.objective(output, targets, 0.0)["total"], expected)


def test_the_objective_is_the_sum_of_its_terms() -> None:
    model = _build(attention_weight=0.5)
    model.criterion = make_criterion("multilabel", class_counts=[[9, 1], [1, 1], [3, 1]])
    model.learn_counts("multilabel", [[9, 1], [1, 1], [3, 1]])
    output, targets = model(_views()), torch.tensor([[1.0, 0, float("nan")], [0, 1, 1]])
    terms = model.objective(output, targets, 0.0)
    assert set(terms) == {"classification", "attention", "total"}
    weights = torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.25, 0.75]]) * 16 / 4.3
    torch.testing.assert_close(terms["classification"], BalanceLoss(2.0, weights)(output.logits, targets))
    apart = attention_loss(output.features["first"], output.features["second"])
    torch.testing.assert_close(terms["attention"], 0.5 * apart)
    torch.testing.assert_close(terms["total"], terms["classification"] + terms["attention"])


@pytest.mark.slow
def test_the_attention_loss_pulls_the_trunks_less_than_the_classification(tmp_path: Path) -> None:
    """On the shipped study's phantom, in its first steps; with shares for weights and λ = 1 it is not."""
    content = yaml.safe_load((STUDIES / "can_phantom.yaml").read_text())
    small = {"preprocess.size": [64, 64], "phantom.patients": 28}
    published = {"model.options.weights": "shares", "model.options.attention_weight": 1.0}
    ratios = {}
    for name, options in (("default", {}), ("published", published)):
        study = on_a_phantom(content, tmp_path / name, small | options)
        found = []
        for model, terms in islice(training_steps(study, tmp_path / "cache"), 2):
            assert isinstance(model, CrossAttentionClassifier)
            trunks = model.first, model.second
            pull = gradient_norm(terms["attention"], *trunks)
            found.append(pull / gradient_norm(terms["classification"], *trunks))
        ratios[name] = max(found)
    assert ratios["default"] < 1 < ratios["published"], ratios


def test_the_study_s_loss_is_taken_when_asked_for() -> None:
    model = _build(loss="study", attention_loss="none")
    model.criterion = make_criterion("multiclass", class_counts=[1, 2, 3], balance="weights")
    model.learn_counts("multiclass", [1, 2, 3])
    output, targets = model(_views()), torch.tensor([0, 2])
    terms = model.objective(output, targets, 0.0)
    assert set(terms) == {"classification", "total"}
    assert torch.equal(terms["total"], model.criterion(output.logits, targets))


@pytest.mark.parametrize(("balance", "said"), [("none", False), ("weights", True), ("focal", True)])
def test_a_balance_of_the_study_that_is_not_used_is_said(
    balance: Any, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = _build()
    model.criterion = make_criterion("multiclass", class_counts=[1, 2, 3], balance=balance)
    with caplog.at_level(logging.WARNING):
        model.learn_counts("multiclass", [1, 2, 3])
    assert ("train.balance has no effect" in caplog.text) is said


def test_dropout_is_drawn_for_each_branch() -> None:
    model = _build(drop_rate=0.5, fusion="cat").train()
    output = model(_views())
    a, _, b = output.features["crossed"].chunk(3, dim=1)
    kept = [each[output.features[name] > 0] > 0 for each, name in ((a, "first"), (b, "second"))]
    assert all(0.3 < each.float().mean() < 0.7 for each in kept)
    both = (output.features["first"] > 0) & (output.features["second"] > 0)
    assert ((a > 0) != (b > 0))[both].any()


def test_branches_start_apart() -> None:
    model = _build().eval()
    with torch.no_grad():
        output = model(_views())
    assert not torch.allclose(output.features["first"], output.features["second"])


def test_branches_from_one_file_of_weights_start_apart_and_close(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = timm.create_model("test_resnet", num_classes=5).state_dict()
    save_file(state, tmp_path / "test_resnet.safetensors")
    for given in (tmp_path / "test_resnet.safetensors", tmp_path):
        first, second = load_pair(("test_resnet",) * 2, SPEC, pretrained=str(given), jitter=0.05)
        moved = {
            name: (theirs - ours).std() / ours.std()
            for (name, ours), theirs in zip(first.named_parameters(), second.parameters(), strict=True)
            if ours.ndim > 1
        }
        assert torch.equal(first.net.conv1[0].weight, state["conv1.0.weight"])
        assert all(0.03 < share < 0.07 for share in moved.values())
    first, second = load_pair(("test_resnet",) * 2, SPEC, pretrained=str(tmp_path), jitter=0)
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_equal_branches_would_never_part() -> None:
    """Why there is jitter: equal branches get equal gradients from a symmetric fusion."""
    model = _build()
    model.second.load_state_dict(model.first.state_dict())
    model.objective(model(_views()), torch.tensor([0, 1]), 0.0)["total"].backward()
    for ours, theirs in zip(model.first.parameters(), model.second.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_each_of_two_kinds_finds_its_weights_in_a_folder(tmp_path: Path) -> None:
    pair = ("test_resnet", "test_convnext")
    for name in pair:
        save_file(timm.create_model(name, num_classes=2).state_dict(), tmp_path / f"{name}.safetensors")
    trunks = load_pair(pair, SPEC, pretrained=str(tmp_path), jitter=0.05)
    for name, trunk in zip(pair, trunks, strict=True):
        expected = timm.models.load_state_dict(str(tmp_path / f"{name}.safetensors"))
        assert all(torch.equal(value, expected[key]) for key, value in trunk.net.state_dict().items())
    (tmp_path / "test_convnext.safetensors").unlink()
    with pytest.raises(UsageError, match="no weights of test_convnext"):
        load_pair(pair, SPEC, pretrained=str(tmp_path), jitter=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"second": "resnet10t", "transition": "never"}, "have no product"),
        ({"fusion": "average_logits", "transition": "always"}, "have no transitions"),
        (
            {"fusion": "average_logits", "second": "resnet10t", "attention_loss": "channel"},
            "channel by channel",
        ),
        ({"first": "resnet1"}, "timm has no architecture"),
        ({"fusion": "mean"}, "fusion"),
        ({"attention_weight": -1}, "attention_weight"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _build(**options)


@pytest.mark.slow
def test_training_tells_the_model_how_common_each_class_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the study file, the trainer and the bundle; 14 of 20 pictures train, 5, 5 and 4 of a class."""
    heard = []
    learn = CrossAttentionClassifier.learn_counts
    monkeypatch.setattr(
        CrossAttentionClassifier,
        "learn_counts",
        lambda model, task, counts: (learn(model, task, counts), heard.append((task, counts, model.balance))),
    )
    cohort = tiny_cohort(tmp_path / "images", count=20)
    study = tiny_study(tmp_path, epochs=2, checkpoint_every_steps=None)
    choice = study.model.model_copy(update={"name": "can", "options": dict(TINY)})
    study = study.model_copy(update={"model": choice})
    result = fit(study, cohort, tiny_splits(cohort), tmp_path / "run", cache=tmp_path / "cache")
    ((task, counts, balance),) = heard
    assert (task, counts.tolist()) == ("multiclass", [5, 5, 4])
    torch.testing.assert_close(balance.weights, torch.tensor([9, 9, 10]) * 14 / 130)
    bundle = load_bundle(result.bundle)
    assert isinstance(bundle.model, CrossAttentionClassifier)
    probabilities = predict_case(bundle, cohort.cases[0]).probabilities
    assert probabilities.sum() == pytest.approx(1)
