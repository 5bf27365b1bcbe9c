"""Likeness of maps against scipy, an independent SSIM, and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.functional.image import structural_similarity_index_measure

from foveate.maps.map_similarity import rank_correlation, structural_similarity


def draws(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_rank_correlation_is_that_of_scipy_ties_included() -> None:
    first, second = draws(3, 7, 9), np.round(draws(3, 7, 9, seed=1), 0)
    second += 0.5 * first.round(0)
    expected = [stats.spearmanr(a.ravel(), b.ravel())[0] for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(rank_correlation(first, second), expected, atol=1e-12)


def test_ranks_by_hand() -> None:
    first = np.array([[[1.0, 2], [3, 4]]])
    assert rank_correlation(first, np.exp(first))[0] == pytest.approx(1)  # heights do not matter
    assert rank_correlation(first, -first)[0] == pytest.approx(-1)
    assert rank_correlation(first, np.array([[[1.0, 2], [4, 3]]]))[0] == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_structural_similarity_is_that_of_torchmetrics() -> None:
    first, second = np.abs(draws(2, 24, 31)), np.abs(draws(2, 24, 31, seed=1))
    second[1] = first[1] + 0.3 * second[1]
    for one, two in zip(first, second, strict=True):
        tensors = (torch.tensor(each / each.max())[None, None] for each in (one, two))
        _, image = structural_similarity_index_measure(
            *tensors, gaussian_kernel=True, sigma=1.5, data_range=1.0, return_full_image=True
        )
        assert structural_similarity(one[None], two[None])[0] == pytest.approx(float(image.mean()), abs=1e-9)


def test_the_sign_and_the_height_do_not_matter_to_structure() -> None:
    maps = draws(1, 6, 12, 12)
    assert structural_similarity(maps, -3 * maps)[0] == pytest.approx(1)
    assert structural_similarity(maps, draws(1, 6, 12, 12, seed=1))[0] < 0.5


def test_a_map_without_a_pattern_is_like_nothing() -> None:
    flat, other = np.zeros((1, 8, 8)), draws(1, 8, 8)
    for likeness in (rank_correlation, structural_similarity):
        assert np.isnan(likeness(flat, other)).all() and np.isnan(likeness(other, flat)).all()
