"""The search command; the package registers it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from foveate.cli.terminal import console, new_table, say

if TYPE_CHECKING:
    from foveate.compare.search import SearchResult


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
    from foveate.cli import terminal
    from foveate.evaluate.results.splits import Splits
    from foveate.stations.audit import audit
    from foveate.stations.run import Run
    from foveate.stations.split import split
    from foveate.study.search_space import SearchSpace
    from foveate.study.study import Study

    base, wanted = Study.load(study), SearchSpace.load(space)
    wanted.check(base)
    if trials:
        wanted = wanted.model_copy(update={"trials": trials})
    from foveate.compare.search import search as look

    run = Run.create(base, out or Path("searches") / base.name)
    terminal.heading("Search", f"{wanted.trials} trials, {len(wanted.parameters)} parameters")
    if not (run.folder / "splits.json").is_file():
        audit(run, track=terminal.track).raise_if_stopped()
        split(run)
    splits = run.result(Splits)
    show_search(
        look(base, wanted, run.cohort(), splits, run.folder, say=terminal.say, console=terminal.console)
    )


SHOWN = 5


def show_search(found: SearchResult) -> None:
    """Print the best trials, and how all of them ended."""
    from foveate.compare.search import in_words
    from foveate.train.monitor import HIGHER_IS_BETTER

    counts = {state: sum(item.state == state for item in found.trials) for state in ("pruned", "failed")}
    say(f"{len(found.trials)} trials, {counts['pruned']} ended early, {counts['failed']} failed")
    ended = [item for item in found.trials if item.state == "complete" and item.value is not None]
    ended.sort(key=lambda item: item.value or 0.0, reverse=HIGHER_IS_BETTER[found.monitor])
    table = new_table("trial", f"{found.monitor} on validation", "best epoch", "settings")
    for item in ended[:SHOWN]:
        epoch = str(item.facts["best_epoch"])
        table.add_row(str(item.number), f"{item.value:.4f}", epoch, escape(in_words(item.values)))
    console.print(table)
    if found.best is not None:
        say(f"best study: {found.study}")
        say("the best of many validation figures is too good: `foveate run` it and judge its test cases")
