"""What a run will cost, printed before its stations start."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from foveate.errors import FoveateError

if TYPE_CHECKING:
    from foveate.contract import Classifier
    from foveate.stations.costs import Cost, Pace
    from foveate.stations.run import Run


def tell_costs(run: Run, model: Classifier) -> None:
    """Print what the stations will cost; nothing where the split will say that it cannot be made."""
    from foveate.cli import terminal
    from foveate.stations.costs import Pace, costs_of
    from foveate.stations.split import expected_parts

    cohort = run.cohort()
    with suppress(FoveateError):
        parts = expected_parts(run, cohort)
        costs = costs_of(run.study, cohort, parts, model.input_spec, trains=run.external is None)
        terminal.heading("Cost", "what each station will take, and which keys of the study make it less")
        show_costs(costs, Pace.of(model))


def show_costs(costs: Sequence[Cost], pace: Pace) -> None:
    """Print costs, each with the keys of the study that make it less."""
    from foveate.cli.terminal import in_words, say

    for cost in costs:
        count = cost.passes.forward + cost.passes.back
        about = f"about {in_words(cost.seconds(pace))}" if cost.here else "its plan says"
        passes = f", {count:,} passes" if count else ""
        smaller = f" (less with {cost.smaller})" if cost.smaller else ""
        say(f"{cost.station:8} {about if count else '':13}  {cost.work}{passes}{smaller}")
    say(
        f"a pass takes one case through the network: {pace.forward:.3f} s here, {pace.back:.3f} s with its "
        "gradient; reading files, statistics and drawing come on top"
    )
