"""The training loop and what stands around it."""

from __future__ import annotations

import builtins
import csv
import io
import itertools
import json
import math
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor, nn

from foveate.bundle import load_bundle
from foveate.contract import Classifier, ModelOutput, Views
from foveate.data.augment import Variation
from foveate.data.dataset import PreparedCases
from foveate.errors import InputRefused, MissingExtra, RunFailed, UsageError
from foveate.predict import predict_case
from foveate.preprocess import Preprocess
from foveate.settings import AugmentConfig
from foveate.train import fit as fit_module
from foveate.train.checkpoint import CheckpointFolder, random_state, restore_random_state, seed_everything
from foveate.train.feed import Device, Feed, Part
from foveate.train.fit import FitResult, fit, native_bf16
from foveate.train.lock import run_lock
from foveate.train.monitor import is_better, validation_figures
from foveate.train.optim import make_optimizer, rate_factor, set_rate
from foveate.train.signals import StopRequest
from foveate.train.study import TrainConfig
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
    columns = "epoch train_loss val_loss balanced_accuracy auroc_macro lr seconds images_per_second"
    assert list(rows[0]) == columns.split()
    assert float(rows[-1]["train_loss"]) < 0.7 * float(rows[0]["train_loss"])
    figures = [float(row["balanced_accuracy"]) for row in rows]
    assert result.best_value == max(figures)
    assert result.best_epoch == figures.index(max(figures)) + 1
    assert (result.epochs, result.monitor, result.resumed) == (12, "balanced_accuracy", False)
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
    told = iter([0.5, 0.7, 0.7, 0.6, 0.8])
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
        fabric = fit_module._make_fabric(TrainConfig(accelerator="cpu"))
        assert fabric._precision.precision == ("bf16-mixed" if expected else "32-true")
    assert native_bf16("mps") is False


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


# ---- batches ------------------------------------------------------------------------------------------


def tiny_feed(folder: Path, *, seed: int = 0, device: Device | None = None, **train: Any) -> Feed:
    cohort = tiny_cohort(folder / "images")
    two_views = [
        replace(case, views={"a": case.views["image"], "b": case.views["image"]}) for case in cohort.cases
    ]
    study = tiny_study(folder, **train).model_copy(update={"seed": seed})
    preprocess = Preprocess(study.preprocess)
    cases = PreparedCases(two_views, ("a", "b"), preprocess, None)
    train_part, val_part = (
        Part.of(cohort, cases.part(two_views[part])) for part in (slice(18), slice(18, 24))
    )
    return Feed(study, train_part, val_part, preprocess, device or Device(torch.device("cpu")))


def test_batches_depend_on_seed_and_epoch_and_can_be_taken_up_in_the_middle(tmp_path: Path) -> None:
    feed = tiny_feed(tmp_path, batch_size=5)
    epoch = list(feed.training(epoch=2, done=0))
    assert [len(batch.case_ids) for batch in epoch] == [5, 5, 4, 4]
    assert sorted(name for batch in epoch for name in batch.case_ids) == [
        f"case{place:02d}" for place in range(18)
    ]
    rest = list(tiny_feed(tmp_path, batch_size=5, workers=2).training(epoch=2, done=1))
    for early, late in zip(epoch[1:], rest, strict=True):
        assert early.case_ids == late.case_ids
        assert torch.equal(early.views["a"], late.views["a"]) and torch.equal(early.targets, late.targets)

    def picture_of(feed: Feed, epoch: int) -> Tensor:
        batches = list(feed.training(epoch, 0))
        found = [
            batch.views["a"][place]
            for batch in batches
            for place, name in enumerate(batch.case_ids)
            if name == "case03"
        ]
        return found[0]

    first = picture_of(feed, 2)
    assert not torch.equal(first, picture_of(feed, 3))
    assert not torch.equal(first, picture_of(tiny_feed(tmp_path, batch_size=5, seed=1), 2))


def test_augmentation_is_drawn_anew_for_every_place_of_every_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def noted(config: AugmentConfig, *where: int) -> Variation:
        drawn.append(where)
        return Variation()

    monkeypatch.setattr("foveate.train.feed.draw_variation", noted)
    list(tiny_feed(tmp_path, seed=7).training(epoch=2, done=1))
    assert sorted(drawn) == [(7, 2, place) for place in range(6, 18) for _ in "ab"]


def test_batches_are_what_the_model_and_the_criterion_take(tmp_path: Path) -> None:
    batch = next(iter(tiny_feed(tmp_path).training(0, 0)))
    for view in batch.views.values():
        assert view.shape == (6, 3, 32, 32) and view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.views["a"], batch.views["b"])  # all views of a case are varied alike
    assert [CLASSES[target] for target in batch.targets] == [
        CLASSES[int(name[4:]) % 3] for name in batch.case_ids
    ]


def test_validation_is_in_order_and_unvaried(tmp_path: Path) -> None:
    feed = tiny_feed(tmp_path, batch_size=4)
    batches = list(feed.validation())
    assert [name for batch in batches for name in batch.case_ids] == [
        f"case{place}" for place in range(18, 24)
    ]
    prepared = feed.val.cases.batch(range(6))["a"]
    plain = Preprocess(tiny_study(tmp_path).preprocess).normalize(prepared)
    torch.testing.assert_close(torch.cat([batch.views["a"] for batch in batches]), plain)


def test_devices_share_an_epoch_without_overlap(tmp_path: Path) -> None:
    shares = [
        tiny_feed(tmp_path, device=Device(torch.device("cpu"), rank, 2)).training(0, 0) for rank in range(2)
    ]
    names = [name for share in shares for batch in share for name in batch.case_ids]
    assert sorted(names) == [f"case{place:02d}" for place in range(18)]


# ---- the parts ----------------------------------------------------------------------------------------


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


def test_validation_figures_agree_with_scikit_learn_and_leave_out_what_is_undefined() -> None:
    chance = np.random.default_rng(0)
    scores, labels = chance.normal(size=(40, 3)), chance.integers(0, 3, 40)
    figures = validation_figures("multiclass", scores, np.eye(3)[labels])
    assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))
    one_against_rest = np.mean([roc_auc_score(labels == number, scores[:, number]) for number in range(3)])
    assert figures["auroc_macro"] == pytest.approx(one_against_rest)
    truth = chance.integers(0, 2, (40, 3)).astype(float)
    truth[:, 2] = 1  # one kind of case only
    truth[:10, 1] = np.nan
    figures = validation_figures("multilabel", scores, truth)
    by_hand = [roc_auc_score(truth[:, 0], scores[:, 0]), roc_auc_score(truth[10:, 1], scores[10:, 1])]
    assert figures["auroc_macro"] == pytest.approx(np.mean(by_hand))
    assert validation_figures("multilabel", scores, np.ones((40, 3))) == {
        "balanced_accuracy": None,
        "auroc_macro": None,
    }


def test_better_means_higher_or_for_a_loss_lower() -> None:
    assert is_better("auroc_macro", 0.5, None) and is_better("auroc_macro", 0.6, 0.5)
    assert not is_better("auroc_macro", 0.5, 0.5) and not is_better("auroc_macro", 0.4, 0.5)
    assert is_better("val_loss", 0.4, 0.5) and not is_better("val_loss", 0.5, 0.5)


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


def test_a_second_signal_ends_at_once() -> None:
    with StopRequest() as stop:
        assert stop.exit_code is None
        signal.raise_signal(signal.SIGINT)
        assert stop.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
