"""Batches for the loop: read from the cache, moved to the device, varied, normalized."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.data.augment import augment_batch, draw_variation
from foveate.data.dataset import (
    PreparedCases,
    batches_of,
    class_targets,
    epoch_order,
    read_ahead,
    sampling_weights,
)
from foveate.preprocess import Preprocess
from foveate.train.study import Study
from foveate.types import Cohort

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Device:
    """Where a process computes, and which of how many it is.

    Attributes:
        torch_device: the device.
        rank: 0-based number among all devices.
        world: number of devices.
    """

    torch_device: torch.device
    rank: int = 0
    world: int = 1


@dataclass(frozen=True, slots=True)
class Part:
    """The training or the validation cases with their truth.

    Attributes:
        cases: N prepared cases.
        targets: as a criterion takes them: ``(N,)`` class indices or ``(N, K)`` of 1, 0, NaN = unknown.
        truth: ``(N, K)`` of 1, 0, NaN = unknown.
    """

    cases: PreparedCases
    targets: Tensor
    truth: NDArray[np.float64]

    @classmethod
    def of(cls, cohort: Cohort, cases: PreparedCases) -> Part:
        """Look up the truth of these cases, each of which has one."""
        truth = np.stack([cohort.target(case) for case in cases.cases])
        return cls(cases, class_targets(cohort, cases.cases), truth)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step needs.

    Attributes:
        views: each ``(B, 3, H, W)`` float32, normalized, channels last.
        targets: of these B cases.
        case_ids: to name them if the step fails.
    """

    views: dict[str, Tensor]
    targets: Tensor
    case_ids: tuple[str, ...]


class Feed:
    """Makes the batches of one process.

    Args:
        study: batch size, balance, augmentation, seed.
        train, val: the two parts.
        preprocess: for the normalization.
        device: where to, and this process's share.
    """

    def __init__(self, study: Study, train: Part, val: Part, preprocess: Preprocess, device: Device) -> None:
        self.train, self.val = train, val
        self._study = study
        self._preprocess = preprocess
        self._device = device
        self._weights = sampling_weights(train.truth) if study.train.balance == "sampler" else None
        in_background = device.torch_device.type != "cpu"  # a processor has nothing to gain from it
        self._threads = max(study.train.workers, int(in_background))
        self._places = self._share(len(train.cases.cases))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        return len(self._places)

    def training(self, epoch: int, done: int) -> Iterator[Batch]:
        """The batches of one epoch after the first ``done``, in the order and variation of (seed, epoch)."""
        order = epoch_order(len(self.train.cases.cases), self._study.seed, epoch, self._weights)
        rest = self._places[done:]
        loaded = read_ahead(lambda places: self.train.cases.batch(order[places]), rest, self._threads)
        for places, views in zip(rest, loaded, strict=True):
            varied = {name: self._vary(view, epoch, places) for name, view in views.items()}
            yield self._batch(self.train, order[places], varied)

    def validation(self) -> Iterator[Batch]:
        """This device's share of the validation cases, unvaried: every world-th one, in order."""
        share = self._share(len(self.val.cases.cases))
        loaded = read_ahead(self.val.cases.batch, share, self._threads)
        for positions, views in zip(share, loaded, strict=True):
            plain = {name: self._on_device(view) for name, view in views.items()}
            yield self._batch(self.val, positions, plain)

    def _share(self, count: int) -> list[Places]:
        size = self._study.train.batch_size
        return batches_of(count, size, rank=self._device.rank, world=self._device.world)

    def _on_device(self, view: Tensor) -> Tensor:
        return view.to(self._device.torch_device).float()

    def _vary(self, view: Tensor, epoch: int, places: Places) -> Tensor:
        """Augment; all views of a case alike, so that registered ones stay registered."""
        draw = partial(draw_variation, self._study.augment, self._study.seed, epoch)
        return augment_batch(self._on_device(view), [draw(int(place)) for place in places])

    def _batch(self, part: Part, positions: Places, views: dict[str, Tensor]) -> Batch:
        return Batch(
            views={
                name: self._preprocess.normalize(view).contiguous(memory_format=torch.channels_last)
                for name, view in views.items()
            },
            targets=part.targets[torch.from_numpy(positions)].to(self._device.torch_device),
            case_ids=tuple(part.cases.cases[position].case_id for position in positions),
        )
