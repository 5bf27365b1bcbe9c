"""The novelty score: against a slow twin, on images it never saw, with what cases lack."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from foveate.bundle.novelty import NoveltyScore, pooled_features
from foveate.contract import Classifier, InputSpec
from foveate.errors import UsageError
from foveate.models import build_model
from tiny_classifiers import LinearScores, TwoViewCnn, images


def features(count: int, width: int = 100, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes around means of their own, along 80 directions of very different length."""
    draws, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    mixing = fixed.normal(size=(80, width)) * np.geomspace(1, 0.05, 80)[:, None]
    labels = draws.integers(3, size=count)
    return draws.normal(size=(count, 80)) @ mixing + 3 * fixed.normal(size=(3, width))[labels], labels


def test_the_score_is_that_of_a_slow_twin() -> None:
    train, labels = features(400)
    new, _ = features(5, seed=1)
    score = NoveltyScore.fit(train, labels)
    assert score.directions.shape == (
        41,
        100,
    )  # half of the 82 in which cases differ: 80, and 2 between 3 means
    pca = PCA(41).fit(train)
    inside = pca.transform(train)
    means = [inside[labels == k].mean(axis=0) for k in range(3)]
    within = np.concatenate([inside[labels == k] - means[k] for k in range(3)])
    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(within).covariance_)
    outside = PCA().fit(train).explained_variance_[41:].sum() / (100 - 41)
    found = score.score(new)
    for row, value in zip(new, found, strict=True):
        placed = pca.transform(row[None])
        nearest = min(mahalanobis(placed[0], mean, inverse) for mean in means)
        beyond = row - pca.inverse_transform(placed)[0]
        assert value == pytest.approx(np.sqrt(nearest**2 + beyond @ beyond / outside))


def test_what_lies_outside_the_space_of_the_training_cases_counts() -> None:
    train, labels = features(60, width=300)  # fewer cases than directions
    score = NoveltyScore.fit(train, labels)
    away = np.linalg.svd(train - train.mean(axis=0))[2][-1]  # no training case differs along it
    near = train[:1]
    assert score.score(near + 30 * away)[0] > 2 * score.score(near)[0]


def test_the_threshold_lets_the_stated_share_of_cases_pass() -> None:
    train, labels = features(500)
    score = NoveltyScore.fit(train, labels)
    val, test = score.score(features(199, seed=1)[0]), score.score(features(4000, seed=2)[0])
    fitted = score.with_threshold(val, [f"p{n}" for n in range(199)], 0.9)
    assert fitted.threshold == np.sort(val)[179]  # ceil(200 * 0.9), from 1
    assert (test > fitted.threshold).mean() == pytest.approx(0.1, abs=0.05)
    few = score.with_threshold(val[:18], [f"p{n}" for n in range(18)], 0.95)
    assert (
        fitted.held and not few.held and few.threshold >= val[:18].max()
    )  # too few to hold it by order alone
    assert few.threshold < 1e9 and (test > few.threshold).mean() < 0.1
    two = score.with_threshold(val[:2], ["a", "b"], 0.95)
    assert two.threshold == np.inf


def test_a_view_that_a_case_lacks_adds_nothing() -> None:
    train, labels = features(300)
    lacking = train.copy()
    lacking[::4, 50:] = np.nan
    score = NoveltyScore.fit(lacking, labels)
    assert score.centre[50:] == pytest.approx(np.nanmean(lacking[:, 50:], axis=0))
    filled = np.where(np.isnan(lacking), score.centre, lacking)
    assert score.score(lacking) == pytest.approx(score.score(filled))


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    train, labels = features(100)
    score = NoveltyScore.fit(train, labels).with_threshold(np.arange(40.0), [f"p{n}" for n in range(40)])
    facts = json.loads(json.dumps(score.save(tmp_path / "novelty.safetensors"), allow_nan=False))
    again = NoveltyScore.load(tmp_path / "novelty.safetensors", facts)
    assert again.score(train) == pytest.approx(score.score(train), rel=1e-12)
    assert (again.threshold, again.familiar, again.cases) == (score.threshold, 0.95, 100)
    plain = NoveltyScore.fit(train)
    unset = NoveltyScore.load(tmp_path / "n.safetensors", plain.save(tmp_path / "n.safetensors"))
    assert unset.threshold == np.inf and np.isnan(unset.familiar)


def test_cases_that_do_not_differ_say_nothing() -> None:
    for rows in (np.ones((1, 4)), np.ones((9, 4))):
        with pytest.raises(UsageError, match="say nothing about what is familiar"):
            NoveltyScore.fit(rows)


def test_one_case_of_each_class_says_nothing() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 8))
    with pytest.raises(UsageError, match="5 training cases of 5 classes say nothing about what is familiar"):
        NoveltyScore.fit(rows, np.arange(5))
    assert np.isfinite(NoveltyScore.fit(rows, np.array([0, 1, 2, 3, 3])).score(rows)).all()


def test_features_are_pooled_maps_with_nan_where_a_view_is_missing() -> None:
    model = TwoViewCnn().eval()
    views = {"ct": images(3, 8, 8), "mr": images(3, 12, 12)}
    output = model({name: view.clone() for name, view in views.items()})
    maps = output.features
    views["mr"][1] = torch.nan
    found = pooled_features(model, output, views)
    assert found.shape == (3, 8) and found.dtype == torch.float64 and not found.requires_grad
    assert torch.allclose(found[:, :4], maps["ct_map"].mean(dim=(2, 3)).double(), atol=1e-6)
    assert found[1, 4:].isnan().all() and not found[[0, 2]].isnan().any()
    with pytest.raises(UsageError, match="no map of features"):
        blind = LinearScores((4, 4))
        pooled_features(
            blind, blind({"view0": images(1, 4, 4, channels=2)}), {"view0": images(1, 4, 4, channels=2)}
        )


def test_other_kinds_of_images_are_novel_even_to_an_untrained_network() -> None:
    torch.manual_seed(0)
    model = build_model("timm:test_resnet", 3, InputSpec(size=(64, 64)), pretrained=False, options={}).eval()
    draws = torch.Generator().manual_seed(1)

    def smooth(count: int) -> torch.Tensor:
        coarse = torch.randn((count, 3, 6, 6), generator=draws)
        return torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic")

    def scores(score: NoveltyScore, batch: torch.Tensor) -> np.ndarray:
        return score.score(pooled(model, batch))

    score = NoveltyScore.fit(pooled(model, smooth(150)))
    fitted = score.with_threshold(scores(score, smooth(100)), [f"p{n}" for n in range(100)])
    noise = torch.randn((30, 3, 64, 64), generator=draws)
    stripes = 4 * (torch.arange(64) % 4 < 2).float() * torch.rand((30, 1, 1, 1), generator=draws) - 1
    for other in (noise, stripes.expand(30, 3, 64, 64)):
        assert (scores(fitted, other) > fitted.threshold).mean() > 0.95
    assert (scores(fitted, smooth(100)) > fitted.threshold).mean() < 0.15


def pooled(model: Classifier, batch: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return pooled_features(model, model({"image": batch}), {"image": batch}).numpy()


def test_two_cases_of_a_class_are_enough() -> None:
    """They lie opposite each other around their mean, so that half of the directions have no variance."""
    features = np.random.default_rng(0).normal(size=(14, 24))
    score = NoveltyScore.fit(features, np.repeat(np.arange(7), 2))
    familiar, strange = score.score(features), score.score(features + 50)
    assert np.isfinite(familiar).all() and (strange > familiar.max()).all()
