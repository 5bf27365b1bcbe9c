"""The command line: one thin function per command; everything heavy is imported inside it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from foveate.cli import audit as cli_audit
from foveate.cli import begin as cli_begin
from foveate.cli import compare as cli_compare
from foveate.cli import export as cli_export
from foveate.cli import models as cli_models
from foveate.cli import phantom as cli_phantom
from foveate.cli import plan as cli_plan
from foveate.cli import predicting as cli_predicting
from foveate.cli import probe as cli_probe
from foveate.cli import search as cli_search
from foveate.cli import sources as cli_sources
from foveate.cli import test as cli_test
from foveate.cli import trust as cli_trust
from foveate.cli.target import Allow, Part, RunOption, Target, open_run, refuse_unused
from foveate.cli.whole import whole_way
from foveate.errors import FoveateError, UsageError

_STOPPED = (130, 143)  # exit codes after Ctrl-C and SIGTERM
_DEMO_STUDY = Path(__file__).parents[1] / "studies" / "ct_phantom_dadrn.yaml"

app = typer.Typer(
    name="foveate",
    help="Train, explain and prove medical image classifiers, from image-level labels only.\n\n"
    "Exit codes: 0 ok · 2 usage · 3 input refused · 4 run failed · 5 partial (some cases refused).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the phantom, the run and the report.")
    ] = Path("foveate-demo"),
    patients: Annotated[int, typer.Option(help="Phantom patients.")] = 160,
    seed: Annotated[int, typer.Option(help="Seed of phantom, split and training.")] = 0,
) -> None:
    """Do the whole way once on a built-in phantom, and write its report.

    Example: foveate demo
    """
    from foveate import terminal
    from foveate.data.phantom import make_phantom
    from foveate.run import Run
    from foveate.train.study import Study

    terminal.heading("Phantom", "CT liver slices with known lesions")
    manifest = make_phantom(out / "phantom", patients=patients, slices=4, seed=seed, track=terminal.track)
    study = Study.load(_DEMO_STUDY).with_manifest(manifest, seed=seed)
    whole_way(Run.create(study, out / "run"))


app.command()(cli_phantom.phantom)
app.command()(cli_begin.manifest)
app.command()(cli_begin.init)
app.command()(cli_sources.sources)
app.command()(cli_sources.source)


app.command()(cli_audit.audit)


@app.command()
def split(target: Target, run: RunOption = None) -> None:
    """Divide the cases by patient, stratified, and store who is where.

    Example: foveate split study.yaml
    """
    from foveate import stations, terminal

    opened = open_run(target, run)
    terminal.show_splits(stations.split(opened), opened.study.split.fold)
    terminal.say(f"splits: {opened.folder / 'splits.json'}")


app.command()(cli_plan.plan)


@app.command()
def train(target: Target, run: RunOption = None) -> None:
    """Train, or go on with an interrupted training exactly where it stopped.

    Example: foveate train study.yaml
    """
    from foveate import stations, terminal

    opened = open_run(target, run)
    terminal.show_training(stations.train(opened, terminal.console))


app.command()(cli_predicting.predict)


@app.command()
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
    from foveate import stations, terminal

    if target.suffix == ".csv":
        refuse_unused(context, "a CSV is evaluated", "target", "part")
        terminal.show_metrics(stations.evaluate_file(target, part, track=terminal.track))
        terminal.say(f"metrics: {target.with_suffix('.metrics.json')}")
        return
    opened = open_run(target, run)
    terminal.show_metrics(stations.evaluate(opened, part, track=terminal.track))
    terminal.say(f"metrics: {opened.folder / 'metrics.json'}")


@app.command()
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
    from foveate import evidence, terminal
    from foveate.heatmaps import read_index

    opened = open_run(target, run)
    count = evidence.explain(opened, method=method, only=case or (), track=terminal.track)
    entries = read_index(opened.folder / "heatmaps")
    terminal.show_completeness(entries)
    terminal.show_caveats(sorted({entry.explainer for entry in entries}))
    terminal.say(f"{count} cases explained: {opened.folder / 'heatmaps'}")


@app.command()
def localize(target: Target, run: RunOption = None) -> None:
    """Turn heat maps into boxes, and test them against the truth and against controls.

    Example: foveate localize runs/study
    """
    from foveate import evidence, terminal
    from foveate.terminal.localization import show_localization

    opened = open_run(target, run)
    show_localization(evidence.localize(opened, track=terminal.track))
    terminal.say(f"boxes: {opened.folder / 'boxes.csv'}")


@app.command()
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
    from foveate import stations, terminal
    from foveate.report.build import SHORT
    from foveate.report.pdf import print_pdf

    if compare:
        refuse_unused(context, "several runs are shown side by side", "targets", "compare", "out", "pdf")
        page = cli_compare.side_by_side(targets, out)
    elif len(targets) > 1 or out:
        raise UsageError("several runs, or --out, are for one page with --compare", where="foveate report")
    else:
        page = stations.report(open_run(targets[0], run))
    terminal.say(f"report: {page}")
    for each in (page, page.with_name(SHORT)) if pdf else ():
        if each.is_file():
            terminal.say(f"print: {print_pdf(each, each.with_suffix('.pdf'))}")


@app.command(name="run")
def run_all(target: Target, run: RunOption = None, allow: Allow = None) -> None:
    """Do every station of a study, from the audit over training, heat maps and their tests to the report.

    Example: foveate run study.yaml
    """
    whole_way(open_run(target, run, allow))


app.command()(cli_test.test)


app.command()(cli_probe.probe)


app.command()(cli_export.export)


app.command()(cli_trust.trust)


app.command()(cli_compare.compare)


app.command()(cli_search.search)


app.command()(cli_models.models)


@app.command()
def doctor() -> None:
    """Say what this machine offers: versions, precision, devices, decoders.

    Example: foveate doctor
    """
    from foveate import doctor as examine
    from foveate import terminal

    terminal.show_doctor(examine.examine())


def main() -> None:
    """Run the command line; every error ends as a clear message and a documented exit code."""
    from foveate import terminal

    warnings.showwarning = terminal.show_warning
    try:
        app()
    except SystemExit as ending:
        if ending.code in _STOPPED or isinstance(ending.__context__, typer.Abort):
            terminal.tell_of_a_stop()
            raise SystemExit(ending.code if ending.code in _STOPPED else _STOPPED[0]) from None
        raise
    except FoveateError as error:
        terminal.complain(error)
        raise SystemExit(error.exit_code) from None
    except Exception:
        terminal.complain_of_a_fault()
        raise SystemExit(FoveateError.exit_code) from None
