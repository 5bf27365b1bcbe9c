"""What ``foveate plan`` prints: what was tried, what was chosen, and what the training will cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from foveate.terminal import console, new_table, say

if TYPE_CHECKING:
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


def _cells(trial: Trial) -> list[str]:
    taken = "taken" if trial.taken else "not faster"
    tried, before = f"{trial.seconds:.3g}", f"{trial.against_seconds:.3g}"
    return [trial.choice.words(), tried, trial.against.words(), before, taken]
