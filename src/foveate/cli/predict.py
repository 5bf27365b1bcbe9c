"""``foveate predict``: the cases of a run, another cohort, single images, or a whole archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate.cli.target import RunOption, open_run, refuse_unused
from foveate.errors import UsageError

if TYPE_CHECKING:
    from foveate.stations.run import Run

_MODEL = ("target", "run")  # what every way of predicting takes
_ARCHIVE = ("folder", "stream", "manifest", "out", "maps", "engine", "workers", "shard", "ray")


def predict(
    context: typer.Context,
    target: Annotated[
        Path,
        typer.Argument(metavar="RUN|BUNDLE|EXPORT", help="A run folder, its study, a bundle, or an export."),
    ],
    images: Annotated[
        list[Path] | None, typer.Argument(help="Single images to classify instead of the run's cohort.")
    ] = None,
    *,
    run: RunOption = None,
    part: Annotated[
        list[str] | None, typer.Option("--part", help="Parts to classify; repeatable \\[default: val, test].")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Another cohort, with the study's column names, to test the model on.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="CSV for single images, --manifest \\[default: predictions.csv] or --without."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Withhold this view, to see what the model can do without it; repeatable."),
    ] = None,
    view: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH: one view of a single case; repeatable.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Archive: every image below this folder is a case.")
    ] = None,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Archive: a manifest of any length, in bounded memory, resumable."),
    ] = False,
    maps: Annotated[Path | None, typer.Option(help="Folder for maps, of an archive or an image.")] = None,
    engine: Annotated[
        str, typer.Option(help="Of an archive or image: auto, bundle, openvino, onnxruntime or torch.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Archive: processes \\[default: one for two cores, at most 8].")
    ] = None,
    shard: Annotated[int, typer.Option(min=1, help="Archive: cases that are written together.")] = 500,
    ray: Annotated[
        bool, typer.Option("--ray", help="Archive: through Ray Data, on the cluster of RAY_ADDRESS or here.")
    ] = False,
) -> None:
    """Classify the cases of a run, another cohort, any image, or an archive (--folder, --stream).

    Example: foveate predict runs/study image.png
    """
    if folder or stream:
        refuse_unused(context, "an archive is classified", *_MODEL, *_ARCHIVE)
        from foveate.cli.archive import predict_whole

        predict_whole(
            _model(target, run), folder, manifest, out, maps=maps, engine=engine, workers=workers,
            shard=shard, ray=ray,
        )  # fmt: skip
        return
    if images or view:
        way = "one case of views is classified" if view else "single images are classified"
        refuse_unused(context, way, *_MODEL, "view" if view else "images", "engine", "maps", "out")
        from foveate.cli.single import predict_single

        predict_single(_model(target, run), images or (), view or (), engine=engine, maps=maps, out=out)
        return
    _predict_cohort(context, open_run(target, run), manifest, without or [], part or ["val", "test"], out)


def _predict_cohort(
    context: typer.Context,
    opened: Run,
    manifest: Path | None,
    gone: list[str],
    parts: list[str],
    out: Path | None,
) -> None:
    """Classify another cohort, or the parts of the run's own, with or without all views."""
    from foveate.cli import terminal
    from foveate.cli.single import show_known_cautions
    from foveate.evaluate.table import SEEN
    from foveate.stations.predict import predict as predict_run
    from foveate.stations.predict import predict_elsewhere, predict_without

    if manifest:
        refuse_unused(context, "another cohort is classified", *_MODEL, "manifest", "without", "out")
        written = out or Path("predictions.csv")
        table = predict_elsewhere(opened, manifest, written, without=gone, track=terminal.track)
    elif gone:
        refuse_unused(context, "a view is withheld", *_MODEL, "without", "part", "out")
        written = out or opened.folder / f"predictions.without-{'+'.join(gone).replace('/', '_')}.csv"
        table = predict_without(opened, gone, written, parts, track=terminal.track)
    else:
        refuse_unused(context, "the run's own cohort is classified", *_MODEL, "part")
        written = opened.folder / "predictions.csv"
        table = predict_run(opened, parts, track=terminal.track)
    terminal.say(f"{len(table.case_ids)} predictions: {written}")
    terminal.show_noticed(table.noticed)
    show_known_cautions(opened.folder)
    if seen := table.splits.count(SEEN):
        terminal.say(
            f"beware: {seen} of them show what the model learned from, the same or nearly the same image "
            "(split: seen); an evaluation leaves them out"
        )


def _model(target: Path, run: Path | None) -> Path:
    """What to open: the run folder of a study, else the path itself."""
    if target.suffix in (".yaml", ".yml"):
        return open_run(target, run).folder
    if run is not None:
        raise UsageError(
            "--run is for a study", where="foveate predict", fix="leave out --run, or give a study"
        )
    return target
