"""What scores of heat maps allow one to say: conditions that are passed, failed or not tested, and a verdict.

The rules are these, and nothing else decides (``RULES`` prints them). Every condition is decided by an
interval over patients, not by a mean: a method has to show what it claims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from foveate.evaluate.intervals import Value

State = Literal["passed", "failed", "not tested"]
ALIKE = 0.5
"""Rank correlation above which two pictures count as the same and below which as different: a pair of maps
shares less than a quarter of the variance of its ranks there."""
FEWEST = 5
"""Patients below whom nothing is decided: an interval over fewer says little."""
CONTROLS = {"random": "a random map", "centre": "a centred map", "edge": "an edge map"}
FAITHFUL, LOCALIZING = "showing what the answer rests on", "localizing"


@dataclass(frozen=True, slots=True)
class ConditionFacts:
    """What a method is asked to show.

    Attributes:
        short: its name in the terminal, where eleven columns must fit into eighty letters.
        sentence: its name on the page.
        rule: when it is passed.
        fault: what a verdict says of a method that fails it; empty where the verdict says so otherwise.
    """

    short: str
    sentence: str
    rule: str
    fault: str = ""


CONDITIONS = {
    "faithful": ConditionFacts(
        "faithful",
        "It shows what the score depends on",
        "With what the map points at taken away, the score falls faster than in the opposite order (blur, "
        "mean, ROAD), and the map's values in random places add up to what the score loses without them "
        "(sensitivity-n). In two of these four ways the interval of the paired difference from the random, "
        "from the centred and from the edge map lies above 0, and in none below. A way by which the image "
        "loses nothing decides nothing.",
    ),
    "randomisation": ConditionFacts(
        "forgets",
        "It changes when the model forgets",
        "With the later half of the layers drawn anew, and with all of them, the map is another picture: the "
        f"interval of the rank correlation of the magnitudes lies below {ALIKE} both times. (Guided maps are "
        "known to survive the first.)",
        "it stays the same when the model's layers are drawn anew",
    ),
    "permuted": ConditionFacts(
        "labels",
        "It changes when the labels were nonsense",
        "A model trained on permuted labels gives another picture, by the same rule.",
        "a model trained on permuted labels draws the same picture",
    ),
    "noise": ConditionFacts(
        "noise",
        "A little noise leaves it as it is",
        "With a little noise on the image the picture stays the same: the interval of the rank correlation "
        f"lies above {ALIKE}.",
        "a little noise changes the picture",
    ),
    "shift": ConditionFacts(
        "shift",
        "It moves with the image",
        "With the image moved a little, and the map moved back, the picture stays the same, by the same "
        "rule.",
        "moving the image a little changes the picture",
    ),
    "second": ConditionFacts(
        "second",
        "A second training draws the same",
        "A second training gives the same picture, by the same rule.",
        "another training draws another picture",
    ),
    "positive": ConditionFacts(
        "for",
        "What it calls evidence for counts",
        "Without its strongest positive evidence the score falls by more than without the same share of "
        "random places: the interval of the paired difference lies above 0.",
        "what it calls evidence for the class counts no more than random places",
    ),
    "negative": ConditionFacts(
        "against",
        "What it calls evidence against counts",
        "Without its strongest negative evidence the score rises: the interval lies above 0. Told, but no "
        "ground for a verdict.",
        "what it calls evidence against the class is not shown to be any",
    ),
    "localizing": ConditionFacts(
        "points",
        "It points at what is marked",
        "The strongest evidence for the true class lies inside the marked region more often than that of "
        "the random, the centred and the edge map: the interval of each paired difference lies above 0.",
    ),
    "attention": ConditionFacts(
        "agrees",
        "It agrees with the model’s attention",
        "The map agrees with the model's own attention: the interval of their rank correlation lies above "
        "that with the attention for another patient. Told, but no ground for a verdict.",
    ),
}
"""By its key in ``trust.json``; file, terminal, report and docs/trust.md draw from this table."""
RULES = {
    **{key: facts.rule for key, facts in CONDITIONS.items()},
    FAITHFUL: (
        "Usable if faithful and randomisation are passed, and permuted, noise, shift and positive not failed."
    ),
    LOCALIZING: "Usable if localizing and randomisation are passed, and noise and shift not failed.",
}
SHORTCUT = "but the model was found to use a shortcut: the picture may be faithful and the model still wrong"
_GROUNDS = {
    FAITHFUL: (("faithful", "randomisation"), ("noise", "shift", "permuted", "positive")),
    LOCALIZING: (("localizing", "randomisation"), ("noise", "shift")),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that a method was asked to show.

    Attributes:
        state: ``passed``, ``failed``, or ``not tested``.
        reason: what decided, in words; for ``not tested``, why.
        not_beaten: controls that the method was not shown to be better than.
        worse_than: those of them that were shown to be better than the method.
    """

    state: State
    reason: str
    not_beaten: tuple[str, ...] = ()
    worse_than: tuple[str, ...] = ()

    def in_words(self) -> str:
        """How the method compares with controls that it did not beat, worst first."""
        ties = [control for control in self.not_beaten if control not in self.worse_than]
        told = [f"worse than {_listed(self.worse_than)}"] if self.worse_than else []
        return " and ".join([*told, *([f"not shown to be better than {_listed(ties)}"] if ties else [])])


@dataclass(frozen=True, slots=True)
class MapVerdict:
    """What a method may be used for.

    Attributes:
        usable_for: of ``FAITHFUL`` and ``LOCALIZING``.
        sentence: the same in words, with what speaks against it.
    """

    usable_for: tuple[str, ...]
    sentence: str


def not_tested(reason: str) -> Condition:
    """A condition that nobody could decide, and why."""
    return Condition("not tested", reason)


def beats(
    differences: Mapping[str, Sequence[Value]], needed: int, what: str, *, fewest: int = FEWEST
) -> Condition:
    """Whether a method is better than each control.

    Args:
        differences: for each control, paired differences (method less control, above 0 is better), one for
            each way of measuring; those that are undefined decide nothing.
        needed: in how many of these the interval must lie above 0; in none may it lie below. A control is
            better than the method where more of them lie below 0 than above.
        what: is measured, in words.
        fewest: patients below whom nothing is decided.
    """
    lost, worse = [], []
    for control, values in differences.items():
        decided = [value for value in values if not _undecidable([value], fewest)]
        if len(decided) < needed:
            return not_tested(_undecidable(values, fewest))
        better = sum(low > 0 for low, _ in _bounds(decided))
        below = sum(high < 0 for _, high in _bounds(decided))
        if better < needed or below:
            lost.append(control)
        if below > better:
            worse.append(control)
    if lost:
        found = Condition("failed", "", tuple(lost), tuple(worse))
        return replace(found, reason=f"{what}: {found.in_words()}")
    return Condition("passed", f"{what}: better than {_listed(list(differences))}")


def same_picture(own: Value) -> Condition:
    """Whether two ways to the map of a case give the same picture.

    Args:
        own: mean rank correlation of the two maps of a case.
    """
    if reason := _undecidable([own]):
        return not_tested(reason)
    ((low, _),) = _bounds([own])
    state: State = "passed" if low > ALIKE else "failed"
    return Condition(
        state, f"rank correlation {_told(own)}" + ("" if low > ALIKE else f", not above {ALIKE}")
    )


def other_picture(own: Value) -> Condition:
    """Whether a model that knows nothing gives another picture.

    Args:
        own: mean rank correlation of the magnitudes of both maps of a case.
    """
    if reason := _undecidable([own]):
        return not_tested(reason)
    ((_, high),) = _bounds([own])
    state: State = "passed" if high < ALIKE else "failed"
    return Condition(
        state, f"rank correlation {_told(own)}" + ("" if high < ALIKE else f", not below {ALIKE}")
    )


def other_pictures(own: Mapping[str, Value]) -> Condition:
    """Whether a model gives another picture each time that it forgets more.

    Args:
        own: by what was drawn anew, in words, mean rank correlation of the magnitudes of both maps of a case.
    """
    found = {what: other_picture(value) for what, value in own.items()}
    for state in ("not tested", "failed"):
        if told := [f"{what}: {each.reason}" for what, each in found.items() if each.state == state]:
            return Condition(state, "; ".join(told))
    return Condition("passed", "; ".join(f"{what}: {each.reason}" for what, each in found.items()))


def above_nought(found: Value, what: str) -> Condition:
    """Whether a figure is shown to lie above 0.

    Args:
        found: the figure.
        what: it is, in words.
    """
    if reason := _undecidable([found]):
        return not_tested(reason)
    ((low, _),) = _bounds([found])
    return Condition("passed" if low > 0 else "failed", f"{what} {_told(found)}")


def judge(conditions: Mapping[str, Condition], *, flagged: bool = False) -> MapVerdict:
    """The verdict on a method, by ``RULES``.

    Args:
        conditions: by name, as in ``RULES``; one that is absent was not tested.
        flagged: whether the model was found to use a shortcut: then a faithful picture shows a wrong model.
    """
    usable = tuple(purpose for purpose in _GROUNDS if _may_be_used(conditions, purpose))
    parts = [f"usable for {' and '.join(usable)}"] if usable else []
    parts += [_refusal(conditions, purpose) for purpose in _GROUNDS if purpose not in usable]
    parts += [
        facts.fault
        for name, facts in CONDITIONS.items()
        if facts.fault and _state(conditions, name) == "failed"
    ]
    parts += [SHORTCUT] if flagged else []
    return MapVerdict(usable, "; ".join(part for part in parts if part) + ".")


def _may_be_used(conditions: Mapping[str, Condition], purpose: str) -> bool:
    passed, unharmed = _GROUNDS[purpose]
    return all(_state(conditions, name) == "passed" for name in passed) and all(
        _state(conditions, name) != "failed" for name in unharmed
    )


def _refusal(conditions: Mapping[str, Condition], purpose: str) -> str:
    """Why a method may not be used for a purpose."""
    name = "faithful" if purpose == FAITHFUL else "localizing"
    found = conditions.get(name)
    if found is None or found.state == "not tested":
        return f"{purpose} was not tested ({found.reason if found else 'no figures'})"
    if found.state == "failed":
        return f"{found.in_words()} at {purpose}"
    missing = [
        f"{ground}: {conditions[ground].reason if ground in conditions else 'no figures'}"
        for ground in _GROUNDS[purpose][0]
        if _state(conditions, ground) == "not tested"
    ]
    return f"no verdict on {purpose} ({'; '.join(missing)})" if missing else f"not usable for {purpose}"


def _state(conditions: Mapping[str, Condition], name: str) -> State:
    found = conditions.get(name)
    return "not tested" if found is None else found.state


def _undecidable(values: Sequence[Value], fewest: int = FEWEST) -> str:
    """Why one of these figures cannot decide anything; empty where all can."""
    for value in values:
        if value.value is None or value.low is None or value.high is None:
            return value.reason or "no interval"
        if value.patients < fewest:
            return f"{value.patients} patients are too few, {fewest} are needed"
    return ""


def _bounds(values: Sequence[Value]) -> list[tuple[float, float]]:
    return [(value.low, value.high) for value in values if value.low is not None and value.high is not None]


def _told(value: Value) -> str:
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]".replace("-", "−")


def _listed(controls: Sequence[str]) -> str:
    words = [CONTROLS.get(name, name) for name in controls]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
