"""``foveate predict``: the cases of a run, another cohort, single images, or a whole archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.target import RunOption, open_run
from foveate.errors import UsageError


def predict(
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
        list[str] | None, typer.Option("--part", help="Parts to classify; repeatable [default: val, test].")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Another cohort, with the study's column names, to test the model on.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="CSV for --manifest [default: predictions.csv] or --without."),
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
        int | None, typer.Option(min=1, help="Archive: processes [default: one for two cores, at most 8].")
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
        if images or view or without or part:
            raise UsageError("an archive is a --folder or a --manifest, whole", where="foveate predict")
        from foveate.cli.archive import predict_whole

        predict_whole(
            _model(target, run), folder, manifest, out, maps=maps, engine=engine, workers=workers,
            shard=shard, ray=ray,
        )  # fmt: skip
        return
    if images or view:
        from foveate.cli.single import predict_single

        predict_single(target, images or (), view or (), engine=engine, maps=maps)
        return
    from foveate import stations, terminal

    opened, gone, parts = open_run(target, run), without or [], part or ("val", "test")
    if manifest:
        written = out or Path("predictions.csv")
        table = stations.predict_elsewhere(opened, manifest, written, without=gone, track=terminal.track)
    elif gone:
        written = out or opened.folder / f"predictions.without-{'+'.join(gone).replace('/', '_')}.csv"
        table = stations.predict_without(opened, gone, written, parts, track=terminal.track)
    else:
        written = opened.folder / "predictions.csv"
        table = stations.predict(opened, parts, track=terminal.track)
    terminal.say(f"{len(table.case_ids)} predictions: {written}")


def _model(target: Path, run: Path | None) -> Path:
    """What to open: the run folder of a study, else the path itself."""
    return open_run(target, run).folder if target.suffix in (".yaml", ".yml") else target
