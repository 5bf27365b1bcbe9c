"""What ``foveate predict --folder`` and ``--stream`` do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from foveate.cli.terminal import console, new_table, say
from foveate.deploy.archive.listing import Naming
from foveate.errors import Partial, UsageError

if TYPE_CHECKING:
    from foveate.deploy.archive.streaming import Outcome


def predict_whole(
    model: Path,
    folder: Path | None,
    manifest: Path | None,
    out: Path | None,
    *,
    maps: Path | None,
    engine: str,
    workers: int | None,
    shard: int,
    ray: bool,
) -> None:
    """Predict a folder or manifest of any length, and say what came of it.

    Raises:
        UsageError: not exactly one of folder and manifest was given, or no output.
        Partial: some cases were refused.
    """
    source = folder or manifest
    if source is None or (folder and manifest):
        raise UsageError("an archive is either a --folder or a --manifest", where="foveate predict")
    if out is None:
        raise UsageError(
            "where shall the predictions go?",
            where="foveate predict",
            fix="--out OUT.parquet, OUT.csv or DIR",
        )
    from foveate.cli import terminal
    from foveate.deploy.archive.ray import on_cluster
    from foveate.deploy.archive.streaming import Archive, predict_archive
    from foveate.deploy.archive.workers import default_workers, described_elsewhere, here

    archive = Archive(model, source, out, maps=maps, engine=engine, shard=shard, naming=_naming(model))
    count = workers or default_workers()
    run = on_cluster(count) if ray else here(count)
    outcome = predict_archive(archive, run, terminal.track, described_elsewhere)
    show_outcome(outcome)
    if refused := sum(outcome.done.refused.values()):
        raise Partial(
            f"predicted {outcome.done.predicted} cases; {refused} refused",
            where=str(outcome.refused),
            fix="correct these files, and predict them alone",
        )


def _naming(model: Path) -> Naming:
    """What a run's study calls its columns; for everything else the usual names."""
    if not (model / "study.yaml").is_file():
        return Naming()
    from foveate.stations.run import Run

    data = Run.open(model).study.data
    return Naming(data.case, data.patient, data.label or "label", data)


def show_outcome(outcome: Outcome) -> None:
    """Print how many cases were predicted and refused, why, and where everything lies."""
    plan, done = outcome.plan, outcome.done
    say(f"{done.predicted:,} of {plan.cases:,} cases predicted by {plan.engine}: {outcome.table}")
    if plan.maps:
        say(f"maps: {plan.maps}")
    if plan.passed_over:
        say(f"{plan.passed_over:,} files passed over: not images by their names, or masks")
    if done.seen:
        say(
            f"{done.seen:,} cases are of patients that the model learned from (split: seen): their figures "
            "are no test"
        )
    if done.refused:
        table = new_table("refused because", "cases")
        for code, count in sorted(done.refused.items(), key=lambda each: -each[1]):
            table.add_row(escape(code), f"{count:,}")
        console.print(table)
        say(f"refused: {outcome.refused}")
