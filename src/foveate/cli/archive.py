"""What ``foveate predict --folder`` and ``--stream`` do."""

from __future__ import annotations

from pathlib import Path

from foveate.errors import Partial, UsageError
from foveate.scale.listing import Naming


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
    from foveate import terminal
    from foveate.scale.ray import on_cluster
    from foveate.scale.streaming import Archive, predict_archive
    from foveate.scale.workers import default_workers, described_elsewhere, here
    from foveate.terminal.archive import show_outcome

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
    from foveate.run import Run

    data = Run.open(model).study.data
    return Naming(data.case, data.patient, data.label or "label")
