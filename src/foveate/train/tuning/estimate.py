"""What a training will cost: time, memory and disk."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, replace
from itertools import islice

import torch

from foveate.contract import Classifier
from foveate.device import channels_last
from foveate.train.feed import Batch, Feed
from foveate.train.step import Choice
from foveate.train.tuning.trials import TrialBench


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a training will cost.

    Attributes:
        step_seconds: of one step, without its batch.
        batch_seconds: to make one batch.
        pace_seconds: of one step with its batch.
        scoring_seconds: of one batch of validation.
        memory_bytes: most that the process has used while measuring, None where the system does not tell.
        larger_batch: seconds an image takes at twice the batch size, as a share of those now.
        seconds: of all epochs with validation.
        disk_bytes: prepared images, two checkpoints and the bundle.
    """

    step_seconds: float
    batch_seconds: float
    pace_seconds: float
    scoring_seconds: float
    memory_bytes: int | None
    larger_batch: float | None = None
    seconds: float = 0.0
    disk_bytes: int = 0

    def of(self, epochs: int, extent: Extent, model: Classifier) -> Estimate:
        """The same paces over a whole training."""
        each = extent.steps * self.pace_seconds + extent.scorings * self.scoring_seconds
        return replace(self, seconds=epochs * each, disk_bytes=_disk(model, extent))

    def words(self) -> str:
        """Time, memory and disk, for a person."""
        memory = f"{self.memory_bytes / 1e9:.1f} GB of memory, " if self.memory_bytes else ""
        return f"about {in_words(self.seconds)}, {memory}{self.disk_bytes / 1e9:.1f} GB on disk"


@dataclass(frozen=True, slots=True)
class Extent:
    """How much there is to compute.

    Attributes:
        steps, scorings: batches of an epoch to learn from, and to validate on.
        cases: to be kept as prepared images.
        sizes: cases in the longest and in the shortest batch to learn from.
    """

    steps: int
    scorings: int
    cases: int
    sizes: tuple[int, int]

    @classmethod
    def of(cls, feed: Feed) -> Extent:
        """All that a feed holds."""
        cases = len(feed.train.cases.cases) + len(feed.val.cases.cases)
        return cls(feed.steps_per_epoch, feed.scorings_per_epoch, cases, feed.batch_sizes)


def estimate(bench: TrialBench, choice: Choice, feed: Feed, larger: TrialBench | None = None) -> Estimate:
    """Measure the paces of a training; ``Estimate.of`` makes its cost of them.

    Args:
        bench: with a batch of the usual size.
        choice: how steps are computed.
        feed: its first batches are made.
        larger: bench with a batch of twice the size, to tell what an image would take there.
    """
    making = _making(feed)
    step = min(bench.race(choice, turns=2)[0])
    waiting = making * (feed.threads == 0)
    twice = None if larger is None else min(larger.race(choice, turns=1)[0])
    return Estimate(
        step_seconds=step,
        batch_seconds=making,
        pace_seconds=step + waiting,
        scoring_seconds=bench.scoring(choice) + waiting,
        memory_bytes=_most_memory(bench.device),
        larger_batch=None if twice is None else twice / 2 / step,
    )


def of_size(batch: Batch, size: int) -> Batch:
    """A batch of another length: its first cases, over and over if need be."""
    places = torch.arange(size) % len(batch.case_ids)
    views = {name: channels_last(view[places.to(view.device)]) for name, view in batch.views.items()}
    names = tuple(batch.case_ids[place] for place in places.tolist())
    return Batch(views, batch.targets[places.to(batch.targets.device)], names)


def in_words(seconds: float) -> str:
    """A length of time."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _making(feed: Feed) -> float:
    """Seconds to make one batch, the fastest of the first few."""
    times, began = [], time.perf_counter()
    for _ in islice(feed.training(0, 0), 3):
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
    return min(times)


def _most_memory(device: torch.device) -> int | None:
    """Bytes that this process has used at most, or the GPU's where there is one."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def _disk(model: Classifier, extent: Extent) -> int:
    """Prepared images in half precision, two checkpoints (weights, two moments, best weights), the bundle."""
    spec = model.input_spec
    weights: int = sum(item.nbytes for item in model.state_dict().values())
    image = 2 * spec.channels * math.prod(spec.size)
    return image * len(spec.views) * extent.cases + (2 * 4 + 1) * weights
