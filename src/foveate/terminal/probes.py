"""What the command line prints of a search for shortcuts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from foveate.terminal import console, interval, new_table, number, say


def show_probes(found: Mapping[str, Any]) -> None:
    """Print the sentences, the regions that were asked about, and what is told without the disease."""
    say(f"{found['split']}: {found['n']} cases of {found['patients']} patients")
    for sentence in found["sentences"]:
        say(f"- {sentence}")
    _show_regions(found)
    _show_models(found)
    for text in found["not_tested"]:
        say(f"not tested: {text}")


def _show_regions(found: Mapping[str, Any]) -> None:
    """Every exchange with its effect."""
    table = new_table("region", "of", "AUROC", "same class", "another", "effect", "interval", "p")
    for view, own in found["views"].items():
        for row in own["tested"]:
            place = "" if row["box"] is None else " " + _place(row["box"])
            p = row["p_corrected"]
            table.add_row(
                escape(f"{view}: {row['name']}{place}"),
                escape(row["class"] or "all"),
                *(number(row[name]) for name in ("original", "same", "other", "effect")),
                interval(row["effect"]),
                ("–" if p is None else f"{p:.3f}") + (" found" if row["found"] else ""),
            )
    console.print(table)


def _show_models(found: Mapping[str, Any]) -> None:
    """Models of metadata and of background alone."""
    models = {"metadata and files": found["metadata"]}
    for view, own in found["views"].items():
        models[f"{view}: {own['background'].get('region', 'background')}"] = own["background"]
    table = new_table("alone", "macro AUROC", "interval")
    for name, own in models.items():
        if "reason" in own:
            table.add_row(escape(name), "–", escape(own["reason"]))
        else:
            table.add_row(escape(name), number(own["auroc_macro"]), interval(own["auroc_macro"]))
    console.print(table)


def _place(box: list[float]) -> str:
    top, left, bottom, right = (round(100 * edge) for edge in box)
    return f"{left}–{right} % across, {top}–{bottom} % down"
