"""The command that compares; the package registers it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate.errors import Partial, UsageError

if TYPE_CHECKING:
    from foveate.compare.grid import Plan


def compare(
    studies: Annotated[
        list[Path] | None,
        typer.Argument(metavar="STUDY…", help="Studies (.yaml) of one manifest and one split."),
    ] = None,
    *,
    grid: Annotated[
        Path | None, typer.Option("--grid", help="A grid (.yaml) instead: one base study and its variants.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Trainings of each variant [default: the grid's, or 3].")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Variant that the others are paired with [default: the grid's, or first]."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="View to withhold in a further test; repeatable.")
    ] = None,
    resplit: Annotated[
        bool, typer.Option(help="Draw a split for each seed, the same for all variants.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write [default: comparisons/<name>].")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", help="Audit finding to accept, by its code; repeatable.")
    ] = None,
) -> None:
    """Train several studies under one protocol with several seeds, and compare them, paired by patient.

    What is finished is not trained again: give the same command after an interruption.

    Example: foveate compare ours.yaml plain.yaml --seeds 3
    """
    from foveate import terminal
    from foveate.compare.results import write_results
    from foveate.compare.runs import Shown, train_plan

    plan = _plan(studies or [], grid, seeds, reference)
    plan = plan.changed(without=tuple(without or plan.without), resplit=resplit or plan.resplit)
    plan = plan.allowing(allow) if allow else plan
    folder = out or Path("comparisons") / plan.name
    terminal.heading("Compare", f"{len(plan.variants)} variants, {len(plan.seeds)} seeds")
    trained = train_plan(plan, folder, Shown(terminal.say, terminal.track, terminal.console))
    result = write_results(plan, folder, trained, terminal.track)
    terminal.show_comparison(result)
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

    if bool(studies) == bool(grid):
        raise UsageError(
            "give either studies or a grid",
            where="foveate compare",
            fix="foveate compare A.yaml B.yaml, or foveate compare --grid GRID.yaml",
        )
    plan = Plan.of_grid(grid) if grid else Plan.of_studies(studies)
    if reference is not None and reference not in plan.variants:
        raise UsageError(
            f"there is no variant '{reference}'",
            where="--reference",
            fix=f"choose from: {', '.join(plan.variants)}",
        )
    return plan.changed(
        reference=reference or plan.reference, seeds=tuple(range(seeds)) if seeds else plan.seeds
    )
