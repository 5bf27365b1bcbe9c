"""Dividing groups of cases so that every class is spread as evenly as it can be.

Iterative stratification (Sechidis, Tsoumakas, Vlahavas: On the stratification of multi-label data, ECML
PKDD 2011, algorithm 1), with groups in place of examples: the rarest class that still has groups is
dealt out first, each group to the part that still wants most of that class. With one class per case it is
ordinary stratification. It does not look at the size of groups; where these differ much, single groups
are moved afterwards as long as that brings the counts nearer to the wanted ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TRIES, _MANY = 5, 2000
"""How often to try, and from how many groups on chance evens things out so that once is enough."""

_ABSENT = 1000.0
"""What a class that a part lacks costs: more than any imbalance."""

Floats = NDArray[np.float64]
Parts = NDArray[np.int64]


def stratify(counts: Floats, sizes: Floats, shares: Floats, rng: np.random.Generator) -> Parts:
    """Deal groups out to parts; no part stays empty.

    Args:
        counts: ``(G, K)`` cases of each class in each group.
        sizes: ``(G,)`` cases in each group.
        shares: ``(P,)`` wanted share of each part, positive, with sum 1; at most G parts.
        rng: breaks ties.

    Returns:
        ``(G,)`` part of each group.
    """
    columns = np.column_stack([counts, sizes])
    columns = columns[:, columns.any(axis=0)]
    wanted = np.outer(shares, columns.sum(axis=0))
    if len(sizes) >= _MANY:
        return _deal(counts, sizes, shares, rng)
    tries = [_move(_deal(counts, sizes, shares, rng), columns, wanted) for _ in range(_TRIES)]
    return min(tries, key=lambda part: _cost(_had(part, columns, len(shares)), wanted).sum())


def _cost(had: Floats, wanted: Floats) -> Floats:
    """Chi-square distance ``(...)`` of counts ``(..., K)`` from wanted ones; absent classes cost extra."""
    return np.asarray(((had - wanted) ** 2 / wanted + _ABSENT * (had == 0)).sum(axis=-1))


def _had(part: Parts, columns: Floats, parts: int) -> Floats:
    return np.stack([columns[part == number].sum(axis=0) for number in range(parts)])


def _move(part: Parts, columns: Floats, wanted: Floats) -> Parts:
    """Move single groups to other parts as long as that lowers the cost."""
    had = _had(part, columns, len(wanted))
    moved = True
    while moved:
        moved = False
        for group, own in enumerate(columns):
            here = part[group]
            gain = _cost(had + own, wanted) - _cost(had, wanted)
            gain += _cost(had[here] - own, wanted[here]) - _cost(had[here], wanted[here])
            gain[here] = 0
            there = int(gain.argmin())
            if gain[there] < -1e-6:
                had[here] -= own
                had[there] += own
                part[group], moved = there, True
    return part


def _deal(counts: Floats, sizes: Floats, shares: Floats, rng: np.random.Generator) -> Parts:
    """One division."""
    wanted = _Wanted(np.outer(shares, counts.sum(axis=0)), shares * sizes.sum(), rng)
    part = np.full(len(sizes), -1)
    holders = (counts > 0).sum(axis=0)  # groups of each class that are still to be dealt
    while holders.any():
        label = int(np.where(holders > 0, holders, np.inf).argmin())
        for group in _largest_first(counts[:, label] * (part < 0), rng):
            part[group] = wanted.deal(counts[group], sizes[group], label)
            holders -= counts[group] > 0
    for group in _largest_first(sizes * (part < 0), rng):
        part[group] = wanted.deal(counts[group], sizes[group], None)
    return _fill_empty(part, sizes, len(shares))


class _Wanted:
    """What each part still wants."""

    def __init__(self, classes: Floats, cases: Floats, rng: np.random.Generator) -> None:
        self.classes, self.cases, self.rng = classes, cases, rng

    def deal(self, counts: Floats, size: float, label: int | None) -> int:
        """Give a group to the part that wants most of a class, then most cases, then to any of these."""
        most = np.arange(len(self.cases))
        for wish in ([self.classes[:, label]] if label is not None else []) + [self.cases]:
            most = most[wish[most] > wish[most].max() - 1e-9]
        part = int(most[self.rng.integers(len(most))])
        self.classes[part] -= counts
        self.cases[part] -= size
        return part


def _largest_first(weight: Floats, rng: np.random.Generator) -> Parts:
    """Indices of positive weights, the largest first, equal ones in random order."""
    order = rng.permutation(len(weight))
    order = order[np.argsort(-weight[order], kind="stable")]
    return order[weight[order] > 0]


def _fill_empty(part: Parts, sizes: Floats, parts: int) -> Parts:
    """Give each empty part the smallest group of the part that has most groups."""
    for empty in np.flatnonzero(np.bincount(part, minlength=parts) == 0):
        richest = np.flatnonzero(part == np.bincount(part, minlength=parts).argmax())
        part[richest[sizes[richest].argmin()]] = empty
    return part
