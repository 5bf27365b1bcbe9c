"""Which models rank where, and which of them cannot be told apart: the numbers of a rank diagram.

Demšar's critical-difference diagram (2006, J. Mach. Learn. Res. 7:1) ranks models on many data sets. Here is
one cohort, and its place is taken by the patients who might have been in it: in every bootstrap replicate the
models are ranked by one figure, and a model stands at its mean rank. Bars join neighbours of whom no pair
differs by the corrected paired test, not those within one critical distance (as Benavoli, Corani and Mangili
2016, J. Mach. Learn. Res. 17:1, advise against: whether two models differ must not depend on the others).
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np
from scipy.stats import rankdata

from foveate.evaluate.intervals import Floats


def ranked(samples: Floats, *, lower_is_better: bool = False) -> Floats:
    """Rank models in each replicate, the best as 1, equals sharing their mean rank.

    Args:
        samples: ``(B, M)`` a figure of M models; a row where one of them is undefined has no ranks.
        lower_is_better: whether the smallest figure is the best.

    Returns:
        ``(B, M)``, NaN in rows without ranks.
    """
    signed = samples if lower_is_better else -samples
    signed = np.round(signed, 12)  # equal figures that were summed in another order are equal
    ranks: Floats = np.full(samples.shape, np.nan)
    whole = ~np.isnan(samples).any(axis=1)
    if whole.any():
        ranks[whole] = rankdata(signed[whole], axis=1)
    return ranks


def indistinguishable(mean_ranks: Mapping[str, float], differing: Set[frozenset[str]]) -> list[list[str]]:
    """The longest runs of neighbours in rank of whom no pair differs.

    Args:
        mean_ranks: of each model.
        differing: the pairs that were told apart.

    Returns:
        Names from the best to the worst; only runs of two or more that are not within another.
    """
    order = sorted(mean_ranks, key=lambda label: mean_ranks[label])
    found: list[list[str]] = []
    reached = 0
    for start in range(len(order)):
        stop = start + 1
        while stop < len(order) and not any({one, order[stop]} in differing for one in order[start:stop]):
            stop += 1
        if stop - start > 1 and stop > reached:
            found.append(order[start:stop])
            reached = stop
    return found
