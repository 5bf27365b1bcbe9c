"""``foveate plan``: what a training will cost, and how this machine computes it fastest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from foveate.cli.target import RunOption, Target, open_run
from foveate.cli.terminal import console, new_table, say

if TYPE_CHECKING:
    from foveate.train.tuning.preview import Preview
    from foveate.train.tuning.trials import Trial


def plan(target: Target, run: RunOption = None) -> None:
    """Measure for some seconds how a study is best trained here; tell time, memory and disk before it starts.

    Example: foveate plan study.yaml
    """
    from foveate.cli import terminal
    from foveate.cli.costs import show_costs
    from foveate.data.splits import split_cohort
    from foveate.evaluate.results.splits import Splits
    from foveate.stations.costs import Pace, costs_of
    from foveate.stations.split import expected_parts
    from foveate.stations.train import check_model
    from foveate.train.display import Display
    from foveate.train.tuning.preview import preview

    opened = open_run(target, run)
    opened.refuse_external("plan")
    cohort, config = opened.cohort(), opened.study.split
    splits = Splits.read(opened.folder) or split_cohort(cohort, config)  # parts of the same size do as well
    display = Display(terminal.console)
    show_preview(preview(opened.study, cohort, splits, opened.folder, fold=config.fold, display=display))
    model, parts = check_model(opened), expected_parts(opened, cohort)
    costs = costs_of(opened.study, cohort, parts, model.input_spec)
    show_costs([cost for cost in costs if cost.station != "train"], Pace.of(model))
    terminal.say(f"plan: {opened.folder / 'plan.json'}")


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
