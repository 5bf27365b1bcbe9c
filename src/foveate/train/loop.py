"""The training loop: epochs of steps, validation after each, and a state that can be put down at any step.

Lightning Fabric moves the model, sets the precision and joins devices; the loop is ours. Lightning's own
``Trainer`` (2.6) cannot be interrupted without loss: it keeps no random state, restarts a half-done epoch
in another order, leaves with exit code 0 on SIGTERM and lets a failed save pass. Here the state is one
dataclass, whatever is drawn is a function of (seed, epoch, position), and each of these is a line.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from foveate.contract import Classifier
from foveate.errors import RunFailed
from foveate.evaluate.results.run import TrainingFacts
from foveate.study.study import Study
from foveate.train.averaging import Weights, in_place, running_mean
from foveate.train.checkpoint import (
    CheckpointFolder,
    random_state,
    restore_random_state,
    seed_everything,
)
from foveate.train.display import Display
from foveate.train.feed import Batch, Feed
from foveate.train.log import Row, TrainingLog
from foveate.train.monitor import is_better, validation_figures
from foveate.train.optim import make_optimizer, rate_factor, set_rate
from foveate.train.signals import StopRequest
from foveate.train.step import TrainingStep
from foveate.train.tuning.plan import TrainingPlan
from foveate.train.tuning.trials import LEAST_COSINE, TrialBench
from foveate.types import Task

Watch = Callable[[Row], None]
_SECONDS_BETWEEN_SAVES = 60.0
_MOST_TIME_SAVING = 0.05  # share of the time that saving large models may take


@dataclass
class TrainingState:
    """All of a training but weights, optimizer and random generators.

    Attributes:
        epoch: epochs done.
        batch: steps done in the present epoch.
        loss_sum: losses of the present epoch's cases, added up over all devices.
        cases: cases seen in the present epoch, by all devices.
        seconds: spent in the present epoch.
        waiting: of these, until a batch was there.
        rows: the training log, one row per epoch done.
        best_epoch: 1-based epoch with the best figure, 0 before the first.
        best_value: its figure.
        best_weights: its weights.
        mean_weights: mean of the weights over the epochs done, if there is to be one.
        finished: the last epoch is done.
        half: whether steps are computed in bfloat16 after the first epoch; None before it is over, and where
            that was not asked again.
        cosine: of bfloat16's gradient with float32's after the first epoch, None likewise or if not finite.
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    cases: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    rows: list[dict[str, float | int | None]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float | None = None
    best_weights: Weights = field(default_factory=dict)
    mean_weights: Weights = field(default_factory=dict)
    finished: bool = False
    half: bool | None = None
    cosine: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For a checkpoint; tensors are not copied."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


class Loop:
    """One training, from its first or any later step to its end.

    Args:
        study: every choice.
        task: multi-class or multi-label.
        fabric: device and precision.
        model: with its criterion.
        plan: how a step is computed.
        feed: batches.
        checkpoints: where the state is put down, and taken up again if there is one.
        display: what a person sees.
        folder: of the run, for the training log.
        watch: is given the row of every epoch, in the first process; what it raises ends the training.
    """

    def __init__(
        self,
        study: Study,
        task: Task,
        *,
        fabric: Fabric,
        model: Classifier,
        plan: TrainingPlan,
        feed: Feed,
        checkpoints: CheckpointFolder,
        display: Display,
        folder: Path,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch
        self.state = TrainingState()
        self._own: Weights | None = None  # while others are in the model
        self._config, self._seed, self._task = study.train, study.seed, task
        self._fabric, self._feed, self._checkpoints = fabric, feed, checkpoints
        self._display, self._folder = display, folder
        self._model = model
        self._plan = plan
        self._arithmetic = TrainingStep(model, plan.choice, fabric.device.type, plan.ways)
        self._plain_optimizer = make_optimizer(model, study.train, fabric.device)
        self._step, self._optimizer = fabric.setup(self._arithmetic, self._plain_optimizer)
        self._clock = time.perf_counter()
        self._saved_at, self._pause = time.monotonic(), _SECONDS_BETWEEN_SAVES

    @property
    def steps_done(self) -> int:
        """Optimizer steps since the training began."""
        return self.state.epoch * self._feed.steps_per_epoch + self.state.batch

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training, if it does not end early."""
        return self._config.epochs * self._feed.steps_per_epoch

    def resume(self) -> bool:
        """Take up the newest whole checkpoint; False if there is none."""
        if (content := self._checkpoints.load()) is None:
            return False
        self.state = TrainingState(**content["state"])
        if self.state.finished:
            return True
        if self.state.half is not None:
            self._arithmetic.in_bfloat16 = self.state.half
        self._model.load_state_dict(content["model"])
        self._plain_optimizer.load_state_dict(content["optimizer"])
        restore_random_state(content["random"])
        return True

    def best_model(self) -> Classifier:
        """The model with the weights of its best epoch."""
        self._model.load_state_dict(self.state.best_weights)
        return self._model

    def run(self, stop: StopRequest) -> None:
        """Train to the end.

        Raises:
            SystemExit: asked to stop (130 Ctrl-C, 143 SIGTERM); the state is saved.
            RunFailed: the loss is not a number, or a checkpoint could not be written.
        """
        self._clock = time.perf_counter()
        events = self._config.tensorboard and self._fabric.is_global_zero
        log = TrainingLog(self._folder, tensorboard=events, epochs_done=self.state.epoch)
        with self._display.steps(self.steps_done, self.steps):
            while not self.state.finished:
                self._train_epoch(stop)
                self._finish_epoch(self._validate_mean(stop))
                if self._fabric.is_global_zero:
                    log.write(self.state.rows)
                    best = (
                        f"{self._config.monitor} {self.state.best_value:.3f} in epoch {self.state.best_epoch}"
                    )
                    self._display.epoch(self.state.rows[-1], best)
                    if self._watch is not None:
                        self._watch(self.state.rows[-1])
                self._look_again()
                self._save_if_due(epoch_ends=True)
        log.close()

    def computed(self) -> TrainingFacts:
        """How the training was computed, for ``run.json``: precision, threads, what exact results need."""
        plan, checked = self._plan, self._plan.checked
        later = plan.choice.half if self.state.half is None else self.state.half
        return TrainingFacts(
            precision=tuple("bfloat16" if half else "float32" for half in (plan.choice.half, later)),
            channels_last=plan.choice.channels_last,
            cosine=(checked.cosine if checked else None, self.state.cosine),
            convolutions=0 if checked is None else checked.convolutions,
            computed_otherwise=0 if checked is None else len(checked.rerouted),
            processor=str(plan.machine.get("processor", "")),
            threads=int(plan.machine.get("threads", 0)),
            torch=str(plan.machine.get("torch", "")),
            exact=plan.exact,
        )

    def _look_again(self) -> None:
        """After the first epoch the gradient decides anew whether bfloat16 is right."""
        state, choice = self.state, self._plan.choice
        if not self._plan.look_again or state.epoch != 1 or state.finished:
            return
        cosine = float("nan")
        if self._fabric.is_global_zero:
            batch = next(self._feed.training(1, 0))
            bench = TrialBench(self._model, batch, self._config, self._fabric.device, ways=self._plan.ways)
            cosine = bench.cosine(replace(choice, half=True))
        cosine = float(self._fabric.broadcast(cosine))
        state.cosine, state.half = (cosine if math.isfinite(cosine) else None), cosine >= LEAST_COSINE
        self._arithmetic.in_bfloat16 = state.half
        if state.half != choice.half:
            kind = "bfloat16" if state.half else "float32"
            self._display.say(
                f"from epoch 2 on in {kind}: the cosine of bfloat16's gradient with float32's is {cosine:.3f}"
            )

    def _train_epoch(self, stop: StopRequest) -> None:
        """The steps of the present epoch that are still to do."""
        state = self.state
        self._model.train()
        for batch in self._timed(self._feed.training(state.epoch, state.batch)):
            self._seed_device()
            loss = self._train_step(batch)
            state.loss_sum += self._across_devices(loss * len(batch.case_ids), "sum")
            state.cases += len(batch.case_ids) * self._fabric.world_size
            state.batch += 1
            self._lap()
            self._display.step(state.epoch + 1, self._config.epochs, state.loss_sum / state.cases)
            self._leave_if_asked(stop)
            self._save_if_due()

    def _seed_device(self) -> None:
        """With several devices, what a step draws is a function of (seed, step, device).

        A checkpoint holds the first one's generators alone, and all must go on as if nothing had happened.
        """
        if self._fabric.world_size > 1:
            place = (self._seed, self.steps_done, self._fabric.global_rank)
            seed_everything(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time until each was there is added up."""
        began = time.perf_counter()
        for batch in batches:
            self.state.waiting += time.perf_counter() - began
            yield batch
            began = time.perf_counter()

    def _train_step(self, batch: Batch) -> float:
        """One optimizer step; its loss."""
        factor = rate_factor(self._config, self.steps_done, self._feed.steps_per_epoch)
        set_rate(self._plain_optimizer, factor)
        self._optimizer.zero_grad()
        loss = self._step(batch.views, batch.targets, self.steps_done / self.steps)["total"]
        self._fabric.backward(loss)
        parameters = [item for item in self._model.parameters() if item.grad is not None]
        norm = get_total_norm([item.grad for item in parameters if item.grad is not None])
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            raise self._not_finite(f"the loss is {value} and the norm of its gradient {float(norm)}", batch)
        if self._config.grad_clip is not None:
            clip_grads_with_norm_(parameters, self._config.grad_clip, norm)
        self._optimizer.step()
        return value

    def _validate_mean(self, stop: StopRequest) -> Tensor:
        """The same as ``_validate``, of the mean of the weights over the epochs up to this one."""
        state, decay = self.state, self._config.ema_decay
        self._share_buffers()
        if decay == 0:
            return self._validate(stop)
        mean = running_mean(state.mean_weights, self._model.state_dict(), state.epoch + 1, decay)
        with in_place(self._model, mean) as self._own:
            logits = self._validate(stop)
        self._own, state.mean_weights = None, mean
        return logits

    @torch.inference_mode()
    def _validate(self, stop: StopRequest) -> Tensor:
        """``(N, K)`` logits of the validation cases, in their order."""
        self._model.eval()
        found = []
        for batch in self._feed.validation():
            logits = self._arithmetic.logits(batch.views)
            if not torch.isfinite(logits).all():
                raise self._not_finite("a validation score is not a number", batch)
            found.append(logits)
            self._leave_if_asked(stop)
        mine = torch.cat(found)
        shares = cast(Tensor, self._fabric.all_gather(mine)).reshape(-1, *mine.shape)
        count = len(self._feed.val.truth)  # each device took every world-th case, and maybe repeated one
        return shares.transpose(0, 1).reshape(-1, mine.shape[1])[:count].clone()

    def _share_buffers(self) -> None:
        """Give every device the first one's batch-norm statistics, which are kept with the weights."""
        if self._fabric.world_size > 1:
            for buffer in self._model.buffers():
                buffer.copy_(self._fabric.broadcast(buffer))

    def _finish_epoch(self, logits: Tensor) -> None:
        """Log the epoch, keep its weights if they are the best, and decide whether it was the last."""
        state, config = self.state, self._config
        row = self._row(logits)
        state.rows.append(row)
        state.epoch += 1
        if not state.best_epoch or is_better(config.monitor, row, state.rows[state.best_epoch - 1]):
            state.best_epoch, state.best_value = state.epoch, cast(float, row[config.monitor])
            weights = state.mean_weights or self._model.state_dict()
            state.best_weights = {name: item.detach().cpu().clone() for name, item in weights.items()}
        tired = config.patience is not None and state.epoch - state.best_epoch >= config.patience
        state.finished = tired or state.epoch >= config.epochs
        state.mean_weights = {} if state.finished else state.mean_weights
        state.batch, state.cases = 0, 0
        state.loss_sum = state.seconds = state.waiting = 0.0

    def _row(self, logits: Tensor) -> dict[str, float | int | None]:
        """One line of the training log."""
        state, validation = self.state, self._feed.val
        training_seconds = state.seconds
        self._lap()
        targets = validation.targets.to(logits.device)
        return {
            "epoch": state.epoch + 1,
            "train_loss": state.loss_sum / state.cases,
            "val_loss": float(self._model.criterion(logits, targets)),
            **validation_figures(self._task, logits.double().cpu().numpy(), validation.truth),
            "lr": float(self._plain_optimizer.param_groups[0]["lr"]),
            "seconds": state.seconds,
            "images_per_second": state.cases / training_seconds,
            "waiting": state.waiting / training_seconds,
        }

    def _save_if_due(self, *, epoch_ends: bool = False) -> None:
        every = self._config.checkpoint_every_steps
        if every is None:
            due = time.monotonic() - self._saved_at > self._pause
        else:
            due = epoch_ends or self.steps_done % every == 0
        if due or self.state.finished:
            self._save()

    def _save(self) -> None:
        if not self._fabric.is_global_zero:
            return
        began = time.monotonic()
        content: dict[str, Any] = {"state": self.state.as_dict()}
        if not self.state.finished:  # a finished training needs its best weights only
            content["model"] = self._own or self._model.state_dict()  # also in the middle of a validation
            content["optimizer"] = self._plain_optimizer.state_dict()
            content["random"] = random_state()
        self._checkpoints.save(content)
        self._saved_at = time.monotonic()
        self._pause = max(_SECONDS_BETWEEN_SAVES, (self._saved_at - began) / _MOST_TIME_SAVING)

    def _leave_if_asked(self, stop: StopRequest) -> None:
        """Save and leave, all devices after the same step: one that is left alone would wait for ever."""
        code = round(self._across_devices(stop.exit_code or 0, "max"))
        if code:
            self._save()
            self._fabric.barrier()
            raise SystemExit(code)

    def _not_finite(self, what: str, batch: Batch) -> RunFailed:
        return RunFailed(
            f"{what}, in these cases: {', '.join(batch.case_ids)}",
            where=f"epoch {self.state.epoch + 1}, step {self.state.batch + 1}",
            fix="look at these images; if they are sound, start anew with a lower train.lr or with grad_clip",
            code="not-finite",
        )

    def _across_devices(self, value: float, how: str) -> float:
        """Sum or maximum over all devices."""
        if self._fabric.world_size == 1:
            return value
        mine = torch.tensor(value, dtype=torch.float64, device=self._fabric.device)
        return float(cast(Tensor, self._fabric.all_reduce(mine, reduce_op=how)))

    def _lap(self) -> None:
        """Add the time since the last call to the epoch's."""
        now = time.perf_counter()
        self.state.seconds += now - self._clock
        self._clock = now
