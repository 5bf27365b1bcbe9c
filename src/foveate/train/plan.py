"""How a training will be computed, measured before it starts and remembered.

A plan is settled once for a run: ``plan.json`` in its folder holds it, and a training that goes on after an
interruption follows it, so that it stays exact. Between runs it is remembered in the cache folder under all
that it depends on: machine, libraries, model, size, batch. A training of few steps is not worth a race; it
takes what is safe everywhere, and only its cost is estimated.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from foveate.contract import Classifier
from foveate.files import write_json
from foveate.precision import channels_last
from foveate.train.feed import Batch, Feed
from foveate.train.step import Choice, can_compile, safe_choice
from foveate.train.study import Study
from foveate.train.trials import GAIN, Bench, Trial, best_of, compiling, rivals, search

FEW_STEPS = 500  # of a training; with fewer nothing is raced
_VERY_FEW_STEPS = 50  # and here not even an estimate pays
_ENOUGH_WAITING = 0.03  # share of a step; below it nothing is to be gained from threads


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
    """

    steps: int
    scorings: int
    cases: int

    @classmethod
    def of(cls, feed: Feed) -> Extent:
        """All that a feed holds."""
        cases = len(feed.train.cases.cases) + len(feed.val.cases.cases)
        return cls(feed.steps_per_epoch, feed.scorings_per_epoch, cases)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a training is computed.

    Attributes:
        choice: precision, memory format, gradients, compiled or not.
        threads: that make batches ahead.
        reason: how this came about, in words.
        key: hash of what it depends on.
        trials: what was compared.
        estimate: None if nothing was measured.
        took: seconds of measuring.
    """

    choice: Choice
    threads: int
    reason: str
    key: str = ""
    trials: tuple[Trial, ...] = ()
    estimate: Estimate | None = None
    took: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For ``plan.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Plan:
        """Of ``plan.json``.

        Raises:
            KeyError, TypeError, ValueError: it is not one.
        """
        trials = tuple(
            Trial(**{**trial, "choice": Choice(**trial["choice"]), "against": Choice(**trial["against"])})
            for trial in content["trials"]
        )
        estimate = None if content["estimate"] is None else Estimate(**content["estimate"])
        known = {**content, "choice": Choice(**content["choice"]), "trials": trials, "estimate": estimate}
        return cls(**known)

    def words(self) -> str:
        """One line for a person."""
        costs = f"; {self.estimate.words()}" if self.estimate is not None else ""
        return f"plan: {self.choice.words()} ({self.reason}){costs}"


def safe_plan(study: Study, device_type: str, reason: str) -> Plan:
    """What is right everywhere; a GPU is fed by a thread."""
    threads = study.train.workers
    if threads is None:
        threads = int(device_type != "cpu")
    return Plan(safe_choice(study.train, device_type), threads, reason)


def settle(
    study: Study, model: Classifier, feed: Feed, device: torch.device, *, run: Path, cache: Path, begun: bool
) -> Plan:
    """The plan of a run: the one it has, else the one remembered for its like, else one measured now.

    Args:
        study: every choice.
        model: with its criterion, as it will be trained; it stays as it is.
        feed: of the training.
        device: that computes.
        run: folder that gets ``plan.json``.
        cache: folder that remembers plans between runs.
        begun: a checkpoint is there; without ``plan.json`` it was computed the safe way.
    """
    steps = study.train.epochs * feed.steps_per_epoch
    if study.train.plan == "off":
        return safe_plan(study, device.type, "train.plan is off")
    if (known := read_plan(run)) is not None:
        return _possible(replace(known, reason="as this run began"), study, device.type)
    if begun:
        return safe_plan(study, device.type, "as this run began")
    if steps < FEW_STEPS:
        plan = safe_plan(study, device.type, f"{steps} steps are too few to race for a faster way")
        if steps >= _VERY_FEW_STEPS:
            plan = replace(plan, estimate=_glance(study, model, feed, device, plan))
        return plan
    remembered = cache / "plans" / f"{plan_key(study, model, device)}.json"
    if (known := _read(remembered)) is not None:
        estimate = known.estimate and known.estimate.of(study.train.epochs, Extent.of(feed), model)
        known = replace(known, reason="remembered from an earlier run", estimate=estimate)
        plan = _possible(known, study, device.type)
    else:
        plan = measure(study, model, feed, device)
    keep(plan, run, cache)
    return plan


def keep(plan: Plan, run: Path, cache: Path) -> None:
    """Remember a plan in the run and, if it was measured, for its like; a full disk forgets the latter."""
    write_json(run / "plan.json", plan.as_dict())
    if plan.took:
        with suppress(OSError):
            write_json(cache / "plans" / f"{plan.key}.json", plan.as_dict())


def measure(
    study: Study,
    model: Classifier,
    feed: Feed,
    device: torch.device,
    extent: Extent | None = None,
    *,
    larger_batch: bool = False,
) -> Plan:
    """Race the ways to compute this training's steps, and estimate what it will cost.

    Args:
        study: every choice.
        model: with its criterion; it is copied.
        feed: its first batches are used.
        device: that computes.
        extent: of the training, if the feed holds some of its cases only.
        larger_batch: also time twice the batch size, as a hint; the study's is kept in any case.
    """
    began, config = time.perf_counter(), study.train
    extent = extent or Extent.of(feed)
    batch = next(feed.training(0, 0))
    bench = Bench(model, batch, config, device)
    trials = _trials(bench, model, study, device, config.epochs * extent.steps)
    best = best_of(safe_choice(config, device.type), trials)
    step = min(bench.race(best, turns=2)[0][0])
    making = _making(feed)
    threads, pace = _threads(study, feed, bench, best, step, making)
    twice = (
        Bench(model, _doubled(batch), config, device).race(best, turns=1)[0][0][0] if larger_batch else None
    )
    estimate = Estimate(
        step_seconds=step,
        batch_seconds=making,
        pace_seconds=pace,
        scoring_seconds=bench.scoring(best) + making * (threads == 0),
        memory_bytes=_most_memory(device),
        larger_batch=None if twice is None else twice / 2 / step,
    ).of(config.epochs, extent, model)
    took = time.perf_counter() - began
    key = plan_key(study, model, device)
    return Plan(best, threads, f"measured in {took:.0f} s", key, tuple(trials), estimate, took)


def _glance(study: Study, model: Classifier, feed: Feed, device: torch.device, plan: Plan) -> Estimate:
    """What a training will cost, from three batches and two steps."""
    bench, making = Bench(model, next(feed.training(0, 0)), study.train, device), _making(feed)
    step, waiting = bench.race(plan.choice, turns=1)[0][0][0], making * (plan.threads == 0)
    scoring = bench.scoring(plan.choice) + waiting
    found = Estimate(step, making, step + waiting, scoring, _most_memory(device))
    return found.of(study.train.epochs, Extent.of(feed), model)


def plan_key(study: Study, model: Classifier, device: torch.device) -> str:
    """Hash of all that the fastest way to compute a step depends on."""
    config = study.train
    parts = {
        "machine": [platform.machine(), processor_name(), os.cpu_count(), torch.get_num_threads()],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "capabilities": sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True),
        "torch": torch.__version__,
        "model": study.model.model_dump(mode="json", exclude={"pretrained"}),
        "input": [model.num_classes, *map(str, asdict(model.input_spec).values())],
        "train": [config.batch_size, config.precision, config.optimizer, config.devices, config.workers],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _trials(bench: Bench, model: Classifier, study: Study, device: torch.device, steps: int) -> list[Trial]:
    start = safe_choice(study.train, device.type)
    trials = search(bench, start, rivals(model, start, study.train, device.type), steps)
    compiled = compiling(bench, best_of(start, trials), steps, device.type)
    return [*trials, *([] if compiled is None else [compiled])]


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


def _threads(
    study: Study, feed: Feed, bench: Bench, best: Choice, step: float, making: float
) -> tuple[int, float]:
    """How many threads make batches ahead, and the seconds of a step with its batch."""
    default = safe_plan(study, bench.device.type, "").threads
    if study.train.workers is not None or making < _ENOUGH_WAITING * (step + making):
        return default, step if default else step + making
    kept = feed.threads
    paces = {}
    for threads in (default, default + 1):
        feed.threads = threads
        paces[threads] = bench.pace(best, feed)
    feed.threads = kept
    chosen = default + 1 if paces[default + 1] < GAIN * paces[default] else default
    return chosen, paces[chosen]


def _possible(plan: Plan, study: Study, device_type: str) -> Plan:
    """A remembered plan, without what this machine cannot do or the study no longer wants."""
    choice = plan.choice
    if choice.compiled and not can_compile(device_type):
        choice = replace(choice, compiled=False)
    threads = plan.threads if study.train.workers is None else study.train.workers
    return replace(plan, choice=choice, threads=threads)


def read_plan(run: Path) -> Plan | None:
    """The plan of a run; None if it has none."""
    return _read(run / "plan.json")


def _read(path: Path) -> Plan | None:
    """A plan; None if it is not there, or not one."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return Plan.from_dict(json.loads(path.read_text(encoding="utf-8")))
    return None


def _doubled(batch: Batch) -> Batch:
    views = {name: channels_last(torch.cat([view, view])) for name, view in batch.views.items()}
    return Batch(views, torch.cat([batch.targets] * 2), batch.case_ids * 2)


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


def processor_name() -> str:
    """Name of the processor, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
