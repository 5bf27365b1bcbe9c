"""``foveate trust``: can the heat maps be trusted?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foveate.cli.target import Part, RunOption, Target, open_run
from foveate.cli.terminal import console, say, show_caveats

if TYPE_CHECKING:
    from foveate.evaluate.results.trust import TrustCard


def trust(
    target: Target,
    run: RunOption = None,
    part: Part = "test",
    *,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Explanation method to test; repeatable \\[default: the study's trust.methods]."),
    ] = None,
    second: Annotated[
        Path | None, typer.Option(help="Run of the same study with another seed: is the picture the same?")
    ] = None,
    permuted: Annotated[
        Path | None, typer.Option(help="Run of the same study on permuted labels: is the picture another?")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train these two from the study, into RUN/trust/.")
    ] = False,
) -> None:
    """Test heat maps against controls, and say for each method what it may be used for.

    Example: foveate trust runs/study --second runs/study-seed1
    """
    from foveate.cli import terminal
    from foveate.stations.trust import trust as test_maps

    opened = open_run(target, run)
    found = test_maps(
        opened,
        part,
        methods=method or (),
        rivals={"second": second, "permuted": permuted},
        retrain=retrain,
        console=terminal.console,
        track=terminal.track,
    )
    show_trust(found)
    terminal.say(f"trust card: {opened.folder / 'trust.json'}")


_MARKS = {"passed": "✓", "failed": "[bold red]✗[/bold red]", "not tested": "[dim]–[/dim]"}


def show_trust(found: TrustCard) -> None:
    """Print what ``trust.json`` holds, in short."""
    from foveate.evaluate.verdicts import CONDITIONS

    for sentence in found.flags:
        say(f"beware: {sentence}")
    if not found.flags:
        say(found.shortcuts)
    tested = {name: card.conditions for name, card in found.cards.items() if card.conditions}
    asked = dict.fromkeys(
        name for states in tested.values() for name, own in states.items() if own.state != "not tested"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(f"  {found.n} cases", no_wrap=True)
    for condition in asked:
        short = CONDITIONS[condition].short
        table.add_column(short, no_wrap=True, min_width=len(short))
    for name, conditions in tested.items():
        states = (conditions[condition].state if condition in conditions else "" for condition in asked)
        table.add_row(f"  {escape(name)}", *(_MARKS.get(state, "") for state in states))
    console.print(table)
    for name, verdict in found.verdicts.items():
        say(f"{name}: {verdict.sentence}")
    show_caveats(found.methods)
