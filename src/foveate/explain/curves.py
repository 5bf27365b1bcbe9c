"""Asks a model what it scores without some squares of its images, in the orders that heat maps give.

The inside of ``foveate.explain.faithfulness``, which says what the curves mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.contract import Classifier, Views
from foveate.device import channels_last, native_bf16
from foveate.explain.baselines import baselines_of
from foveate.explain.checks import check_finite
from foveate.explain.controls import generator_of
from foveate.explain.options import ExplainOptions, FaithfulnessOptions
from foveate.explain.perturbation import BlockGrid, NoisyLinearImputer, foremost, hindmost, ranks
from foveate.study.methods import Baseline

_Fill = Callable[[Int[Tensor, "Q"], Bool[Tensor, "Q N"]], Views]  # cases, their removed squares → images
_ALIKE = 0.03  # how far bfloat16 may be from float32, as a share of the range of the scores
_SAMPLE = 4  # cases on which that is tried
_OF_SETS: Baseline = "zero"  # what fills the random sets of sensitivity-n, as in the paper
_NOISE = 1e-6  # variation that is no more than rounding, as a share of the values


class Curve(NamedTuple):
    """Values ``(M, points, B)`` of M orders or maps, at shares ``(points,)`` of the squares."""

    shares: Tensor
    values: Tensor


class PerturbationBench:
    """A model, a batch of cases, and the squares of its images.

    Args:
        model, views: as ``isolated`` yields them.
        targets: B class indices.
        options: of the measurement.
        seed: of all that is drawn.

    Attributes:
        grid: the squares.
        device: of the images.
    """

    def __init__(
        self, model: Classifier, views: Views, targets: Sequence[int], options: FaithfulnessOptions, seed: int
    ) -> None:
        self._model, self._options, self._seed = model, options, seed
        self._targets = torch.tensor(targets)
        self._views = {view: channels_last(x) for view, x in views.items()}
        self._baselines = {
            name: {
                view: channels_last(baselines_of(x, view, ExplainOptions(baseline=name), seed)[0])
                for view, x in views.items()
            }
            for name in dict.fromkeys((*options.baselines, _OF_SETS))
        }
        self.device = next(iter(views.values())).device
        self.grid = BlockGrid(views, options.blocks)
        sets = options.subsets * len(options.subset_fractions)
        drawn = [
            torch.rand(2 + sets, self.grid.squares, generator=draw) for draw in self._generators("order")
        ]
        self._ties, self._chance, *draws = torch.stack(drawn, dim=1).double()
        self._set_draws = torch.stack(draws).reshape(-1, options.subsets, *self._ties.shape) if sets else None

    def agrees_in_bf16(self) -> bool:
        """Whether bfloat16 is at hand, wanted, and scores a few cases, whole and empty, as float32 does."""
        kind, dtype = self.device.type, next(iter(self._views.values())).dtype
        if self._options.precision != "auto" or dtype != torch.float32 or not native_bf16(kind):
            return False
        sample = {
            view: torch.cat([x[:_SAMPLE], *(images[view][:_SAMPLE] for images in self._baselines.values())])
            for view, x in self._views.items()
        }
        answers = []
        for half in (False, True):
            with torch.autocast(kind, torch.bfloat16, enabled=half):
                logits = self._model(sample).logits.double().cpu()
            logits = logits.reshape(1 + len(self._baselines), -1, logits.shape[1])
            answers.append(torch.stack([self._scores(logits), self._of_target(logits)]))
        exact, quick = answers
        spread = exact.amax(dim=(1, 2)) - exact.amin(dim=(1, 2))
        return bool(((quick - exact).abs().amax(dim=(1, 2)) <= _ALIKE * spread).all())

    def curves(self, masses: Float[Tensor, "M B N"]) -> dict[str, Curve]:
        """All curves that the options ask for.

        Args:
            masses: what each square holds of each map.

        Returns:
            By name, curves of the maps and, last, of a random order.
        """
        options = self._options
        found: dict[str, Curve] = {}
        worth = torch.cat([masses, self._chance[None]])
        orders = ranks(worth, self.grid.present, self._ties)
        for baseline in options.baselines:
            found |= self._deletion_and_insertion(orders, baseline)
        if options.road_fractions:
            found |= self._road(orders)
        if self._set_draws is not None:
            found["sensitivity_n"] = self._sensitivity(worth, self._set_draws)
        return found

    @cached_property
    def whole(self) -> Float[Tensor, "B"]:
        """Scores of the whole images."""
        nothing = torch.zeros_like(self.grid.present)
        return self._scores(self._logits(nothing, self._baseline(_OF_SETS)))

    @cached_property
    def empty(self) -> dict[str, Float[Tensor, "B"]]:
        """By baseline, scores of images without any square."""
        everything = self.grid.present
        return {
            name: self._scores(self._logits(everything, self._baseline(name)))
            for name in self._options.baselines
        }

    def _deletion_and_insertion(self, orders: Int[Tensor, "M B N"], baseline: Baseline) -> dict[str, Curve]:
        present, shares = self.grid.present, self._options.fractions
        gone = torch.stack([foremost(orders, present, share) for share in shares], dim=1)
        scores = self._scores(self._logits(torch.stack([gone, present & ~gone]), self._baseline(baseline)))
        empty = self.empty[baseline]
        rise = self.whole - empty
        rise = torch.where((rise > 0) & (rise >= self._options.least_rise), rise, torch.nan)
        deleted, inserted = (scores - empty) / rise
        full, none = rise / rise, rise - rise  # 1 and 0, NaN where undefined
        return {
            f"deletion_{baseline}": _curve((0.0, *shares, 1.0), deleted, first=full, last=none),
            f"insertion_{baseline}": _curve((0.0, *shares, 1.0), inserted, first=none, last=full),
        }

    def _road(self, orders: Int[Tensor, "M B N"]) -> dict[str, Curve]:
        present, shares = self.grid.present, self._options.road_fractions
        most, least = (
            torch.stack([chosen(orders, present, share) for share in shares], dim=1)
            for chosen in (foremost, hindmost)
        )
        imputer = NoisyLinearImputer(self.grid, self._views, self._noise())
        scores = self._scores(self._logits(torch.stack([most, least]), imputer))
        return {
            name: _curve((0.0, *shares), values, first=self.whole)
            for name, values in zip(("road_most", "road_least"), scores, strict=True)
        }

    def _sensitivity(self, masses: Float[Tensor, "M B N"], draws: Float[Tensor, "S Q B N"]) -> Curve:
        present, sizes = self.grid.present, self._options.subset_fractions
        sets = torch.stack(
            [
                foremost(ranks(draw, present, draw), present, size)
                for draw, size in zip(draws, sizes, strict=True)
            ]
        )
        left = self._of_target(self._logits(sets, self._baseline(_OF_SETS)))
        sums = torch.einsum("sqbn,mbn->msqb", sets.double(), masses)
        values = _correlation(sums, -left)  # what the score loses, up to a constant
        return Curve(torch.tensor(sizes, dtype=torch.float64), values)

    def _logits(self, removed: Bool[Tensor, "*asked B N"], fill: _Fill) -> Float[Tensor, "*asked B K"]:
        """What the model says of cases without sets of their squares; float64, on the CPU."""
        questions = removed.flatten(0, -2)
        rows = torch.arange(len(questions)) % len(self._targets)
        found = []
        for part in torch.split(torch.arange(len(rows)), self._options.batch_size):
            gone, filling = self.grid.pixels(questions[part]), fill(rows[part], questions[part])
            batch = {
                view: channels_last(torch.where(gone[view].to(x.device), filling[view], x[rows[part]]))
                for view, x in self._views.items()
            }
            found.append(self._model(batch).logits.double().cpu())
        logits = torch.cat(found)
        check_finite(logits, "without parts of its images the model gave scores")
        return logits.reshape(*removed.shape[:-1], -1)

    def _baseline(self, name: Baseline) -> _Fill:
        """The baseline of this name, whatever is removed."""
        return lambda rows, removed: {view: x[rows] for view, x in self._baselines[name].items()}

    def _scores(self, logits: Float[Tensor, "*asked B K"]) -> Float[Tensor, "*asked B"]:
        if self._options.score == "softmax":
            return self._of_target(logits.softmax(dim=-1))
        return self._of_target(logits.sigmoid() if self._options.score == "sigmoid" else logits)

    def _of_target(self, values: Float[Tensor, "*asked B K"]) -> Float[Tensor, "*asked B"]:
        cases = values.shape[-2]  # the first ones, if not all were asked
        return values[..., torch.arange(cases), self._targets[:cases]]

    def _noise(self) -> dict[str, Tensor]:
        """Faint noise for each view, one field for all that is asked of a case."""
        found = {}
        for view, x in self._views.items():
            drawn = [torch.randn(x.shape[1:], generator=draw) for draw in self._generators(f"noise {view}")]
            found[view] = torch.stack(drawn).to(x) * self._options.road_noise
        return found

    def _generators(self, name: str) -> list[torch.Generator]:
        """One for each case, of its own pixels."""
        cases = zip(*self._views.values(), strict=True)
        return [generator_of(torch.cat([x.flatten() for x in case]), name, self._seed) for case in cases]


def _curve(
    shares: Sequence[float], inside: Float[Tensor, "M F B"], first: Tensor, last: Tensor | None = None
) -> Curve:
    """A curve whose ends ``(B,)`` are known and the same for all orders."""
    parts = [first.expand(len(inside), 1, -1), inside]
    if last is not None:
        parts.append(last.expand(len(inside), 1, -1))
    return Curve(torch.tensor(shares, dtype=torch.float64), torch.cat(parts, dim=1))


def _correlation(first: Float[Tensor, "M S Q B"], second: Float[Tensor, "S Q B"]) -> Float[Tensor, "M S B"]:
    """Pearson's correlation over Q; NaN where one of the two is constant."""
    centred, lengths = [], []
    for values in (first, second):
        offset = values - values.mean(dim=-2, keepdim=True)
        length = offset.norm(dim=-2)
        centred.append(offset)
        lengths.append(torch.where(length > _NOISE * values.norm(dim=-2), length, torch.nan))
    return (centred[0] * centred[1]).sum(dim=-2) / (lengths[0] * lengths[1])
