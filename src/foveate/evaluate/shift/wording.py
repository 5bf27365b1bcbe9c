"""What a shift comes to, in sentences; each with a code, the most harmful first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from foveate.evaluate.comparing.wording import shown_p

ALPHA = 0.05
_FIGURES = {"auroc_macro": "macro AUROC", "balanced_accuracy": "balanced accuracy"}
_MOST = 3  # columns that are named
Json = Mapping[str, Any]
Sentence = tuple[str, str]


def in_words(shift: Json) -> Iterator[Sentence]:
    """The sentences of ``shift.json``, as pairs of code and text.

    Args:
        shift: what it holds beside them.
    """
    yield from _performance(shift["performance"])
    yield from _seen(shift["seen"])
    yield from _labels(shift["labels"])
    yield from _columns(shift["images"], "images-differ", "The images differ")
    yield from _columns(shift["metadata"], "metadata-differ", "The other columns differ")
    yield from _novelty(shift["novelty"], shift["by_shift"])
    yield from _groups(shift["by_shift"]["groups"])
    yield from _recalibration(shift["recalibration"])
    parts = (shift[key] for key in ("performance", "labels", "images", "novelty"))
    lacking = {part["reason"] for part in parts if part.get("reason")}
    for reason in sorted(lacking):
        yield "not-compared", f"Not everything could be compared: {reason}."


def _performance(found: Json) -> Iterator[Sentence]:
    for key, name in _FIGURES.items():
        if key not in found.get("metrics", {}):
            continue
        own = found["metrics"][key]
        here, home, gap = own["new"], own["source"], own["difference"]
        if gap["low"] is None:
            continue
        sides = (
            f"{name} is {here['value']:.2f} {_interval(here)} here and {home['value']:.2f} {_interval(home)} "
            f"at home, {_interval(gap)} apart"
        )
        if gap["high"] < 0:
            yield "worse-here", f"It does worse here: {sides}."
        elif gap["low"] > 0:
            yield "better-here", f"It does better here: {sides}."
        else:
            yield "not-shown-to-differ", f"It is not shown to do worse or better here: {sides}."
    accuracy = found.get("metrics", {}).get("accuracy", {})
    reweighted, home = accuracy.get("reweighted"), accuracy.get("source", {}).get("value")
    if reweighted is not None and home is not None and abs(reweighted - home) >= 0.01:
        word = "lower" if reweighted < home else "raise"
        yield (
            "class-frequencies",
            f"Other class frequencies alone would {word} the accuracy from {home:.2f} to {reweighted:.2f}; "
            f"it is {accuracy['new']['value']:.2f}.",
        )


def _seen(found: Json | None) -> Iterator[Sentence]:
    if found:
        right = "" if found["right"] is None else f"; {found['right']} of {found['known']} are answered right"
        yield "seen", f"{found['cases']} cases are set apart, since the model learned from them{right}."


def _labels(found: Json) -> Iterator[Sentence]:
    for name, own in found.get("classes", {}).items():
        if own["p_holm"] is not None and own["p_holm"] < ALPHA:
            word = "more" if own["new"] > own["source"] else "less"
            yield (
                "labels-differ",
                f"{name} is {word} frequent here: {own['new']:.0%} of the cases, and {own['source']:.0%} of "
                f"those it learned from ({shown_p(own['p_holm'])}, corrected).",
            )


def _columns(found: Json, code: str, start: str) -> Iterator[Sentence]:
    shown = {
        name: own
        for name, own in found.get("columns", {}).items()
        if own["p_holm"] is not None and own["p_holm"] < ALPHA
    }
    if not shown:
        return
    named = [_column(name, own) for name, own in sorted(shown.items(), key=lambda each: -far(each[1]))]
    more = f"; and {len(named) - _MOST} more" if len(named) > _MOST else ""
    auroc = found["together"]["auroc"]["value"]
    together = "" if auroc is None else f" Together they tell the cohorts apart with an AUROC of {auroc:.2f}."
    yield code, f"{start}: {'; '.join(named[:_MOST])}{more}.{together}"


def _column(name: str, own: Json) -> str:
    if own["kind"] == "number":
        return f"{name} (median {own['new'][1]:.4g} here, {own['source'][1]:.4g} at home)"
    share = own["values"][own["most"]]
    return f"{name} ({own['most']}: {share['new']:.0%} here, {share['source']:.0%} at home)"


def far(own: Json) -> float:
    """How far a column of ``column_shifts`` is from no shift, from 0 to 1."""
    if own["kind"] == "category":
        return float(own["distance"])
    return abs(2 * float(own["larger"]["value"]) - 1)


def _novelty(found: Json, by_shift: Json) -> Iterator[Sentence]:
    larger = found.get("larger")
    if larger and larger["low"] is not None and larger["low"] > 0.5:
        yield (
            "images-novel",
            f"The images are stranger to the model than those at home: in {larger['value']:.0%} of pairs of "
            f"both the stranger one is from here {_interval(larger)}.",
        )
    wrong = by_shift["wrong"]
    if wrong and wrong["low"] is not None and wrong["low"] > 0.5:
        yield (
            "wrong-where-novel",
            "Where images are strange, answers are wrong more often: novelty tells the wrong ones with an "
            f"AUROC of {wrong['value']:.2f} {_interval(wrong)}.",
        )


def _groups(columns: Json) -> Iterator[Sentence]:
    for column, found in columns.items():
        for figure, gap in found["gaps"].items():
            if figure in _FIGURES and gap["p_holm"] is not None and gap["p_holm"] < ALPHA:
                yield (
                    "group-worse",
                    f"By {column}, {_FIGURES[figure]} is lower for {gap['smallest']} than for "
                    f"{gap['largest']}, by {gap['value']:.2f} {_interval(gap)}.",
                )


def _recalibration(found: Json | None) -> Iterator[Sentence]:
    if not found:
        return
    loss, ece = found["log_loss"], found["ece"]
    change = loss["change"]
    sides = (
        f"log loss {loss['came']['value']:.3f} before and {loss['fitted']['value']:.3f} after, calibration "
        f"error {ece['came']['value']:.3f} and {ece['fitted']['value']:.3f}"
    )
    start = f"Recalibrated on {found['cases']} cases of {found['patients']} patients of this cohort"
    if change["high"] is not None and change["high"] < 0:
        yield "recalibrated", f"{start}, which helps on the others: {sides}."
    elif change["low"] is not None and change["low"] > 0:
        yield "recalibration-worse", f"{start}, which makes it worse on the others: {sides}."
    else:
        yield "recalibration-unclear", f"{start}, which is not shown to help on the others: {sides}."


def _interval(value: Json) -> str:
    return "" if value["low"] is None else f"[{value['low']:.2f}, {value['high']:.2f}]"
