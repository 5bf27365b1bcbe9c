"""Plans: bfloat16 only where it is right and faster, and a run that keeps its plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

import foveate.train.tuning.plan as plan_module
from foveate.cli.plan import show_preview
from foveate.cli.terminal import console
from foveate.contract import Classifier
from foveate.models import build_model, make_criterion
from foveate.prepare.preprocess import Preprocess
from foveate.study.study import Study
from foveate.train.display import Display
from foveate.train.feed import Feed
from foveate.train.fit import fit
from foveate.train.step import Choice, TrainingStep
from foveate.train.tuning.convolution import Convolution
from foveate.train.tuning.estimate import Estimate, Extent, of_size
from foveate.train.tuning.kernel_check import KernelVerdict
from foveate.train.tuning.plan import (
    Checked,
    Rerouted,
    TrainingPlan,
    check,
    choose,
    measure,
    plan_key,
    read_plan,
    settle,
)
from foveate.train.tuning.preview import preview
from foveate.train.tuning.trials import TrialBench
from test_feed import tiny_feed
from tiny_training import tiny_cohort, tiny_splits, tiny_study

CPU = torch.device("cpu")
HALF, FULL = Choice(half=True), Choice()
SHAPE = Convolution((6, 3, 9, 9), (8, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1, "bfloat16", True)
RIGHT, WRONG = Checked(0.99, 20, (), 0.1), Checked(0.72, 20, (), 0.1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return tiny_study(tmp_path_factory.mktemp("plan"), plan="auto")


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


def bench(study: Study, feed: Feed, model: Classifier | None = None) -> TrialBench:
    return TrialBench(model or tiny_model(), next(feed.training(0, 0)), study.train, CPU)


def with_train(study: Study, **train: Any) -> Study:
    return study.model_copy(update={"train": study.train.model_copy(update=train)})


class Timed(TrialBench):
    """A bench on which each choice takes as long as a table says."""

    def __init__(self, seconds: dict[Choice, list[float]]) -> None:
        self.seconds = seconds

    def race(self, *choices: Choice, turns: int = 1) -> list[list[float]]:
        return [self.seconds[choice] for choice in choices]


FIRST = {choice: replace(choice, channels_last=False) for choice in (HALF, FULL)}
AS_FAST = {choice: [1.0, 1.0, 1.0] for choice in (HALF, FULL, *FIRST.values())}


def test_a_way_is_taken_if_it_is_faster_at_its_best_and_in_most_turns() -> None:
    for after, taken in (([0.5, 1.0, 1.0], False), ([0.5, 0.8, 1.0], True), ([0.9, 0.9, 0.9], False)):
        trial = Timed(AS_FAST | {HALF: after}).compare(HALF, FULL)
        assert (trial.taken, trial.seconds, trial.against_seconds) == (taken, min(after), 1.0)


@pytest.mark.parametrize(
    ("checked", "half_seconds", "expected", "looks_again"),
    [
        (RIGHT, 0.5, HALF, True),
        (WRONG, 0.5, FULL, True),
        (RIGHT, 1.2, FULL, False),
        (WRONG, 1.2, FULL, False),
    ],
)
def test_bfloat16_is_taken_where_it_is_right_and_faster(
    study: Study, checked: Checked, half_seconds: float, expected: Choice, looks_again: bool
) -> None:
    auto = with_train(study, precision="auto")
    choice, trials, look = choose(Timed(AS_FAST | {HALF: [half_seconds] * 3}), auto, checked)
    assert (choice, look, len(trials)) == (expected, looks_again, 2)


def test_without_a_race_only_what_is_right_decides(study: Study) -> None:
    off, none = with_train(study, precision="auto", plan="off"), Timed({})
    assert choose(none, off, RIGHT) == (HALF, (), True)
    assert choose(none, off, WRONG) == (FULL, (), True)
    assert choose(none, with_train(study, precision="32", plan="off"), None) == (FULL, (), False)


def test_bfloat16_that_was_asked_for_stays_and_formats_are_raced(study: Study) -> None:
    timed = Timed(AS_FAST | {FIRST[HALF]: [0.5] * 3})
    choice, _, look = choose(timed, with_train(study, precision="bf16"), WRONG)
    assert (choice, look) == (FIRST[HALF], False)


def test_a_gradient_that_is_not_finite_is_not_right() -> None:
    assert RIGHT.right and not WRONG.right and not replace(RIGHT, cosine=None).right
    assert "is not finite" in replace(RIGHT, cosine=None).words()
    rerouted = tuple(Rerouted(replace(SHAPE, groups=each), 2, "padded", None) for each in (1, 2))
    assert "2 of 20 convolutions have a wrong gradient" in replace(RIGHT, rerouted=rerouted).words()


def test_the_cosine_of_a_real_model_and_of_a_wrong_gradient(
    study: Study, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench(study, feed).cosine(FIRST[FULL]) > 0.99999
    assert 0.9 < bench(study, feed).cosine(HALF) < 0.99999
    right = TrialBench._gradient

    def wrong(self: TrialBench, choice: Choice) -> Tensor:
        gradient = right(self, choice)
        return gradient.flip(0) if choice.half else gradient  # finite, and of the right norm

    monkeypatch.setattr(TrialBench, "_gradient", wrong)
    assert abs(bench(study, feed).cosine(HALF)) < 0.5


def test_every_convolution_is_checked_at_both_batch_sizes_and_wrong_ones_are_rerouted(
    study: Study, feed: Feed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Convolution] = []

    def planted(shape: Convolution, device: torch.device) -> KernelVerdict:
        asked.append(shape)
        return KernelVerdict("product" if shape.kernel[2:] == (3, 3) else "library", 0.9)

    monkeypatch.setattr("foveate.train.tuning.kernel_check.check", planted)
    extent = replace(Extent.of(feed), sizes=(5, 4))
    found = check(study, tiny_model(), feed, CPU, extent, cache=tmp_path)
    assert {shape.image[0] for shape in asked} == {4, 5} and {shape.dtype for shape in asked} == {"bfloat16"}
    assert found.convolutions == len(asked)
    assert {item.convolution for item in found.rerouted} == {
        shape for shape in asked if shape.kernel[2:] == (3, 3)
    }
    assert set(found.ways.values()) == {"product"} and found.cosine is not None and found.cosine > 0.9
    assert check(study, tiny_model(), feed, CPU, extent, cache=tmp_path) == replace(
        found, seconds=pytest.approx(0, abs=0.5)
    )
    assert len(asked) == found.convolutions, "they are remembered"


def test_measuring_moves_neither_the_model_nor_the_random_numbers(study: Study, feed: Feed) -> None:
    model = tiny_model()
    before = {name: item.clone() for name, item in model.state_dict().items()}
    state = torch.get_rng_state()
    tried = bench(study, feed, model)
    tried.cosine(HALF)
    tried.convolutions(HALF)
    tried.race(FULL, HALF, turns=1)
    tried.scoring(FULL)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(item, before[name]) for name, item in model.state_dict().items())
    assert not any(item.grad is not None for item in model.parameters())


def test_the_form_of_a_step_is_the_chosen_one() -> None:
    model = tiny_model()
    step = TrainingStep(model, FIRST[FULL], "cpu")
    kernels = [item for item in model.parameters() if item.ndim == 4 and min(item.shape[1:]) > 1]
    assert kernels and all(item.is_contiguous() for item in kernels)
    assert list(step.state_dict()) == [f"model.{name}" for name in model.state_dict()]
    TrainingStep(model, FULL, "cpu")
    assert all(item.is_contiguous(memory_format=torch.channels_last) for item in kernels)


def test_a_batch_of_another_size(feed: Feed) -> None:
    batch = next(feed.training(0, 0))
    size = len(batch.case_ids)
    for wanted in (2, size, 2 * size + 1):
        found = of_size(batch, wanted)
        assert len(found.case_ids) == len(found.targets) == wanted
        assert all(len(view) == wanted for view in found.views.values())
        assert found.case_ids[-1] == batch.case_ids[(wanted - 1) % size]


def _plan(choice: Choice, reason: str = "", **facts: Any) -> TrainingPlan:
    return TrainingPlan(choice=choice, reason=reason, **facts)


def settled(study: Study, feed: Feed, folder: Path) -> TrainingPlan:
    return settle(study, tiny_model(), feed, CPU, run=folder / "run", cache=folder / "cache")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TrainingPlan]]:
    """Plans in place of measured ones: each with another number of convolutions."""
    made: list[TrainingPlan] = []
    numbers = count(5)

    def stand_in(
        study: Study, model: Classifier, feed: Feed, device: torch.device, *, cache: Path
    ) -> TrainingPlan:
        key = plan_key(study, device, Extent.of(feed))
        checked = replace(RIGHT, convolutions=next(numbers))
        machine = plan_module.machine(device)
        made.append(_plan(FULL, "settled in 1 s", machine=machine, checked=checked, key=key, took=1.0))
        return made[-1]

    monkeypatch.setattr(plan_module, "measure", stand_in)
    yield made


def test_a_plan_is_kept_by_the_run_and_remembered_for_its_like(
    study: Study, feed: Feed, tmp_path: Path, measured: list[TrainingPlan]
) -> None:
    first = settled(study, feed, tmp_path)
    assert first == measured[0] == read_plan(tmp_path / "run")
    again = settled(study, feed, tmp_path)
    assert (again.checked, again.exact, again.reason) == (first.checked, True, "as this run began")
    (tmp_path / "run" / "plan.json").unlink()
    assert settled(study, feed, tmp_path).reason == "remembered from an earlier run"
    assert len(measured) == 1
    settled(with_train(study, precision="bf16"), feed, tmp_path / "other")
    assert len(measured) == 2
    (tmp_path / "run" / "plan.json").write_text("{")
    assert settled(study, feed, tmp_path).reason == "remembered from an earlier run", (
        "a torn one is made anew"
    )


def test_a_run_that_goes_on_elsewhere_is_checked_anew_and_no_longer_exact(
    study: Study, feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = _plan(HALF, machine={"processor": "another", "threads": 64, "torch": "1"}, checked=RIGHT)
    plan_module.keep(old, tmp_path / "run", tmp_path / "cache")
    monkeypatch.setattr(plan_module, "check", lambda *_, **__: WRONG)
    study = with_train(study, precision="auto")
    found = settled(study, feed, tmp_path)
    assert (found.choice, found.checked, found.exact) == (FULL, WRONG, False)
    assert "no longer exact" in found.words() and "64 threads of another" in found.words()
    assert settled(study, feed, tmp_path) == found, "also the next time"


def test_another_memory_format_is_checked_for_itself(
    study: Study, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def stand_in(*_: Any, channels_last: bool = True, **__: Any) -> Checked:
        asked.append(channels_last)
        return RIGHT if channels_last else WRONG

    monkeypatch.setattr(plan_module, "check", stand_in)
    monkeypatch.setattr(plan_module, "choose", lambda *_: (FIRST[HALF], (), True))
    found = measure(with_train(study, precision="bf16"), tiny_model(), feed, CPU)
    assert (asked, found.choice, found.checked) == ([True, False], FIRST[HALF], WRONG)
    monkeypatch.setattr("foveate.train.tuning.plan.native_bf16", lambda kind: True)
    assert measure(with_train(study, precision="auto"), tiny_model(), feed, CPU).choice == FIRST[FULL]


def test_a_short_training_is_not_estimated_and_a_longer_one_is(
    study: Study, feed: Feed, tmp_path: Path
) -> None:
    assert settled(study, feed, tmp_path).estimate is None, "9 steps are over before they are estimated"
    found = settled(with_train(study, epochs=60), feed, tmp_path / "other")
    assert found.estimate is not None
    assert found.estimate.seconds > 180 * found.estimate.step_seconds > 0
    assert "on disk" in found.words()


def test_a_remembered_plan_costs_what_this_training_does(study: Study, feed: Feed, tmp_path: Path) -> None:
    long = with_train(study, epochs=300)
    model, now = tiny_model(), Extent.of(feed)
    key = plan_key(long, CPU, now)
    earlier = Estimate(1.0, 0.5, 1.5, 0.25, None).of(2, Extent(3, 1, 10, (6, 6)), model)
    assert earlier.seconds == 2 * (3 * 1.5 + 0.25)
    plan = _plan(FULL, machine=plan_module.machine(CPU), key=key, estimate=earlier, took=1.0)
    plan_module.keep(plan, tmp_path / "else", tmp_path / "cache")
    found = settled(long, feed, tmp_path)
    assert found.reason == "remembered from an earlier run" and found.estimate is not None
    assert found.estimate.seconds == 300 * (now.steps * 1.5 + now.scorings * 0.25)
    spec, weights = model.input_spec, sum(item.nbytes for item in model.state_dict().values())
    pixels = spec.channels * spec.size[0] * spec.size[1] * len(spec.views)
    assert found.estimate.disk_bytes == 2 * pixels * now.cases + 9 * weights


def test_a_real_measurement_survives_its_file(study: Study, feed: Feed, tmp_path: Path) -> None:
    auto = with_train(study, precision="bf16")
    found = measure(auto, tiny_model(), feed, CPU, cache=tmp_path, larger_batch=True)
    assert found.trials and found.estimate is not None and found.checked is not None
    assert found.estimate.seconds > 9 * found.estimate.step_seconds > 0
    weights = sum(item.numel() for item in tiny_model().parameters()) * 4
    assert found.estimate.disk_bytes > 9 * weights and found.estimate.larger_batch is not None
    rerouted = (Rerouted(SHAPE, 3, "padded", None),)
    found = found.model_copy(update={"checked": replace(found.checked, rerouted=rerouted)})
    found.write(tmp_path)
    back = TrainingPlan.read(tmp_path)
    assert back == found and back is not None and back.checked == found.checked
    assert back.trials == found.trials and back.estimate == found.estimate
    old = {key: value for key, value in found.to_json().items() if key != "format"}  # as 0.1.0 wrote it
    assert TrainingPlan.from_json(old) == found
    assert found.ways == {SHAPE: "padded"}


@pytest.mark.slow
def test_preview_measures_writes_the_plan_and_the_training_follows_it(tmp_path: Path) -> None:
    study, cohort = tiny_study(tmp_path, precision="auto", plan="auto"), tiny_cohort(tmp_path / "images")
    splits, run = tiny_splits(cohort), tmp_path / "run"
    found = preview(study, cohort, splits, run, cache=tmp_path / "cache", display=Display(None))
    assert (found.extent.steps, found.extent.scorings, found.extent.cases) == (3, 1, 24)
    assert found.extent.sizes == (6, 6) and not found.kept and read_plan(run) == found.plan
    with console.capture() as printed:
        show_preview(found)
    assert "instead of" in printed.get() and "cost: about" in printed.get()
    output = Console(record=True, width=200)
    fit(study, cohort, splits, run, cache=tmp_path / "cache", console=output)
    assert f"plan: {found.plan.choice.words()} (as this run began)" in output.export_text()
    assert preview(study, cohort, splits, run, cache=tmp_path / "cache", display=Display(None)).kept


@pytest.mark.slow
def test_a_training_learns_the_same_whichever_way_it_is_computed(tmp_path: Path) -> None:
    study, cohort = tiny_study(tmp_path, epochs=2), tiny_cohort(tmp_path / "images")
    values = {}
    for way in FIRST.items():
        for choice in way[:1] if way[0].half else way:
            run = tmp_path / choice.words()
            plan_module.keep(_plan(choice, machine=plan_module.machine(CPU)), run, tmp_path)
            values[choice] = fit(study, cohort, tiny_splits(cohort), run, cache=tmp_path / "cache").best_value
    assert values[FIRST[FULL]] == pytest.approx(values[FULL], abs=1e-3)
    assert len(values) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("cosine", "later"), [(0.5, "float32"), (0.99, "bfloat16")])
def test_after_the_first_epoch_the_gradient_decides_anew_and_a_resumed_run_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cosine: float, later: str
) -> None:
    study, cohort = tiny_study(tmp_path, precision="auto"), tiny_cohort(tmp_path / "images")
    began = HALF if later == "float32" else FULL
    plan = _plan(began, machine=plan_module.machine(CPU), checked=RIGHT, look_again=True)
    plan_module.keep(plan, tmp_path / "run", tmp_path)
    monkeypatch.setattr(TrialBench, "cosine", lambda self, choice: cosine)
    output = Console(record=True, width=200)
    splits, cache = tiny_splits(cohort), tmp_path / "cache"

    def stop_after_two(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(study, cohort, splits, tmp_path / "run", cache=cache, console=output, watch=stop_after_two)
    assert f"from epoch 2 on in {later}" in output.export_text()
    used: list[bool] = []
    forward = TrainingStep.forward

    def noted(self: TrainingStep, *args: Any) -> Any:
        used.append(self.in_bfloat16)
        return forward(self, *args)

    monkeypatch.setattr(TrainingStep, "forward", noted)
    result = fit(study, cohort, splits, tmp_path / "run", cache=cache)
    assert set(used) == {later == "bfloat16"} and result.resumed
    first = "bfloat16" if began.half else "float32"
    assert result.computed.precision == (first, later)
    assert result.computed.cosine == (0.99, cosine)
    assert result.computed.threads == torch.get_num_threads() and result.computed.exact is True
