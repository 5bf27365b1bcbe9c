"""The trust card on the command line: warnings first, then conditions, then verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from foveate.terminal import console, say, show_caveats

_MARKS = {"passed": "✓", "failed": "[bold red]✗[/bold red]", "not tested": "[dim]–[/dim]"}
_SHORT = {  # eleven columns in eighty letters
    "randomisation": "forgets",
    "permuted": "labels",
    "positive": "for",
    "negative": "against",
    "localizing": "points",
    "attention": "agrees",
}


def show_trust(found: Mapping[str, Any]) -> None:
    """Print what ``trust.json`` holds, in short."""
    for sentence in found["flags"]:
        say(f"beware: {sentence}")
    if not found["flags"]:
        say(found["shortcuts"])
    cards = {**found["methods"], **found["controls"]}
    tested = {name: card["conditions"] for name, card in cards.items() if card.get("conditions")}
    asked = dict.fromkeys(
        name for states in tested.values() for name, own in states.items() if own["state"] != "not tested"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(f"  {found['n']} cases", no_wrap=True)
    for condition in asked:
        short = _SHORT.get(condition, condition)
        table.add_column(short, no_wrap=True, min_width=len(short))
    for name, conditions in tested.items():
        states = (conditions.get(condition, {}).get("state", "") for condition in asked)
        table.add_row(f"  {escape(name)}", *(_MARKS.get(state, "") for state in states))
    console.print(table)
    for name, card in found["methods"].items():
        say(f"{name}: {card['verdict']['sentence']}")
    show_caveats(found["methods"])
