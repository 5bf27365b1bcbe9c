"""Looking for better settings of a study, judged by its validation cases alone; Optuna suggests them.

    OUT/search.db            every trial, as Optuna keeps it (SQLite)
    OUT/trials/<number>/     training.csv of each, and the bundle of the best one
    OUT/trials.csv           the same for people
    OUT/best.yaml            the study with the best settings so far

Each trial is drawn with a seed of its own and trains in a folder of its own, so that a search that was
interrupted takes up its last trial where it stopped, and tries what it would have tried.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from foveate.errors import FoveateError, MissingExtra, RunFailed, UsageError
from foveate.evaluate.results.splits import Splits
from foveate.files import write_atomic
from foveate.study.search_space import Parameter, SearchSpace, apply
from foveate.study.study import Study
from foveate.study.yaml_file import dump_yaml
from foveate.train.fit import FitResult, fit
from foveate.train.lock import run_lock
from foveate.train.log import Row
from foveate.train.loop import Watch
from foveate.train.monitor import HIGHER_IS_BETTER
from foveate.types import Cohort

if TYPE_CHECKING:
    from optuna import Study as Search
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, Trial
    from rich.console import Console

_NAME = "search"  # of the only one in the file
_FAILURES = 3  # in a row from the first trial on: the study itself is at fault


@dataclass(frozen=True)
class Tried:
    """One trial.

    Attributes:
        number: counted from 0.
        state: ``complete``, ``pruned`` (ended early, as it promised little), ``failed`` or ``running``.
        value: best validation figure, for a pruned trial the last one it was judged by; None without any.
        values: what was tried, by key.
        facts: ``best_epoch``, ``epochs`` and ``seconds`` of a complete trial; ``reason`` of a failed one.
    """

    number: int
    state: str
    value: float | None
    values: Mapping[str, Any]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    Attributes:
        monitor: the validation figure.
        trials: all of them.
        best: the complete trial with the best figure, None if there is none.
        study: the file with its settings.
    """

    monitor: str
    trials: tuple[Tried, ...]
    best: Tried | None
    study: Path


def search(
    study: Study,
    space: SearchSpace,
    cohort: Cohort,
    splits: Splits,
    out: Path,
    *,
    say: Callable[[str], None] = lambda text: None,
    console: Console | None = None,
    cache: Path | None = None,
) -> SearchResult:
    """Try settings until ``space.trials`` have been tried, those of earlier calls included.

    Args:
        study: the base; its ``monitor`` is what is searched for, on the validation cases.
        space: what may change.
        cohort: the cases.
        splits: who is where; test cases are taken out before anything else.
        out: folder of the search.
        say: prints a line.
        console: of the training's own bar.
        cache: folder for prepared images; None takes the user's.

    Raises:
        MissingExtra: Optuna is not installed.
        UsageError: the space does not fit the study, or another search is in the folder.
        RunFailed: the first trials all failed.
        InputRefused: some images cannot be used.
        SystemExit: asked to stop; the same call goes on.
    """
    space.check(study)
    _refuse_devices(study)
    learned = splits.model_copy(update={"folds": tuple(_without_test(fold) for fold in splits.folds)})

    def train(chosen: Study, folder: Path, watch: Watch) -> FitResult:
        return fit(
            chosen, cohort, learned, folder, fold=study.split.fold, console=console, cache=cache, watch=watch
        )

    with run_lock(out), _open_storage(out / "search.db") as storage:
        _keep_space(space, out / "space.yaml")
        searcher = _Searcher(storage, study, space, out, train)
        searcher.run(say)
        return searcher.write()


class _Searcher:
    """Draws trials, trains them, and writes down what came of them.

    Args:
        storage: of all trials.
        study: the base.
        space: what may change.
        out: folder of the search.
        train: trains a study in a folder, and tells of every epoch.
    """

    def __init__(
        self,
        storage: RDBStorage,
        study: Study,
        space: SearchSpace,
        out: Path,
        train: Callable[[Study, Path, Watch], FitResult],
    ) -> None:
        self._storage, self._study, self._space, self._out, self._train = storage, study, space, out, train
        better = HIGHER_IS_BETTER[study.train.monitor]
        self._optuna = _optuna()
        self._search: Search = self._optuna.create_study(
            storage=storage,
            pruner=self._pruner(),
            study_name=_NAME,
            direction="maximize" if better else "minimize",
            load_if_exists=True,
        )

    def run(self, say: Callable[[str], None]) -> None:
        """Try what is still to be tried."""
        while (trial := self._next()) is not None:
            values = {key: self._draw(trial, key) for key in self._space.parameters}
            say(f"trial {trial.number + 1} of {self._space.trials}: {in_words(values)}")
            say(f"  {self._try(trial, values)}")
            self.write()
            self._stop_if_hopeless()

    def write(self) -> SearchResult:
        """Write ``trials.csv`` and ``best.yaml``, and keep the weights of the best trial alone."""
        trials = tuple(self._tried(item) for item in self._search.get_trials(deepcopy=False))
        complete = [item for item in trials if item.state == "complete" and item.value is not None]
        sign = 1 if HIGHER_IS_BETTER[self._study.train.monitor] else -1
        best = max(complete, key=lambda item: sign * cast(float, item.value), default=None)
        _write_table(self._out / "trials.csv", trials, tuple(self._space.parameters))
        if best is not None:
            chosen = apply(self._study, best.values).model_copy(update={"name": f"{self._study.name} best"})
            chosen.write(self._out / "best.yaml")
        for item in trials:
            self._clear(item, keep=best is not None and item.number == best.number)
        return SearchResult(self._study.train.monitor, trials, best, self._out / "best.yaml")

    def _next(self) -> Trial | None:
        """The trial that was interrupted, else a new one; None if all have been made."""
        states = self._optuna.trial.TrialState
        trials = self._search.get_trials(deepcopy=False)
        running = [item.number for item in trials if item.state == states.RUNNING]
        if not running and len(trials) >= self._space.trials:
            return None
        number = running[0] if running else len(trials)
        self._search.sampler = self._sampler(number, 0)
        if not running:
            return self._search.ask()
        search_id = self._storage.get_study_id_from_name(_NAME)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(search_id, number)
        return cast("Trial", self._optuna.trial.Trial(self._search, trial_id))

    def _draw(self, trial: Trial, key: str) -> Any:
        """One value of a trial; what an interrupted trial has drawn already stays."""
        self._search.sampler = self._sampler(trial.number, list(self._space.parameters).index(key))
        return _suggest(trial, key, self._space.parameters[key])

    def _try(self, trial: Trial, values: Mapping[str, Any]) -> str:
        """Train one trial, and tell Optuna and the user what came of it."""
        states, monitor = self._optuna.trial.TrialState, self._study.train.monitor
        reported = self._search.get_trials(deepcopy=False)[trial.number].intermediate_values.keys()

        def watch(row: Row) -> None:
            epoch, value = cast(int, row["epoch"]), cast(float, row[monitor])
            if epoch not in reported:
                trial.report(value, epoch)
            if trial.should_prune():
                raise self._optuna.TrialPruned

        try:
            result = self._train(apply(self._study, values), self._folder(trial.number), watch)
        except self._optuna.TrialPruned:
            self._search.tell(trial, state=states.PRUNED)
            return "ended early: the others were better by then"
        except (UsageError, RunFailed, torch.OutOfMemoryError) as error:
            reason = error.what if isinstance(error, FoveateError) else "out of memory"
            trial.set_user_attr("reason", reason)
            self._search.tell(trial, state=states.FAIL)
            return f"failed: {reason}"
        for name in ("best_epoch", "epochs", "seconds"):
            trial.set_user_attr(name, getattr(result, name))
        self._search.tell(trial, result.best_value)
        return f"{monitor} {result.best_value:.4f} in epoch {result.best_epoch}"

    def _stop_if_hopeless(self) -> None:
        """Where the first trials have all failed, the others will too."""
        trials = [self._tried(item) for item in self._search.get_trials(deepcopy=False)]
        if len(trials) == _FAILURES and all(item.state == "failed" for item in trials):
            raise RunFailed(
                f"the first {_FAILURES} trials all failed, the last with: {trials[-1].facts['reason']}",
                where=str(self._out),
                fix="see that the study itself trains, then search in another folder",
                code="search-hopeless",
            )

    def _sampler(self, number: int, place: int) -> BaseSampler:
        """What draws a value: a function of the seed, the trial, the parameter's place and the trials before.

        It knows nothing of the draws before it, so that a search goes on alike wherever it was interrupted.
        """
        seed = int(np.random.SeedSequence((self._study.seed, number, place)).generate_state(1)[0])
        samplers = self._optuna.samplers
        found = (
            samplers.TPESampler(seed=seed) if self._space.sampler == "tpe" else samplers.RandomSampler(seed)
        )
        return cast("BaseSampler", found)

    def _pruner(self) -> BasePruner:
        pruners = self._optuna.pruners
        found = {
            "median": lambda: pruners.MedianPruner(n_warmup_steps=self._study.train.epochs // 4),
            "halving": pruners.SuccessiveHalvingPruner,
            "none": pruners.NopPruner,
        }[self._space.prune]()
        return cast("BasePruner", found)

    def _tried(self, item: FrozenTrial) -> Tried:
        state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(item.state.name, "running")
        values = {
            key: json.loads(value) if self._space.parameters[key].choices is not None else value
            for key, value in item.params.items()
        }
        return Tried(item.number, state, item.value, values, item.user_attrs)

    def _folder(self, number: int) -> Path:
        return self._out / "trials" / f"{number:04d}"

    def _clear(self, item: Tried, *, keep: bool) -> None:
        """Remove what a trial no longer needs."""
        if item.state != "running":
            shutil.rmtree(self._folder(item.number) / "checkpoints", ignore_errors=True)
            if not keep:
                shutil.rmtree(self._folder(item.number) / "bundle", ignore_errors=True)


def in_words(values: Mapping[str, Any]) -> str:
    """What was tried, on a line."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
    )


def _suggest(trial: Trial, key: str, parameter: Parameter) -> Any:
    """Draw a value; one that this trial has already drawn stays."""
    if parameter.choices is not None:  # as text, since Optuna keeps nothing but plain values
        texts = [json.dumps(choice) for choice in parameter.choices]
        return json.loads(trial.suggest_categorical(key, texts))
    low, high = cast(float, parameter.low), cast(float, parameter.high)
    if parameter.whole:
        step = int(parameter.step or 1)
        return trial.suggest_int(key, int(low), int(high), step=step, log=parameter.log)
    return trial.suggest_float(key, low, high, step=parameter.step, log=parameter.log)


def _write_table(path: Path, trials: Sequence[Tried], keys: Sequence[str]) -> None:
    facts = ("best_epoch", "epochs", "seconds", "reason")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "state", "value", *facts, *keys])
    for item in trials:
        own = [item.facts.get(name, "") for name in facts]
        values = [item.values.get(key, "") for key in keys]
        writer.writerow([item.number, item.state, "" if item.value is None else item.value, *own, *values])
    write_atomic(path, text.getvalue())


def _keep_space(space: SearchSpace, path: Path) -> None:
    """Write the space beside the trials that were drawn from it; more of them may be asked for later.

    Raises:
        UsageError: the trials that are there were drawn from another one.
    """
    wanted = space.model_dump(mode="json", exclude_defaults=True)
    if path.is_file() and SearchSpace.load(path).model_copy(update={"trials": space.trials}) != space:
        raise UsageError(
            "this folder holds a search in another space",
            where=str(path),
            fix="put the space back as it was, or give another folder with --out",
            code="another-space",
        )
    write_atomic(path, dump_yaml(wanted))


def _refuse_devices(study: Study) -> None:
    if (study.train.devices, study.train.nodes) != (1, 1):
        raise UsageError(
            "a search trains on one device: what it draws is not shared with others",
            where="train.devices, train.nodes",
            fix="set both to 1 for the search; best.yaml may have more",
        )


def _without_test(fold: Mapping[str, str]) -> dict[str, str]:
    """A fold without its test cases: what is not there cannot be looked at."""
    return {case_id: part for case_id, part in fold.items() if part != "test"}


@contextmanager
def _open_storage(path: Path) -> Iterator[RDBStorage]:
    """The trials of a folder, kept in SQLite."""
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage: RDBStorage = optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}")
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _optuna() -> Any:
    """The door to Optuna.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise MissingExtra("search") from None
    return optuna
