"""The commands that compare; the package registers them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate.errors import Partial, UsageError

if TYPE_CHECKING:
    from foveate.compare.grid import Plan


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
    from foveate.report.side_by_side import write_side_by_side

    runs = labelled(targets)
    return write_side_by_side(runs, (out or folder_of(runs)) / "report.html")


def _compare_runs(targets: list[Path], reference: str | None, shared: bool, out: Path | None) -> None:
    """Compare what is there already."""
    from foveate import terminal
    from foveate.compare.folders import compare_folders, folder_of, labelled
    from foveate.terminal.comparison import show_comparison

    runs = labelled(targets)
    _check_reference(reference, runs)
    folder = out or folder_of(runs)
    terminal.heading("Compare", f"{len(runs)} runs")
    result = compare_folders(runs, folder, reference=reference, shared=shared, track=terminal.track)
    show_comparison(result)
    terminal.say(f"comparison: {folder / 'comparison.html'}")


def _compare_plan(plan: Plan, out: Path | None, jobs: str) -> None:
    """Train what is not there yet, and compare."""
    from foveate import terminal
    from foveate.compare.results import write_results
    from foveate.compare.runs import Shown
    from foveate.compare.schedulers import train_with
    from foveate.terminal.comparison import show_comparison

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


def _plan(studies: list[Path], grid: Path | None, seeds: int | None, reference: str | None) -> Plan:
    """The plan that the arguments ask for."""
    from foveate.compare.grid import Plan

    if bool(studies) == bool(grid) or any(study.is_dir() for study in studies):
        raise UsageError(
            "give either runs, or studies, or a grid",
            where="foveate compare",
            fix="foveate compare RUN RUN, foveate compare A.yaml B.yaml, or foveate compare --grid GRID.yaml",
        )
    plan = Plan.of_grid(grid) if grid else Plan.of_studies(studies)
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
