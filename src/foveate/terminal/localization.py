"""What the command line prints of the localization bench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveate.evaluate.localization.wording import MEASURES, METHODS, verdict
from foveate.terminal import console, interval, new_table, number, say

_SHOWN = ("pointing_game", "energy_inside", "iou", "dice")


def show_localization(found: Mapping[str, Any]) -> None:
    """Print localization beside its ceiling and its controls, and what it comes to."""
    methods = (found.get("overall") or {}).get("methods") or {}
    if not methods:
        say(f"localization: {found.get('reason', 'no case has a true mask or box')}")
        return
    beside = [name for name in METHODS if name in methods and name not in ("heatmap", "predicted")]
    table = new_table("localization", "heat map", "interval", *(METHODS[name].lower() for name in beside))
    for name in _SHOWN:
        own = methods["heatmap"][name]
        if own["value"] is not None:
            others = (number(methods[method][name]) for method in beside)
            table.add_row(name.replace("_", " "), number(own), interval(own), *others)
    console.print(table)
    if answers := found.get("by_answer"):
        counts = ", ".join(f"{part['n']} {answer}ly answered" for answer, part in answers.items())
        say(f"scored: {counts}")
    for measure in MEASURES:
        if said := verdict(found, measure):
            say(said)
