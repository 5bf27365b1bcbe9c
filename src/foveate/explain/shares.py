"""How much each view of a case counts: shares of the evidence, and Shapley values of the views.

Views are players in a game whose prize ``v(S)`` is the score of a class when the model is given the views in
S alone (Shapley 1953; Lundberg & Lee 2017 for models). How a view is withheld:

* A model that tolerates missing views is told that it is missing. It needs at least one, so ``v(∅)`` is no
  answer of the model but a convention: the score of the logits ``ShareOptions.empty``, such as the mean
  logits of a cohort, or of logits 0, which is the uniform prior (probability 1/2 for findings). A view that
  never changes an answer then gets what a lone view adds to this convention, which need not be 0.
* For any other model the view becomes a blank picture, zero after normalization, which is the mean of the
  training data. Then ``v(∅)`` is the answer to blank pictures. Blank pictures are none that the model was
  trained on, so these values are to be read with more care.

A view that a case lacks has the value 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from foveate.contract import Classifier, Views
from foveate.errors import UsageError
from foveate.explain.checks import check_finite, checked_targets, lacking
from foveate.explain.explainers import explain_batch
from foveate.explain.isolation import isolated
from foveate.explain.options import ExplainOptions
from foveate.types import Task

Method = Literal["shapley", "leave_one_out", "maps"]
Coalition = tuple[int, int]  # row of the batch, and a bit for each view that is given


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareOptions:
    """Choices of ``view_shares``.

    Attributes:
        score: ``logit``, or ``log_probability``: of the softmax (multi-class) or the sigmoid (multi-label).
        task: which of the two, for log-probabilities.
        empty: ``(K,)`` logits that stand for the answer to no view, where views are withheld as missing.
        exact_up_to: so many views of a case are played in every combination; with more, in random orders.
        permutations: number of random orders, each with its reverse.
        batch_size: combinations that go through the model at once; changes no value.
        explainer: whose maps are summed by ``maps``.
        explain: options of that explainer.
    """

    score: Literal["logit", "log_probability"] = "logit"
    task: Task = "multiclass"
    empty: Tensor | None = None
    exact_up_to: int = 8
    permutations: int = 32
    batch_size: int = 8
    explainer: str = "gradcam"
    explain: ExplainOptions = field(default_factory=ExplainOptions)


def view_shares(
    model: Classifier,
    views: Views,
    targets: Sequence[int],
    method: Method = "shapley",
    *,
    options: ShareOptions | None = None,
    seed: int = 0,
) -> Float[Tensor, "B T V"]:
    """Tell how much each view of each case counts for some classes, leaving no trace in the model.

    Args:
        model: any classifier.
        views: each ``(B, C, *space)``, normalized; a row of NaN is a view that the case lacks.
        targets: T class indices.
        method: ``shapley`` divides ``v(all) − v(∅)`` among the views: the values of a case and class add
            up to it, a view that changes nothing gets 0, views that are interchangeable get the same. It
            takes at most ``2^n − 1`` answers of the model per case of n views. ``leave_one_out`` is
            ``v(all) − v(all but one)``; it adds up to nothing in particular, and two views that say the same
            both get 0. ``maps`` is the share of each view in the positive evidence of all maps, which adds
            up to 1, or is 0 where no map holds any; views that share one feature map share alike.
        options: choices; None means the defaults.
        seed: of the random orders, and of explainers that draw.

    Returns:
        ``(B, T, V)`` float32 in the order of ``views``: in units of the score, or shares for ``maps``.

    Raises:
        UsageError: an unknown method, or what ``explain_batch`` refuses.
        RunFailed: an input or a score is not finite.
    """
    chosen = options or ShareOptions()
    if method not in get_args(Method):
        raise UsageError(
            f"there is no way '{method}' to share", fix=f"choose from: {', '.join(get_args(Method))}"
        )
    if method == "maps":
        maps = explain_batch(model, views, targets, chosen.explainer, options=chosen.explain, seed=seed)
        return map_shares(maps)
    wanted = checked_targets(model, targets)
    there = ~torch.stack([rows.cpu() for rows in lacking(model, views).values()], dim=1)
    orders = _orders(len(views), chosen.permutations, seed)
    games = [_Game(present, method, orders, chosen.exact_up_to) for present in there]
    asked = sorted({(row, mask) for row, game in enumerate(games) for mask in game.masks if mask})
    with isolated(model, views) as (worker, inputs), torch.no_grad():
        scores = _play(worker, inputs, asked, wanted, chosen)
        nobody = _nobody(worker, inputs, wanted, chosen)
    rows = []
    for row, game in enumerate(games):
        rows.append(game.values({mask: scores[row, mask] if mask else nobody for mask in game.masks}))
    return torch.stack(rows).float()


def map_shares(maps: Mapping[str, Float[Tensor, "B T *space"]]) -> Float[Tensor, "B T V"]:
    """Share of each view in the positive evidence of all its maps.

    Args:
        maps: of ``explain_batch``, raw and signed. A view counts by its sum: where an explainer's values do
            not shrink with the number of places (the analytic CAM), a view with a finer map counts more.

    Returns:
        ``(B, T, V)``, adding up to 1, or all 0 where there is no positive evidence.
    """
    sums = torch.stack([values.clamp(min=0).flatten(2).sum(dim=2) for values in maps.values()], dim=2)
    total = sums.sum(dim=2, keepdim=True)
    return torch.where(total > 0, sums / total.where(total > 0, 1), 0)


class _Game:
    """Which combinations of a case's views are played, and what each view gets.

    Args:
        present: ``(V,)`` whether the case has each view.
        method: ``shapley`` or ``leave_one_out``.
        orders: random orders of V views.
        exact_up_to: as in ``ShareOptions``.
    """

    def __init__(
        self, present: Bool[Tensor, "V"], method: Method, orders: Sequence[Sequence[int]], exact_up_to: int
    ) -> None:
        self._players = present.nonzero().flatten().tolist()
        self._views = len(present)
        everybody = sum(1 << player for player in self._players)
        # Each step: a player, the combination that the player joins, and how much this joining counts.
        if method == "leave_one_out":
            self._steps = [(player, everybody ^ (1 << player), 1.0) for player in self._players]
        elif len(self._players) <= exact_up_to:
            self._steps = list(_every_joining(self._players))
        else:
            self._steps = list(_joinings_of(self._players, orders))

    @property
    def masks(self) -> set[int]:
        """Every combination whose score is needed, 0 for nobody."""
        return {mask for player, joined, _ in self._steps for mask in (joined, joined | 1 << player)}

    def values(self, scores: Mapping[int, Float[Tensor, "T"]]) -> Float[Tensor, "T V"]:
        """What each view gets."""
        found = torch.zeros(len(next(iter(scores.values()))), self._views, dtype=torch.float64)
        for player, joined, weight in self._steps:
            found[:, player] += weight * (scores[joined | 1 << player] - scores[joined])
        return found


def _every_joining(players: Sequence[int]) -> Iterable[tuple[int, int, float]]:
    """Each player joins each combination of the others: ``|S|! (n − |S| − 1)! / n!`` (Shapley 1953)."""
    count = len(players)
    for player in players:
        others = [each for each in players if each != player]
        for chosen in range(1 << len(others)):
            joined = sum(1 << each for position, each in enumerate(others) if chosen >> position & 1)
            size = joined.bit_count()
            yield (
                player,
                joined,
                math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count),
            )


def _joinings_of(players: Sequence[int], orders: Sequence[Sequence[int]]) -> Iterable[tuple[int, int, float]]:
    """Players join one after the other, in some orders that count alike."""
    for order in orders:
        joined = 0
        for player in order:
            if player in players:
                yield player, joined, 1 / len(orders)
                joined |= 1 << player


@cache
def _orders(views: int, permutations: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Random orders of the views, each followed by its reverse, which makes the estimate less noisy."""
    draw = torch.Generator().manual_seed(seed)
    drawn = [tuple(torch.randperm(views, generator=draw).tolist()) for _ in range(permutations)]
    return tuple(order for one in drawn for order in (one, one[::-1]))


def _play(
    model: Classifier, views: Views, asked: Sequence[Coalition], targets: list[int], options: ShareOptions
) -> dict[Coalition, Float[Tensor, "T"]]:
    """The score of each combination of views."""
    found: dict[Coalition, Tensor] = {}
    withheld = torch.nan if model.tolerates_missing else 0.0
    for first in range(0, len(asked), options.batch_size):
        part = asked[first : first + options.batch_size]
        batch = {}
        for position, (view, x) in enumerate(views.items()):
            given = torch.tensor([mask >> position & 1 for _, mask in part], dtype=torch.bool)
            shape = (-1, *[1] * (x.ndim - 1))
            copies = x[[row for row, _ in part]]
            batch[view] = torch.where(given.to(x.device).view(shape), copies, withheld)
        found |= zip(part, _scores(model(batch).logits, targets, options), strict=True)
    return found


def _nobody(model: Classifier, views: Views, targets: list[int], options: ShareOptions) -> Float[Tensor, "T"]:
    """The score of no view at all."""
    if not model.tolerates_missing:
        blank = {view: torch.zeros_like(x[:1]) for view, x in views.items()}
        return _scores(model(blank).logits, targets, options)[0]
    logits = torch.zeros(model.num_classes) if options.empty is None else options.empty
    if logits.shape != (model.num_classes,):
        raise UsageError(f"the answer to no view needs {model.num_classes} logits, got {tuple(logits.shape)}")
    return _scores(logits[None], targets, options)[0]


def _scores(logits: Float[Tensor, "B K"], targets: list[int], options: ShareOptions) -> Float[Tensor, "B T"]:
    """Scores of the targets, in float64 on the CPU."""
    values = logits.detach().double().cpu()
    check_finite(values, "the model gave scores")
    if options.score == "log_probability":
        single = options.task == "multiclass"
        values = values.log_softmax(dim=1) if single else functional.logsigmoid(values)
    return values[:, targets]
