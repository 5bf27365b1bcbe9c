"""Intervals of averages from those of their parts."""

from __future__ import annotations

import numpy as np
import pytest

from foveate.evaluate.averages import average_interval, correlations, difference_interval
from foveate.evaluate.intervals import Value
from foveate.evaluate.rates import wilson


def _value(value: float | None, low: float | None, high: float | None) -> Value:
    return Value(value, low, high, 10, 10)


PARTS = [_value(0.8, 0.5, 0.95), _value(0.6, 0.2, 0.9)]


def test_independent_parts_by_hand() -> None:
    """Distances 0.3 and 0.4 below make 0.5, 0.15 and 0.3 above make 0.3354; half of each."""
    found = average_interval(PARTS, None)
    assert found == pytest.approx((0.7 - 0.25, 0.7 + 0.33541 / 2), abs=1e-5)
    varying = np.random.default_rng(0).normal(size=(100_000, 2))
    assert average_interval(PARTS, varying) == pytest.approx(found, abs=2e-3)


def test_parts_that_move_together_have_the_mean_of_the_bounds() -> None:
    moved = np.random.default_rng(0).normal(size=(100, 1)) * [[1.0, 5.0]]
    assert average_interval(PARTS, moved) == pytest.approx((0.35, 0.925))
    against = moved * [[1, -1]]  # would make it narrower
    assert average_interval(PARTS, against) == pytest.approx(average_interval(PARTS, None))


def test_a_part_that_does_not_vary_counts_all_the_same() -> None:
    replicates = np.column_stack([np.ones(50), np.random.default_rng(0).normal(size=50)])
    assert correlations(replicates) == pytest.approx(np.eye(2))
    perfect = [_value(1.0, 0.6, 1.0), _value(1.0, 0.7, 1.0)]
    assert average_interval(perfect, np.ones((50, 2))) == pytest.approx((0.75, 1.0))


def test_undefined_parts_are_left_out_and_one_without_an_interval_leaves_none() -> None:
    assert average_interval([*PARTS, _value(None, None, None)], None) == pytest.approx(
        average_interval(PARTS, None)
    )
    assert average_interval([*PARTS, _value(0.5, None, None)], None) is None
    assert average_interval([_value(None, None, None)], None) is None
    replicates = np.array([[1.0, np.nan], [2.0, 4.0], [3.0, 6.0], [4.0, 7.9]])
    assert correlations(replicates)[0, 1] == pytest.approx(np.corrcoef(replicates[1:].T)[0, 1])


def test_differences_by_hand() -> None:
    """Apart: 0.3 below the first and 0.3 above the second make 0.424; together at the worst: 0.6."""
    one, other = PARTS
    assert difference_interval(one, other, independent=True) == pytest.approx(
        (0.2 - 0.3 * 2**0.5, 0.2 + (0.15**2 + 0.4**2) ** 0.5)
    )
    assert difference_interval(one, other) == pytest.approx((0.5 - 0.9, 0.95 - 0.2))
    assert difference_interval(one, _value(0.5, None, None)) is None
    # Newcombe 1998, table II, (a): 56/70 less 48/80, method 10 from Wilson's intervals: 0.0524 to 0.3339
    first, second = ((k / n, *wilson(k / n, n)) for k, n in ((56, 70), (48, 80)))
    found = difference_interval(_value(*first), _value(*second), independent=True)
    assert found == pytest.approx((0.0524, 0.3339), abs=5e-5)
