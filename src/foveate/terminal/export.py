"""What ``foveate export`` prints: how each engine's answers compare with the run's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from foveate.terminal import console, new_table, say

if TYPE_CHECKING:
    from foveate.export import Exported


def show_export(exported: Exported) -> None:
    """Print the parity of every engine, what int8 costs, and where the file is."""
    first = exported.parities[0]
    table = new_table(f"{first.cases} cases", "max |Δp|", "same decision", "maps correlate", "")
    for each in exported.parities:
        problems = each.problems()
        table.add_row(
            each.engine,
            f"{each.probability:.1e}",
            f"{each.same:.1%}",
            "–" if np.isnan(each.correlation) else f"{each.correlation:.5f}",
            "not used: " + "; ".join(problems) if problems else "ok",
        )
    console.print(table)
    if not exported.facts.explainer:
        say(
            "no maps of classes inside: the network names no feature for them, or no graph can hold the "
            "gradient that they take; `foveate explain` makes maps from the run"
        )
    if exported.facts.precision == "int8":
        before, after = exported.right
        say(f"int8: {after:.1%} of decisions right, {before:.1%} before")
    say(f"export: {exported.path} ({exported.path.stat().st_size / 1e6:.1f} MB)")
