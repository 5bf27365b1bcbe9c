"""Can the pictures be trusted? Verdicts first, then what they rest on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from foveate.evaluate.results.trust import MethodCard, TrustCard
from foveate.evaluate.verdicts import ALIKE, CONDITIONS, Condition
from foveate.report.figures import drawing
from foveate.report.figures.trust import CONTROL_NAMES, gaps_figure, removal_figure, stages_figure
from foveate.report.files import RunFiles
from foveate.report.sections.section import Chart, Section
from foveate.study.methods import caveat

SCORES = {
    "gap_blur": "Gap between insertion and deletion, blurred",
    "gap_mean": "Gap between insertion and deletion, mean",
    "road": "Gap of ROAD",
    "sensitivity_n": "Sensitivity-n",
    "pointing_game": "Pointing game",
    "plane_pointing": "Pointing game in the plane",
    "energy_inside": "Energy inside",
    "randomised_half": "Rank correlation, the later half of the layers drawn anew",
    "randomised": "Rank correlation, all layers drawn anew",
    "randomised_structure": "Structural similarity, all layers drawn anew",
    "noise": "Rank correlation under noise",
    "shift": "Rank correlation under a shift",
    "second": "Rank correlation with a second training",
    "second_beyond": "That, less the one with maps of other patients",
    "permuted_magnitude": "Rank correlation with permuted labels",
    "attention": "Rank correlation with the attention",
    "falls": "Fall of the logit without positive evidence",
    "rises": "Rise of the logit without negative evidence",
}
_REMOVALS = {
    "deletion_blur": "What the map names is blurred first",
    "insertion_blur": "What the map names comes back first",
    "road_most": "What the map names is filled in first (ROAD)",
}
_GAPS = {"gap_blur": "blur", "gap_mean": "mean", "road": "ROAD"}
_SYMBOLS = {"passed": "✓", "failed": "✗", "not tested": "–"}


def trust(files: RunFiles) -> Section:
    """The verdict on every method, the conditions, and the figures beside those of the controls."""
    found = files.trust
    if found is None:
        return Section("trust", "Trust card", "trust", None)
    tested = {name: card for name, card in found.cards.items() if card.scores}
    methods = [name for name in found.methods if name in tested]
    shown = [name for name in tested if tested[name].conditions]
    content = {
        "flags": found.flags,
        "shortcuts": found.shortcuts,
        "part": found.split,
        "n": found.n,
        "patients": found.patients,
        "level": f"{100 * found.level:g} %",
        "plan": found.plan,
        "verdicts": [(name, told, caveat(name)) for name, told in found.verdicts.items()],
        "names": [_name(name) for name in shown],
        "conditions": list(_conditions(tested, shown)),
        "reasons": list(_reasons(tested, methods)),
        "charts": list(_charts(found, tested, methods)),
        "columns": [_name(name) for name in tested],
        "scores": list(_scores(tested)),
        "rules": [(name, _rule_name(name), text) for name, text in found.rules.items()],
        "stages": found.stages,
        "rivals": found.rivals,
    }
    return Section("trust", "Trust card", "trust", content)


def _name(name: str) -> str:
    return CONTROL_NAMES.get(name, name)


def _rule_name(name: str) -> str:
    return CONDITIONS[name].sentence if name in CONDITIONS else f"Usable for {name}"


def _conditions(tested: Mapping[str, MethodCard], shown: Sequence[str]) -> Iterator[dict[str, Any]]:
    for key, facts in CONDITIONS.items():
        cells = [tested[method].conditions.get(key) for method in shown]
        if any(cell and cell.state != "not tested" for cell in cells):
            yield {"key": key, "name": facts.sentence, "cells": [_cell(cell) for cell in cells]}


def _cell(condition: Condition | None) -> dict[str, str]:
    """State, symbol and reason; a control has no condition where it is what others are compared with."""
    if condition is None:
        return {"state": "", "symbol": "", "reason": ""}
    return {"state": condition.state, "symbol": _SYMBOLS[condition.state], "reason": condition.reason}


def _reasons(tested: Mapping[str, MethodCard], methods: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Why conditions were not tested, each reason once with its conditions and methods."""
    grouped: dict[str, dict[str, list[str]]] = {}
    for method in methods:
        for key, condition in tested[method].conditions.items():
            if condition.state == "not tested":
                named = grouped.setdefault(condition.reason, {})
                named.setdefault(_rule_name(key), []).append(method)
    for reason, names in grouped.items():
        everywhere = all(len(who) == len(methods) for who in names.values())
        who = (
            "" if everywhere else f" ({', '.join(dict.fromkeys(m for each in names.values() for m in each))})"
        )
        yield ", ".join(f"“{name}”" for name in names) + who, reason


def _charts(found: TrustCard, tested: Mapping[str, MethodCard], methods: Sequence[str]) -> Iterator[Chart]:
    for curve, title in _REMOVALS.items():
        told = {name: card.curves.get(curve) or () for name, card in tested.items()}
        curves = {name: points for name, points in told.items() if any(point is not None for point in points)}
        if curves and curve in found.shares:
            figure = removal_figure(found.shares[curve], curves, methods)
            yield Chart(drawing.svg(figure, title), title)
    for key, way in _GAPS.items():
        values = {
            name: value for name, card in tested.items() if (value := card.score(key)).value is not None
        }
        if values:
            title = f"Faster by the map’s order than against it: {way}"
            yield Chart(drawing.svg(gaps_figure(values, methods), title), title)
    stages = {
        name: [card.score(f"randomised_{number}") for number in range(len(found.stages))]
        for name, card in tested.items()
        if "randomised" in card.scores
    }
    if stages:
        title = "What is left of the map when the model forgets"
        yield Chart(drawing.svg(stages_figure(stages, methods, ALIKE), title), title)


def _scores(tested: Mapping[str, MethodCard]) -> Iterator[dict[str, Any]]:
    for key, name in SCORES.items():
        values = [card.score(key) for card in tested.values()]
        if any(value.value is not None for value in values):
            yield {"key": key, "name": name, "values": values}
