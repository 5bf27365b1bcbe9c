"""What a shift comes to, in sentences; each with a code, the most harmful first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from foveate.evaluate.comparing.wording import shown_p
from foveate.evaluate.intervals import Value
from foveate.evaluate.results.metrics import SubgroupColumn
from foveate.evaluate.results.parts import Unmade
from foveate.evaluate.results.shift import (
    CategoryShift,
    ColumnShift,
    ColumnShifts,
    LabelShift,
    NumberShift,
    PerformanceShift,
    Recalibration,
    SeenCases,
    Shift,
    ShiftSentence,
)

_FIGURES = {"auroc_macro": "macro AUROC", "balanced_accuracy": "balanced accuracy"}
_MOST = 3  # columns that are named
Sentence = tuple[str, str]


def in_words(shift: Shift) -> Iterator[ShiftSentence]:
    """The sentences of ``shift.json``.

    Args:
        shift: what it holds beside them.
    """
    for code, text in _sentences(shift):
        yield ShiftSentence(code=code, sentence=text)


def _sentences(shift: Shift) -> Iterator[Sentence]:
    """Each with its code."""
    yield from _performance(shift.performance)
    yield from _seen(shift.seen)
    yield from _labels(shift.labels)
    yield from _columns(shift.images, "images-differ", "The images differ")
    yield from _columns(shift.metadata, "metadata-differ", "The other columns differ")
    yield from _novelty(shift.novelty, shift.by_shift.wrong)
    yield from _groups(shift.by_shift.groups)
    yield from _recalibration(shift.recalibration)
    parts = (shift.performance, shift.labels, shift.images, shift.novelty)
    for reason in sorted({part.reason for part in parts if isinstance(part, Unmade)}):
        yield "not-compared", f"Not everything could be compared: {reason}."


def _performance(found: PerformanceShift | Unmade) -> Iterator[Sentence]:
    if isinstance(found, Unmade):
        return
    for key, name in _FIGURES.items():
        own = found.metrics.get(key)
        if own is None or own.difference.low is None or own.difference.high is None:
            continue
        here, home, gap = own.new, own.source, own.difference
        sides = (
            f"{name} is {here.value:.2f} {_interval(here)} here and {home.value:.2f} {_interval(home)} "
            f"at home, {_interval(gap)} apart"
        )
        if own.difference.high < 0:
            yield "worse-here", f"It does worse here: {sides}."
        elif own.difference.low > 0:
            yield "better-here", f"It does better here: {sides}."
        else:
            yield "not-shown-to-differ", f"It is not shown to do worse or better here: {sides}."
    accuracy = found.accuracy
    if accuracy is None or accuracy.reweighted is None or accuracy.source.value is None:
        return
    reweighted, before = accuracy.reweighted, accuracy.source.value
    if abs(reweighted - before) >= 0.01:
        word = "lower" if reweighted < before else "raise"
        yield (
            "class-frequencies",
            f"Other class frequencies alone would {word} the accuracy from {before:.2f} to {reweighted:.2f}; "
            f"it is {accuracy.new.value:.2f}.",
        )


def _seen(found: SeenCases | None) -> Iterator[Sentence]:
    if found:
        right = "" if found.right is None else f"; {found.right} of {found.known} are answered right"
        yield "seen", f"{found.cases} cases are set apart, since the model learned from them{right}."


def _labels(found: LabelShift | Unmade) -> Iterator[Sentence]:
    for name, own in {}.items() if isinstance(found, Unmade) else found.classes.items():
        if own.shown and own.new is not None and own.source is not None:
            word = "more" if own.new > own.source else "less"
            yield (
                "labels-differ",
                f"{name} is {word} frequent here: {own.new:.0%} of the cases, and {own.source:.0%} of "
                f"those it learned from ({shown_p(own.p_holm)}, corrected).",
            )


def _columns(found: ColumnShifts | Unmade, code: str, start: str) -> Iterator[Sentence]:
    if isinstance(found, Unmade):
        return
    shown = {name: own for name, own in found.columns.items() if own.shown}
    if not shown:
        return
    named = [_column(name, own) for name, own in sorted(shown.items(), key=lambda each: -each[1].far)]
    more = f"; and {len(named) - _MOST} more" if len(named) > _MOST else ""
    auroc = found.together.auroc.value
    together = "" if auroc is None else f" Together they tell the cohorts apart with an AUROC of {auroc:.2f}."
    yield code, f"{start}: {'; '.join(named[:_MOST])}{more}.{together}"


def _column(name: str, own: ColumnShift) -> str:
    if isinstance(own, CategoryShift):
        share = own.values[own.most]
        return f"{name} ({own.most}: {share.new:.0%} here, {share.source:.0%} at home)"
    assert own.new is not None and own.source is not None  # where a difference is shown
    return f"{name} (median {own.new[1]:.4g} here, {own.source[1]:.4g} at home)"


def _novelty(found: NumberShift | Unmade, wrong: Value | None) -> Iterator[Sentence]:
    larger = None if isinstance(found, Unmade) else found.larger
    if larger and larger.low is not None and larger.low > 0.5:
        yield (
            "images-novel",
            f"The images are stranger to the model than those at home: in {larger.value:.0%} of pairs of "
            f"both the stranger one is from here {_interval(larger)}.",
        )
    if wrong and wrong.low is not None and wrong.low > 0.5:
        yield (
            "wrong-where-novel",
            "Where images are strange, answers are wrong more often: novelty tells the wrong ones with an "
            f"AUROC of {wrong.value:.2f} {_interval(wrong)}.",
        )


def _groups(columns: Mapping[str, SubgroupColumn]) -> Iterator[Sentence]:
    for column, found in columns.items():
        for figure, gap in found.gaps.items():
            if figure in _FIGURES and gap.shown:
                yield (
                    "group-worse",
                    f"By {column}, {_FIGURES[figure]} is lower for {gap.smallest} than for "
                    f"{gap.largest}, by {gap.value:.2f} {_interval(gap)}.",
                )


def _recalibration(found: Recalibration | None) -> Iterator[Sentence]:
    if not found:
        return
    loss, ece = found.log_loss, found.ece
    sides = (
        f"log loss {loss.came.value:.3f} before and {loss.fitted.value:.3f} after, calibration "
        f"error {ece.came.value:.3f} and {ece.fitted.value:.3f}"
    )
    start = f"Recalibrated on {found.cases} cases of {found.patients} patients of this cohort"
    if loss.change.high is not None and loss.change.high < 0:
        yield "recalibrated", f"{start}, which helps on the others: {sides}."
    elif loss.change.low is not None and loss.change.low > 0:
        yield "recalibration-worse", f"{start}, which makes it worse on the others: {sides}."
    else:
        yield "recalibration-unclear", f"{start}, which is not shown to help on the others: {sides}."


def _interval(value: Value) -> str:
    return "" if value.low is None else f"[{value.low:.2f}, {value.high:.2f}]"
