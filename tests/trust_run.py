"""A trust card of invented figures, told by the same rules as a real one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.verdicts import CONTROLS, RULES, judge
from foveate.stations.trust_card.columns import CaseFigures
from foveate.stations.trust_card.telling import add_gaps, card_of, conditions_of, tell

#: By map: how far it is right about the model, how far it changes when the model forgets, how stable it is.
_MAPS = {
    "gradcam": (0.3, 0.1, 0.9),
    "smoothgrad": (0.02, 0.6, 0.7),
    "random": (0.0, 1.0, 0.0),
    "centre": (0.1, 1.0, 1.0),
    "edge": (0.05, 1.0, 0.9),
}
_SHARES = [0.0, 0.2, 0.5, 1.0]


def trust_card(
    patients: Sequence[str], classes: Sequence[str], *, flags: Sequence[str] = (), seed: int = 0
) -> dict[str, Any]:
    """What ``trust.json`` holds: Grad-CAM does well, SmoothGrad shows the image, nobody trained twice."""
    columns, draws = CaseFigures(len(patients)), np.random.default_rng(seed)
    every, some = range(len(patients)), range(len(patients) // 2)

    def put(name: str, measure: str, rows: range, mean: float, spread: float = 0.1) -> None:
        columns.put(name, measure, rows, mean + spread * draws.normal(size=len(rows)))

    for name, (right, kept, stable) in _MAPS.items():
        for baseline in ("blur", "mean"):
            put(name, f"insertion_{baseline}", every, 0.5 + right)
            put(name, f"deletion_{baseline}", every, 0.5 - right)
        put(name, "road", every, right)
        put(name, "sensitivity_n", every, right)
        put(name, "falls", some, 3 * right)
        if name == "gradcam":
            put(name, "rises", some, 0.4)
        put(name, "energy_inside", every, 0.1 + right)
        hits = draws.random(len(patients)) < 0.2 + 2 * right
        columns.put(name, "pointing_game", every, hits.astype(float))
        for number, share in enumerate((0.9, 0.7, 1.0)):
            put(name, f"randomised_{number}", some, kept * share + (1 - share) * (1 - kept), 0.02)
        put(name, "randomised_half", some, kept * 0.7 + 0.3 * (1 - kept), 0.02)
        put(name, "randomised", some, kept, 0.02)
        put(name, "randomised_structure", some, kept, 0.02)
        for kind in ("noise", "shift"):
            put(name, kind, some, stable, 0.05)
        for curve, sign in (("deletion_blur", -1), ("insertion_blur", 1), ("road_most", -1)):
            ends = np.linspace(0, 1, 4)[:: sign or 1]
            bend = sign * right * np.sin(np.pi * np.linspace(0, 1, 4))
            columns.put(name, curve, every, np.tile(ends + bend, (len(patients), 1)))
    put("random_order", "deletion_blur", every, 0.5)
    columns.put("random_order", "deletion_blur", every, np.tile(np.linspace(1, 0, 4), (len(patients), 1)))
    return _told(columns, patients, classes, flags)


def _told(
    columns: CaseFigures, patients: Sequence[str], classes: Sequence[str], flags: Sequence[str]
) -> dict[str, Any]:
    add_gaps(columns)
    methods = [name for name in _MAPS if name not in CONTROLS]
    told = tell(columns, methods, patients, Bootstrap(200))
    reasons = {"second": "no second training is given", "attention": "the model has no attention of its own"}
    cards: dict[str, Any] = {}
    for name in (*_MAPS, "random_order"):
        conditions = {} if name == "random_order" else conditions_of(name, told, reasons)
        card = card_of(name, told, conditions, columns)
        if name in methods:
            card = card.model_copy(update={"verdict": judge(conditions, flagged=bool(flags))})
        cards[name] = card.model_dump(mode="json")
    return {
        "split": "test",
        "n": len(patients),
        "patients": len(set(patients)),
        "classes": list(classes),
        "level": 0.95,
        "plan": {"cases": 100, "faithful": 64, "sanity": 24, "costly": ["smoothgrad"]},
        "rules": RULES,
        "flags": list(flags),
        "shortcuts": "shortcuts were looked for and none was found",
        "methods": {name: cards[name] for name in methods}
        | {"cam": {"verdict": {"usable_for": [], "sentence": "not tested: there is no linear head."}}},
        "controls": {name: card for name, card in cards.items() if name not in methods},
        "shares": dict.fromkeys(("deletion_blur", "insertion_blur", "road_most"), _SHARES),
        "stages": [
            "1 of 20 layers, down to fc",
            "10 of 20 layers, down to layer3",
            "20 of 20 layers, down to conv1",
        ],
        "rivals": {},
    }
