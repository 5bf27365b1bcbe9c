"""The training loop and what stands around it."""

from __future__ import annotations

import builtins
import csv
import io
import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from foveate.bundle.bundle import load_bundle
from foveate.contract import Classifier, ModelOutput, Views
from foveate.device import native_bf16
from foveate.errors import InputRefused, MissingExtra, RunFailed, UsageError
from foveate.predict import predict_case
from foveate.study.settings import AugmentConfig
from foveate.study.study import TrainConfig
from foveate.train import fit as fit_module
from foveate.train.fit import FitResult, fit
from foveate.train.lock import run_lock
from foveate.train.tuning.plan import considers_bfloat16
from foveate.types import Cohort
from tiny_training import CLASSES, tiny_cohort, tiny_splits, tiny_study


def tiny_fit(folder: Path, cohort: Cohort | None = None, run: str = "run", **train: Any) -> FitResult:
    cohort = cohort or tiny_cohort(folder / "images")
    return fit(tiny_study(folder, **train), cohort, tiny_splits(cohort), folder / run, cache=folder / "cache")


def log(run: Path) -> list[dict[str, str]]:
    with (run / "training.csv").open() as stream:
        return list(csv.DictReader(stream))


# ---- the whole ----------------------------------------------------------------------------------------


def test_it_learns_and_leaves_a_bundle_a_log_and_a_checkpoint(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "images")
    result = tiny_fit(tmp_path, cohort, epochs=12, lr=3e-3, checkpoint_every_steps=None)
    rows = log(tmp_path / "run")
    assert [int(row["epoch"]) for row in rows] == list(range(1, 13))
    columns = "epoch train_loss val_loss balanced_accuracy accuracy auroc_macro lr seconds images_per_second"
    assert list(rows[0]) == [*columns.split(), "waiting"]
    assert float(rows[-1]["train_loss"]) < 0.7 * float(rows[0]["train_loss"])
    losses = [float(row["val_loss"]) for row in rows]
    assert result.best_value == min(losses)
    assert result.best_epoch == losses.index(min(losses)) + 1
    assert (result.epochs, result.monitor, result.resumed) == (12, "val_loss", False)
    assert result.seconds == pytest.approx(sum(float(row["seconds"]) for row in rows))
    bundle = load_bundle(result.bundle)
    assert bundle.classes == CLASSES
    assert (
        "patient00" in bundle.patients and "patient23" in bundle.patients and "other" not in bundle.patients
    )
    assert (bundle.model_name, bundle.task) == ("timm:test_resnet", "multiclass")


def test_the_bundle_holds_the_best_epoch_not_the_last(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "images")
    result = tiny_fit(tmp_path, cohort, epochs=5, monitor="val_loss", schedule="constant", lr=5e-2)
    losses = [float(row["val_loss"]) for row in log(tmp_path / "run")]
    assert result.best_value == min(losses) < losses[-1]  # such a high rate makes it worse towards the end
    predictions = [predict_case(load_bundle(result.bundle), case) for case in cohort.cases[-6:]]
    scores = torch.from_numpy(np.stack([item.logits for item in predictions]))
    truth = torch.from_numpy(np.stack([item.truth for item in predictions])).argmax(dim=1)
    assert float(nn.functional.cross_entropy(scores, truth)) == pytest.approx(min(losses), rel=1e-4)


def test_the_same_study_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "images")
    study = tiny_study(tmp_path, epochs=1)

    def weights(name: str, seed: int) -> bytes:
        random.random()  # what ran before must not matter
        torch.rand(3)
        seeded = study.model_copy(update={"seed": seed})
        result = fit(seeded, cohort, tiny_splits(cohort), tmp_path / name, cache=tmp_path / "cache")
        return (result.bundle / "model.safetensors").read_bytes()

    assert weights("one", 0) == weights("two", 0) != weights("three", 1)


def test_withholding_views_changes_nothing_where_there_is_one(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "images")
    study = tiny_study(tmp_path, epochs=1)

    def weights(name: str, share: float) -> bytes:
        held = study.model_copy(update={"augment": AugmentConfig(drop_views=share)})
        result = fit(held, cohort, tiny_splits(cohort), tmp_path / name, cache=tmp_path / "cache")
        return (result.bundle / "model.safetensors").read_bytes()

    assert weights("one", 0) == weights("two", 0.9)


def test_a_finished_training_is_not_trained_again_unless_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = tiny_cohort(tmp_path / "images")
    first = tiny_fit(tmp_path, cohort, epochs=1)
    before = (first.bundle / "model.safetensors").read_bytes()
    (first.bundle / "model.safetensors").unlink()
    steps = 0
    original = fit_module.Loop._train_step

    def counted(loop: Any, batch: Any) -> float:
        nonlocal steps
        steps += 1
        return original(loop, batch)

    monkeypatch.setattr(fit_module.Loop, "_train_step", counted)
    again = tiny_fit(tmp_path, cohort, epochs=1)
    assert (again.resumed, steps) == (True, 0)
    assert replace(again, resumed=False, filled=first.filled) == first
    assert (first.bundle / "model.safetensors").read_bytes() == before
    anew = fit(
        tiny_study(tmp_path, epochs=1),
        cohort,
        tiny_splits(cohort),
        tmp_path / "run",
        cache=tmp_path / "cache",
        resume=False,
    )
    assert (anew.resumed, steps) == (False, 3)


def test_early_stopping_counts_epochs_without_improvement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([0.5, 0.7, 0.65, 0.6, 0.8])
    monkeypatch.setattr("foveate.train.loop.validation_figures", lambda *_: {"auroc_macro": next(told)})
    result = tiny_fit(tmp_path, epochs=9, patience=2, monitor="auroc_macro")
    assert (result.best_epoch, result.best_value, result.epochs) == (2, 0.7, 4)


@pytest.mark.parametrize("balance", ["weights", "sampler", "focal"])
def test_every_way_to_balance_trains(tmp_path: Path, balance: str) -> None:
    assert tiny_fit(tmp_path, epochs=1, balance=balance).epochs == 1


@pytest.mark.parametrize(
    "choice", [{"optimizer": "sgd", "schedule": "step", "milestones": [1]}, {"grad_clip": 0.1}]
)
def test_other_choices_train(tmp_path: Path, choice: dict[str, Any]) -> None:
    assert tiny_fit(tmp_path, epochs=2, **choice).epochs == 2


def test_gradients_are_clipped_to_the_norm(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "images")
    options = {
        "epochs": 1,
        "optimizer": "sgd",
        "momentum": 0,
        "weight_decay": 0,
        "schedule": "constant",
        "batch_size": 18,
    }
    free = tiny_fit(tmp_path, cohort, "free", lr=1e-12, **options)
    tiny = tiny_fit(tmp_path, cohort, "tiny", lr=1.0, grad_clip=1e-3, **options)
    start, after = (load_bundle(item.bundle).model.state_dict() for item in (free, tiny))
    names = [name for name, _ in load_bundle(free.bundle).model.named_parameters()]
    moved = torch.stack([(after[name] - start[name]).double().norm() for name in names]).norm()
    assert float(moved) == pytest.approx(1e-3, rel=1e-2)


def test_multilabel_with_unknown_findings(tmp_path: Path) -> None:
    plain = tiny_cohort(tmp_path / "images")
    cases = tuple(
        replace(
            case,
            label=None,
            findings={"dark": int(case.label == "dark"), "odd": None if place == 3 else place % 2},
        )
        for place, case in enumerate(plain.cases)
    )
    unlabelled = replace(cases[0], findings={"dark": None, "odd": None})
    cohort = replace(plain, cases=(unlabelled, *cases[1:]), task="multilabel", classes=("dark", "odd"))
    result = tiny_fit(tmp_path, cohort, epochs=2, monitor="auroc_macro", balance="weights")
    assert len(log(tmp_path / "run")) == 2
    assert "patient00" not in load_bundle(result.bundle).patients  # without any truth, it taught nothing


def test_bf16_trains_where_the_processor_has_it(tmp_path: Path) -> None:
    result = tiny_fit(tmp_path, epochs=1, precision="bf16")
    assert all(
        item.dtype != torch.bfloat16 for item in load_bundle(result.bundle).model.state_dict().values()
    )


def test_auto_precision_asks_for_instructions_not_for_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in (
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, True),
        ({"avx512_f": True, "avx512_bw": True, "avx512_bf16": False}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert native_bf16("cpu") is expected
        assert considers_bfloat16(TrainConfig(), torch.device("cpu")) is expected
    assert native_bf16("mps") is False
    assert considers_bfloat16(TrainConfig(precision="bf16"), torch.device("cpu"))
    assert not considers_bfloat16(TrainConfig(precision="32"), torch.device("cpu"))


def test_a_machine_without_the_device_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UsageError, match=r"train\.accelerator"):
        tiny_fit(tmp_path, accelerator="cuda")


# ---- what goes wrong ----------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_cases(tmp_path: Path) -> None:
    with pytest.raises(RunFailed) as caught:
        tiny_fit(tmp_path, epochs=3, optimizer="sgd", lr=1e30, schedule="constant")
    told = str(caught.value)
    assert "epoch 1, step 2: the loss is" in told
    named = [f"case{number:02d}" for number in range(18) if f"case{number:02d}" in told]
    assert len(named) == 6
    assert caught.value.exit_code == 4


def test_a_validation_score_that_is_no_number_names_the_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blind(Classifier):
        """Loses its sight when it is tested."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, views: Views) -> ModelOutput:
            logits = self.layer(views["image"].mean(dim=(2, 3)))
            return ModelOutput(logits if self.training else logits * math.nan)

    monkeypatch.setattr(fit_module, "build_model", lambda *_, **__: Blind())
    with pytest.raises(RunFailed, match=r"a validation score is not a number.*case18"):
        tiny_fit(tmp_path)


def test_refused_images_are_listed_and_stop_the_run_unless_allowed(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "images")
    for number in (2, 20):
        cohort.cases[number].views["image"].write_text("not a picture")
    with pytest.raises(InputRefused) as caught:
        tiny_fit(tmp_path, cohort, epochs=1)
    assert "2 cases cannot be used" in str(caught.value)
    assert "case02" in str(caught.value) and "case20" in str(caught.value)
    study = tiny_study(tmp_path, epochs=1)
    allowed = study.model_copy(update={"audit": study.audit.model_copy(update={"allow": ["refused-image"]})})
    result = fit(allowed, cohort, tiny_splits(cohort), tmp_path / "run", cache=tmp_path / "cache")
    assert len(result.filled.refused) == 2
    assert "patient02" not in load_bundle(result.bundle).patients


def test_a_split_without_validation_or_with_a_figure_it_cannot_define_is_refused(tmp_path: Path) -> None:
    cohort = tiny_cohort(tmp_path / "images")
    study = tiny_study(tmp_path)
    with pytest.raises(UsageError, match="no labelled case to be used as 'val'"):
        fit(study, cohort, tiny_splits(cohort, val=0), tmp_path / "run", cache=tmp_path / "cache")
    ranked = tiny_study(tmp_path, monitor="auroc_macro")
    with pytest.raises(UsageError, match="auroc_macro is undefined"):
        fit(ranked, cohort, tiny_splits(cohort, val=1), tmp_path / "run", cache=tmp_path / "cache")


def test_a_cache_that_cannot_be_made_is_a_note_not_an_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cohort, shown = tiny_cohort(tmp_path / "images"), io.StringIO()
    console = Console(file=shown, width=200)
    study = tiny_study(tmp_path, epochs=1)
    fit(study, cohort, tiny_splits(cohort), tmp_path / "run", cache=tmp_path / "file", console=console)
    assert "note: no cache" in shown.getvalue()
    assert "epoch 1  train_loss" in shown.getvalue()


def test_the_second_training_in_a_folder_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = (
        "import sys, pathlib\nfrom foveate.train.lock import run_lock\n"
        "with run_lock(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin and holder.stdout
    with holder, holder.stdin, holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            UsageError, match=f"another training is running in this folder .process {holder.pid} on "
        ):
            tiny_fit(tmp_path)
        holder.kill()
        holder.wait()
    with run_lock(run):
        assert json.loads((run / ".train.lock").read_text())["pid"] != holder.pid


def test_tensorboard_is_an_extra_behind_one_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if "tensorboard" in name:
            raise ImportError(name)
        return original(name, *rest)

    cohort = tiny_cohort(tmp_path / "images")
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", absent)
        for name in [name for name in sys.modules if "tensorboard" in name]:
            patch.delitem(sys.modules, name)
        with pytest.raises(MissingExtra, match=r"foveate\[tensorboard\]"):
            tiny_fit(tmp_path, cohort, tensorboard=True)
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    tiny_fit(tmp_path, cohort, tensorboard=True, epochs=2)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    written = [(item.step, item.value) for item in events.Scalars("val_loss")]
    expected = [(int(row["epoch"]), pytest.approx(float(row["val_loss"]))) for row in log(tmp_path / "run")]
    assert written == expected


SIGNALS = """
import signal
from foveate.train.signals import StopRequest

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
with StopRequest() as stop:
    assert stop.exit_code is None
    signal.raise_signal(signal.SIGINT)
    assert stop.exit_code == 130
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("ended")
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""


def test_a_second_signal_ends_at_once() -> None:
    """In a process of its own: a test process has handlers and threads that a signal would end."""
    done = subprocess.run([sys.executable, "-c", SIGNALS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ended\n"
