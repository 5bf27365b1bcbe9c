"""The interval of an average of figures, or of a difference of two, from those of the figures themselves.

Averages over classes (balanced accuracy, macro AUROC) are of figures that have intervals of their own, which
hold where replicates do not differ. An average reaches as far below itself as ``sqrt(d' R d) / K`` with ``d``
the distances of the K figures from their lower bounds and ``R`` their correlations, and the same above: the
method of variance estimates recovery (Zou and Donner 2008, Stat. Med. 27:1693; with correlations, Zou 2008,
Am. J. Epidemiol. 168:212). The correlations are those of the bootstrap replicates; what does not vary is
taken to be independent, and correlations below 0 count as 0, which makes no interval narrower.

The difference of two figures reaches as far as ``sqrt(d1^2 + d2^2)`` where they rest on different patients
(Newcombe 1998, Stat. Med. 17:873, method 10, for rates), and as far as ``d1 + d2`` if nothing is known of how
they go together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foveate.evaluate.intervals import ROUNDING, Floats, Interval, Value


def average_interval(parts: Sequence[Value], replicates: Floats | None) -> Interval | None:
    """Interval of the mean of K figures.

    Args:
        parts: the figures; those without a value are left out.
        replicates: ``(B, K)`` of them, NaN where undefined; None takes them to be independent.

    Returns:
        Both bounds; None where no figure is defined, or one of them has no interval.
    """
    kept = [k for k, part in enumerate(parts) if part.value is not None]
    bounds = np.array([(parts[k].value, parts[k].low, parts[k].high) for k in kept], dtype=np.float64)
    if not kept or np.isnan(bounds).any():
        return None
    values, low, high = bounds.T
    alike = np.eye(len(kept)) if replicates is None else correlations(replicates[:, kept])
    below, above = (float(np.sqrt(apart @ alike @ apart)) for apart in (values - low, high - values))
    mean = float(values.mean())
    return mean - below / len(kept), mean + above / len(kept)


def correlations(replicates: Floats) -> Floats:
    """Correlations ``(K, K)`` of the columns of ``(B, K)``, at least 0, and 0 for one that is constant."""
    defined = replicates[~np.isnan(replicates).any(axis=1)]
    if len(defined) < 2:
        return np.eye(replicates.shape[1])
    apart = defined - defined.mean(axis=0)
    spread = np.sqrt((apart**2).mean(axis=0))
    scaled = np.where(spread > ROUNDING, apart / np.maximum(spread, ROUNDING), 0.0)
    found = np.clip(scaled.T @ scaled / len(defined), 0.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return found


def difference_interval(one: Value, other: Value, *, independent: bool = False) -> Interval | None:
    """Interval of one figure less another.

    Args:
        one, other: the figures.
        independent: whether they rest on different patients.

    Returns:
        Both bounds; None where either figure has no interval.
    """
    bounds = np.array([(part.value, part.low, part.high) for part in (one, other)], dtype=np.float64)
    if np.isnan(bounds).any():
        return None
    (value, low, high), (second, least, most) = bounds
    join = np.hypot if independent else np.add
    difference = value - second
    return float(difference - join(value - low, most - second)), float(
        difference + join(high - value, second - least)
    )
