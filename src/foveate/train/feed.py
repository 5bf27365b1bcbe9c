"""Batches for the loop: read from the cache, moved to the device, varied, normalized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.contract import has_view
from foveate.data.augment import Variation, augment_views, draw_kept, draw_variation
from foveate.data.dataset import (
    PreparedCases,
    batches_of,
    class_targets,
    epoch_order,
    sampling_weights,
)
from foveate.device import channels_last
from foveate.parallel import read_ahead
from foveate.prepare.preprocess import Preprocess
from foveate.study.study import Study
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
class FedPart:
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
    def of(cls, cohort: Cohort, cases: PreparedCases) -> FedPart:
        """Look up the truth of these cases, each of which has one."""
        truth = np.stack([cohort.target(case) for case in cases.cases])
        return cls(cases, class_targets(cohort, cases.cases), truth)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step needs.

    Attributes:
        views: each ``(B, 3, H, W)`` or ``(B, 1, D, H, W)`` float32, normalized, channels last; rows of NaN
            are views that a case lacks.
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

    Attributes:
        threads: that make coming batches while a step is computed; 0 makes each when it is asked for. Unless
            the study says how many, a GPU is fed by one.
    """

    def __init__(
        self, study: Study, train: FedPart, val: FedPart, preprocess: Preprocess, device: Device
    ) -> None:
        self.train, self.val = train, val
        self._study = study
        self._preprocess = preprocess
        self._device = device
        self._weights = sampling_weights(train.truth) if study.train.balance == "sampler" else None
        workers = study.train.workers
        self.threads = int(device.torch_device.type != "cpu") if workers is None else workers
        self._places = self._share(len(train.cases.cases))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        return len(self._places)

    @property
    def batch_sizes(self) -> tuple[int, int]:
        """Cases in the longest and in the shortest batch of an epoch."""
        return len(self._places[0]), len(self._places[-1])

    @property
    def scorings_per_epoch(self) -> int:
        """Batches of one validation."""
        return len(self._share(len(self.val.cases.cases)))

    def training(self, epoch: int, done: int) -> Iterator[Batch]:
        """The batches of one epoch after the first ``done``, in the order and variation of (seed, epoch)."""
        order = epoch_order(len(self.train.cases.cases), self._study.seed, epoch, self._weights)
        rest = self._places[done:]

        def make(places: Places) -> Batch:
            views = self.train.cases.batch(order[places])
            return self._batch(self.train, order[places], self._vary(views, epoch, places))

        yield from read_ahead(make, rest, self.threads)

    def validation(self) -> Iterator[Batch]:
        """This device's share of the validation cases, unvaried: every world-th one, in order."""

        def make(positions: Places) -> Batch:
            views = self.val.cases.batch(positions)
            plain = {name: self._on_device(view) for name, view in views.items()}
            return self._batch(self.val, positions, plain)

        yield from read_ahead(make, self._share(len(self.val.cases.cases)), self.threads)

    def _share(self, count: int) -> list[Places]:
        size = self._study.train.batch_size
        return batches_of(count, size, rank=self._device.rank, world=self._device.world)

    def _on_device(self, view: Tensor) -> Tensor:
        """Float32 on the device; a GPU copies from pinned memory while it computes."""
        if self._device.torch_device.type == "cuda":
            view = view.pin_memory()
        return view.to(self._device.torch_device, non_blocking=True).float()

    def _vary(self, views: Mapping[str, Tensor], epoch: int, places: Places) -> dict[str, Tensor]:
        """Augment, and put NaN in place of the views that are drawn to be withheld."""
        plain = {name: self._on_device(view) for name, view in views.items()}
        draws = {name: self._draw(epoch, places, number) for number, name in enumerate(views)}
        varied = augment_views(plain, draws, self._study.augment.padding)
        kept = self._kept(plain, epoch, places).unbind(dim=1)
        return {name: _only(view, here) for (name, view), here in zip(varied.items(), kept, strict=True)}

    def _draw(self, epoch: int, places: Places, view: int) -> list[Variation]:
        """One draw per case, the same for all views unless the study varies each on its own."""
        config, seed = self._study.augment, self._study.seed
        own = 0 if config.shared else view
        return [draw_variation(config, seed, epoch, int(place), own) for place in places]

    def _kept(self, views: Mapping[str, Tensor], epoch: int, places: Places) -> Tensor:
        """``(B, V)`` which views are shown: those that are there, but for those drawn to be withheld."""
        present = torch.stack([has_view(view) for view in views.values()], dim=1)
        share, seed = self._study.augment.drop_views, self._study.seed
        if not share:
            return present
        rows = zip(present.cpu().numpy(), places, strict=True)
        kept = [draw_kept(share, row, seed, epoch, int(place)) for row, place in rows]
        return torch.from_numpy(np.stack(kept)).to(present.device)

    def _batch(self, part: FedPart, positions: Places, views: dict[str, Tensor]) -> Batch:
        normalized = {name: self._preprocess.normalize(view, name) for name, view in views.items()}
        return Batch(
            views={name: channels_last(view) for name, view in normalized.items()},
            targets=part.targets[torch.from_numpy(positions)].to(self._device.torch_device),
            case_ids=tuple(part.cases.cases[position].case_id for position in positions),
        )


def _only(view: Tensor, kept: Tensor) -> Tensor:
    """A batch with rows of NaN in place of what is not kept, ``(B,)``."""
    if kept.all():
        return view
    shape = (-1,) + (1,) * (view.ndim - 1)
    return view.masked_fill(~kept.view(shape), torch.nan)
