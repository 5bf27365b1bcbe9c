"""Batches: their order, their variation, and the shares of devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate.data.augment import Variation
from foveate.data.dataset import PreparedCases
from foveate.device import channels_last
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import AugmentConfig
from foveate.train.feed import Batch, Device, FedPart, Feed
from tiny_training import CLASSES, tiny_cohort, tiny_study

LACKING = {"case03": "a", "case20": "b"}


def tiny_feed(
    folder: Path,
    *,
    seed: int = 0,
    device: Device | None = None,
    augment: AugmentConfig | None = None,
    lacking: Mapping[str, str] | None = None,
    **train: Any,
) -> Feed:
    """Every case has its picture as two views, but for those that ``lacking`` says it is without."""
    cohort = tiny_cohort(folder / "images")
    gone = lacking or {}
    two_views = [
        replace(case, views={name: case.views["image"] for name in "ab" if gone.get(case.case_id) != name})
        for case in cohort.cases
    ]
    study = tiny_study(folder, **train).model_copy(
        update={"seed": seed, "augment": augment or AugmentConfig()}
    )
    preprocess = Preprocess(study.preprocess)
    cases = PreparedCases(two_views, ("a", "b"), preprocess, None, tolerant=True)
    train_part, val_part = (
        FedPart.of(cohort, cases.part(two_views[part])) for part in (slice(18), slice(18, 24))
    )
    return Feed(study, train_part, val_part, preprocess, device or Device(torch.device("cpu")))


def test_batches_depend_on_seed_and_epoch_and_can_be_taken_up_in_the_middle(tmp_path: Path) -> None:
    feed = tiny_feed(tmp_path, batch_size=5)
    epoch = list(feed.training(epoch=2, done=0))
    assert [len(batch.case_ids) for batch in epoch] == [5, 5, 4, 4]
    assert sorted(name for batch in epoch for name in batch.case_ids) == [
        f"case{place:02d}" for place in range(18)
    ]
    rest = list(tiny_feed(tmp_path, batch_size=5, workers=2).training(epoch=2, done=1))
    for early, late in zip(epoch[1:], rest, strict=True):
        assert early.case_ids == late.case_ids
        assert torch.equal(early.views["a"], late.views["a"]) and torch.equal(early.targets, late.targets)

    def picture_of(feed: Feed, epoch: int) -> Tensor:
        batches = list(feed.training(epoch, 0))
        found = [
            batch.views["a"][place]
            for batch in batches
            for place, name in enumerate(batch.case_ids)
            if name == "case03"
        ]
        return found[0]

    first = picture_of(feed, 2)
    assert not torch.equal(first, picture_of(feed, 3))
    assert not torch.equal(first, picture_of(tiny_feed(tmp_path, batch_size=5, seed=1), 2))


def test_augmentation_is_drawn_anew_for_every_place_of_every_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def noted(config: AugmentConfig, *where: int) -> Variation:
        drawn.append(where)
        return Variation()

    monkeypatch.setattr("foveate.train.feed.draw_variation", noted)
    list(tiny_feed(tmp_path, seed=7).training(epoch=2, done=1))
    assert sorted(drawn) == [(7, 2, place, 0) for place in range(6, 18) for _ in "ab"]


def test_batches_are_what_the_model_and_the_criterion_take(tmp_path: Path) -> None:
    batch = next(iter(tiny_feed(tmp_path).training(0, 0)))
    for view in batch.views.values():
        assert view.shape == (6, 3, 32, 32) and view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.views["a"], batch.views["b"])  # all views of a case are varied alike
    assert [CLASSES[target] for target in batch.targets] == [
        CLASSES[int(name[4:]) % 3] for name in batch.case_ids
    ]


def lost(batches: Iterable[Batch]) -> dict[str, set[str]]:
    """Views that each case was not shown, by its name; whatever is shown is whole."""
    found: dict[str, set[str]] = {}
    for batch in batches:
        for name, view in batch.views.items():
            absent = view.flatten(1).isnan()
            assert (absent.all(dim=1) == absent.any(dim=1)).all()
            for case, gone in zip(batch.case_ids, absent.all(dim=1), strict=True):
                found.setdefault(case, set()).update(name if gone else "")
    return found


def test_views_that_a_case_lacks_stay_missing_through_augmentation(tmp_path: Path) -> None:
    feed = tiny_feed(tmp_path, lacking=LACKING)
    for batches in (feed.training(0, 0), feed.validation()):
        for case, views in lost(batches).items():
            assert views == ({LACKING[case]} if case in LACKING else set())


def test_views_are_withheld_in_training_alone_and_a_case_keeps_one(tmp_path: Path) -> None:
    feed = tiny_feed(tmp_path, lacking=LACKING, augment=AugmentConfig(drop_views=0.5))
    epochs = [lost(feed.training(epoch, 0)) for epoch in range(6)]
    assert epochs[0] == lost(feed.training(0, 0)) != epochs[1]
    shown = [views for epoch in epochs for case, views in epoch.items() if case not in LACKING]
    assert {frozenset(views) for views in shown} == {frozenset(), frozenset("a"), frozenset("b")}
    assert all(epoch["case03"] == {"a"} for epoch in epochs)
    late = lost(feed.training(1, 2))
    assert late == {case: views for case, views in epochs[1].items() if case in late}
    assert lost(feed.validation()) == {
        f"case{place}": {LACKING[f"case{place}"]} if place == 20 else set() for place in range(18, 24)
    }


def test_each_view_is_varied_on_its_own_if_they_are_not_shared(tmp_path: Path) -> None:
    alike, apart = (
        list(tiny_feed(tmp_path, augment=AugmentConfig(shared=shared)).training(0, 0))
        for shared in (True, False)
    )
    for one, other in zip(alike, apart, strict=True):
        assert torch.equal(one.views["a"], one.views["b"])
        assert torch.equal(one.views["a"], other.views["a"])  # the first view's draw is the shared one
        assert not torch.isclose(other.views["a"], other.views["b"]).all(dim=(1, 2, 3)).any()


def test_batches_of_volumes_are_channels_last_too(tmp_path: Path) -> None:
    values = torch.rand(2, 3, 4, 5, 6)
    last = channels_last(values)
    assert last.is_contiguous(memory_format=torch.channels_last_3d) and torch.equal(last, values)
    assert channels_last(values[0, 0]).is_contiguous()


def test_validation_is_in_order_and_unvaried(tmp_path: Path) -> None:
    feed = tiny_feed(tmp_path, batch_size=4)
    batches = list(feed.validation())
    assert [name for batch in batches for name in batch.case_ids] == [
        f"case{place}" for place in range(18, 24)
    ]
    prepared = feed.val.cases.batch(range(6))["a"]
    plain = Preprocess(tiny_study(tmp_path).preprocess).normalize(prepared)
    torch.testing.assert_close(torch.cat([batch.views["a"] for batch in batches]), plain)


def test_devices_share_an_epoch_without_overlap(tmp_path: Path) -> None:
    shares = [
        tiny_feed(tmp_path, device=Device(torch.device("cpu"), rank, 2)).training(0, 0) for rank in range(2)
    ]
    names = [name for share in shares for batch in share for name in batch.case_ids]
    assert sorted(names) == [f"case{place:02d}" for place in range(18)]
