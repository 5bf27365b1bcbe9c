"""What ``foveate plan`` prints: what was tried, what was chosen, and what the training will cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from foveate.terminal import console, in_words, new_table, say

if TYPE_CHECKING:
    from foveate.evidence.costs import Cost, Pace
    from foveate.train.preview import Preview
    from foveate.train.trials import Trial

_WORTH_TELLING = 0.9  # of the time an image takes, at twice the batch size


def show_preview(found: Preview) -> None:
    """Print a plan with its trials and estimates."""
    plan, estimate = found.plan, found.plan.estimate
    if plan.trials:
        table = new_table("tried", "s / step", "instead of", "s / step", "")
        for trial in plan.trials:
            table.add_row(*map(escape, _cells(trial)))
        console.print(table)
    say(f"how: {plan.choice.words()} ({plan.reason})")
    if plan.checked is not None:
        say(plan.checked.words())
    if estimate is None:
        return
    say(
        f"cost: {estimate.words()}"
        + (f"; preparing images {found.preparing:.0f} s" if found.preparing else "")
    )
    say(f"a step takes {estimate.step_seconds:.3f} s, its batch {estimate.batch_seconds:.3f} s")
    if estimate.larger_batch is not None and estimate.larger_batch < _WORTH_TELLING:
        share = f"{1 - estimate.larger_batch:.0%}"
        say(f"hint: with twice the batch_size an image takes {share} less, but the training is another one")


def show_costs(costs: Sequence[Cost], pace: Pace) -> None:
    """Print what stations will cost, with the keys of the study that make each cost less."""
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


def _cells(trial: Trial) -> list[str]:
    taken = "taken" if trial.taken else "not faster"
    tried, before = f"{trial.seconds:.3g}", f"{trial.against_seconds:.3g}"
    return [trial.choice.words(), tried, trial.against.words(), before, taken]
