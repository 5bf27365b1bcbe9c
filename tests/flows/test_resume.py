"""An interrupted training goes on exactly where it stopped: the same weights, bit for bit.

Real processes are really killed, at chosen moments: between steps, inside a save, during validation, at the
end of an epoch, while the bundle is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from driven_training import SIGKILL, Driver, checkpoints, log, output, weights
from foveate.bundle.bundle import load_bundle
from foveate.files import sha256_of
from foveate.predict import predict_case
from foveate.train.monitor import validation_figures
from tiny_training import tiny_cohort

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    started = Driver(tmp_path_factory.mktemp("resume"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def whole(driver: Driver) -> Path:
    """A training that nothing interrupted."""
    run = driver.folder / "whole"
    assert driver.train(run) == [0], (run / "output.txt").read_text()
    return run


# Three epochs of three steps, a checkpoint after each step and each epoch: 4 saves an epoch.
MOMENTS = {
    "before the first step": ("foveate.train.loop:Loop._train_step", 1),
    "in the first epoch": ("foveate.train.loop:Loop._train_step", 3),
    "in the second epoch": ("foveate.train.loop:Loop._train_step", 5),
    "before a save": ("foveate.train.loop:Loop._save", 6),
    "inside the first save": ("foveate.train.checkpoint:_HashingStream.write", 20),
    "inside a later save": ("foveate.train.checkpoint:_HashingStream.write", 700),
    "between writing and renaming a checkpoint": ("foveate.files:_sync", 17),
    "between a checkpoint and its hash": ("foveate.train.checkpoint:write_atomic", 5),
    "between a hash and clearing up": ("foveate.train.checkpoint:CheckpointFolder._remove_all_but", 6),
    "at the start of validation": ("foveate.train.loop:Loop._validate", 2),
    "during validation": ("foveate.train.feed:Feed._on_device", 11),
    "after validation": ("foveate.train.loop:validation_figures", 2),
    "at the end of an epoch": ("foveate.train.loop:TrainingLog.write", 2),
    "between the log and the save of an epoch": ("foveate.train.loop:Loop._save_if_due", 8),
    "before the last save": ("foveate.train.loop:Loop._save", 12),
    "while the weights of the bundle are written": ("foveate.bundle.bundle:save_file", 1),
    "between the weights and the facts of the bundle": ("foveate.bundle.bundle:write_json", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_gives_the_same_weights_bit_for_bit(
    driver: Driver, whole: Path, tmp_path: Path, moment: str
) -> None:
    target, call = MOMENTS[moment]
    assert driver.train(tmp_path, fault={"target": target, "call": call}) == [SIGKILL], output(tmp_path)
    assert driver.train(tmp_path) == [0], output(tmp_path)
    assert weights(tmp_path) == weights(whole)
    assert log(tmp_path) == log(whole)
    assert [row["epoch"] for row in log(tmp_path)] == ["1", "2", "3"]
    assert {path.suffix for path in (tmp_path / "checkpoints").iterdir()} == {".pt", ".sha256"}
    assert not list((tmp_path / "checkpoints").glob(".*"))  # nothing half-written stays behind


def test_killed_again_and_again_gives_the_same_weights(driver: Driver, whole: Path, tmp_path: Path) -> None:
    for _ in range(4):
        assert driver.train(tmp_path, fault={"target": "foveate.train.loop:Loop._train_step", "call": 3}) == [
            SIGKILL
        ]
    assert driver.train(tmp_path) == [0], output(tmp_path)
    assert weights(tmp_path) == weights(whole)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize(
    ("target", "call"),
    [
        ("foveate.train.loop:Loop._train_step", 5),
        ("foveate.train.feed:Feed._on_device", 11),
        ("foveate.bundle.bundle:save_file", 1),
    ],
    ids=["in a step", "in validation", "in the bundle"],
)
def test_asked_to_stop_it_saves_and_leaves_with_the_code_of_the_signal(
    driver: Driver, whole: Path, tmp_path: Path, name: str, code: int, target: str, call: int
) -> None:
    seldom = {"checkpoint_every_steps": 1000}
    fault = {"target": target, "call": call, "signal_name": name}
    assert driver.train(tmp_path, study=seldom, fault=fault) == [code], output(tmp_path)
    assert checkpoints(tmp_path)
    assert driver.train(tmp_path, study=seldom) == [0], output(tmp_path)
    assert weights(tmp_path) == weights(whole)


def test_the_step_that_was_under_way_is_finished_and_not_done_twice(driver: Driver, tmp_path: Path) -> None:
    step = "foveate.train.loop:Loop._train_step"
    seldom = {"checkpoint_every_steps": 1000}
    assert driver.train(
        tmp_path, study=seldom, fault={"target": step, "call": 5, "signal_name": "SIGTERM"}
    ) == [143]
    # five of nine steps are in the checkpoint: four are left, so a fifth call would be the kill
    assert driver.train(tmp_path, study=seldom, fault={"target": step, "call": 5}) == [0], output(tmp_path)


@pytest.mark.parametrize("damage", ["a bit", "the second half", "the hash", "everything"])
def test_a_damaged_checkpoint_is_told_of_and_the_one_before_it_is_used(
    driver: Driver, whole: Path, tmp_path: Path, damage: str
) -> None:
    assert driver.train(tmp_path, fault={"target": "foveate.train.loop:Loop._train_step", "call": 6}) == [
        SIGKILL
    ]
    before, last = checkpoints(tmp_path)
    content = last.read_bytes()
    if damage == "a bit":
        last.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    elif damage == "the second half":
        last.write_bytes(content[: len(content) // 2])
    elif damage == "the hash":
        last.with_name(last.name + ".sha256").write_text("")
    else:
        last.write_bytes(b"")
        before.write_bytes(b"")
    assert driver.train(tmp_path) == [0], output(tmp_path)
    assert f"checkpoint {last.name}" in output(tmp_path)
    assert weights(tmp_path) == weights(whole)


def test_a_save_that_fails_ends_the_run_and_harms_nothing(
    driver: Driver, whole: Path, tmp_path: Path
) -> None:
    assert driver.train(tmp_path, fault={"target": "foveate.train.loop:Loop._train_step", "call": 3}) == [
        SIGKILL
    ]
    kept = {path.name: sha256_of(path) for path in checkpoints(tmp_path)}
    # the operating system refuses files of over 1 MB, as it would on a full disk
    assert driver.train(tmp_path, largest_file=1_000_000) == [4]
    assert "a checkpoint could not be saved: File too large" in output(tmp_path)
    assert {path.name: sha256_of(path) for path in checkpoints(tmp_path)} == kept
    assert sorted(path.suffix for path in (tmp_path / "checkpoints").iterdir()) == [
        ".pt",
        ".pt",
        ".sha256",
        ".sha256",
    ]
    assert driver.train(tmp_path) == [0], output(tmp_path)
    assert weights(tmp_path) == weights(whole)


def test_another_study_is_refused_with_both_sides_named(driver: Driver, tmp_path: Path) -> None:
    step = "foveate.train.loop:Loop._train_step"
    assert driver.train(tmp_path, fault={"target": step, "call": 3}) == [SIGKILL]
    assert driver.train(tmp_path, study={"lr": 0.5}) == [2]
    assert "train.lr: 0.001 there, 0.5 here" in output(tmp_path)


def test_two_runs_are_the_same_whatever_reads_ahead_and_wherever_it_is_saved(
    driver: Driver, whole: Path, tmp_path: Path
) -> None:
    assert driver.train(tmp_path, study={"workers": 2, "checkpoint_every_steps": None, "cache_gb": 0}) == [0]
    assert weights(tmp_path) == weights(whole)
    assert log(tmp_path) == log(whole)


def test_two_processes_train_one_model(driver: Driver, tmp_path: Path) -> None:
    # 17 training and 7 validation cases: neither can be halved
    assert driver.train(tmp_path, study={"devices": 2, "batch_size": 3}, world=2, val=7) == [0, 0], output(
        tmp_path
    )
    rows = log(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    bundle = load_bundle(tmp_path)
    cases = [replace(case, split="val") for case in tiny_cohort(driver.folder / "images").cases[-7:]]
    predictions = [predict_case(bundle, case) for case in cases]
    figures = validation_figures(
        "multiclass",
        np.stack([item.logits for item in predictions]),
        np.stack([item.truth for item in predictions]),
    )
    best = max(rows, key=lambda row: float(row["balanced_accuracy"]))
    assert figures["auroc_macro"] == pytest.approx(float(best["auroc_macro"]))
