"""From what was asked to what is said: shortcuts, leaks, and a plain sentence for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from foveate.evidence.probing.questions import Test
from foveate.evidence.probing.regions import position, strokes

Json = dict[str, Any]


def list_shortcuts(tests: Sequence[Test]) -> Iterator[Json]:
    """What the model is shown to use, in as few entries as tell it.

    Places come first; border, outside of the organ and strokes only where a view has no place that was found.
    Regions that the user named are always told.
    """
    merged = [test for test in tests if test.merged]
    for test in sorted(merged, key=lambda test: -(test.values["effect"].value or 0)):
        yield _shortcut(test, "marker" if _marked(test) else "region")
    placed = {test.view.name for test in merged}
    for test in tests:
        covered = test.region.name in THINGS and test.view.name in placed
        if test.label is None and test.found and not covered:
            yield _shortcut(test, test.region.name)


def _marked(test: Test) -> bool:
    """Whether most cases of the class have strokes in the region."""
    view = test.view
    rows = np.flatnonzero(view.cases.truth[:, view.cases.bundle.classes.index(test.strongest)] == 1)
    where = test.region.mask.expand(view.places.field.shape)[rows]
    marks = strokes(view.cases.views[view.name][rows], where)
    return bool(marks.flatten(1).any(dim=1).float().mean() >= 0.5)


def _shortcut(test: Test, kind: str) -> Json:
    value, box = test.values["effect"], test.region.box
    return {
        "kind": kind,
        "where": {
            "view": test.view.name,
            "box": None if box is None else list(box),
            "position": "" if box is None else position(box),
        },
        "class": test.strongest,
        "effect": value.value,
        "interval": [value.low, value.high],
        "p": test.p,
        "sentence": _sentence(test, kind),
    }


THINGS = {
    "border": "What lies along the border of the image",
    "outside-organ": "What lies outside the organ",
    "strokes": "Strokes like letters or markers at the border",
}


def _sentence(test: Test, kind: str) -> str:
    box = test.region.box
    thing = THINGS.get(kind, f"The region “{kind}”")
    if box is not None:
        organ = ", outside the organ," if test.view.places.organ is not None else ""
        thing = f"{'A marker' if kind == 'marker' else 'Something'} at the {position(box)}{organ}"
    view = "" if len(test.view.cases.bundle.views) == 1 else f" ({test.view.name})"
    about, figure = (f" about {test.label}", "its AUROC") if test.label else ("", "the mean AUROC")
    other, same = test.values["other"].value, test.values["same"].value
    return (
        f"{thing}{view} decides{about}: exchanged for what a case of another class has there, it "
        f"takes {figure} from {same:.2f} to {other:.2f}."
    )


def list_leaks(metadata: Json, background: Mapping[str, Json]) -> Iterator[Json]:
    """Models without the disease that tell the truth."""
    if metadata.get("telling"):
        named = ", ".join(metadata["strongest"])
        what = f"metadata and file properties alone (most of all {named})"
        yield _leak("metadata", None, metadata, what)
    for view, found in background.items():
        if found.get("telling"):
            place = "outside the organ" if found["region"] == "outside-organ" else "along the border"
            of = f" of {view}" if len(background) > 1 else ""
            yield _leak("background", view, found, f"the pixels {place}{of} alone")


def _leak(kind: str, view: str | None, found: Json, what: str) -> Json:
    best = max(found["telling"], key=lambda name: found["per_class"][name]["value"])
    value = found["per_class"][best]
    others = f", and {len(found['telling']) - 1} more" if len(found["telling"]) > 1 else ""
    told = f"{best} with an AUROC of {value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
    return {
        "kind": kind,
        "where": {"view": view, "box": None, "position": ""},
        "class": best,
        "effect": value["value"] - 0.5,
        "interval": [value["low"] - 0.5, value["high"] - 0.5],
        "p": value["p"],
        "sentence": f"{what[0].upper()}{what[1:]} tell {told}{others}; a model that reaches this has "
        "not shown that it sees the disease.",
    }


def sentences(found: Sequence[Json], told: Sequence[Json], tests: Sequence[Test]) -> list[str]:
    """Everything that was found in plain words, or that nothing was."""
    said = [str(item["sentence"]) for item in (*found, *told)]
    if not found:
        said.insert(
            0,
            f"No shortcut was found: of {len(tests)} regions where nothing of the disease should be, none is "
            "shown to tell the model the class.",
        )
    return said
