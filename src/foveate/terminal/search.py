"""What `foveate search` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from foveate.terminal import console, new_table, say
from foveate.train.monitor import HIGHER_IS_BETTER

if TYPE_CHECKING:
    from foveate.train.search import Found

SHOWN = 5


def show_search(found: Found) -> None:
    """Print the best trials, and how all of them ended."""
    from foveate.train.search import in_words

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
