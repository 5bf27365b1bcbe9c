"""Learning rates by hand, and groups that keep their own."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import nn

from foveate.contract import Classifier, ModelOutput, Views
from foveate.device import channels_last
from foveate.study.study import TrainConfig
from foveate.train.optim import make_optimizer, rate_factor, set_rate


def test_learning_rates_by_hand() -> None:
    cosine = TrainConfig(epochs=10, warmup_epochs=1, schedule="cosine")
    rates = [rate_factor(cosine, step, steps_per_epoch=4) for step in range(40)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[22] == pytest.approx(0.5)  # half way between step 4 and step 40
    assert rates[39] == pytest.approx(0.5 * (1 + math.cos(math.pi * 35 / 36)))
    assert all(earlier > later for earlier, later in itertools.pairwise(rates[4:]))
    stepped = TrainConfig(epochs=60, schedule="step", milestones=(45, 30))
    at = [rate_factor(stepped, epoch * 7 + 6, steps_per_epoch=7) for epoch in (0, 29, 30, 44, 45, 59)]
    assert at == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert rate_factor(TrainConfig(schedule="constant"), 999, 10) == 1
    published = TrainConfig(  # LCA-DB: the effective rates of the specification, 1.6
        epochs=100, lr=1e-4, schedule="step", factor=0.333, milestones=tuple(range(9, 100, 10))
    )
    at = [1e-4 * rate_factor(published, epoch, steps_per_epoch=1) for epoch in (0, 8, 9, 18, 19, 29, 39, 89)]
    assert at == pytest.approx([1e-4, 1e-4, 3.33e-5, 3.33e-5, 1.109e-5, 3.69e-6, 1.23e-6, 5.0e-9], rel=1e-2)


def test_parameter_groups_keep_their_own_rates() -> None:
    class Fast(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.old, self.new = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, views: Views) -> ModelOutput:
            raise NotImplementedError

        def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, object]]:
            return [
                {"params": list(self.old.parameters()), "lr": lr, "weight_decay": weight_decay},
                {"params": list(self.new.parameters()), "lr": 10 * lr, "weight_decay": 0.0},
            ]

    for name in ("adamw", "sgd"):
        config = TrainConfig(optimizer=name, lr=0.01, weight_decay=0.1)
        optimizer = make_optimizer(Fast(), config, torch.device("cpu"))
        assert set_rate(optimizer, 0.5) == pytest.approx(0.005)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.05])
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_adamw_on_processors_updates_weights_with_channels_last_as_torch_does() -> None:
    """Kernels, 1×1 kernels and vectors; gradients in the weights' order of memory and in another."""
    shapes = ((8, 3, 5, 5), (8, 6, 1, 1), (4, 2, 3, 3, 3), (7, 5), (9,))

    def weights_after(kind: type[torch.optim.Optimizer]) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        weights = [nn.Parameter(channels_last(torch.randn(shape, generator=generator))) for shape in shapes]
        if kind is torch.optim.AdamW:
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(
                weights, lr=0.1, weight_decay=0.2, fused=True
            )
        else:
            model = SimpleNamespace(
                parameter_groups=lambda lr, decay: [{"params": weights, "lr": lr, "weight_decay": decay}]
            )
            config = TrainConfig(lr=0.1, weight_decay=0.2)
            optimizer = make_optimizer(cast(Classifier, model), config, torch.device("cpu"))
            assert type(optimizer) is not torch.optim.AdamW
        for turn in range(3):
            for weight in weights:
                gradient = torch.randn(weight.shape, generator=generator)
                weight.grad = channels_last(gradient) if turn else gradient
            optimizer.step()
        moments = [optimizer.state[weight]["exp_avg_sq"] for weight in weights]
        assert [moment.shape for moment in moments] == [weight.shape for weight in weights]
        return [weight.detach() for weight in weights]

    expected, found = weights_after(torch.optim.AdamW), weights_after(torch.optim.Optimizer)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
