"""Means of figures of single cases: rates exactly, others by resampling, and what is the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from foveate.evaluate.intervals import Bootstrap, Value
from foveate.evaluate.means import DIFFERENCE, SHARE, means
from foveate.evaluate.rates import clopper_pearson

NAMES = [f"p{n}" for n in range(8)]


def _mean(column: list[float], bounds: tuple[float, float] | None, names: list[str] | None = None) -> Value:
    given = {"x": bounds} if bounds else None
    return means({"x": np.array(column)}, names or NAMES[: len(column)], Bootstrap(400), bounds=given)["x"]


def test_zeros_and_ones_are_a_rate() -> None:
    low, high = clopper_pearson(6, 8)
    found = _mean([1, 1, 1, 0, 1, 1, 0, 1], SHARE)
    assert (found.value, found.low, found.high) == pytest.approx((0.75, float(low), float(high)))
    seven = _mean([1] * 7, SHARE)
    assert seven.low == pytest.approx(0.5904, abs=1e-4)
    assert seven.high == 1
    alike = _mean([1] * 8, SHARE, ["a", "a", "b", "b", "c", "c", "d", "d"])
    assert alike.low == pytest.approx(0.025**0.25)


def test_other_figures_have_the_interval_of_their_replicates() -> None:
    column = [0.2, 0.4, 0.9, 0.1, 0.5, 0.6, 0.3, 1.0]
    found, unbounded = _mean(column, SHARE), _mean(column, None)
    assert found == unbounded
    assert found.low is not None and found.high is not None
    assert 0.1 < found.low < 0.5 < found.high < 0.9


def test_what_is_the_same_everywhere_may_differ_elsewhere() -> None:
    """Of eight patients a share of up to 0.369 differs: by up to 1 from 0, by up to 1.3 from 0.3."""
    apart = 1 - 0.025 ** (1 / 8)
    same = _mean([0.0] * 8, DIFFERENCE)
    assert (same.low, same.high) == pytest.approx((-apart, apart))
    some = _mean([0.3] * 8, DIFFERENCE)
    assert (some.low, some.high) == pytest.approx((0.3 - 1.3 * apart, 0.3 + 0.7 * apart))
    unknown = _mean([0.3] * 8, None)
    assert (unknown.low, unknown.reason) == (None, "no interval: the bootstrap replicates do not differ")


def test_undefined_cases_are_left_out() -> None:
    found = _mean([1, np.nan, 1, 0, np.nan, 1, 1, 1], SHARE)
    assert (found.value, found.n, found.patients) == (pytest.approx(5 / 6), 6, 6)
    assert found.low == pytest.approx(float(clopper_pearson(5, 6)[0]))
    assert means({}, [], Bootstrap(10)) == {}
    reasons = {"x": "nobody asked"}
    none = means({"x": np.full(3, np.nan)}, NAMES[:3], Bootstrap(10), reasons=reasons)["x"]
    assert (none.value, none.reason) == (None, "nobody asked")
