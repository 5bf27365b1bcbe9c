"""Plans: what is taken and what is dropped, that results stay equal, and that a run keeps its plan."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import foveate.train.plan as plan_module
from foveate.contract import Classifier
from foveate.models import build_model, make_criterion
from foveate.preprocess import Preprocess
from foveate.terminal import console
from foveate.terminal.plan import show_preview
from foveate.train.display import Display
from foveate.train.feed import Feed
from foveate.train.fit import fit
from foveate.train.plan import Plan, measure, plan_key, read_plan, settle
from foveate.train.preview import preview
from foveate.train.step import Choice, TrainingStep, safe_choice
from foveate.train.study import Study, TrainConfig
from foveate.train.trials import Bench, compare, rivals, search
from test_feed import tiny_feed
from tiny_training import tiny_cohort, tiny_splits, tiny_study

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return tiny_study(tmp_path_factory.mktemp("plan"))


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    return tiny_feed(tmp_path_factory.mktemp("feed"))


def tiny_model() -> Classifier:
    torch.manual_seed(0)
    spec = Preprocess(tiny_study(Path()).preprocess).input_spec(("a", "b"))
    model = build_model("late_fusion", 3, spec, options={"encoder": "test_resnet"})
    model.criterion = make_criterion(
        "multiclass", class_counts=torch.tensor([8, 8, 8]).numpy(), balance="none"
    )
    return model


def bench(feed: Feed, model: Classifier | None = None, **config: Any) -> Bench:
    return Bench(model or tiny_model(), next(feed.training(0, 0)), TrainConfig(**config), CPU)


class Timed(Bench):
    """A bench on which each choice takes as long as a table says."""

    def __init__(self, seconds: dict[Choice, float], differs: dict[Choice, tuple[float, float]]) -> None:
        self.seconds, self.differs = seconds, differs

    def agreement(self, choice: Choice) -> tuple[float, float]:
        return self.differs.get(choice, (0.0, 1.0))

    def race(self, *choices: Choice, turns: int = 1) -> tuple[list[list[float]], list[float]]:
        times = [self.seconds[choice] for choice in choices]
        return [[time] * turns for time in times], [10 * time for time in times]


SAFE = Choice(half=True)
PRODUCT = replace(SAFE, matmul_gradients=True)


def test_a_way_is_taken_if_it_is_faster_by_more_than_noise() -> None:
    first = replace(PRODUCT, channels_last=False)
    timed = Timed({SAFE: 1.0, PRODUCT: 0.9, first: 0.88}, {})
    trials = search(timed, SAFE, [{"matmul_gradients": True}, {"channels_last": False}], steps=1000)
    assert [trial.verdict for trial in trials] == ["taken", "not faster"]
    assert (trials[1].against, trials[1].seconds) == (PRODUCT, 0.88)


def test_a_way_must_be_faster_in_most_turns_and_not_by_one_lucky_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for after, verdict in (([0.5, 1.0, 1.0], "not faster"), ([0.5, 0.9, 1.0], "taken")):
        timed = Timed({}, {})
        monkeypatch.setattr(timed, "race", lambda *_, after=after: ([[1.0, 1.0, 1.0], after], [1.0, 1.0]))
        assert compare(timed, SAFE, PRODUCT, 0.0).verdict == verdict


def test_a_way_with_other_results_is_dropped_however_fast() -> None:
    for differs in ((0.03, 1.0), (0.0, 0.6), (float("nan"), 1.0), (0.0, float("nan"))):
        timed = Timed({SAFE: 1.0, PRODUCT: 0.1}, {SAFE: (0.01, 0.7), PRODUCT: differs})
        trial = search(timed, SAFE, [{"matmul_gradients": True}], steps=1000)[0]
        assert trial.verdict.startswith("dropped") and not trial.taken
    timed = Timed({SAFE: 1.0, PRODUCT: 0.1}, {SAFE: (0.01, 0.7), PRODUCT: (0.01, 0.66)})
    assert search(timed, SAFE, [{"matmul_gradients": True}], steps=1000)[0].taken


def test_a_way_that_fails_is_dropped_and_compiling_must_win_back_its_time() -> None:
    trial = compare(Timed({SAFE: 1.0}, {}), SAFE, PRODUCT, 0.0)
    assert trial.verdict == "failed: KeyError" and trial.seconds is None
    compiled = replace(SAFE, compiled=True)
    timed = Timed({SAFE: 1.0, compiled: 0.5}, {})  # its first step takes 5 s: 0.5 s saved must come to 10 s
    assert compare(timed, SAFE, compiled, 0.0, steps=19).verdict == "not worth its first step"
    assert compare(timed, SAFE, compiled, 0.0, steps=21).taken


def test_every_way_gives_float32s_results_on_a_real_model(feed: Feed) -> None:
    tried = bench(feed)
    for choice in (
        Choice(channels_last=False),
        Choice(matmul_gradients=True),
        Choice(channels_last=False, matmul_gradients=True),
    ):
        loss, cosine = tried.agreement(choice)
        assert loss < 1e-5 and cosine > 0.9999, choice
    loss, cosine = tried.agreement(Choice(half=True))
    assert 0 < loss < 0.02 and cosine > 0.9


def test_a_wrong_gradient_is_found_out(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    right = plan_module.Bench._gradient

    def wrong(self: Bench, choice: Choice) -> tuple[float, torch.Tensor]:
        loss, gradient = right(self, choice)
        return loss, -gradient if choice.matmul_gradients else gradient

    monkeypatch.setattr(Bench, "_gradient", wrong)
    tried = bench(feed)
    changed = replace(Choice(), matmul_gradients=True)
    assert compare(tried, Choice(), changed, tried.agreement(Choice())[1] - 0.05).verdict.startswith(
        "dropped"
    )


def test_measuring_moves_neither_the_model_nor_the_random_numbers(feed: Feed) -> None:
    model = tiny_model()
    before = {name: item.clone() for name, item in model.state_dict().items()}
    state = torch.get_rng_state()
    tried = bench(feed, model)
    tried.agreement(Choice(half=True))
    tried.race(Choice(), Choice(matmul_gradients=True), turns=1)
    tried.pace(Choice(), feed, count=2)
    tried.scoring(Choice())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(item, before[name]) for name, item in model.state_dict().items())
    assert not any(item.grad is not None for item in model.parameters())


def test_what_may_change_depends_on_the_study_and_the_device() -> None:
    model, half = tiny_model(), Choice(half=True)
    auto, fixed = TrainConfig(), TrainConfig(precision="bf16")
    assert {"half": False} in rivals(model, half, auto, "cpu")
    assert {"half": False} not in rivals(model, half, fixed, "cpu")
    assert {"matmul_gradients": True} not in rivals(model, half, auto, "cuda")
    assert safe_choice(TrainConfig(precision="32"), "cpu") == Choice(half=False)
    assert safe_choice(fixed, "cpu").half


def test_the_form_of_a_step_is_the_chosen_one(feed: Feed) -> None:
    model = tiny_model()
    step = TrainingStep(model, Choice(channels_last=False, matmul_gradients=True), "cpu")
    kernels = [item for item in model.parameters() if item.ndim == 4 and min(item.shape[1:]) > 1]
    assert kernels and all(item.is_contiguous() for item in kernels)
    assert list(step.state_dict()) == [f"model.{name}" for name in model.state_dict()]
    TrainingStep(model, Choice(), "cpu")
    assert all(item.is_contiguous(memory_format=torch.channels_last) for item in kernels)


def settled(study: Study, feed: Feed, folder: Path, *, begun: bool = False) -> Plan:
    return settle(study, tiny_model(), feed, CPU, run=folder / "run", cache=folder / "cache", begun=begun)


def with_train(study: Study, **train: Any) -> Study:
    return study.model_copy(update={"train": study.train.model_copy(update=train)})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Plan]]:
    """Plans that were measured, in place of racing: each with another number of threads."""
    made: list[Plan] = []
    numbers = count(5)

    def stand_in(study: Study, model: Classifier, feed: Feed, device: torch.device) -> Plan:
        key = plan_key(study, model, device)
        made.append(Plan(Choice(matmul_gradients=True), next(numbers), "measured in 1 s", key, took=1.0))
        return made[-1]

    monkeypatch.setattr(plan_module, "measure", stand_in)
    yield made


def test_a_plan_is_kept_by_the_run_and_remembered_for_its_like(
    study: Study, feed: Feed, tmp_path: Path, measured: list[Plan]
) -> None:
    long = with_train(study, epochs=300)
    first = settled(long, feed, tmp_path)
    assert first == measured[0] == read_plan(tmp_path / "run")
    again = settled(long, feed, tmp_path)
    assert (again.choice, again.threads, again.reason) == (first.choice, 5, "as this run began")
    (tmp_path / "run" / "plan.json").unlink()
    assert settled(long, feed, tmp_path).reason == "remembered from an earlier run"
    assert settled(with_train(long, batch_size=7), feed, tmp_path / "other").threads == 6
    assert len(measured) == 2
    (tmp_path / "run" / "plan.json").write_text("{")
    assert settled(long, feed, tmp_path).reason == "remembered from an earlier run", "a torn one is made anew"


def test_what_is_not_measured_is_computed_the_safe_way(
    study: Study, feed: Feed, tmp_path: Path, measured: list[Plan]
) -> None:
    safe = safe_choice(study.train, "cpu")
    assert settled(study, feed, tmp_path).reason == "9 steps are too few to race for a faster way"
    long = with_train(study, epochs=300)
    assert settled(with_train(long, plan="off"), feed, tmp_path).choice == safe
    begun = settled(long, feed, tmp_path, begun=True)  # by a version that knew no plans
    assert (begun.choice, measured) == (safe, [])


def test_a_short_training_is_not_raced_but_estimated(study: Study, feed: Feed, tmp_path: Path) -> None:
    assert settled(study, feed, tmp_path).estimate is None, "9 steps are over before they are estimated"
    found = settled(with_train(study, epochs=60), feed, tmp_path)
    assert (found.choice, found.trials, found.estimate is None) == (
        safe_choice(study.train, "cpu"),
        (),
        False,
    )
    assert found.estimate is not None
    assert found.estimate.seconds > 180 * found.estimate.step_seconds > 0
    assert "on disk" in found.words() and not (tmp_path / "run").exists()


def test_a_remembered_plan_costs_what_this_training_does(study: Study, feed: Feed, tmp_path: Path) -> None:
    long = with_train(study, epochs=300)
    key = plan_key(long, tiny_model(), CPU)
    model, extent = tiny_model(), plan_module.Extent(steps=3, scorings=1, cases=10)
    earlier = plan_module.Estimate(1.0, 0.5, 1.5, 0.25, None).of(2, extent, model)
    assert earlier.seconds == 2 * (3 * 1.5 + 0.25)
    plan_module.keep(
        Plan(Choice(), 0, "", key, estimate=earlier, took=1.0), tmp_path / "else", tmp_path / "cache"
    )
    found = settled(long, feed, tmp_path)
    assert found.reason == "remembered from an earlier run" and found.estimate is not None
    now = plan_module.Extent.of(feed)
    assert found.estimate.seconds == 300 * (now.steps * 1.5 + now.scorings * 0.25)
    spec, weights = model.input_spec, sum(item.nbytes for item in model.state_dict().values())
    pixels = spec.channels * spec.size[0] * spec.size[1] * len(spec.views)
    assert found.estimate.disk_bytes == 2 * pixels * now.cases + 9 * weights


def test_a_compiled_plan_on_a_machine_without_compiler_is_followed_uncompiled(
    study: Study, feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_module.keep(Plan(Choice(compiled=True), 3, "", "k"), tmp_path / "run", tmp_path)
    monkeypatch.setattr(plan_module, "can_compile", lambda device: False)
    found = settled(study, feed, tmp_path)
    assert (found.choice, found.threads) == (Choice(), 3)
    assert settled(with_train(study, workers=1), feed, tmp_path).threads == 1


def test_a_real_measurement_ends_with_an_estimate(study: Study, feed: Feed, tmp_path: Path) -> None:
    found = measure(study, tiny_model(), feed, CPU, larger_batch=True)
    assert found.trials and found.estimate is not None
    assert found.estimate.seconds > 9 * found.estimate.step_seconds > 0
    weights = sum(item.numel() for item in tiny_model().parameters()) * 4
    assert found.estimate.disk_bytes > 9 * weights
    assert found.estimate.larger_batch is not None
    assert Plan.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    assert "on disk" in found.words()


def test_preview_measures_writes_the_plan_and_the_training_follows_it(tmp_path: Path) -> None:
    study, cohort = tiny_study(tmp_path, precision="auto"), tiny_cohort(tmp_path / "images")
    splits, run = tiny_splits(cohort), tmp_path / "run"
    found = preview(study, cohort, splits, run, cache=tmp_path / "cache", display=Display(None))
    assert (found.extent.steps, found.extent.scorings, found.extent.cases) == (3, 1, 24)
    assert not found.kept and read_plan(run) == found.plan
    with console.capture() as printed:
        show_preview(found)
    assert "before" in printed.get() and "cost: about" in printed.get()
    output = Console(record=True, width=200)
    fit(study, cohort, splits, run, cache=tmp_path / "cache", console=output)
    assert f"plan: {found.plan.choice.words()} (as this run began)" in output.export_text()
    assert preview(study, cohort, splits, run, cache=tmp_path / "cache", display=Display(None)).kept


@pytest.mark.parametrize("choice", [Choice(matmul_gradients=True), Choice(channels_last=False)])
def test_a_training_learns_the_same_whichever_way_it_is_computed(tmp_path: Path, choice: Choice) -> None:
    study, cohort = tiny_study(tmp_path, epochs=2), tiny_cohort(tmp_path / "images")
    values = {}
    for way in (Choice(), choice):
        run = tmp_path / way.words()
        plan_module.keep(Plan(way, 0, ""), run, tmp_path)
        values[way] = fit(study, cohort, tiny_splits(cohort), run, cache=tmp_path / "cache").best_value
    assert values[choice] == pytest.approx(values[Choice()], abs=1e-3)
