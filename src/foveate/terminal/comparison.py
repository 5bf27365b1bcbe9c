"""What the command line prints of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from foveate.evaluate.wording import kind_of, shown_p
from foveate.report.cautions import in_words
from foveate.terminal import console, new_table, number, say

_MOST_SENTENCES = 10


def show_comparison(result: Mapping[str, Any]) -> None:
    """Print the main figures of every variant, how they differ from the reference, and what to beware of."""
    _show_figures(result)
    cautions = in_words(result["cautions"], len(result["variants"]))
    for text in cautions[:_MOST_SENTENCES]:
        say(f"read with care: {text}")
    if (more := len(cautions) - _MOST_SENTENCES) > 0:
        say(f"and {more} more cautions: see the page")


def _show_figures(result: Mapping[str, Any]) -> None:
    """Figures and what they come to in words."""
    reference, main = result["reference"], result["tests"]["main"]
    if len(result["figures"]) == 1:
        _show_alone(result)
        return
    table = new_table("variant", "macro AUROC", "balanced acc.", "AUROC, paired", "p, Holm")
    say(f"paired with: {reference}")
    for label, found in result["figures"].items():
        paired = result["differences"].get(label, {}).get(main)
        beside = ("", "") if paired is None else (number(paired), _corrected(paired))
        table.add_row(escape(label), _spread(found[main]), _spread(found["balanced_accuracy"]), *beside)
    console.print(table)
    for pair in result["pairs"][:_MOST_SENTENCES]:
        say(pair["sentence"])
    if (more := len(result["pairs"]) - _MOST_SENTENCES) > 0:
        say(f"and {more} more pairs: see the page")


def _show_alone(result: Mapping[str, Any]) -> None:
    """Print what every training of the one variant came to, and the mean."""
    (found,) = result["figures"].values()
    kind = kind_of(result["seeds"])
    names = {"accuracy": "accuracy", "f1_macro": "macro F1", "auroc_macro": "macro AUROC"}
    shown = {name: text for name, text in names.items() if found[name]["value"] is not None}
    table = new_table(kind, *shown.values())
    for seed in map(str, result["seeds"]):
        values = (found[name]["seeds"].get(seed) for name in shown)
        table.add_row(escape(seed), *("undefined" if value is None else f"{value:.3f}" for value in values))
    table.add_row("mean", *(_spread(found[name]) for name in shown))
    console.print(table)


def _corrected(value: Mapping[str, Any]) -> str:
    return "" if value["p_holm"] is None else shown_p(value["p_holm"]).removeprefix("p = ")


def _spread(value: Mapping[str, Any]) -> str:
    """A mean over seeds with its standard deviation."""
    return number(value) + ("" if value["sd"] is None else f" ± {value['sd']:.3f}")
