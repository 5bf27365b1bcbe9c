"""What the published tables of DADRN are, found out from the numbers themselves."""

from __future__ import annotations

import itertools

import pytest

from foveate.models.cards import CARDS
from foveate.models.dadrn.card import CLASSES, DADRN_CARDS

ROWS = [row for card in DADRN_CARDS.values() for row in card.published]
ROWS += CARDS["residual_attention56"].published
TEST_SLICES = {"normal": (51, 44), "cyst": (69, 68), "FNH": (26, 28), "HCC": (50, 51), "hemangioma": (40, 39)}


def _decodes(value: float, first: int, second: int) -> bool:
    """Whether a mean of two shares of whole numbers of slices rounds to this."""
    counts = itertools.product(range(first + 1), range(second + 1))
    return any(abs((a / first + b / second) / 2 - value) < 5.1e-5 for a, b in counts)


def test_published_accuracy_is_the_mean_of_the_class_accuracies() -> None:
    rows = [row for row in ROWS if "accuracy" in row.figures]
    assert len(rows) == 7
    for row in rows:
        by_class = [row.figures[f"accuracy: {name}"] for name in CLASSES]
        assert sum(by_class) / 5 == pytest.approx(row.figures["accuracy"], abs=5.1e-5)
        assert (
            abs(row.figures["accuracy"] - row.figures["recall"]) > 0.004
        )  # unlike the recall that is beside it


def test_published_class_accuracies_fit_test_sets_that_lack_five_cysts_and_three_hemangiomas() -> None:
    def fitting(name: str, slices: tuple[int, int]) -> int:
        return sum(_decodes(row.figures[f"accuracy: {name}"], *slices) for row in ROWS)

    assert len(ROWS) == 9
    for name in ("FNH", "HCC", "normal"):
        assert fitting(name, TEST_SLICES[name]) >= 8
    assert fitting("cyst", (69, 63)) == fitting("hemangioma", (40, 36)) == 9
    assert fitting("cyst", TEST_SLICES["cyst"]) < 9 > fitting("hemangioma", TEST_SLICES["hemangioma"])


def test_each_published_localization_accuracy_is_one_count_over_both_test_sets() -> None:
    found = {}
    for row in ROWS:
        for name, (first, second) in TEST_SLICES.items():
            value = row.figures.get(f"localization accuracy: {name}")
            if value is not None:
                shares = [(count / first + count / second) / 2 for count in range(min(first, second) + 1)]
                found[row.name, name] = [k for k, share in enumerate(shares) if abs(share - value) < 5.1e-5]
    assert len(found) == 16
    assert all(len(counts) == 1 for counts in found.values())
    assert found["DADRN50-B", "HCC"] == [37]
    assert found["DADRN50-B", "hemangioma"] == [20]
