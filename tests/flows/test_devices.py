"""Two processes train the model that one would, count every case once, and go on exactly when killed."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driven_training import SIGKILL, Driver, checkpoints, log, output, weights
from foveate.bundle.bundle import load_bundle

pytestmark = pytest.mark.slow

# Without batch norms, whose statistics are of a process's own share, and dropout, which each draws itself.
ALIKE = {"name": "timm:test_convnext"}
PLAIN = {"optimizer": "sgd", "lr": 0.05, "monitor": "val_loss"}
# Dropout and batch norms: each process draws its own, and only the first one's generators are kept.
DROPPING = {"batch_size": 3, "devices": 2}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    started = Driver(tmp_path_factory.mktemp("devices"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def alone(driver: Driver) -> Path:
    """One process with the global batch of the two."""
    run = driver.folder / "alone"
    assert driver.train(run, study={**PLAIN, "batch_size": 6}, model=ALIKE) == [0], output(run)
    return run


@pytest.fixture(scope="module")
def dropping(driver: Driver) -> Path:
    run = driver.folder / "dropping"
    assert driver.train(run, study=DROPPING, world=2) == [0, 0], output(run)
    return run


def figures(run: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """All columns of the training log but for its timings, ``(epochs, columns)``."""
    with (run / "training.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    kept = ("train_loss", "val_loss", "balanced_accuracy", "accuracy", "auroc_macro", "lr")
    return np.array([[float(row[name]) for name in kept] for row in rows])


@pytest.mark.parametrize("slurm", [False, True], ids=["torchrun", "SLURM"])
def test_two_processes_give_what_one_gives_with_the_same_global_batch(
    driver: Driver, alone: Path, tmp_path: Path, slurm: bool
) -> None:
    study = {**PLAIN, "batch_size": 3, "devices": 2}
    ended = driver.train(tmp_path, study=study, model=ALIKE, world=2, slurm=slurm)
    assert ended == [0, 0], output(tmp_path)
    assert figures(tmp_path) == pytest.approx(figures(alone), rel=1e-4, abs=1e-6)
    assert figures(alone)[-1, 0] < 0.99 * figures(alone)[0, 0]  # it did learn
    one, two = (load_bundle(run).model.state_dict() for run in (alone, tmp_path))
    for name, weight in one.items():
        np.testing.assert_allclose(two[name].numpy(), weight.numpy(), rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("val", [1, 7])
def test_validation_that_cannot_be_halved_counts_each_case_once(
    driver: Driver, tmp_path: Path, val: int
) -> None:
    # Learning nothing, so that both validate the same model: 24 - val training cases cannot be halved either.
    still = {**PLAIN, "lr": 1e-30, "epochs": 1}
    one, two = tmp_path / "one", tmp_path / "two"
    assert driver.train(one, study={**still, "batch_size": 6}, model=ALIKE, val=val) == [0], output(one)
    shared = {**still, "batch_size": 3, "devices": 2}
    assert driver.train(two, study=shared, model=ALIKE, val=val, world=2) == [0, 0], output(two)
    with (one / "training.csv").open() as first, (two / "training.csv").open() as second:
        (alone,), (both,) = list(csv.DictReader(first)), list(csv.DictReader(second))
    for name in ("val_loss", "accuracy", "balanced_accuracy", "auroc_macro"):
        if alone[name]:
            assert float(both[name]) == pytest.approx(float(alone[name]), rel=1e-5), name
        else:
            assert not both[name]


@pytest.mark.parametrize(
    ("target", "call"),
    [
        ("foveate.train.loop:Loop._train_step", 5),
        ("foveate.train.feed:Feed._on_device", 11),
    ],
    ids=["in an epoch", "in validation"],
)
def test_two_killed_processes_go_on_bit_for_bit(
    driver: Driver, dropping: Path, tmp_path: Path, target: str, call: int
) -> None:
    fault = {"target": target, "call": call}
    ended = driver.train(tmp_path, study=DROPPING, world=2, fault=fault)
    assert ended == [SIGKILL, SIGKILL], output(tmp_path)
    assert driver.train(tmp_path, study=DROPPING, world=2) == [0, 0], output(tmp_path)
    assert weights(tmp_path) == weights(dropping)
    assert log(tmp_path) == log(dropping)  # the training loss too, which is of both processes' cases


def test_a_signal_to_one_process_saves_and_ends_both(driver: Driver, dropping: Path, tmp_path: Path) -> None:
    seldom = {**DROPPING, "checkpoint_every_steps": 1000}
    fault = {"target": "foveate.train.loop:Loop._train_step", "call": 5, "signal_name": "SIGTERM", "rank": 1}
    assert driver.train(tmp_path, study=seldom, world=2, fault=fault) == [143, 143], output(tmp_path)
    assert checkpoints(tmp_path)
    assert driver.train(tmp_path, study=seldom, world=2) == [0, 0], output(tmp_path)
    assert weights(tmp_path) == weights(dropping)


def test_a_checkpoint_of_two_processes_is_not_taken_up_by_one(driver: Driver, tmp_path: Path) -> None:
    fault = {"target": "foveate.train.loop:Loop._train_step", "call": 3}
    assert driver.train(tmp_path, study=DROPPING, world=2, fault=fault) == [SIGKILL, SIGKILL]
    assert driver.train(tmp_path, study={**DROPPING, "devices": 1}) == [2]
    assert "processes: 2 there, None here" in output(tmp_path)
