"""Running means of weights over epochs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from foveate.train.averaging import in_place, running_mean
from foveate.train.loop import Loop
from test_fit import tiny_fit


def test_a_mean_worked_by_hand() -> None:
    """1; (1 + 2) / 2; a third of the way to 4.5; from then on 0.3 of the way, here to 0."""
    mean: dict[str, Tensor] = {}
    found = []
    for epoch, value in enumerate((1.0, 2.0, 4.5, 0.0, 0.0), 1):
        weights = {"w": torch.tensor([value]), "steps": torch.tensor(epoch)}
        mean = running_mean(mean, weights, epoch, 0.7)
        found.append(float(mean["w"]))
        assert int(mean["steps"]) == epoch  # a count is taken over
    assert found == pytest.approx([1.0, 1.5, 2.5, 1.75, 1.225])
    assert float(running_mean(mean, {"w": torch.tensor([9.0])}, 6, 0.0)["w"]) == 9


def test_a_model_gets_its_own_weights_back() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    with pytest.raises(KeyError), in_place(model, {"weight": torch.tensor([[5.0]])}) as own:
        assert (model.weight.item(), own["weight"].item()) == (5, 2)
        raise KeyError
    assert model.weight.item() == 2


@pytest.mark.slow
def test_a_training_keeps_the_mean_and_learns_as_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean is that of the weights of a training without one, which takes the same steps."""
    by_epoch: list[dict[str, Tensor]] = []
    finish = Loop._finish_epoch

    def recording(loop: Loop, logits: Tensor) -> None:
        by_epoch.append({name: value.clone() for name, value in loop._model.state_dict().items()})
        finish(loop, logits)

    monkeypatch.setattr(Loop, "_finish_epoch", recording)
    plain = tiny_fit(tmp_path / "plain", epochs=4, ema_decay=0, monitor="val_loss")
    own = [dict(weights) for weights in by_epoch]
    by_epoch.clear()
    mean = tiny_fit(tmp_path / "mean", epochs=4, ema_decay=0.5, monitor="val_loss")
    for first, second in zip(own, by_epoch, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)
    shares = [[1], [0.5, 0.5], [0.25, 0.25, 0.5], [0.125, 0.125, 0.25, 0.5]]
    kept = load_file(mean.bundle / "model.safetensors")
    for name, value in kept.items():
        if value.is_floating_point():
            parts = [own[place][name].double().numpy() for place in range(mean.best_epoch)]
            expected = np.tensordot(shares[mean.best_epoch - 1], np.stack(parts), axes=1)
            np.testing.assert_allclose(value.numpy(), expected, atol=1e-6)
    best = load_file(plain.bundle / "model.safetensors")
    assert all(torch.equal(best[name], own[plain.best_epoch - 1][name]) for name in best)
