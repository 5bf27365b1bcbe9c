"""The search command; the package registers it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def search(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study (.yaml) to start from.")],
    space: Annotated[Path, typer.Argument(metavar="SPACE", help="Which keys may take which values (.yaml).")],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write \\[default: searches/<study name>].")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Settings to try, all calls together \\[default: the space's].")
    ] = None,
) -> None:
    """Look for better settings of a study, judged by its validation cases alone.

    What has been tried is not tried again: give the same command after an interruption, or with more trials.

    Example: foveate search study.yaml space.yaml --trials 40
    """
    from foveate import stations, terminal
    from foveate.data.splits import read_splits
    from foveate.run import Run
    from foveate.terminal.search import show_search
    from foveate.train.search_space import SearchSpace
    from foveate.train.study import Study

    base, wanted = Study.load(study), SearchSpace.load(space)
    wanted.check(base)
    if trials:
        wanted = wanted.model_copy(update={"trials": trials})
    from foveate.train.search import search as look

    run = Run.create(base, out or Path("searches") / base.name)
    terminal.heading("Search", f"{wanted.trials} trials, {len(wanted.parameters)} parameters")
    if not (run.folder / "splits.json").is_file():
        stations.audit(run, track=terminal.track).raise_if_stopped()
        stations.split(run)
    splits = read_splits(run.folder / "splits.json")
    show_search(
        look(base, wanted, run.cohort(), splits, run.folder, say=terminal.say, console=terminal.console)
    )
