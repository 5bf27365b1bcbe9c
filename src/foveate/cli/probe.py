"""``foveate probe``: does the model read its answer where nothing of the disease is?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from foveate.cli.target import Part, RunOption, Target, open_run
from foveate.cli.terminal import console, interval, new_table, number, say
from foveate.evaluate.sample import cases_in_words, counted

if TYPE_CHECKING:
    from foveate.evaluate.results.probes import Probes, ShareBox


def probe(
    target: Target,
    run: RunOption = None,
    part: Part = "test",
    region: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=CSV: boxes of a region to ask about, such as of markers "
            "(case_id, label, x, y, w, h); repeatable."
        ),
    ] = None,
) -> None:
    """Look for shortcuts: exchange and remove regions, and ask what metadata and background alone tell.

    Example: foveate probe runs/study --region ruler=rulers.csv
    """
    from foveate.cli import terminal
    from foveate.errors import UsageError
    from foveate.stations.probe import probe as probe_run

    named: dict[str, Path] = {}
    for text in region or ():
        name, sign, path = text.partition("=")
        if not (name and sign and path):
            raise UsageError(f"'{text}' does not name a region", where="--region", fix="write NAME=CSV")
        named[name] = Path(path)
    opened = open_run(target, run)
    show_probes(probe_run(opened, part, named=named, track=terminal.track))
    terminal.say(f"probes: {opened.folder / 'probes.json'}")


def show_probes(found: Probes) -> None:
    """Print the sentences, the regions that were asked about, and what is told without the disease."""
    several = (
        cases_in_words(found.n, found.patients) if found.patients < found.n else counted(found.n, "case")
    )
    say(f"{found.split}: {several}")
    for sentence in found.sentences:
        say(f"- {sentence}")
    _show_regions(found)
    _show_models(found)


def _show_regions(found: Probes) -> None:
    """What the exchange of each region does to the AUROC: same class minus another class."""
    table = new_table("region", "class", "effect", "interval", "p", "")
    table.padding = (0, 2, 0, 0)  # names of regions are long
    for view, own in found.views.items():
        for row in own.tested:
            where = "" if row.box is None else f" {_middle(row.box)}"
            table.add_row(
                escape(f"{_of(view, found)}{row.name}{where}"),
                escape(row.label or "all"),
                number(row.effect),
                interval(row.effect),
                "–" if row.p_corrected is None else f"{row.p_corrected:.3f}",
                "found" if row.found else "",
            )
    console.print(table)


def _show_models(found: Probes) -> None:
    """Models of metadata and of background alone."""
    table = new_table("a model of nothing but", "macro AUROC", "interval", "the network there")
    not_tested = []
    for what, view, own in found.models():
        name = "metadata and files" if view is None else what
        if what == "background":
            name = f"pixels, {own.region or 'background'}"
        name = name if view is None else f"{_of(view, found)}{name}"
        if own.auroc_macro is None:
            not_tested.append(f"not tested: {name}: {own.reason}")
        else:
            beside = number(own.network) if own.network else "–"
            table.add_row(escape(name), number(own.auroc_macro), interval(own.auroc_macro), beside)
    if table.row_count:
        console.print(table)
    for text in not_tested:
        say(text)


def _of(view: str, found: Probes) -> str:
    return f"{view}: " if len(found.views) > 1 else ""


def _middle(box: ShareBox) -> str:
    """Middle of a box in per cent of width and height."""
    return f"({50 * (box[1] + box[3]):.0f}%, {50 * (box[0] + box[2]):.0f}%)"
