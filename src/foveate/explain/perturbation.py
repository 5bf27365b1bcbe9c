"""Squares of an image that are taken away together, in the order of a heat map, and what fills them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from foveate.contract import Views
from foveate.errors import UsageError
from foveate.prepare.resample import LINEAR

_CELLS = 4096  # at most, for a linear system that fits into memory
_SWEEPS = 6  # of Jacobi at each size of cells; errors as small as a cell are gone after these
_ANCHOR = 1e-9  # pull towards the mean, so that a view without any pixel left has a filling as well


class BlockGrid:
    """Squares (cubes, in volumes) that the views of a batch are cut into, numbered through all views.

    Args:
        views: each ``(B, C, *space)``; NaN rows are missing views.
        blocks: squares along the longest side of a view; its other sides get squares of about that size.

    Attributes:
        counts: by view, squares along each axis.
        squares: N, their number over all views.
        present: ``(B, N)`` which squares a case has; those of a missing view it has not.

    Raises:
        UsageError: too many squares to fill them from one another.
    """

    def __init__(self, views: Views, blocks: int) -> None:
        self.counts = {view: _counts(x.shape[2:], blocks) for view, x in views.items()}
        if max(map(math.prod, self.counts.values())) > _CELLS:
            raise UsageError(f"{blocks} blocks a side cut a view into more than {_CELLS}", fix="take fewer")
        self._spaces = {view: x.shape[2:] for view, x in views.items()}
        self.squares = sum(map(math.prod, self.counts.values()))
        there = {view: ~x.flatten(1)[:, :1].isnan().cpu() for view, x in views.items()}
        self.present: Bool[Tensor, "B N"] = torch.cat(
            [there[view].expand(-1, math.prod(counts)) for view, counts in self.counts.items()], dim=1
        )

    def masses(self, maps: Mapping[str, Float[Tensor, "B *space"]]) -> Float[Tensor, "B N"]:
        """What each square holds of a map: the sum of its values, float64, on the CPU.

        A map is brought to the image's resolution linearly, as it is drawn, and divided by the factor by
        which it grew: coarse or fine, a map keeps its total, so that views can be ranked together.

        Args:
            maps: by view, of any resolution.
        """
        found = []
        for view, counts in self.counts.items():
            values, space = maps[view].detach().cpu().double(), self._spaces[view]
            if values.shape[1:] != space:
                share = values[0].numel() / math.prod(space)
                how = LINEAR[len(space)]
                values = functional.interpolate(values[:, None], space, mode=how)[:, 0] * share
            found.append(_sums(values, counts).flatten(1))
        return torch.cat(found, dim=1)

    def split(self, squares: Tensor) -> dict[str, Tensor]:
        """``(Q, N)`` over all squares as ``(Q, *counts)`` for each view."""
        sizes = [math.prod(counts) for counts in self.counts.values()]
        parts = zip(self.counts.items(), torch.split(squares, sizes, dim=1), strict=True)
        return {view: part.reshape(-1, *counts) for (view, counts), part in parts}

    def pixels(self, squares: Bool[Tensor, "Q N"]) -> dict[str, Bool[Tensor, "Q 1 *space"]]:
        """The pixels of chosen squares, by view."""
        return {
            view: _spread(chosen, self._spaces[view]).unsqueeze(1)
            for view, chosen in self.split(squares).items()
        }


class NoisyLinearImputer:
    """Fill removed squares from what is left: noisy linear imputation (Rong et al. 2022).

    Each removed value is the weighted mean of its neighbours, removed ones included, which is one linear
    system; in the plane direct neighbours weigh 1/6 and diagonal ones 1/12, and beyond the border there are
    none. Faint noise is added.

    NOTE[DIFF]: the authors solve for single pixels, which takes seconds where the holes are large. Here the
    system is solved for cells, two along each side of a square (one, where these would be too many). Then
    cells are halved until they are pixels, and each time the filling is enlarged linearly and brought nearer
    to the solution by a few steps of Jacobi's method. Where the first cells are pixels, it is the authors'
    filling. In volumes, of which they do not speak, the weights are those of the binomial kernel, as they are
    in the plane: 4 : 2 : 1 over 56.

    Args:
        grid: the squares.
        views: each ``(B, C, *space)``.
        noise: for each view ``(B, C, *space)``, added to what is filled.
    """

    def __init__(self, grid: BlockGrid, views: Views, noise: Views) -> None:
        self._grid, self._noise = grid, noise
        self._levels = {view: _levels(x, grid.counts[view]) for view, x in views.items()}
        self._weights = {view: _neighbours(levels[0].shape[2:]) for view, levels in self._levels.items()}

    def __call__(self, rows: Int[Tensor, "Q"], removed: Bool[Tensor, "Q N"]) -> dict[str, Tensor]:
        """Images ``(Q, C, *space)`` of each view with removed squares filled.

        Args:
            rows: positions of the cases in the batch.
            removed: squares that are gone.
        """
        found = {}
        for view, squares in self._grid.split(removed).items():
            coarse, *finer = self._levels[view]
            lost = _spread(squares, coarse.shape[2:]).flatten(1)
            values = torch.stack(
                [
                    _solved(coarse[row].double().cpu(), gone, self._weights[view])
                    for row, gone in zip(rows, lost, strict=True)
                ]
            ).to(coarse)
            for level in finer:
                lost = _spread(squares, level.shape[2:]).unsqueeze(1).to(level.device)
                values = functional.interpolate(values, level.shape[2:], mode=LINEAR[level.ndim - 2])
                values = _relaxed(torch.where(lost, values, level[rows]), lost)
            found[view] = values + self._noise[view][rows]
        return found


def ranks(
    values: Float[Tensor, "*M B N"], present: Bool[Tensor, "B N"], draws: Float[Tensor, "*M B N"]
) -> Int[Tensor, "*M B N"]:
    """Place of each square in the order from the highest value to the lowest; what is not present is last.

    Args:
        values: of the squares.
        present: see ``BlockGrid``.
        draws: random numbers, which decide between equal values.
    """
    shuffled = draws.argsort(dim=-1).expand_as(values)
    worth = values.masked_fill(~present, -torch.inf).gather(-1, shuffled)
    order = shuffled.gather(-1, worth.argsort(dim=-1, descending=True, stable=True))
    return order.argsort(dim=-1)


def foremost(
    places: Int[Tensor, "*M B N"], present: Bool[Tensor, "B N"], share: float
) -> Bool[Tensor, "*M B N"]:
    """The first ``share`` of the squares that a case has, in an order of ``ranks``."""
    return places < (present.sum(dim=1, keepdim=True) * share).round()


def hindmost(
    places: Int[Tensor, "*M B N"], present: Bool[Tensor, "B N"], share: float
) -> Bool[Tensor, "*M B N"]:
    """The last ``share`` of the squares that a case has, in an order of ``ranks``."""
    count = present.sum(dim=1, keepdim=True)
    return (places >= count - (count * share).round()) & present


def _counts(space: Sequence[int], blocks: int) -> tuple[int, ...]:
    edge = max(space) / blocks
    return tuple(min(side, max(1, round(side / edge))) for side in space)


def _levels(x: Float[Tensor, "B C *space"], counts: Sequence[int]) -> list[Float[Tensor, "B C *cells"]]:
    """An image in cells, two along each side of a square or one, then ever smaller ones, last in pixels."""
    sizes, fineness = [], 2 if math.prod(2 * count for count in counts) <= _CELLS else 1
    while all(count * fineness <= side for count, side in zip(counts, x.shape[2:], strict=True)):
        sizes.append([count * fineness for count in counts])
        fineness *= 2
    sizes = sizes or [list(counts)]
    found = []
    for size in sizes:
        flat = x.flatten(0, 1)
        means = _sums(flat, size) / _sums(torch.ones_like(flat[:1]), size)
        found.append(means.reshape(*x.shape[:2], *size))
    return found if list(x.shape[2:]) == list(sizes[-1]) else [*found, x]


def _members(side: int, parts: int) -> Int[Tensor, "side"]:
    """For each pixel along an axis, which of the nearly equal parts it belongs to."""
    bounds = torch.arange(1, parts) * side // parts
    return torch.bucketize(torch.arange(side), bounds, right=True)


def _spread(squares: Bool[Tensor, "Q *counts"], space: Sequence[int]) -> Bool[Tensor, "Q *space"]:
    """For each pixel, or cell, what its square has."""
    for axis, side in enumerate(space, start=1):
        squares = squares.index_select(axis, _members(side, squares.shape[axis]))
    return squares


def _sums(values: Float[Tensor, "B *space"], counts: Sequence[int]) -> Float[Tensor, "B *counts"]:
    """Sums over nearly equal parts of each axis."""
    for axis, parts in enumerate(counts, start=1):
        member = functional.one_hot(_members(values.shape[axis], parts), parts).to(values)
        values = (values.movedim(axis, -1) @ member).movedim(-1, axis)
    return values


def _neighbours(counts: Sequence[int]) -> Float[Tensor, "M M"]:
    """Weight of each cell for each other: the binomial kernel 1, 2, 1 along each axis, without its centre."""
    lines = [
        2 * torch.eye(count, dtype=torch.float64)
        + torch.ones(count - 1, dtype=torch.float64).diag(1)
        + torch.ones(count - 1, dtype=torch.float64).diag(-1)
        for count in counts
    ]
    kernel = reduce(torch.kron, lines)
    without_centre: Tensor = kernel.fill_diagonal_(0) / (4 ** len(counts) - 2 ** len(counts))
    return without_centre


def _solved(
    cells: Float[Tensor, "C *counts"], gone: Bool[Tensor, "M"], weights: Float[Tensor, "M M"]
) -> Float[Tensor, "C *counts"]:
    """Solve ``Σ_q w(p, q) (v(p) − v(q)) = 0`` for the values of the cells that are gone."""
    values = cells.flatten(1).T.clone()
    lost = gone.nonzero()[:, 0]
    given = weights[lost] @ values.masked_fill(gone[:, None], 0) + _ANCHOR * values.mean(dim=0)
    system = -weights[lost][:, lost]
    system.diagonal().add_(weights[lost].sum(dim=1) + _ANCHOR)
    values[lost] = torch.cholesky_solve(given, torch.linalg.cholesky(system))
    return values.T.reshape(cells.shape)


def _relaxed(
    values: Float[Tensor, "Q C *space"], lost: Bool[Tensor, "Q 1 *space"]
) -> Float[Tensor, "Q C *space"]:
    """Bring the filling nearer to the solution for pixels, by Jacobi's method."""
    weight = _around(torch.ones_like(values[:1, :1]))
    for _ in range(_SWEEPS):
        values = torch.where(lost, _around(values) / weight, values)
    return values


def _around(values: Float[Tensor, "Q C *space"]) -> Float[Tensor, "Q C *space"]:
    """Sum over the neighbours of each pixel, with the weights of ``_neighbours`` but for a factor."""
    total = values
    for axis in range(2, values.ndim):
        side = total.shape[axis] - 1
        below, above = total.narrow(axis, 0, side), total.narrow(axis, 1, side)
        total = total * 2
        total.narrow(axis, 0, side).add_(above)
        total.narrow(axis, 1, side).add_(below)
    centre: Tensor = values * 2 ** (values.ndim - 2)
    return total - centre
