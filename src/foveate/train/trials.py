"""Ways to compute a training step, raced against each other on the actual model, batch and machine.

Each way is tried on a copy of the model, so that nothing of the training moves. The two that are compared
take turns. One is faster if its fastest step is, since whatever else a machine does only makes steps slower,
and if it is in most turns.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from foveate.contract import Classifier
from foveate.train.checkpoint import random_state, restore_random_state, seed_everything
from foveate.train.convolution import with_matmul_gradients
from foveate.train.feed import Batch, Feed
from foveate.train.optim import make_optimizer
from foveate.train.step import Choice, TrainingStep, can_compile
from foveate.train.study import TrainConfig

GAIN = 0.95  # a way must take less than this share of the time of the one it replaces
MOST_LOSS_DIFFERENCE = 0.02  # from float32's loss of the same batch, as a share of it
MOST_COSINE_LOST = 0.05  # of the gradient with float32's, beside that of the safe choice
_TURNS = 5
_RACE_SECONDS, _MOST_SECONDS = 5.0, 45.0  # of a race from its third turn on; after which none begins
_LONG_TRAINING = 4 * 3600.0  # seconds; on a processor compiling takes minutes, and seldom makes it faster
_COMPILING_PAYS = 2.0  # the time saved must be so many times that of compiling


@dataclass(frozen=True, slots=True)
class Trial:
    """One way beside another.

    Attributes:
        choice, against: what was tried, and what it would replace.
        seconds, against_seconds: of the fastest step of each; None if it was not timed.
        loss_difference: from float32's loss of the same batch, as a share of it; None if it failed.
        gradient_cosine: between its gradient of all weights and float32's.
        verdict: ``taken``, or why not.
    """

    choice: Choice
    against: Choice
    seconds: float | None
    against_seconds: float | None
    loss_difference: float | None
    gradient_cosine: float | None
    verdict: str

    @property
    def taken(self) -> bool:
        """Whether it won."""
        return self.verdict == "taken"

    @property
    def change(self) -> str:
        """What was tried, in words."""
        before = self.against.words().split(", ")
        return ", ".join(word for word in self.choice.words().split(", ") if word not in before)


class Bench:
    """Tries ways to compute one batch's step.

    Args:
        model: with its criterion; it is copied and stays as it is.
        batch: of the training, on the device.
        config: for the optimizer.
        device: that computes.
        clock: seconds, to be replaced in tests.
    """

    def __init__(
        self,
        model: Classifier,
        batch: Batch,
        config: TrainConfig,
        device: torch.device,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.device = device
        self._model, self._batch, self._config = model, batch, config
        self._clock = clock
        self._reference: tuple[float, Tensor] | None = None

    def agreement(self, choice: Choice) -> tuple[float, float]:
        """Difference of the loss and cosine of the gradient, both from those of plain float32.

        Batch normalization is as in training; dropout is off, as its draws depend on the memory format.
        What is compiled is compared as it is. Deep networks with random weights magnify rounding: bfloat16's
        gradient of DenseNet-121 has a cosine of 0.7 with float32's, and learns the same. So a rival is
        measured by how much further than the safe choice it is from float32.
        """
        if self._reference is None:
            self._reference = self._gradient(Choice())
        (loss, gradient), (true_loss, true_gradient) = self._gradient(choice), self._reference
        cosine = torch.nn.functional.cosine_similarity(gradient.double(), true_gradient.double(), dim=0)
        return abs(loss - true_loss) / max(abs(true_loss), 1e-6), float(cosine)

    def race(self, *choices: Choice, turns: int = _TURNS) -> tuple[list[list[float]], list[float]]:
        """Seconds of the steps of each choice, turn by turn, and of its first one, which may compile.

        A slow model gets two turns.
        """
        times: list[list[float]] = [[] for _ in choices]
        with _undisturbed():
            steps = [self._stepper(choice) for choice in choices]
            first = [self._time(step) for step in steps]
            began = self._clock()
            for turn in range(turns):
                if turn >= 2 and self._clock() - began > _RACE_SECONDS:
                    break
                for step, column in zip(steps, times, strict=True):
                    column.append(self._time(step))
        return times, first

    def pace(self, choice: Choice, feed: Feed, count: int = 6) -> float:
        """Seconds of a step with the making of its batch, over the first steps of an epoch."""
        with _undisturbed():
            step = self._stepper(choice)
            batches = _endless(feed)
            for turn in range(count + 2):  # the first two fill what reads ahead
                if turn == 2:
                    began = self._clock()
                next(batches)
                step()
            batches.close()
        return (self._clock() - began) / count

    def scoring(self, choice: Choice) -> float:
        """Seconds to classify the batch without training."""
        step = TrainingStep(self._copy(), choice, self.device.type).eval()

        @torch.inference_mode()
        def score() -> None:
            step.logits(self._batch.views)

        return min(self._time(score) for _ in range(2))

    def _copy(self) -> Classifier:
        return copy.deepcopy(self._model).to(self.device)

    def _gradient(self, choice: Choice) -> tuple[float, Tensor]:
        with _undisturbed():
            step = TrainingStep(self._copy(), choice, self.device.type).train()
            for module in step.modules():
                if isinstance(module, nn.modules.dropout._DropoutNd):
                    module.eval()
            loss = step(self._batch.views, self._batch.targets, 0.0)["total"]
            loss.backward()
            gradients = [item.grad.flatten().float() for item in step.parameters() if item.grad is not None]
        return float(loss.detach()), torch.cat(gradients)

    def _stepper(self, choice: Choice) -> Callable[[], None]:
        """A function that does one whole step on a copy of the model."""
        model = self._copy().train()
        step = TrainingStep(model, choice, self.device.type)
        optimizer = make_optimizer(model, self._config, self.device)

        def do() -> None:
            optimizer.zero_grad()
            step(self._batch.views, self._batch.targets, 0.0)["total"].backward()
            float(get_total_norm([item.grad for item in model.parameters() if item.grad is not None]))
            optimizer.step()

        return do

    def _time(self, work: Callable[[], None]) -> float:
        began = self._clock()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self._clock() - began


def rivals(
    model: Classifier, start: Choice, config: TrainConfig, device_type: str
) -> list[Mapping[str, bool]]:
    """What may be changed about a choice on this device, most promising first."""
    changes: list[Mapping[str, bool]] = []
    if device_type == "cpu" and with_matmul_gradients(copy.deepcopy(model)):
        changes.append({"matmul_gradients": True})
    if start.half and config.precision == "auto":
        changes.append({"half": False})
    changes.append({"channels_last": False})
    return changes


def search(bench: Bench, start: Choice, changes: Sequence[Mapping[str, bool]], steps: int) -> list[Trial]:
    """Try one change after the other, each on top of the best so far.

    Args:
        bench: that times and compares.
        start: what is safe.
        changes: of attributes of the choice.
        steps: of the training that is planned; nobody spends more than a few per cent of it on trials.
    """
    best, least, trials = start, bench.agreement(start)[1] - MOST_COSINE_LOST, []
    budget = min(_MOST_SECONDS, max(3.0, 0.03 * steps * bench.race(start, turns=1)[0][0][0]))
    began = time.perf_counter()
    for change in changes:
        if time.perf_counter() - began > budget:
            break
        trials.append(compare(bench, best, replace(best, **change), least))
        best = best_of(best, trials[-1:])
    return trials


def best_of(start: Choice, trials: Sequence[Trial]) -> Choice:
    """What the last trial that was won took, or the start."""
    return next((trial.choice for trial in reversed(trials) if trial.taken), start)


def compare(bench: Bench, best: Choice, rival: Choice, least: float, steps: int | None = None) -> Trial:
    """One change beside the best so far.

    Args:
        bench: that times and compares.
        best, rival: the two.
        least: cosine with float32's gradient that the rival must reach.
        steps: of the training, where the first step of the rival costs time that must be won back.
    """
    try:
        loss, cosine = bench.agreement(rival)
        if not (loss <= MOST_LOSS_DIFFERENCE and cosine >= least):
            return Trial(rival, best, None, None, loss, cosine, "dropped: its results differ too much")
        (before, after), (_, first) = bench.race(best, rival)
    except Exception as error:  # whatever a backend cannot do, the choice before it can
        return Trial(rival, best, None, None, None, None, f"failed: {type(error).__name__}")
    mine, other = min(before), min(after)
    each = statistics.median(new / old for old, new in zip(before, after, strict=True))
    faster = max(each, other / mine) < GAIN  # at their fastest, and in most turns
    pays = steps is None or (mine - other) * steps > _COMPILING_PAYS * first
    verdict = "taken" if faster and pays else "not worth its first step" if faster else "not faster"
    return Trial(rival, best, other, mine, loss, cosine, verdict)


def compiling(bench: Bench, best: Choice, steps: int, device_type: str) -> Trial | None:
    """The best choice beside itself compiled, where a training is long enough to win back its compilation."""
    if not can_compile(device_type) or bench.race(best, turns=1)[0][0][0] * steps < _LONG_TRAINING:
        return None
    least = bench.agreement(best)[1] - MOST_COSINE_LOST
    return compare(bench, best, replace(best, compiled=True), least, steps)


def _endless(feed: Feed) -> Generator[Batch]:
    """Batches of the first epoch, over and over."""
    while True:
        yield from feed.training(0, 0)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Draw the same random numbers each time, and leave the training's generators as they were."""
    kept = random_state()
    seed_everything(0)
    try:
        yield
    finally:
        restore_random_state(kept)
