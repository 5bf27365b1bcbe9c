"""``foveate probe``: does the model read its answer where nothing of the disease is?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from foveate.cli.target import Part, RunOption, Target, open_run
from foveate.cli.terminal import console, interval, new_table, number, say
from foveate.evaluate.sample import cases_in_words, counted


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


def show_probes(found: Mapping[str, Any]) -> None:
    """Print the sentences, the regions that were asked about, and what is told without the disease."""
    cases, patients = found["n"], found["patients"]
    several = cases_in_words(cases, patients) if patients < cases else counted(cases, "case")
    say(f"{found['split']}: {several}")
    for sentence in found["sentences"]:
        say(f"- {sentence}")
    _show_regions(found)
    _show_models(found)


def _show_regions(found: Mapping[str, Any]) -> None:
    """What the exchange of each region does to the AUROC: same class minus another class."""
    table = new_table("region", "class", "effect", "interval", "p", "")
    table.padding = (0, 2, 0, 0)  # names of regions are long
    for view, own in found["views"].items():
        for row in own["tested"]:
            where = "" if row["box"] is None else f" {_middle(row['box'])}"
            p = row["p_corrected"]
            table.add_row(
                escape(f"{_of(view, found)}{row['name']}{where}"),
                escape(row["class"] or "all"),
                number(row["effect"]),
                interval(row["effect"]),
                "–" if p is None else f"{p:.3f}",
                "found" if row["found"] else "",
            )
    console.print(table)


def _show_models(found: Mapping[str, Any]) -> None:
    """Models of metadata and of background alone."""
    models = {"metadata and files": found["metadata"]}
    for view, own in found["views"].items():
        region = own["background"].get("region", "background")
        models[f"{_of(view, found)}pixels, {region}"] = own["background"]
        for kind, aspects in own.get("masks", {}).items():
            models |= {f"{_of(view, found)}{aspect} of the {kind}": told for aspect, told in aspects.items()}
    table = new_table("a model of nothing but", "macro AUROC", "interval", "the network there")
    for name, own in models.items():
        if "reason" not in own:
            beside = number(own["network"]) if own.get("network") else "–"
            table.add_row(escape(name), number(own["auroc_macro"]), interval(own["auroc_macro"]), beside)
    if table.row_count:
        console.print(table)
    for name, own in models.items():
        if "reason" in own:
            say(f"not tested: {name}: {own['reason']}")


def _of(view: str, found: Mapping[str, Any]) -> str:
    return f"{view}: " if len(found["views"]) > 1 else ""


def _middle(box: list[float]) -> str:
    """Middle of a box in per cent of width and height."""
    return f"({50 * (box[1] + box[3]):.0f}%, {50 * (box[0] + box[2]):.0f}%)"
