"""``foveate run``: every station in turn, each with a heading and its main figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from foveate.errors import Partial

if TYPE_CHECKING:
    from foveate.stations.run import Run

from foveate.cli.target import Allow, RunOption, Target, open_run


def run_all(target: Target, run: RunOption = None, allow: Allow = None) -> None:
    """Do every station of a study, from the audit over training, heat maps and their tests to the report.

    Example: foveate run study.yaml
    """
    whole_way(open_run(target, run, allow))


def whole_way(run: Run) -> None:
    """Every station of a study, from the audit to the report; of an external test, without the training.

    Raises:
        Partial: some cases were refused; everything else is done.
    """
    from foveate.bundle.bundle import load_bundle
    from foveate.cli import terminal
    from foveate.cli.costs import tell_costs
    from foveate.stations.audit import audit
    from foveate.stations.split import split
    from foveate.stations.train import check_model, train

    test = run.external
    if test is None:
        tell_costs(run, check_model(run))
    terminal.heading("Audit", "duplicates, leakage, contradictory labels")
    found = audit(run, track=terminal.track)
    terminal.show_audit(found)
    found.raise_if_stopped()
    terminal.heading("Split", "by patient" if test is None else "what is tested, and what is not")
    terminal.show_splits(split(run), run.study.split.fold)
    if test is None:
        terminal.heading("Train", run.study.model.name)
        terminal.show_training(train(run, terminal.console))
    else:
        tell_costs(run, load_bundle(run.folder / "bundle").model)
    refused: list[Partial] = []
    _test_stations(run, refused)
    if test is not None and test.unusable:
        listing = "\n".join(f"  - {text}" for text in test.unusable)
        refused.append(
            Partial(f"tested without these cases, whose files cannot be used:\n{listing}", fix="correct them")
        )
    if refused:
        raise refused[0]


def _test_stations(run: Run, refused: list[Partial]) -> None:
    """What follows a training."""
    from foveate.cli import terminal
    from foveate.cli.localize import show_localization
    from foveate.cli.probe import show_probes
    from foveate.cli.test import show_shift
    from foveate.cli.trust import show_trust
    from foveate.stations.cautions import note_cautions
    from foveate.stations.evaluate import evaluate
    from foveate.stations.explain import explain
    from foveate.stations.localize import localize
    from foveate.stations.predict import predict
    from foveate.stations.probe import probe
    from foveate.stations.report import report
    from foveate.stations.shift import shift
    from foveate.stations.trust import trust

    test = run.external
    terminal.heading("Predict and evaluate", "the cases held back" if test is None else "the other cohort")
    with _going_on(refused):
        predict(run, track=terminal.track)
    metrics = evaluate(run, track=terminal.track)
    terminal.heading("Explain and localize", run.study.explain.method)
    with _going_on(refused):
        explain(run, track=terminal.track)
    terminal.show_caveats([run.study.explain.method])
    localization = localize(run, track=terminal.track)
    terminal.heading("Probe", "does it read its answer where nothing of the disease is?")
    with _going_on(refused):
        show_probes(probe(run, track=terminal.track))
    terminal.heading("Trust", "can the heat maps be trusted?")
    with _going_on(refused):
        show_trust(trust(run, track=terminal.track))
    if test is not None:
        terminal.heading("Shift", "how this cohort differs, and what that does to the answers")
        show_shift(shift(run, track=terminal.track))
    terminal.heading("Result", run.study.name)
    terminal.show_metrics(metrics)
    show_localization(localization)
    terminal.show_cautions(note_cautions(run))
    terminal.say(f"report: {report(run)}")


@contextmanager
def _going_on(refused: list[Partial]) -> Iterator[None]:
    """Go on without the cases that a station refused; they are told at the end."""
    try:
        yield
    except Partial as error:
        refused.append(error)
