"""What stations will cost: worked by hand, and beside the passes that a small run really makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

import foveate.bundle.bundle as bundles
from cohort_files import case_of, cohort_of
from foveate.bundle.bundle import Bundle
from foveate.cli import terminal
from foveate.cli.costs import show_costs
from foveate.contract import InputSpec
from foveate.explain.explainers import explain_batch
from foveate.explain.options import ExplainOptions
from foveate.stations.costs import Cost, Pace, Passes, costs_of, map_passes
from foveate.stations.explain import explain
from foveate.stations.predict import predict
from foveate.stations.probe import probe
from foveate.stations.run import Run
from foveate.stations.split import expected_parts
from foveate.stations.trust import trust
from foveate.study.study import Study
from small_run import small_run
from tiny_classifiers import PooledCnn, TwoViewCnn, images


def by_station(costs: list[Cost]) -> dict[str, Passes]:
    return {cost.station: cost.passes for cost in costs}


def test_worked_by_hand() -> None:
    study = Study.model_validate(
        {
            "name": "s",
            "data": {"manifest": "m.csv"},
            "preprocess": {"size": (64, 32)},
            "train": {"epochs": 3},
            "explain": {"split": ["test"], "limit": 25, "method": "integrated_gradients", "ig_steps": 5},
            "probe": {"cases": 30, "tiles": 4},
            "trust": {"cases": 20, "methods": ["gradcam", "smoothgrad"]},
        }
    )
    cohort = cohort_of([case_of(number, f"p{number}", "xy"[number % 2]) for number in range(8)])
    parts = {"train": 600, "val": 50, "test": 40}
    costs = costs_of(study, cohort, parts, InputSpec(size=(64, 32)))
    found = by_station(costs)
    assert found["audit"] == Passes() and costs[0].work == "8 files"
    assert found["train"] == Passes(150, 1800)
    assert found["predict"] == Passes(50 + 40 + 500)  # 500 training cases say what is familiar
    # 25 cases, 2 classes of 5 steps each, and two passes to see what the maps miss
    assert found["explain"] == Passes(50, 250)
    # 4 x 2 tiles and the answer for 30 validation cases; of 30 test cases the answer, two regions three
    # times, the files' scale twice; the answer once more, and eight tiles twice
    assert found["probe"] == Passes(30 * 9 + 30 * (1 + 6 + 2) + 30 * 17)
    # The 20 answers. Grad-CAM: 20 maps, and anew for three stages, noise and shift. SmoothGrad: 10 maps of
    # eight copies, anew for two stages, noise and shift. Signs: three passes for 20 cases of Grad-CAM and of
    # the three controls and for 10 of SmoothGrad. Batch norms of three stages and attention for 20 cases.
    drawn = 20 + 20 * (1 + 5) + 3 * (4 * 20 + 10) + 4 * 20
    # What is shared takes 1 + 2 + 32 images a case, an order of squares 2 * 2 * 4 + 2 * 3 = 22: of four maps
    # and chance for 10 cases, of five and chance for the other 10.
    changed = 10 * (35 + 6 * 22) + 10 * (35 + 5 * 22)
    assert found["trust"] == Passes(drawn + changed, 8 * (10 + 10 * 4))
    assert costs[1].seconds(Pace(0.1, 0.5)) == pytest.approx(15 + 900)
    tested = costs_of(study, cohort, parts, InputSpec(size=(64, 32)), trains=False)
    assert [cost.station for cost in tested] == ["predict", "explain", "probe", "trust"]
    assert tested[0].passes == Passes(90)


@contextmanager
def counting(counter: Counter[str], module: nn.Module) -> Iterator[None]:
    """Count the cases that go through a network and its copies."""

    def note(_: nn.Module, inputs: tuple[dict[str, torch.Tensor]]) -> None:
        counter["cases"] += len(next(iter(inputs[0].values())))

    handle = module.register_forward_pre_hook(note)
    yield
    handle.remove()


@pytest.mark.parametrize(
    "method", ["gradcam", "cam", "integrated_gradients", "smoothgrad", "occlusion", "gradient", "edge"]
)
def test_passes_of_maps_are_those_made(method: str) -> None:
    model, counter = PooledCnn().eval(), Counter[str]()
    options = ExplainOptions(ig_steps=6, smoothgrad_samples=5)
    with counting(counter, model):
        explain_batch(model, {"image": images(3, 20, 12)}, [1], method, options=options)
    expected = map_passes(method, options, InputSpec(size=(20, 12)), 1)
    assert counter["cases"] == 3 * (expected.forward + expected.back)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    sections = {"trust": {"cases": 12, "methods": ["gradcam", "smoothgrad"]}, "probe": {"tiles": 4}}
    return small_run(tmp_path_factory.mktemp("costs"), 60, **sections)


@pytest.mark.slow
def test_a_run_makes_about_as_many(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    counter, load = Counter[str](), bundles.load_bundle

    def counted(folder: Path) -> Bundle:
        found = load(folder)
        found.model.register_forward_pre_hook(
            lambda _, inputs: counter.update(cases=len(next(iter(inputs[0].values()))))
        )
        return found

    monkeypatch.setattr(bundles, "load_bundle", counted)
    cohort = run.cohort()
    parts = expected_parts(run, cohort)
    assert sum(parts.values()) == 60
    spec = load(run.folder / "bundle").model.input_spec
    expected = by_station(costs_of(run.study, cohort, parts, spec))
    made = {}
    for name, station in {
        "predict": lambda: predict(run),
        "explain": lambda: explain(run),
        "probe": lambda: probe(run),
        "trust": lambda: trust(run),
    }.items():
        counter.clear()
        station()
        made[name] = counter["cases"] / (expected[name].forward + expected[name].back)
    assert made["predict"] == made["explain"] == 1
    assert 0.5 < made["probe"] <= 1  # tiles in which nothing changes are not asked about
    assert 0.95 < made["trust"] < 1.05


def test_measured_where_nothing_is_disturbed() -> None:
    model = TwoViewCnn().train()
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    pace = Pace.of(model)
    assert 0 < pace.forward < 1 and 0 < pace.back < 1
    assert model.training and torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_told_in_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Console(width=200, record=True)
    monkeypatch.setattr(terminal, "console", out)
    costs = [
        Cost("audit", "8 files"),
        Cost("train", "3 epochs of 600 cases", Passes(150, 1800), "train.epochs", here=False),
        Cost("trust", "1 method on 20 cases", Passes(20_000, 400), "trust.cases"),
    ]
    show_costs(costs, Pace(0.25, 2.0))
    lines = out.export_text().splitlines()
    assert lines[0] == "  audit                   8 files"
    train = "3 epochs of 600 cases, 1,950 passes (less with train.epochs)"
    assert lines[1] == f"  train    its plan says  {train}"
    trust = "1 method on 20 cases, 20,400 passes (less with trust.cases)"
    assert lines[2] == f"  trust    about 1.6 h    {trust}"
    assert "0.250 s here, 2.000 s with its gradient" in lines[3]
