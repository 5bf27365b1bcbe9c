"""The commands that do one station of a run and need few words for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.compare import side_by_side
from foveate.cli.target import Part, RunOption, Target, open_run, refuse_unused
from foveate.errors import UsageError


def split(target: Target, run: RunOption = None) -> None:
    """Divide the cases by patient, stratified, and store who is where.

    Example: foveate split study.yaml
    """
    from foveate.cli import terminal
    from foveate.stations.split import split as split_run

    opened = open_run(target, run)
    terminal.show_splits(split_run(opened), opened.study.split.fold)
    terminal.say(f"splits: {opened.folder / 'splits.json'}")


def train(target: Target, run: RunOption = None) -> None:
    """Train, or go on with an interrupted training exactly where it stopped.

    Example: foveate train study.yaml
    """
    from foveate.cli import terminal
    from foveate.stations.train import train as train_run

    opened = open_run(target, run)
    terminal.show_training(train_run(opened, terminal.console))


def evaluate(
    context: typer.Context,
    target: Annotated[
        Path, typer.Argument(metavar="STUDY|RUN|CSV", help="A study, a run, or a predictions.csv.")
    ],
    run: RunOption = None,
    part: Part = "test",
) -> None:
    """Compute every metric with its patient-clustered interval.

    Example: foveate evaluate runs/study
    """
    from foveate.cli import terminal
    from foveate.stations.evaluate import evaluate as evaluate_run
    from foveate.stations.evaluate import evaluate_file

    if target.suffix == ".csv":
        refuse_unused(context, "a CSV is evaluated", "target", "part")
        terminal.show_metrics(evaluate_file(target, part, track=terminal.track))
        terminal.say(f"metrics: {target.with_suffix('.metrics.json')}")
        return
    opened = open_run(target, run)
    terminal.show_metrics(evaluate_run(opened, part, track=terminal.track))
    terminal.say(f"metrics: {opened.folder / 'metrics.json'}")


def explain(
    target: Target,
    run: RunOption = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="gradcam, integrated_gradients, gradient, … (docs/study.md) \\[default: the study's]."
        ),
    ] = None,
    case: Annotated[list[str] | None, typer.Option("--case", help="Only these cases; repeatable.")] = None,
) -> None:
    """Make heat maps, in the pixels of the original images.

    Example: foveate explain runs/study --method gradcam
    """
    from foveate.cli import terminal
    from foveate.maps.heatmaps import read_index
    from foveate.stations.explain import explain as explain_run

    opened = open_run(target, run)
    count = explain_run(opened, method=method, only=case or (), track=terminal.track)
    entries = read_index(opened.folder / "heatmaps")
    terminal.show_completeness(entries)
    terminal.show_caveats(sorted({entry.explainer for entry in entries}))
    terminal.say(f"{count} cases explained: {opened.folder / 'heatmaps'}")


def report(
    context: typer.Context,
    targets: Annotated[
        list[Path], typer.Argument(metavar="STUDY|RUN…", help="A study (.yaml), or the folder of a run.")
    ],
    run: RunOption = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="One page for several runs, side by side.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for --compare \\[default: comparisons/<names>]."),
    ] = None,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Print it as PDF too, with the browser that is here.")
    ] = False,
) -> None:
    """Write the report of a run, or of several: one HTML page that needs no network.

    Example: foveate report runs/study --pdf
    """
    from foveate.cli import terminal
    from foveate.report.build import SHORT
    from foveate.report.pdf import print_pdf
    from foveate.stations.report import report as report_run

    if compare:
        refuse_unused(context, "several runs are shown side by side", "targets", "compare", "out", "pdf")
        page = side_by_side(targets, out)
    elif len(targets) > 1 or out:
        raise UsageError("several runs, or --out, are for one page with --compare", where="foveate report")
    else:
        page = report_run(open_run(targets[0], run))
    terminal.say(f"report: {page}")
    for each in (page, page.with_name(SHORT)) if pdf else ():
        if each.is_file():
            terminal.say(f"print: {print_pdf(each, each.with_suffix('.pdf'))}")
