"""Plain facts of images: what differs is named, what does not is not; limits for few cases."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import binom, chi2, norm

from foveate.bundle.familiar import Familiar, FamiliarImages, plain_facts
from foveate.evaluate.probabilities import conformal
from foveate.evaluate.probabilities.conformal import conformal_quantile, familiar_limit, share_within
from foveate.types import Geometry, Image


def image(pixels: NDArray[np.generic], unit: str = "stored") -> Image:
    eight = pixels.dtype == np.uint8
    return Image(pixels, Geometry(pixels.shape[1:]), "x", "", unit, (0, 255) if eight else None)  # type: ignore[arg-type]


def skin(seed: int, size: tuple[int, int] = (60, 80)) -> Image:
    """A dark spot on something pink."""
    draws = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    middle, reach = draws.uniform(0.4, 0.6, 2) * size, draws.uniform(8, 15)
    spot = ndimage.gaussian_filter(((y - middle[0]) ** 2 + (x - middle[1]) ** 2 < reach**2) * 1.0, 2)
    colour = np.array([220, 170, 150]) + draws.normal(0, 8, 3)
    shown = colour[:, None, None] - spot * np.array([90, 100, 90])[:, None, None]
    return image(np.clip(shown + draws.normal(0, 5, (3, *size)), 0, 255).astype(np.uint8))


def blood(seed: int, size: tuple[int, int] = (60, 80)) -> Image:
    """Many pale red discs on something light."""
    draws = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    cells = np.zeros(size, dtype=bool)
    for middle in draws.uniform(0, 1, (40, 2)) * size:
        cells |= (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < 16
    shown = np.array([225, 215, 220])[:, None, None] - cells * np.array([20, 90, 60])[:, None, None]
    return image(np.clip(shown + draws.normal(0, 5, (3, *size)), 0, 255).astype(np.uint8))


def learned(count: int = 60) -> Familiar:
    return Familiar.of([plain_facts(skin(seed)) for seed in range(count)], [f"p{n}" for n in range(count)])


def told(familiar: Familiar, shown: Image) -> list[str]:
    return familiar.differences(plain_facts(shown))


class TestFacts:
    def test_of_a_small_picture_by_hand(self) -> None:
        pixels = np.zeros((3, 64, 64), np.uint8)
        pixels[:, :, 32:] = 255
        facts = plain_facts(image(pixels))
        assert (facts.colour, facts.dimensions, facts.encoding) == (False, 2, "8-bit stored")
        assert facts.size == (64, 64) and facts.values == (0, 255)
        means, quantiles = facts.look[:3], facts.look[3:8]
        assert means == pytest.approx((0.5, 0.5, 0.5)) and quantiles == pytest.approx((0, 0, 0.5, 1, 1))
        mirrored, turned = facts.look[40:42]  # black against white across, the same down
        assert mirrored == pytest.approx(-1, abs=0.01) and turned == pytest.approx(1, abs=0.01)
        assert len(facts.look) == 43 and np.isfinite(facts.look).all()

    def test_volumes_show_their_slice(self) -> None:
        volume = (
            np.random.default_rng(0).normal(size=(1, 5, 40, 30)).astype(np.float32)
            + np.arange(5)[:, None, None]
        )
        assert plain_facts(image(volume), 1).look == plain_facts(image(volume[:, 1])).look
        whole = plain_facts(image(volume, "HU"))
        assert whole.look == plain_facts(image(volume[:, 2])).look
        assert (whole.dimensions, whole.encoding, whole.size) == (3, "16-bit HU", (40, 30))

    @pytest.mark.parametrize("value", [0, 128, 255])
    def test_a_plain_picture_has_finite_numbers(self, value: int) -> None:
        assert np.isfinite(plain_facts(image(np.full((1, 20, 900), value, np.uint8))).look).all()


class TestDifferences:
    def test_the_same_kind_is_familiar_and_another_is_not(self) -> None:
        familiar = learned()
        assert np.mean([bool(told(familiar, skin(seed))) for seed in range(1000, 1100)]) <= 0.07
        assert all("look" in told(familiar, blood(seed)) for seed in range(20))

    @pytest.mark.parametrize("count", [12, 22])
    def test_few_cases(self, count: int) -> None:
        familiar = learned(count)
        assert not familiar.held and np.isfinite(familiar.limit)
        assert np.mean([bool(told(familiar, skin(seed))) for seed in range(1000, 1100)]) <= 0.07
        assert np.mean(["look" in told(familiar, blood(seed)) for seed in range(20)]) >= 0.95

    def test_each_plain_difference_is_named(self) -> None:
        familiar, usual = learned(), skin(7)
        assert told(familiar, usual) == []
        grey = np.repeat(usual.pixels[:1], 3, axis=0)
        assert "colour" in told(familiar, image(grey)) and "colour" in told(familiar, image(grey[:1]))
        assert "encoding" in told(familiar, image(usual.pixels.astype(np.uint16)))
        assert "values" in told(familiar, image(usual.pixels.astype(np.uint16) * 200))
        assert told(familiar, skin(7, (600, 800))) != [] and "size" in told(familiar, skin(7, (600, 800)))
        assert "size" in told(familiar, skin(7, (60, 240)))
        volume = np.repeat(usual.pixels[:, None], 3, axis=1)
        assert told(familiar, image(volume)) == ["kind"]

    def test_of_cases(self) -> None:
        cases = [{"a": plain_facts(skin(n)), "b": plain_facts(blood(n))} for n in range(30)]
        familiar = FamiliarImages.of(cases, [f"p{n}" for n in range(30)])
        assert familiar is not None
        again = FamiliarImages.from_json(json.loads(json.dumps(familiar.to_json(), allow_nan=False)))
        assert again == familiar
        assert again.differences(cases[0]) == ()
        assert again.differences({"a": cases[0]["a"]}) == ("unlike-views",)
        assert again.differences({"a": cases[0]["b"], "b": cases[0]["b"]}) == ("unlike-look",)
        assert FamiliarImages.of(cases[:4], ["p"] * 4) is None  # too few
        lone = FamiliarImages.of(cases[:8], ["p"] * 8)  # of one patient nothing is known of others
        assert lone is not None and lone.views["a"].limit == np.inf
        assert FamiliarImages.from_json(json.loads(json.dumps(lone.to_json(), allow_nan=False))) == lone


class TestLimits:
    def test_many_patients_give_the_conformal_limit(self) -> None:
        scores, names = np.random.default_rng(0).gamma(3, size=45), [f"p{n}" for n in range(45)]
        assert familiar_limit(scores, names, 0.95) == (conformal_quantile(scores, names, 0.95), True)
        assert not familiar_limit(scores[:44], names[:44], 0.95)[1]  # 0.95**44 > 0.1 >= 0.95**45

    @pytest.mark.parametrize("count", [5, 12, 22])
    def test_few_hold_the_share_with_nine_in_ten_cohorts(self, count: int) -> None:
        draws, held = np.random.default_rng(1), []
        for _ in range(1000):
            limit, enough = familiar_limit(np.exp(draws.normal(1, 0.3, count)), list(range(count)), 0.95)  # type: ignore[arg-type]
            held.append(norm.cdf((np.log(limit) - 1) / 0.3) >= 0.95)
            assert not enough
        assert np.mean(held) == pytest.approx(0.9, abs=0.03)

    @pytest.mark.parametrize(
        ("count", "confidence", "factor"),
        [(5, 0.9, 3.400), (10, 0.9, 2.568), (20, 0.9, 2.208), (10, 0.95, 2.911), (20, 0.95, 2.396)],
    )
    def test_the_published_tolerance_factors(
        self, monkeypatch: pytest.MonkeyPatch, count: int, confidence: float, factor: float
    ) -> None:
        """Of a share of 0.95 (Natrella 1963, table A-7), and what they promise by numerical integration.

        With the deviation s of n normal values, ``x + k s`` lies above the share with the probability
        ``E[Phi(sqrt(n) (k s - z))]``; the formula under test is a quantile of the noncentral t distribution.
        """
        monkeypatch.setattr(conformal, "CONFIDENCE", confidence)
        logs = np.linspace(-1, 1, count)
        limit, held = familiar_limit(np.exp(logs), [f"p{n}" for n in range(count)], 0.95)
        found = float(np.log(limit) / logs.std(ddof=1))
        assert found == pytest.approx(factor, abs=0.001) and not held
        squares = np.linspace(0, 10, 200_001)[1:]
        weights = chi2.pdf((count - 1) * squares, count - 1) * (count - 1)
        above = norm.cdf(np.sqrt(count) * (found * np.sqrt(squares) - norm.ppf(0.95)))
        assert np.trapezoid(weights * above, squares) == pytest.approx(confidence, abs=1e-4)

    def test_patients_count_and_not_cases(self) -> None:
        scores = np.random.default_rng(2).gamma(3, size=100)
        assert not familiar_limit(scores, [f"p{n % 10}" for n in range(100)], 0.95)[1]
        assert familiar_limit(scores, ["a", "b"] * 50, 0.95) == (np.inf, False)
        assert familiar_limit(np.ones(20), [f"p{n}" for n in range(20)], 0.95) == (np.inf, False)
        assert familiar_limit(np.array([]), [], 0.95) == (np.inf, False)

    def test_the_share_within_is_a_beta_quantile(self) -> None:
        """P(share below the k-th of n <= x) is a binomial tail, which is how it is checked."""
        low, high = share_within(60, 0.95)
        k = 58  # ceil(61 * 0.95)
        for edge, tail in ((low, 0.05), (high, 0.95)):
            assert binom.sf(k - 1, 60, edge) == pytest.approx(tail, abs=1e-6)
