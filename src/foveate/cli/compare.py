"""The commands that compare; the package registers them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate.errors import Partial, UsageError

if TYPE_CHECKING:
    from foveate.compare.grid import GridPlan
    from foveate.evaluate.results.comparison import Comparison, SeedDifference, SeedFigure

from rich.markup import escape

from foveate.cli.terminal import console, new_table, number, say


def compare(
    targets: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN…|STUDY…",
            help="Folders of runs tested on the same cases, or studies (.yaml) to train and compare.",
        ),
    ] = None,
    *,
    grid: Annotated[
        Path | None, typer.Option("--grid", help="A grid (.yaml) instead: one base study and its variants.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Trainings of each variant \\[default: the grid's, or 3].")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Variant that the others are paired with \\[default: the grid's, or first]."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="View to withhold in a further test; repeatable.")
    ] = None,
    resplit: Annotated[
        bool, typer.Option(help="Draw a split for each seed, the same for all variants.")
    ] = False,
    shared: Annotated[
        bool, typer.Option("--shared", help="Runs: compare the cases that all of them were tested on.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write \\[default: comparisons/<name>].")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", help="Audit finding to accept, by its code; repeatable.")
    ] = None,
    jobs: Annotated[
        str, typer.Option("--jobs", metavar="N|ray|slurm", help="Trainings at once, or who runs them.")
    ] = "1",
) -> None:
    """Compare runs, or train several studies under one protocol and compare them, paired by patient.

    One study alone is trained on each of its folds, and their mean is told. What is finished is not trained
    again: give the same command after an interruption.

    Example: foveate compare runs/ours runs/plain
    """
    given = targets or []
    if given and all(target.is_dir() for target in given) and grid is None:
        if seeds or without or resplit or allow or jobs != "1":
            raise UsageError(
                "--seeds, --without, --resplit, --allow and --jobs are for studies to train, not for runs",
                where="foveate compare",
            )
        _compare_runs(given, reference, shared, out)
        return
    if shared:
        raise UsageError("--shared is for runs; studies are tested on the same cases", where="--shared")
    plan = _plan(given, grid, seeds, reference)
    plan = plan.changed(without=tuple(without or plan.without), resplit=resplit or plan.resplit)
    _compare_plan(plan.allowing(allow) if allow else plan, out, jobs)


def side_by_side(targets: list[Path], out: Path | None) -> Path:
    """One page for several runs, as each of them tells; for ``foveate report --compare``."""
    from foveate.compare.folders import folder_of, labelled
    from foveate.report.comparing.side_by_side import write_side_by_side

    runs = labelled(targets)
    return write_side_by_side(runs, (out or folder_of(runs)) / "report.html")


def _compare_runs(targets: list[Path], reference: str | None, shared: bool, out: Path | None) -> None:
    """Compare what is there already."""
    from foveate.cli import terminal
    from foveate.compare.folders import compare_folders, folder_of, labelled

    runs = labelled(targets)
    _check_reference(reference, runs)
    folder = out or folder_of(runs)
    terminal.heading("Compare", f"{len(runs)} runs")
    result = compare_folders(runs, folder, reference=reference, shared=shared, track=terminal.track)
    show_comparison(result)
    terminal.say(f"comparison: {folder / 'comparison.html'}")


def _compare_plan(plan: GridPlan, out: Path | None, jobs: str) -> None:
    """Train what is not there yet, and compare."""
    from foveate.cli import terminal
    from foveate.compare.results import write_results
    from foveate.compare.runs import Shown
    from foveate.compare.schedulers import train_with

    folder = out or Path("comparisons") / plan.name
    seeds, folds = len(plan.seeds), plan.base.split.rounds
    many = f"{seeds} seed{'s' if seeds > 1 else ''}" + (f", {folds} folds" if folds else "")
    variants = f"{len(plan.variants)} variant{'s' if len(plan.variants) > 1 else ''}"
    terminal.heading("Compare", f"{variants}, {many}")
    trained = train_with(plan, folder, jobs, Shown(terminal.say, terminal.track, terminal.console))
    if trained is None:  # a scheduler has runs to do first
        return
    show_comparison(write_results(plan, folder, trained, terminal.track))
    terminal.say(f"comparison: {folder / 'comparison.html'}")
    if trained.failures or trained.notes:
        listing = [f"{row.label}, seed {row.seed}, {row.station}: {row.message}" for row in trained.failures]
        raise Partial(
            "the comparison is written, but not everything worked out:\n"
            + "\n".join(f"  - {line}" for line in (*listing, *trained.notes)),
            where=str(folder),
            fix="see comparison.html; the same command tries again what failed",
        )


def _plan(studies: list[Path], grid: Path | None, seeds: int | None, reference: str | None) -> GridPlan:
    """The plan that the arguments ask for."""
    from foveate.compare.grid import GridPlan

    if bool(studies) == bool(grid) or any(study.is_dir() for study in studies):
        raise UsageError(
            "give either runs, or studies, or a grid",
            where="foveate compare",
            fix="foveate compare RUN RUN, foveate compare A.yaml B.yaml, or foveate compare --grid GRID.yaml",
        )
    plan = GridPlan.of_grid(grid) if grid else GridPlan.of_studies(studies)
    _check_reference(reference, plan.variants)
    return plan.changed(
        reference=reference or plan.reference, seeds=tuple(range(seeds)) if seeds else plan.seeds
    )


def _check_reference(reference: str | None, labels: Iterable[str]) -> None:
    """Refuse a reference that is none of the labels."""
    if reference is not None and reference not in labels:
        raise UsageError(
            f"there is no variant '{reference}'", where="--reference", fix=f"choose from: {', '.join(labels)}"
        )


_MOST_SENTENCES = 10


def show_comparison(result: Comparison) -> None:
    """Print the main figures of every variant, how they differ from the reference, and what to beware of."""
    from foveate.report.cautions import in_words

    _show_figures(result)
    cautions = in_words(result.cautions, len(result.variants))
    for text in cautions[:_MOST_SENTENCES]:
        say(f"read with care: {text}")
    if (more := len(cautions) - _MOST_SENTENCES) > 0:
        say(f"and {more} more cautions: see the page")


def _show_figures(result: Comparison) -> None:
    """Figures and what they come to in words."""
    main = result.tests.main
    if len(result.figures) == 1:
        _show_alone(result)
        return
    table = new_table("variant", "macro AUROC", "balanced acc.", "AUROC, paired", "p, Holm")
    say(f"paired with: {result.reference}")
    for label, found in result.figures.items():
        paired = result.differences.get(label, {}).get(main)
        beside = ("", "") if paired is None else (number(paired), _corrected(paired))
        shown = (_spread(found[name]) for name in (main, "balanced_accuracy"))
        table.add_row(escape(label), *shown, *beside)
    console.print(table)
    for pair in result.pairs[:_MOST_SENTENCES]:
        say(pair.sentence)
    if (more := len(result.pairs) - _MOST_SENTENCES) > 0:
        say(f"and {more} more pairs: see the page")


def _show_alone(result: Comparison) -> None:
    """Print what every training of the one variant came to, and the mean."""
    from foveate.evaluate.comparing.wording import kind_of

    (found,) = result.figures.values()
    kind = kind_of(result.seeds)
    names = {"accuracy": "accuracy", "f1_macro": "macro F1", "auroc_macro": "macro AUROC"}
    shown = {name: text for name, text in names.items() if found[name].value is not None}
    table = new_table(kind, *shown.values())
    for seed in map(str, result.seeds):
        values = (found[name].seeds.get(seed) for name in shown)
        table.add_row(escape(seed), *("undefined" if value is None else f"{value:.3f}" for value in values))
    table.add_row("mean", *(_spread(found[name]) for name in shown))
    console.print(table)


def _corrected(value: SeedDifference) -> str:
    from foveate.evaluate.comparing.wording import shown_p

    return "" if value.p_holm is None else shown_p(value.p_holm).removeprefix("p = ")


def _spread(value: SeedFigure) -> str:
    """A mean over seeds with its standard deviation."""
    return number(value) + ("" if value.sd is None else f" ± {value.sd:.3f}")
