"""From what was asked to what is said: shortcuts, leaks, and a plain sentence for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from foveate.evaluate.results.probes import Alone, ClassAlone, Leak, ProbePlace, Shortcut, ViewAlone
from foveate.stations.shortcuts.questions import AskedView, Test
from foveate.stations.shortcuts.regions import position, strokes


def list_shortcuts(tests: Sequence[Test]) -> Iterator[Shortcut]:
    """What the model is shown to use, in as few entries as tell it.

    Places come first; border, outside of organ and lesion and strokes only where a view has no place that was
    found. Regions that the user named are always told. That a lesion's inside decides is as it should be.
    """
    merged = [test for test in tests if test.merged]
    for test in sorted(merged, key=lambda test: -(test.values["effect"].value or 0)):
        yield _shortcut(test, "marker" if _marked(test) else "region")
    placed = {test.view.name for test in merged}
    for test in tests:
        covered = test.region.name in EDGES and test.view.name in placed
        if test.label is None and test.found and not covered and test.region.name != INSIDE:
            yield _shortcut(test, test.region.name)


def _marked(test: Test) -> bool:
    """Whether most cases of the class have strokes in the region."""
    view = test.view
    rows = np.flatnonzero(view.cases.truth[:, view.cases.bundle.classes.index(test.strongest)] == 1)
    where = test.region.mask.expand(view.places.field.shape)[rows]
    marks = strokes(view.cases.views[view.name][rows], where)
    return bool(marks.flatten(1).any(dim=1).float().mean() >= 0.5)


def _shortcut(test: Test, kind: str) -> Shortcut:
    value, box = test.values["effect"], test.region.box
    where = ProbePlace(view=test.view.name, box=box, position="" if box is None else position(box))
    return Shortcut(
        kind=kind,
        where=where,
        label=test.strongest,
        effect=value.value,
        interval=(value.low, value.high),
        p=test.p,
        sentence=_sentence(test, kind),
    )


INSIDE = "inside-lesion"
EDGES = {
    "border": "What lies along the border of the image",
    "outside-organ": "What lies outside the organ",
    "strokes": "Strokes like letters or markers at the border",
    "outside-lesion": "What lies outside the marked lesions",
}
SCALES = {
    "scale": "How much the pixels of the file were enlarged or reduced for the model",
    "lesion-scale": "How large the marked lesion appears",
}
THINGS = {**EDGES, **SCALES, "organ-without-lesion": "The organ away from the marked lesions"}


def _sentence(test: Test, kind: str) -> str:
    box = test.region.box
    thing = THINGS.get(kind, f"The region “{kind}”")
    if box is not None:
        organ = ", outside the organ," if test.view.places.organ is not None else ""
        thing = f"{'A marker' if kind == 'marker' else 'Something'} at the {position(box)}{organ}"
    view = _of_view(test)
    about, figure = (f" about {test.label}", "its AUROC") if test.label else ("", "the mean AUROC")
    other, same = test.values["other"].value, test.values["same"].value
    if kind in SCALES:
        return (
            f"{thing}{view} decides{about}: brought to the scale of a case of another class, pictures give "
            f"{figure.removeprefix('the ')} {other:.2f}; changed as much the other way, {same:.2f}."
        )
    verb = "decide" if kind == "strokes" else "decides"
    it = "they take" if kind == "strokes" else "it takes"
    return (
        f"{thing}{view} {verb}{about}: exchanged for what a case of another class has there, {it} "
        f"{figure} from {same:.2f} to {other:.2f}."
    )


def _of_view(test: Test) -> str:
    """Which view a test is of, where there are several."""
    return "" if len(test.view.cases.bundle.views) == 1 else f" ({test.view.name})"


def list_leaks(metadata: Alone, alone: Mapping[str, ViewAlone]) -> Iterator[Leak]:
    """What tells the truth by itself: metadata, background, and the shape of a mask.

    Area, position and outline may well be of the disease: they are told only where the network is not shown
    to be better.

    Args:
        metadata: of a model of it.
        alone: by view, of models of ``background`` and ``masks``.
    """
    if metadata.telling:
        named = ", ".join(metadata.strongest or ())
        what = f"metadata and file properties alone (most of all {named})"
        yield _leak("metadata", None, metadata, what)
    for view, found in alone.items():
        of = f" of {view}" if len(alone) > 1 else ""
        if found.background.telling:
            place = "outside the organ" if found.background.region == "outside-organ" else "along the border"
            yield _leak("background", view, found.background, f"the pixels {place}{of} alone")
        for kind, aspects in found.masks.items():
            for aspect, own in aspects.items():
                if own.telling and not own.told[own.best].network_better:
                    yield _leak(f"{kind}-{aspect}", view, own, f"the {aspect} of the {kind}{of} alone")


def _leak(kind: str, view: str | None, found: Alone, what: str) -> Leak:
    told = found.told
    value = told[found.best]
    auroc, low, high = (value.value or 0.0, value.low or 0.0, value.high or 0.0)  # all defined where told
    others = f", and {len(told) - 1} more" if len(told) > 1 else ""
    figure = f"{found.best} with an AUROC of {auroc:.2f} [{low:.2f}, {high:.2f}]"
    verb = "tells" if kind not in ("metadata", "background") else "tell"
    return Leak(
        kind=kind,
        where=ProbePlace(view=view),
        label=found.best,
        effect=auroc - 0.5,
        interval=(low - 0.5, high - 0.5),
        p=value.p,
        network_better=value.network_better,
        sentence=f"{what[0].upper()}{what[1:]} {verb} {figure}{others}. {_beside(value)}",
    )


def _beside(told: ClassAlone) -> str:
    """The network on the same cases, and whether it knows more."""
    network, more = told.network, told.difference
    if network is None or network.value is None or more is None or more.value is None:
        return "What the network has there is not defined."
    figures = f"The network has {network.value:.2f}"
    if more.low is not None:
        difference = f"{more.value:+.2f} [{more.low:+.2f}, {more.high:+.2f}]"
        figures += f" (difference {difference.replace('-', '−')})"
    if told.network_better:
        return f"{figures}: it knows more than that."
    worse = more.high is not None and more.high < 0
    return f"{figures}: it {'does worse' if worse else 'is not shown to know more'} than that."


def what_was_asked(
    views: Sequence[AskedView], tests: Sequence[Test], metadata: Alone, alone: Mapping[str, ViewAlone]
) -> list[str]:
    """Everything that could be asked, in words."""
    tiles = sum(int(view.suspect.sum()) for view in views)
    whole = dict.fromkeys(test.region.name for test in tests if test.label is None)
    said = (
        [f"{tiles} {'tile' if tiles == 1 else 'tiles'} in which nothing of the disease should be"]
        if tiles
        else []
    )
    said += [NAMES.get(name, f"the region “{name}”") for name in whole]
    said += ["metadata and file properties alone"] if metadata.reason is None else []
    background, masks = False, dict[str, None]()
    for own in alone.values():
        background |= own.background.reason is None
        masks |= {kind: None for kind, found in own.masks.items() if found["area"].reason is None}
    said += ["the background alone"] if background else []
    return said + [f"area, position and outline of the {kind} alone" for kind in masks]


NAMES = {
    "border": "the border",
    "outside-organ": "all that lies outside the organ",
    "strokes": "strokes at the border",
    "outside-lesion": "all that lies outside the marked lesions",
    "organ-without-lesion": "the organ away from the lesions",
    "inside-lesion": "the inside of the lesions",
    "scale": "the scale of the files",
    "lesion-scale": "the scale of the lesions",
}


def sentences(
    found: Sequence[Shortcut],
    told: Sequence[Leak],
    tests: Sequence[Test],
    asked: Sequence[str],
    not_tested: Sequence[str],
) -> list[str]:
    """What was found in plain words, or that nothing was; what was asked; whether lesions are read.

    Args:
        found: shortcuts.
        told: leaks.
        tests: all exchanges.
        asked: what was, in words.
        not_tested: what could not be.
    """
    said = [item.sentence for item in (*found, *told)]
    listed = "; ".join(asked)
    lacking = f" Not asked: {'; '.join(not_tested)}." if not_tested else ""
    if found:
        said.append(f"Asked: {listed}.{lacking}")
    elif asked:
        said.insert(0, f"No shortcut was found in what was asked: {listed}.{lacking}")
    else:
        said.insert(0, f"Nothing could be asked about shortcuts.{lacking}")
    return said + [_inside(test) for test in tests if test.region.name == INSIDE]


def _inside(test: Test) -> str:
    """Whether the model reads what lies inside the marked lesions."""
    view = _of_view(test)
    other, same = test.values["other"].value, test.values["same"].value
    if other is None or same is None:
        return f"Whether the inside of the marked lesions{view} decides is not defined."
    shown = "decides, as it should" if test.found else "is not shown to decide"
    return (
        f"The inside of the marked lesions{view} {shown}: exchanged for that of another class, its outline "
        f"kept, it takes the mean AUROC from {same:.2f} to {other:.2f}."
    )
