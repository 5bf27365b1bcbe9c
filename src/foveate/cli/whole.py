"""Every station in turn, each with a heading and its main figures: of a study, and of an external test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from foveate.errors import Partial

if TYPE_CHECKING:
    from foveate.run import Run


def whole_way(run: Run) -> None:
    """Every station of a study, from the audit to the report; of an external test, without the training.

    Raises:
        Partial: some cases were refused; everything else is done.
    """
    from foveate import stations, terminal
    from foveate.bundle import load_bundle
    from foveate.cli.costs import tell_costs

    test = run.external
    if test is None:
        tell_costs(run, stations.check_model(run))
    terminal.heading("Audit", "duplicates, leakage, contradictory labels")
    found = stations.audit(run, track=terminal.track)
    terminal.show_audit(found)
    found.raise_if_stopped()
    terminal.heading("Split", "by patient" if test is None else "what is tested, and what is not")
    terminal.show_splits(stations.split(run), run.study.split.fold)
    if test is None:
        terminal.heading("Train", run.study.model.name)
        terminal.show_training(stations.train(run, terminal.console))
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
    from foveate import evidence, stations, terminal
    from foveate.evidence.probes import probe
    from foveate.evidence.trust import trust
    from foveate.terminal.localization import show_localization
    from foveate.terminal.probes import show_probes
    from foveate.terminal.shift import show_shift
    from foveate.terminal.trust import show_trust

    test = run.external
    terminal.heading("Predict and evaluate", "on patients the model has never seen")
    with _going_on(refused):
        stations.predict(run, track=terminal.track)
    metrics = stations.evaluate(run, track=terminal.track)
    terminal.heading("Explain and localize", run.study.explain.method)
    with _going_on(refused):
        evidence.explain(run, track=terminal.track)
    terminal.show_caveats([run.study.explain.method])
    localization = evidence.localize(run, track=terminal.track)
    terminal.heading("Probe", "does it read its answer where nothing of the disease is?")
    with _going_on(refused):
        show_probes(probe(run, track=terminal.track))
    terminal.heading("Trust", "can the heat maps be trusted?")
    with _going_on(refused):
        show_trust(trust(run, track=terminal.track))
    if test is not None:
        terminal.heading("Shift", "how this cohort differs, and what that does to the answers")
        show_shift(stations.shift(run, track=terminal.track))
    terminal.heading("Result", run.study.name)
    terminal.show_metrics(metrics)
    show_localization(localization)
    terminal.show_cautions(stations.note_cautions(run))
    terminal.say(f"report: {stations.report(run)}")


@contextmanager
def _going_on(refused: list[Partial]) -> Iterator[None]:
    """Go on without the cases that a station refused; they are told at the end."""
    try:
        yield
    except Partial as error:
        refused.append(error)
