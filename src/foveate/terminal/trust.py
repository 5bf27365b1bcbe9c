"""The trust card on the command line: warnings first, then conditions, then verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from foveate.terminal import console, new_table, say

_MARKS = {"passed": "passed", "failed": "[bold red]failed[/bold red]", "not tested": "[dim]–[/dim]"}


def show_trust(found: Mapping[str, Any]) -> None:
    """Print what ``trust.json`` holds, in short."""
    for sentence in found["flags"]:
        say(f"beware: {sentence}")
    if not found["flags"]:
        say(found["shortcuts"])
    cards = {**found["methods"], **found["controls"]}
    tested = {name: card["conditions"] for name, card in cards.items() if card.get("conditions")}
    names = dict.fromkeys(name for conditions in tested.values() for name in conditions)
    table = new_table(f"{found['n']} cases", *(escape(name) for name in tested))
    for condition in names:
        states = (conditions.get(condition, {}).get("state", "") for conditions in tested.values())
        table.add_row(condition, *(_MARKS.get(state, "") for state in states))
    console.print(table)
    for name, card in found["methods"].items():
        say(f"{name}: {card['verdict']['sentence']}")
