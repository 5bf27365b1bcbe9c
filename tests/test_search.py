"""Searching for settings: what is tried, what it is judged by, and that an interrupted search goes on."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from foveate.compare import search as module
from foveate.compare.search import SearchResult, search
from foveate.errors import MissingExtra, RunFailed, UsageError
from foveate.files import sha256_of
from foveate.study.search_space import SearchSpace, apply
from foveate.study.study import Study
from foveate.train.fit import fit
from foveate.types import Cohort
from tiny_training import tiny_cohort, tiny_splits, tiny_study

pytestmark = pytest.mark.slow

pytest.importorskip("optuna", reason="the extra 'search' is not installed")
SPACE = SearchSpace.model_validate(
    {
        "trials": 10,
        "parameters": {
            "train.lr": {"low": 1e-5, "high": 1.0, "log": True},
            "train.batch_size": {"low": 2, "high": 8, "step": 2},
            "train.optimizer": {"choices": ["adamw", "sgd"]},
        },
    }
)
EPOCHS = 8


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return tiny_cohort(tmp_path_factory.mktemp("search"))


class Pretended:
    """A training whose figure is best at lr = 0.01 with SGD, and rises with the epochs.

    Args:
        stop_at: call of ``watch``, counted from 1 over all trials, at which the process is asked to stop.
    """

    def __init__(self, stop_at: int = 0) -> None:
        self.studies: list[Study] = []
        self.epochs = 0
        self._stop_at = stop_at

    def __call__(
        self, study: Study, cohort: Cohort, splits: Any, run: Path, *, watch: Any, **rest: Any
    ) -> Any:
        self.studies.append(study)
        config = study.train
        best = 1 - 0.2 * abs(math.log10(config.lr) + 2) - 0.1 * (config.optimizer == "adamw")
        for epoch in range(1, EPOCHS + 1):
            self.epochs += 1
            if self.epochs == self._stop_at:
                raise SystemExit(143)
            watch({"epoch": epoch, config.monitor: best * epoch / EPOCHS})
        for name in ("bundle", "checkpoints"):
            (run / name).mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(best_value=best, best_epoch=EPOCHS, epochs=EPOCHS, seconds=1.0)


def look(
    cohort: Cohort, out: Path, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
    space: SearchSpace = SPACE, **keys: Any
) -> SearchResult:  # fmt: skip
    monkeypatch.setattr(module, "fit", train)
    study = tiny_study(out, epochs=EPOCHS, **keys)
    return search(study, space, cohort, tiny_splits(cohort), out)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_it_finds_what_is_better_and_writes_it_as_a_study(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Pretended()
    space = SPACE.model_copy(update={"trials": 25})
    found = look(cohort, tmp_path, train, monkeypatch, space, monitor="auroc_macro")
    assert found.best is not None and len(found.trials) == len(train.studies) == 25
    assert found.best.values["train.optimizer"] == "sgd"
    assert abs(math.log10(found.best.values["train.lr"]) + 2) < 0.5
    states = [item.state for item in found.trials]
    assert set(states) == {"complete", "pruned"} and states[:5] == ["complete"] * 5
    assert train.epochs < 25 * EPOCHS  # pruned ones ended early, but not before a quarter of the epochs
    assert train.epochs >= 5 * EPOCHS + 20 * EPOCHS // 4
    best = Study.load(tmp_path / "best.yaml")
    tried = train.studies[found.best.number]
    assert best == tried.model_copy(update={"name": "tiny best"})
    for study in train.studies:
        assert study.train.batch_size in (2, 4, 6, 8) and 1e-5 <= study.train.lr <= 1
        assert study.data == best.data and study.seed == best.seed
    rows = table(tmp_path)
    assert [row["state"] for row in rows] == states
    assert float(rows[found.best.number]["value"]) == found.best.value == max(
        item.value or 0 for item in found.trials if item.state == "complete"
    )  # fmt: skip
    kept = [path.parent.name for path in tmp_path.glob("trials/*/bundle")]
    assert kept == [f"{found.best.number:04d}"] and not list(tmp_path.glob("trials/*/checkpoints"))


def test_a_figure_that_should_be_low_is_searched_downwards(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = SPACE.model_copy(update={"prune": "none", "sampler": "random"})
    found = look(cohort, tmp_path, Pretended(), monkeypatch, space, monitor="val_loss")
    assert {item.state for item in found.trials} == {"complete"}
    assert found.best is not None
    assert found.best.value == min(item.value or 0 for item in found.trials)


@pytest.fixture(scope="module")
def whole(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        look(cohort, out, Pretended(), patch)
    return out


@pytest.mark.parametrize("stop_at", [1, 30])
def test_an_interrupted_search_tries_what_it_would_have_tried(
    cohort: Cohort, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    parts = tmp_path / "parts"
    first = Pretended(stop_at)
    with pytest.raises(SystemExit):
        look(cohort, parts, first, monkeypatch)
    second = Pretended()
    look(cohort, parts, second, monkeypatch)
    assert table(parts) == table(whole)
    assert first.studies[-1].train == second.studies[0].train  # the trial that was under way
    third = Pretended()
    look(cohort, parts, third, monkeypatch)
    assert third.studies == []
    more = look(cohort, parts, third, monkeypatch, SPACE.model_copy(update={"trials": 12}))
    assert len(third.studies) == 2 and len(more.trials) == 12


@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize("drawn", [1, 2])
def test_a_search_killed_between_the_draws_of_a_trial_draws_the_same(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, drawn: int
) -> None:
    space = SPACE.model_copy(
        update={"trials": 12, "sampler": sampler}
    )  # TPE counts the trials before from 10 on
    kept, calls = module._suggest, 0

    def killed(trial: Any, key: str, parameter: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 11 * len(SPACE.parameters) + drawn:
            raise KeyboardInterrupt
        return kept(trial, key, parameter)

    whole = look(cohort, tmp_path / "whole", Pretended(), monkeypatch, space)
    monkeypatch.setattr(module, "_suggest", killed)
    with pytest.raises(KeyboardInterrupt):
        look(cohort, tmp_path / "parts", Pretended(), monkeypatch, space)
    monkeypatch.setattr(module, "_suggest", kept)
    resumed = look(cohort, tmp_path / "parts", Pretended(), monkeypatch, space)
    assert [item.values for item in resumed.trials] == [item.values for item in whole.trials]


def test_trials_that_fail_are_told_and_the_search_goes_on_unless_all_do(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Pretended()

    def odd(study: Study, *rest: Any, **keys: Any) -> Any:
        if study.train.optimizer == "sgd":
            raise RunFailed("the loss is nan")
        return good(study, *rest, **keys)

    found = look(cohort, tmp_path / "odd", odd, monkeypatch, SPACE.model_copy(update={"prune": "none"}))
    failed = [item for item in found.trials if item.state == "failed"]
    assert failed and len(failed) < 10
    assert {item.facts["reason"] for item in failed} == {"the loss is nan"}
    assert {item.values["train.optimizer"] for item in failed} == {"sgd"}
    assert found.best is not None and found.best.values["train.optimizer"] == "adamw"

    def bad(*rest: Any, **keys: Any) -> Any:
        raise UsageError("there is no such device")

    with pytest.raises(RunFailed, match="first 3 trials all failed, the last with: there is no such device"):
        look(cohort, tmp_path / "bad", bad, monkeypatch)


def test_whole_sections_may_be_chosen(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [{"name": "timm:test_resnet"}, {"name": "timm:test_vit", "options": {"drop_rate": 0.2}}]
    space = {
        "trials": 6,
        "parameters": {"model": {"choices": models}, "preprocess.size": {"choices": [[16, 16], [32, 32]]}},
    }
    train = Pretended()
    found = look(cohort, tmp_path, train, monkeypatch, SearchSpace.model_validate(space))
    seen = {json.dumps(study.model.model_dump(exclude={"pretrained"})) for study in train.studies}
    assert len(seen) == 2 and "drop_rate" not in min(seen, key=len)  # nothing is left of the base's options
    assert {study.preprocess.size for study in train.studies} == {(16, 16), (32, 32)}
    assert found.best is not None and found.best.values["model"] in models


# ---- what it is judged by -----------------------------------------------------------------------------


def test_test_cases_are_never_looked_at(tmp_path: Path, cohort: Cohort) -> None:
    """With real trainings: the images of the test cases are gone, and their labels are others."""
    names = [case.case_id for case in cohort.cases]
    parts = dict.fromkeys(names[:12], "train") | dict.fromkeys(names[12:18], "val")
    splits = tiny_splits(cohort).model_copy(update={"folds": (parts | dict.fromkeys(names[18:], "test"),)})
    hidden = [
        replace(case, label="dark", views={"image": tmp_path / "gone.png"}) for case in cohort.cases[18:]
    ]
    blind = replace(cohort, cases=(*cohort.cases[:18], *hidden))
    study = tiny_study(tmp_path, epochs=1)
    space = SPACE.model_copy(update={"trials": 2})
    found = [
        search(study, space, one, splits, tmp_path / name, cache=tmp_path / "cache")
        for name, one in (("sighted", cohort), ("blind", blind))
    ]
    figures = [[(item.state, item.value, item.values) for item in one.trials] for one in found]
    assert figures[0] == figures[1] and {state for state, _, _ in figures[0]} == {"complete"}
    best = found[0].best
    assert best is not None
    folder = tmp_path / "again"  # the study that is written gives what the trial gave
    chosen = Study.load(tmp_path / "sighted" / "best.yaml")
    again = fit(chosen, cohort, splits, folder, cache=tmp_path / "cache")
    assert again.best_value == best.value
    trained = tmp_path / "sighted" / "trials" / f"{best.number:04d}" / "bundle"
    assert sha256_of(trained / "model.safetensors") == sha256_of(again.bundle / "model.safetensors")


def test_a_killed_search_goes_on_in_the_middle_of_a_trial(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import torch
sys.path += sys.argv[3].split(":")
from test_search import real_search
from training_driver import plant
torch.set_num_threads(1)
plant("foveate.train.loop:Loop._train_step", int(sys.argv[2]))
real_search(Path(sys.argv[1]))
"""
    threads, here = torch.get_num_threads(), Path(__file__).parent
    torch.set_num_threads(1)
    try:
        real_search(tmp_path / "whole")
        steps = 3 * math.ceil(
            18 / int(table(tmp_path / "whole")[0]["train.batch_size"])
        )  # of the first trial
        command = [sys.executable, "-c", code, tmp_path / "parts", str(steps + 3), f"{here}:{here / 'flows'}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == -9, done.stderr  # while the second trial was under way
        real_search(tmp_path / "parts")
    finally:
        torch.set_num_threads(threads)
    whole, parts = (
        [{key: value for key, value in row.items() if key != "seconds"} for row in table(tmp_path / name)]
        for name in ("whole", "parts")
    )
    assert parts == whole and [row["state"] for row in whole] == ["complete"] * 2


def real_search(out: Path) -> None:
    """Two trials of real trainings."""
    cohort = tiny_cohort(out.parent / "images")
    space = SPACE.model_copy(update={"trials": 2, "prune": "none"})
    search(tiny_study(out.parent), space, cohort, tiny_splits(cohort), out, cache=out.parent / "cache")


# ---- what is refused ----------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "split.test": ({"low": 0.1, "high": 0.3}, "split.test is the same for all trials"),
    "seed": ({"low": 0, "high": 9}, "seed is the same for all trials"),
    "train.monitor": ({"choices": ["accuracy", "val_loss"]}, "train.monitor is the same for all trials"),
    "train": ({"choices": [{"monitor": "accuracy"}, {}]}, "changes what is monitored"),
    "train.leraning_rate": ({"low": 0.1, "high": 1}, "train.leraning_rate = 0.1: 1 problem in the study"),
    "train.lr": ({"low": -1.0, "high": 1.0}, "train.lr = -1.0"),
    "augment.flip": ({"choices": [["horizontal"], ["sideways"]]}, "sideways"),
}


@pytest.mark.parametrize("key", BAD)
def test_a_space_that_does_not_fit_is_refused_before_anything_is_trained(tmp_path: Path, key: str) -> None:
    parameter, said = BAD[key]
    space = SearchSpace.model_validate(
        {"parameters": {key: parameter, "model.options.width": {"low": 1, "high": 2}}}
    )
    with pytest.raises(UsageError) as caught:
        space.check(tiny_study(tmp_path))
    assert said in str(caught.value) and caught.value.code == "search-space-invalid"
    assert len(caught.value.what.splitlines()) >= 2


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ({}, "give either choices, or both low and high"),
        ({"low": 1}, "give either choices, or both low and high"),
        ({"low": 1, "high": 2, "choices": [1, 2]}, "give either choices, or both low and high"),
        ({"low": 2, "high": 1}, "low must be below high"),
        ({"low": 0, "high": 1, "log": True}, "log needs a low above 0"),
        ({"low": 1, "high": 9, "step": 0.5}, "whole numbers need a whole step"),
        ({"choices": [1, 2], "step": 1}, "step and log belong to low and high"),
        ({"choices": [1]}, "at least 2"),
        ({"low": 1, "hihg": 2}, "did you mean 'high'"),
    ],
)
def test_a_space_is_read_strictly(tmp_path: Path, parameter: dict[str, Any], said: str) -> None:
    (tmp_path / "space.yaml").write_text(json.dumps({"parameters": {"train.lr": parameter}}))
    with pytest.raises(UsageError) as caught:
        SearchSpace.load(tmp_path / "space.yaml")
    assert said in str(caught.value)


def test_numbers_are_whole_where_their_bounds_are(tmp_path: Path) -> None:
    text = "parameters: {train.batch_size: {low: 2, high: 8}, train.lr: {low: 1e-5, high: 1}}"
    (tmp_path / "space.yaml").write_text(text)
    parameters = SearchSpace.load(tmp_path / "space.yaml").parameters
    assert parameters["train.batch_size"].whole and not parameters["train.lr"].whole
    assert parameters["train.lr"].low == 1e-5  # which YAML itself takes for text


def test_applying_values_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    base = tiny_study(tmp_path)
    changed = apply(base, {"train.lr": 0.5, "model.options.drop_rate": 0.1})
    assert (changed.train.lr, changed.model.options, changed.train.epochs) == (0.5, {"drop_rate": 0.1}, 3)
    assert base == tiny_study(tmp_path)


def test_another_space_another_search_or_several_devices_are_refused(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(cohort, tmp_path, Pretended(), monkeypatch, SPACE.model_copy(update={"trials": 1}))
    with pytest.raises(UsageError, match="a search in another space"):
        look(cohort, tmp_path, Pretended(), monkeypatch, SPACE.model_copy(update={"sampler": "random"}))
    with pytest.raises(UsageError, match="trains on one device"):
        look(cohort, tmp_path / "other", Pretended(), monkeypatch, devices=2)


def test_optuna_is_an_extra_behind_one_door(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"foveate\[search\]"):
        look(cohort, tmp_path, Pretended(), monkeypatch)
