"""Shares of views: the axioms, a slow twin over all orders, and hand-worked cases."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from foveate.contract import Classifier, InputSpec, ModelOutput, Views, given
from foveate.errors import RunFailed, UsageError
from foveate.explain.shares import ShareOptions, map_shares, view_shares
from tiny_classifiers import images

Score = Callable[[frozenset[str]], Tensor]


class Game(Classifier):
    """A view is worth its weight times the mean of its pixels; pairs of views may add a product."""

    def __init__(self, views: int, *, pairs: bool = False, tolerates: bool = True, classes: int = 3) -> None:
        super().__init__()
        names = tuple(f"v{number}" for number in range(views))
        self.input_spec = InputSpec(views=names, size=(2, 2), channels=1)
        self.num_classes = classes
        self.cam_feature = {}
        self.tolerates_missing = tolerates
        self.weights = nn.Parameter(torch.randn(views, classes, dtype=torch.float64))
        self.products = nn.Parameter(torch.randn(views, views, classes, dtype=torch.float64) * pairs)
        self.bias = nn.Parameter(torch.randn(classes, dtype=torch.float64))
        self.cases = 0

    def forward(self, views: Views) -> ModelOutput:
        means, there = [], []
        for name in self.input_spec.views:
            picture, has = given(views[name])
            means.append(picture.flatten(1).mean(dim=1))
            there.append(has)
        assert torch.stack(there).any(dim=0).all(), "a model is never asked about nothing"
        x = torch.stack(means, dim=1)
        self.cases += len(x)
        mixed = torch.einsum("bv,bw,vwk->bk", x, x, self.products)
        return ModelOutput(self.bias + x @ self.weights + mixed)


def batch_of(model: Classifier, cases: int = 3, seed: int = 0) -> dict[str, Tensor]:
    names = model.input_spec.views
    return {name: images(cases, 2, 2, channels=1, seed=seed + n).double() for n, name in enumerate(names)}


def score_of(model: Classifier, views: Views, row: int, empty: Tensor) -> Score:
    """The score of a set of views of one case, asked for one by one."""

    def score(chosen: frozenset[str]) -> Tensor:
        if not chosen:
            return empty
        nothing = torch.full((1, 1, 2, 2), torch.nan if model.tolerates_missing else 0.0).double()
        one = {name: x[row : row + 1] if name in chosen else nothing for name, x in views.items()}
        with torch.no_grad():
            answer: Tensor = model(one).logits[0]
        return answer

    return score


def over_all_orders(score: Score, players: tuple[str, ...]) -> dict[str, Tensor]:
    """Shapley's definition: the mean, over all orders, of what each player adds on arriving."""
    orders = list(itertools.permutations(players))
    found = dict.fromkeys(players, torch.zeros(3, dtype=torch.float64))
    for order in orders:
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            found[player] = found[player] + (score(before | {player}) - score(before)) / len(orders)
    return found


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("tolerates", [True, False])
def test_shapley_values_are_the_mean_over_all_orders(tolerates: bool) -> None:
    model = Game(4, pairs=True, tolerates=tolerates)
    views = batch_of(model)
    found = view_shares(model, views, [2, 0], options=ShareOptions(batch_size=3))
    empty = torch.zeros(3, dtype=torch.float64) if tolerates else model.bias.detach()
    for row in range(3):
        twin = over_all_orders(score_of(model, views, row, empty), model.input_spec.views)
        expected = torch.stack(list(twin.values()), dim=1)[[2, 0]]
        torch.testing.assert_close(found[row], expected.float(), rtol=1e-6, atol=1e-6)


def test_missing_views_do_not_play() -> None:
    model = Game(3, pairs=True)
    views = batch_of(model)
    views["v1"][1] = torch.nan
    views["v0"][2], views["v1"][2] = torch.nan, torch.nan
    found = view_shares(model, views, [0, 1, 2])
    assert (found[1, :, 1] == 0).all() and (found[2, :, :2] == 0).all()
    twin = over_all_orders(score_of(model, views, 1, torch.zeros(3).double()), ("v0", "v2"))
    torch.testing.assert_close(found[1, :, 0], twin["v0"].float())
    with torch.no_grad():
        torch.testing.assert_close(found[2, :, 2], model(views).logits[2].float())  # one view gets everything


@pytest.mark.parametrize("score", ["logit", "log_probability"])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_values_add_up_to_the_rise_over_nobody(score: str, task: str) -> None:
    model = Game(5, pairs=True)
    views = batch_of(model)
    empty = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
    options = ShareOptions(score=score, task=task, empty=empty)  # type: ignore[arg-type]
    found = view_shares(model, views, [0, 1, 2], options=options)
    with torch.no_grad():
        answers = model(views).logits
    both = torch.cat([answers, empty[None]])
    if score == "log_probability":
        both = (both.softmax(dim=1) if task == "multiclass" else both.sigmoid()).log()
    torch.testing.assert_close(found.sum(dim=2), (both[:-1] - both[-1]).float(), rtol=1e-5, atol=1e-5)


def test_of_an_additive_score_each_view_gets_its_own_part() -> None:
    """By hand: with blank pictures for withheld views, a view's value is its weight times its mean."""
    model = Game(3, tolerates=False)
    with torch.no_grad():
        model.weights.copy_(torch.tensor([[1.0, 0, 0], [2, 0, 0], [0, 0, 0]]))
    views = {f"v{n}": torch.full((1, 1, 2, 2), value) for n, value in enumerate((3.0, -0.5, 7.0))}
    assert view_shares(model, views, [0]).tolist() == [[[3.0, -1.0, 0.0]]]
    assert view_shares(model, views, [0], "leave_one_out").tolist() == [[[3.0, -1.0, 0.0]]]


def test_a_dummy_gets_nothing_and_twins_get_the_same() -> None:
    model = Game(4, pairs=True, tolerates=False)
    with torch.no_grad():
        model.weights[3] = 0  # v3 changes nothing
        model.products[3], model.products[:, 3] = 0, 0
        model.weights[1] = model.weights[0]  # v0 and v1 are interchangeable
        model.products[1], model.products[:, 1] = model.products[0], model.products[:, 0]
        model.products[1, 1] = model.products[0, 1] = model.products[1, 0] = model.products[0, 0]
        model.products[:, 1] = model.products[:, 0]
    views = batch_of(model)
    views["v1"] = views["v0"].clone()
    found = view_shares(model, views, [0, 1, 2])
    assert found[..., 3].abs().max() < 1e-6
    torch.testing.assert_close(found[..., 0], found[..., 1])
    assert found[..., 0].abs().min() > 1e-3


def test_leaving_one_out_is_the_drop_without_it() -> None:
    model = Game(3, pairs=True)
    views = batch_of(model, cases=2)
    found = view_shares(model, views, [1], "leave_one_out")
    for row in range(2):
        score = score_of(model, views, row, torch.zeros(3).double())
        everybody = frozenset(views)
        for position, name in enumerate(views):
            drop = score(everybody) - score(everybody - {name})
            assert found[row, 0, position].item() == pytest.approx(drop[1].item(), abs=1e-6)


def test_many_views_are_sampled_reproducibly_and_still_add_up() -> None:
    model = Game(10, pairs=True)
    views = batch_of(model, cases=1)
    few = ShareOptions(permutations=8, batch_size=64)
    found = view_shares(model, views, [0], options=few, seed=1)
    assert model.cases <= 16 * 10
    assert torch.equal(view_shares(model, views, [0], options=few, seed=1), found)
    assert not torch.equal(view_shares(model, views, [0], options=few, seed=2), found)
    with torch.no_grad():
        total = model(views).logits[:, :1].float()
    torch.testing.assert_close(found.sum(dim=2), total, rtol=1e-5, atol=1e-5)
    exact = view_shares(model, views, [0], options=ShareOptions(exact_up_to=10, batch_size=256))
    # A score of pairs is exact for an order with its reverse, but for what the empty set adds to the first.
    bias = model.bias[0].item()
    assert (found - exact).abs().max() < abs(bias)


def test_batches_are_their_cases_one_by_one() -> None:
    model = Game(3, pairs=True)
    views = batch_of(model)
    views["v2"][0] = torch.nan
    together = view_shares(model, views, [0, 2], options=ShareOptions(batch_size=5))
    for row in range(3):
        alone = view_shares(model, {name: x[row : row + 1] for name, x in views.items()}, [0, 2])
        torch.testing.assert_close(alone[0], together[row])


def test_exactly_every_combination_is_asked_once() -> None:
    model = Game(8)
    view_shares(model, batch_of(model, cases=1), [0, 1])
    assert model.cases == 2**8 - 1


def test_shares_of_maps_by_hand() -> None:
    maps = {
        "a": torch.tensor([[[[1.0, -9.0], [2.0, 0.0]]], [[[-1.0, 0.0], [0.0, 0.0]]]]),
        "b": torch.tensor([[[[1.0]]], [[[-2.0]]]]),
    }
    assert map_shares(maps).tolist() == [[[0.75, 0.25]], [[0.0, 0.0]]]


def test_the_maps_of_an_explainer_are_shared() -> None:
    model = Game(2)
    found = view_shares(model, batch_of(model), [0], "maps", options=ShareOptions(explainer="centre"))
    torch.testing.assert_close(found, torch.full((3, 1, 2), 0.5))


def test_sharing_leaves_no_trace() -> None:
    model = Game(3).train()
    views = batch_of(model)
    copies = {name: x.clone() for name, x in views.items()}
    state = torch.get_rng_state()
    view_shares(model, views, [0])
    assert model.training and all(torch.equal(views[name], x) for name, x in copies.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_senseless_questions_are_refused() -> None:
    model = Game(2)
    views = batch_of(model)
    with pytest.raises(UsageError, match=r"no way 'banzhaf'.*\n.*shapley, leave_one_out, maps"):
        view_shares(model, views, [0], "banzhaf")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no class 3"):
        view_shares(model, views, [3])
    with pytest.raises(UsageError, match=r"needs 3 logits, got \(2,\)"):
        view_shares(model, views, [0], options=ShareOptions(empty=torch.zeros(2)))
    missing = {name: torch.full_like(x, torch.nan) for name, x in views.items()}
    with pytest.raises(UsageError, match=r"positions 0, 1, 2\n.*without any view"):
        view_shares(model, missing, [0])
    views["v0"][1] = torch.nan
    with pytest.raises(UsageError, match=r"positions 1\n.*cannot do without"):
        view_shares(Game(2, tolerates=False), views, [0])
    with torch.no_grad():
        model.bias[0] = torch.inf
    with pytest.raises(RunFailed, match="the model gave scores that are not finite"):
        view_shares(model, views, [0])
