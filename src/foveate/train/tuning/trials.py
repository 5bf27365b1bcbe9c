"""Ways to compute a training step, tried on the actual model, batch and machine: is it right, is it faster?

Each way is tried on a copy of the model, so that nothing of the training moves.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from foveate.contract import Classifier
from foveate.study.study import TrainConfig
from foveate.train.checkpoint import random_state, restore_random_state, seed_everything
from foveate.train.feed import Batch
from foveate.train.optim import make_optimizer
from foveate.train.step import Choice, TrainingStep
from foveate.train.tuning.convolution import Convolution, Way

LEAST_COSINE = 0.95  # of the whole gradient in bfloat16 with float32's; below it is not trained in bfloat16
GAIN = 0.85  # a way must take less than this share of the time of the one it replaces
_RACE_SECONDS = 2.0  # after which no further turn begins
_TURNS = 5
_Dropout = nn.modules.dropout._DropoutNd


@dataclass(frozen=True, slots=True)
class Trial:
    """One way beside another.

    Attributes:
        choice, against: what was tried, and what it would replace.
        seconds, against_seconds: of the fastest step of each.
        taken: whether it is faster by more than noise.
    """

    choice: Choice
    against: Choice
    seconds: float
    against_seconds: float
    taken: bool


class TrialBench:
    """Tries ways to compute one batch's step.

    Args:
        model: with its criterion; it is copied and stays as it is.
        batch: of the training, on the device.
        config: for the optimizer.
        device: that computes.
        ways: for convolutions that the library computes wrong in bfloat16.
        clock: seconds, to be replaced in tests.
    """

    def __init__(
        self,
        model: Classifier,
        batch: Batch,
        config: TrainConfig,
        device: torch.device,
        *,
        ways: Mapping[Convolution, Way] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.device = device
        self._model, self._batch, self._config = model, batch, config
        self._ways = dict(ways or {})
        self._clock = clock

    def convolutions(self, choice: Choice) -> dict[Convolution, int]:
        """Every convolution of a step, and how often it is computed."""
        seen: dict[Convolution, int] = {}
        with _undisturbed(), torch.no_grad():
            step = self._step(choice).train()
            with step.noting(seen):
                step(self._batch.views, self._batch.targets, 0.0)
        return seen

    def cosine(self, choice: Choice) -> float:
        """Cosine between the gradient of all weights and that of plain float32; NaN where it is not finite.

        Batch normalization is as in training; dropout is off, as its draws depend on the memory format. Where
        a network magnifies the rounding of bfloat16, by batch norms over channels that hardly vary for
        instance, the cosine is low although each layer by itself is right: .72 for an EfficientNet-lite0 from
        ImageNet weights on 16 ultrasound images, which then learned nothing.
        """
        found, true = self._gradient(choice), self._gradient(Choice(channels_last=choice.channels_last))
        return float(nn.functional.cosine_similarity(found.double(), true.double(), dim=0))

    def compare(self, rival: Choice, best: Choice) -> Trial:
        """Let two ways take turns: the rival must be faster at its best, and in most turns."""
        before, after = self.race(best, rival)
        share = statistics.median(new / old for old, new in zip(before, after, strict=True))
        taken = max(share, min(after) / min(before)) < GAIN
        return Trial(rival, best, min(after), min(before), taken)

    def race(self, *choices: Choice, turns: int = _TURNS) -> list[list[float]]:
        """Seconds of the steps of each choice, turn by turn; after some seconds no further turn begins."""
        times: list[list[float]] = [[] for _ in choices]
        with _undisturbed():
            steps = [self._stepper(choice) for choice in choices]
            began = self._clock()
            warm = [self._time(step) for step in steps]
            if self._clock() - began > _RACE_SECONDS:  # so slow that warming up hardly counts
                return [[seconds] for seconds in warm]
            for turn in range(turns):
                if turn and self._clock() - began > _RACE_SECONDS:
                    break
                for step, column in zip(steps, times, strict=True):
                    column.append(self._time(step))
        return times

    def scoring(self, choice: Choice) -> float:
        """Seconds to classify the batch without training."""
        step = self._step(choice).eval()

        @torch.inference_mode()
        def score() -> None:
            step.logits(self._batch.views)

        return min(self._time(score) for _ in range(2))

    def _step(self, choice: Choice) -> TrainingStep:
        """On a copy of the model, without gradients left over."""
        model = copy.deepcopy(self._model).to(self.device)
        model.zero_grad()
        return TrainingStep(model, choice, self.device.type, self._ways)

    def _gradient(self, choice: Choice) -> Tensor:
        with _undisturbed():
            step = self._step(choice).train()
            for module in step.modules():
                if isinstance(module, _Dropout):
                    module.eval()
            step(self._batch.views, self._batch.targets, 0.0)["total"].backward()
            return torch.cat([item.grad.flatten() for item in step.parameters() if item.grad is not None])

    def _stepper(self, choice: Choice) -> Callable[[], None]:
        """A function that does one whole step on a copy of the model."""
        step = self._step(choice).train()
        optimizer = make_optimizer(step.model, self._config, self.device)

        def do() -> None:
            optimizer.zero_grad()
            step(self._batch.views, self._batch.targets, 0.0)["total"].backward()
            float(get_total_norm([item.grad for item in step.parameters() if item.grad is not None]))
            optimizer.step()

        return do

    def _time(self, work: Callable[[], None]) -> float:
        began = self._clock()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self._clock() - began


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Draw the same random numbers each time, and leave the training's generators as they were."""
    kept = random_state()
    seed_everything(0)
    try:
        yield
    finally:
        restore_random_state(kept)
