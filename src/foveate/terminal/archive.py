"""What ``foveate predict --folder`` and ``--stream`` print at their end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from foveate.terminal import console, new_table, say

if TYPE_CHECKING:
    from foveate.scale.streaming import Outcome


def show_outcome(outcome: Outcome) -> None:
    """Print how many cases were predicted and refused, why, and where everything lies."""
    plan, done = outcome.plan, outcome.done
    say(f"{done.predicted:,} of {plan.cases:,} cases predicted by {plan.engine}: {outcome.table}")
    if plan.maps:
        say(f"maps: {plan.maps}")
    if plan.passed_over:
        say(f"{plan.passed_over:,} files passed over: not images by their names, or masks")
    if done.seen:
        say(
            f"{done.seen:,} cases are of patients that the model learned from (split: seen): their figures "
            "are no test"
        )
    if done.refused:
        table = new_table("refused because", "cases")
        for code, count in sorted(done.refused.items(), key=lambda each: -each[1]):
            table.add_row(escape(code), f"{count:,}")
        console.print(table)
        say(f"refused: {outcome.refused}")
