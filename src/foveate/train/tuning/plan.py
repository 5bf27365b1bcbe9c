"""How a training is computed: in which precision and memory format, settled before its first step.

bfloat16 is taken only where it is right and faster. Right means: each convolution's gradients equal float32's
on its real shapes, or are computed another way (``kernel_check``), and the gradient of the whole model has a
cosine of at least 0.95 with float32's, now and after the first epoch. Faster is found out by a race of a few
steps, which also decides the memory format.

A plan is settled once for a run: ``plan.json`` in its folder holds it, and a training that goes on after an
interruption follows it, so that it stays exact. Between runs it is remembered in the cache folder under all
that it depends on: machine, libraries, model, size, batch.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field

from foveate.contract import Classifier
from foveate.device import native_bf16
from foveate.errors import InputRefused
from foveate.evaluate.results.file import ResultFile
from foveate.files import write_json
from foveate.study.study import Study, TrainConfig
from foveate.train.feed import Feed
from foveate.train.step import Choice
from foveate.train.tuning.convolution import WAYS, Convolution, Way
from foveate.train.tuning.estimate import Estimate, Extent, estimate, of_size
from foveate.train.tuning.kernel_check import KernelCheck, machine_key, processor_name
from foveate.train.tuning.trials import LEAST_COSINE, Trial, TrialBench

FEW_STEPS = 50  # of a training; with fewer not even an estimate pays


@dataclass(frozen=True, slots=True)
class Rerouted:
    """A convolution that the library computes wrong in bfloat16.

    Attributes:
        convolution: its shapes.
        count: how often a step computes it.
        way: in which it is computed instead.
        error: of the library's, None for NaN or infinity.
    """

    convolution: Convolution
    count: int
    way: Way
    error: float | None


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found out about bfloat16.

    Attributes:
        cosine: of the whole gradient with float32's; None where it is not finite.
        convolutions: how many different ones there are.
        rerouted: those that are computed another way.
        seconds: spent on single convolutions; 0 where all were known from earlier.
    """

    cosine: float | None
    convolutions: int
    rerouted: tuple[Rerouted, ...]
    seconds: float

    @property
    def right(self) -> bool:
        """Whether a training in bfloat16 learns from the right gradient."""
        return self.cosine is not None and self.cosine >= LEAST_COSINE

    @property
    def ways(self) -> dict[Convolution, Way]:
        """How to compute what the library computes wrong."""
        return {item.convolution: item.way for item in self.rerouted}

    def words(self) -> str:
        """Lines for a person: the gradient as a whole, and each way that was taken for some layers."""
        cosine = (
            "is not finite" if self.cosine is None else f"has a cosine of {self.cosine:.3f} with float32's"
        )
        lines = [f"bfloat16: the gradient {cosine}; {LEAST_COSINE} is wanted"]
        for way, count in Counter(item.way for item in self.rerouted).items():
            lines.append(
                f"{count} of {self.convolutions} convolutions have a wrong gradient in bfloat16 on this "
                f"machine: computed otherwise ({WAYS[way]})"
            )
        return "\n  ".join(lines)


class TrainingPlan(ResultFile):
    """How a training is computed.

    Attributes:
        choice: precision and memory format.
        reason: how this came about, in words.
        machine: on which it was made, see ``machine``.
        exact: False once the run has gone on on another machine, or with another number of threads.
        began_on: the machine on which it began, where that is another one.
        checked: what was found out about bfloat16; None where it was not asked.
        look_again: whether bfloat16 is faster, so that after the first epoch its gradient decides anew.
        key: hash of what the plan depends on.
        trials: what was raced.
        estimate: None if nothing was measured.
        took: seconds of measuring.
    """

    NAME: ClassVar[str] = "plan.json"
    MADE_BY: ClassVar[str] = "plan"

    choice: Choice
    reason: str
    machine: dict[str, str | int] = Field(default_factory=dict)
    exact: bool = True
    began_on: dict[str, str | int] = Field(default_factory=dict)
    checked: Checked | None = None
    look_again: bool = False
    key: str = ""
    trials: tuple[Trial, ...] = ()
    estimate: Estimate | None = None
    took: float = 0.0

    @property
    def ways(self) -> dict[Convolution, Way]:
        """Convolutions that are computed another way in bfloat16."""
        return {} if self.checked is None else self.checked.ways

    def words(self) -> str:
        """For a person: the choice with its reason, what it costs, and what was found out about bfloat16."""
        costs = f"; {self.estimate.words()}" if self.estimate is not None else ""
        lines = [f"plan: {self.choice.words()} ({self.reason}){costs}"]
        if self.checked is not None and (self.checked.rerouted or not self.checked.right):
            lines.append(self.checked.words())
        if not self.exact:
            there, here = (
                f"{each['threads']} threads of {each['processor']}, torch {each['torch']}"
                for each in (self.began_on, self.machine)
            )
            lines.append(f"no longer exact: this run began on {there}, and goes on on {here}")
        return "\n  ".join(lines)


def settle(
    study: Study, model: Classifier, feed: Feed, device: torch.device, *, run: Path, cache: Path
) -> TrainingPlan:
    """The plan of a run: the one it has, else the one remembered for its like, else one made now.

    Args:
        study: every choice.
        model: with its criterion, as it will be trained; it stays as it is.
        feed: of the training.
        device: that computes.
        run: folder that gets ``plan.json``.
        cache: folder that remembers plans and checked convolutions between runs.
    """
    extent = Extent.of(feed)
    if (known := read_plan(run)) is not None:
        plan = known.model_copy(update={"reason": "as this run began"})
        if known.machine != machine(device):  # what was right there may be wrong here
            elsewhere = {"machine": machine(device), "exact": False}
            plan = plan.model_copy(update=elsewhere | {"began_on": known.began_on or known.machine})
            if known.checked is not None:
                last = known.choice.channels_last
                checked = check(study, model, feed, device, extent, cache=cache, channels_last=last)
                choice = _if_right(known.choice, checked, study)
                plan = plan.model_copy(update={"checked": checked, "choice": choice})
        if plan != known:
            plan.write(run)
        return plan
    remembered = cache / "plans" / f"{plan_key(study, device, extent)}.json"
    if (known := _remembered(remembered)) is not None and known.machine == machine(device):
        cost = known.estimate and known.estimate.of(study.train.epochs, extent, model)
        plan = known.model_copy(update={"reason": "remembered from an earlier run", "estimate": cost})
    else:
        plan = measure(study, model, feed, device, cache=cache)
    keep(plan, run, cache)
    return plan


def keep(plan: TrainingPlan, run: Path, cache: Path) -> None:
    """Remember a plan in the run and, if it was measured, for its like; a full disk forgets the latter."""
    plan.write(run)
    if plan.took:
        with suppress(OSError):
            write_json(cache / "plans" / f"{plan.key}.json", plan.to_json())


def measure(
    study: Study,
    model: Classifier,
    feed: Feed,
    device: torch.device,
    *,
    extent: Extent | None = None,
    cache: Path | None = None,
    larger_batch: bool = False,
) -> TrainingPlan:
    """Check bfloat16, race it and the memory formats, and estimate what the training will cost.

    Args:
        study: every choice.
        model: with its criterion; it is copied.
        feed: its first batches are used.
        device: that computes.
        extent: of the training, if the feed holds some of its cases only.
        cache: folder that remembers checked convolutions.
        larger_batch: also time twice the batch size, as a hint; the study's is kept in any case.
    """
    began, config = time.perf_counter(), study.train
    whole = extent or Extent.of(feed)
    checked = (
        check(study, model, feed, device, whole, cache=cache)
        if considers_bfloat16(study.train, device)
        else None
    )
    batch, ways = of_size(next(feed.training(0, 0)), whole.sizes[0]), {} if checked is None else checked.ways
    bench = TrialBench(model, batch, config, device, ways=ways)
    choice, trials, look_again = choose(bench, study, checked)
    if checked is not None and not choice.channels_last:  # other kernels, which may be wrong elsewhere
        checked = check(study, model, feed, device, whole, cache=cache, channels_last=False)
        choice = _if_right(choice, checked, study)
    cost = None
    if larger_batch or config.epochs * whole.steps >= FEW_STEPS:
        twice = of_size(batch, 2 * whole.sizes[0])
        larger = TrialBench(model, twice, config, device, ways=ways) if larger_batch else None
        cost = estimate(bench, choice, feed, larger).of(config.epochs, whole, model)
    took = time.perf_counter() - began
    return TrainingPlan(
        choice=choice,
        reason=f"settled in {took:.1f} s",
        machine=machine(device),
        checked=checked,
        look_again=look_again,
        key=plan_key(study, device, whole),
        trials=trials,
        estimate=cost,
        took=took,
    )


def check(
    study: Study,
    model: Classifier,
    feed: Feed,
    device: torch.device,
    extent: Extent,
    *,
    cache: Path | None,
    channels_last: bool = True,
) -> Checked:
    """Find out whether bfloat16 is right: each convolution of both batch sizes, then the whole gradient.

    Args:
        study, model, feed, device, extent, cache: as for ``measure``.
        channels_last: the memory format that is asked about; each has kernels of its own.
    """
    config, first = study.train, next(feed.training(0, 0))
    half = Choice(half=True, channels_last=channels_last)
    counts: dict[Convolution, int] = {}
    for size in sorted(set(extent.sizes)):  # the longer one last: its counts stay
        bench = TrialBench(model, of_size(first, size), config, device)
        counts |= bench.convolutions(half)
    kernels = KernelCheck(device, cache)
    verdicts = kernels.verdicts(counts)
    rerouted = tuple(
        Rerouted(shape, counts[shape], verdict.way, verdict.error)
        for shape, verdict in verdicts.items()
        if verdict.way != "library"
    )
    ways = {item.convolution: item.way for item in rerouted}
    cosine = TrialBench(model, of_size(first, extent.sizes[0]), config, device, ways=ways).cosine(half)
    return Checked(cosine if math.isfinite(cosine) else None, len(counts), rerouted, kernels.seconds)


def _if_right(choice: Choice, checked: Checked, study: Study) -> Choice:
    """The choice, in float32 if bfloat16 was neither asked for nor is right."""
    return replace(choice, half=choice.half and (checked.right or study.train.precision == "bf16"))


def choose(
    bench: TrialBench, study: Study, checked: Checked | None
) -> tuple[Choice, tuple[Trial, ...], bool]:
    """Precision and memory format, what was raced, and whether to look at bfloat16 again.

    Without a race (``train.plan: off``) bfloat16 is taken wherever it is right, with channels last.
    """
    racing, forced = study.train.plan == "auto", study.train.precision == "bf16"
    half, full = Choice(half=True), Choice()
    trials: list[Trial] = []
    faster = checked is not None
    if checked is not None and racing and not forced:
        trials.append(bench.compare(half, full))
        faster = trials[-1].taken
    right = checked is not None and checked.right
    best = half if forced or (faster and right) else full
    if racing:
        trials.append(bench.compare(replace(best, channels_last=False), best))
        best = trials[-1].choice if trials[-1].taken else best
    return best, tuple(trials), faster and not forced


def considers_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether bfloat16 is asked for, or allowed and computed by the device itself."""
    return config.precision == "bf16" or (config.precision == "auto" and native_bf16(device.type))


def plan_key(study: Study, device: torch.device, extent: Extent) -> str:
    """Hash of all that a plan depends on."""
    config = study.train
    parts = {
        "machine": machine_key(device),
        "model": study.model.model_dump(mode="json"),
        "data": [study.data.model_dump(mode="json"), study.preprocess.spelt(), extent.sizes],
        "train": [config.precision, config.optimizer, config.plan, config.balance, study.seed],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def machine(device: torch.device) -> dict[str, str | int]:
    """What exact results depend on, in words: processor or GPU, threads, torch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return {"processor": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def read_plan(run: Path) -> TrainingPlan | None:
    """The plan of a run; None if it has none, or one that cannot be read: it is then made anew."""
    with suppress(OSError, InputRefused):
        return TrainingPlan.read(run)
    return None


def _remembered(path: Path) -> TrainingPlan | None:
    with suppress(OSError, ValueError):
        return TrainingPlan.from_json(json.loads(path.read_text(encoding="utf-8")))
    return None
