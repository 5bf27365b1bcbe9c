"""Checkpoints: whole, numbered, hashed, and refused where they do not belong."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from foveate.errors import RunFailed, UsageError
from foveate.train.checkpoint import (
    CheckpointFolder,
    random_state,
    restore_random_state,
    seed_everything,
)


def test_random_state_goes_there_and_back_for_every_generator(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float, Tensor]:
        return random.gauss(0, 1), float(np.random.standard_normal()), float(np.random.rand()), torch.rand(4)

    seed_everything(3)
    draw()  # leaves half a pair of normal numbers in two generators
    folder = CheckpointFolder(tmp_path, {}, print)
    folder.save({"random": random_state()})
    first = draw()
    seed_everything(4)
    loaded = CheckpointFolder(tmp_path, {}, print).load()
    assert loaded is not None
    restore_random_state(loaded["random"])
    second = draw()
    assert first[:3] == second[:3] and torch.equal(first[3], second[3])


def test_checkpoints_keep_one_before_the_last_and_hashes_that_sha256sum_reads(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, {"seed": 0}, print)
    for number in range(4):
        folder.save({"number": number})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000003.pt", "000003.pt.sha256", "000004.pt", "000004.pt.sha256"
    ]  # fmt: skip
    done = subprocess.run(
        ["sha256sum", "-c", "000004.pt.sha256"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "000004.pt: OK\n"
    found = CheckpointFolder(tmp_path, {"seed": 0}, print).load()
    assert found is not None and found["number"] == 3
    with pytest.raises(UsageError, match="seed: 0 there, 1 here"):
        CheckpointFolder(tmp_path, {"seed": 1}, print).load()


def test_a_full_disk_is_noticed_at_every_stage_of_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path, {}, print)
    folder.save({"number": 0})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for target in ("torch.save", "foveate.files._sync", "foveate.train.checkpoint.write_atomic"):
        with monkeypatch.context() as patch:
            patch.setattr(target, full)
            with pytest.raises(RunFailed, match="could not be saved: No space left on device"):
                folder.save({"number": 1})
        found = CheckpointFolder(tmp_path, {}, lambda _: None).load()
        assert found is not None and found["number"] == 0
