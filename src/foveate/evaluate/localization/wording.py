"""What the figures of the bench come to, in plain sentences that a report and a terminal share."""

from __future__ import annotations

from collections.abc import Mapping

from foveate.evaluate.results.localization import Localization, MethodLocalization

METHODS = {
    "heatmap": "Heat map",
    "predicted": "Predicted class",
    "ceiling": "Ceiling",
    "random": "Random map",
    "centre": "Always the centre",
    "edge": "Edge map",
    "average": "Training average",
}
"""Every method by its name in the files, in the order of the tables."""
CONTROLS = {
    "random": "a random map",
    "centre": "always pointing at the centre",
    "edge": "an edge map of the image",
    "average": "the average mask of training cases",
}
FEW_PATIENTS = 10  # below which a bootstrap interval is no ground for a sentence
MEASURES = {
    "cell_hit": "cells hit",
    "plane_pointing": "the pointing game in the plane",
    "pointing_game": "the pointing game",
    "energy_inside": "energy inside",
    "iou": "IoU of boxes",
}
"""Measures that are told in sentences; the first two are of volumes."""


def main_measure(methods: Mapping[str, MethodLocalization]) -> str:
    """The measure that speaks for a run: cells hit for volumes, the pointing game for planes.

    Args:
        methods: the figures of each method.
    """
    maps = methods.get("heatmap")
    return "pointing_game" if maps is None or maps.cell_hit is None else "cell_hit"


def verdict(found: Localization, measure: str) -> str:
    """Whether heat maps do better than each control in one measure, by the intervals of paired differences.

    Args:
        found: from ``localization.json``.
        measure: a key of ``MEASURES``.

    Returns:
        One sentence; empty where nothing was compared.
    """
    pairs = {name: pair for name, own in found.differences.items() if (pair := own.figure(measure))}
    if pairs and (patients := min(pair.patients for pair in pairs.values())) < FEW_PATIENTS:
        return f"In {MEASURES[measure]} nothing is compared: only {patients} patients are marked."
    groups: dict[str, list[str]] = {"better than": [], "worse than": [], "not shown to be better than": []}
    for control, words in CONTROLS.items():
        difference = pairs.get(control)
        if difference is None or difference.low is None or difference.high is None:
            continue
        outcome = "better than" if difference.low > 0 else "worse than" if difference.high < 0 else ""
        groups[outcome or "not shown to be better than"].append(words)
    said = [f"{outcome} {_listed(names)}" for outcome, names in groups.items() if names]
    return f"In {MEASURES[measure]} the heat maps are {'; '.join(said)}." if said else ""


def not_beaten(found: Localization, measure: str) -> bool:
    """Whether heat maps are not shown to be better than some control in a measure; False where none is known.

    Args:
        found: from ``localization.json``.
        measure: a key of ``MEASURES``.
    """
    pairs = [pair for own in found.differences.values() if (pair := own.figure(measure))]
    return any(pair.low is not None and pair.low <= 0 and pair.patients >= FEW_PATIENTS for pair in pairs)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
