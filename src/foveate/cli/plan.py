"""``foveate plan``: what a training will cost, and how this machine computes it fastest."""

from __future__ import annotations

from foveate.cli.target import RunOption, Target, open_run


def plan(target: Target, run: RunOption = None) -> None:
    """Measure for some seconds how a study is best trained here; tell time, memory and disk before it starts.

    Example: foveate plan study.yaml
    """
    from foveate import stations, terminal
    from foveate.cli.costs import show_costs
    from foveate.data.splits import read_splits, split_cohort
    from foveate.evidence.costs import Pace, costs_of
    from foveate.terminal.plan import show_preview
    from foveate.train.display import Display
    from foveate.train.preview import preview

    opened = open_run(target, run)
    opened.refuse_external("plan")
    cohort, config = opened.cohort(), opened.study.split
    stored = opened.folder / "splits.json"  # without it, parts of the same size do
    splits = read_splits(stored) if stored.is_file() else split_cohort(cohort, config)
    display = Display(terminal.console)
    show_preview(preview(opened.study, cohort, splits, opened.folder, fold=config.fold, display=display))
    model, parts = stations.check_model(opened), stations.expected_parts(opened, cohort)
    costs = costs_of(opened.study, cohort, parts, model.input_spec)
    show_costs([cost for cost in costs if cost.station != "train"], Pace.of(model))
    terminal.say(f"plan: {opened.folder / 'plan.json'}")
