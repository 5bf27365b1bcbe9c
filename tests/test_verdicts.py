"""The rules of the verdicts, each on figures made for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveate.evaluate.intervals import Value
from foveate.evaluate.verdicts import (
    CONDITIONS,
    FAITHFUL,
    LOCALIZING,
    RULES,
    SHORTCUT,
    Condition,
    above_nought,
    beats,
    judge,
    not_tested,
    other_picture,
    other_pictures,
    same_picture,
)

YES, NO = Condition("passed", ""), Condition("failed", "", ("centre",))


def value(low: float, high: float, patients: int = 20) -> Value:
    return Value((low + high) / 2, low, high, patients, patients)


UP, DOWN, OPEN = value(0.1, 0.3), value(-0.3, -0.1), value(-0.1, 0.2)
MISSING = Value(None, None, None, 0, 0, "nothing is marked")


def test_two_ways_must_lie_above_nought_and_none_below() -> None:
    assert beats({"random": [UP, UP, OPEN]}, 2, "gap").state == "passed"
    assert beats({"random": [UP, OPEN, OPEN]}, 2, "gap").state == "failed"
    assert beats({"random": [UP, UP, DOWN]}, 2, "gap").state == "failed"
    assert beats({"random": [UP, UP, MISSING]}, 2, "gap").state == "passed"
    assert beats({"random": [UP, MISSING, MISSING]}, 2, "gap") == not_tested("nothing is marked")


def test_the_controls_that_were_not_beaten_are_named() -> None:
    found = beats({"random": [UP], "centre": [OPEN], "edge": [DOWN]}, 1, "pointing game")
    told = "pointing game: worse than an edge map and not shown to be better than a centred map"
    assert found == Condition("failed", told, ("centre", "edge"), ("edge",))
    mixed = beats({"random": [UP, UP, DOWN]}, 1, "ways")
    assert mixed.state == "failed" and mixed.worse_than == (), "better in more ways than worse"


@pytest.mark.parametrize(
    ("own", "state"),
    [
        (value(0.6, 0.9), "passed"),
        (value(0.4, 0.9), "failed"),  # it may be another picture
        (MISSING, "not tested"),
        (value(0.6, 0.9, patients=4), "not tested"),
    ],
)
def test_the_same_picture(own: Value, state: str) -> None:
    assert same_picture(own).state == state


def test_another_picture() -> None:
    assert other_picture(value(-0.1, 0.49)).state == "passed"
    assert other_picture(value(0.3, 0.51)).state == "failed"
    assert other_picture(Value(1.0, 1.0, 1.0, 20, 20)).state == "failed"  # an edge detector
    assert other_picture(Value(0.2, None, None, 20, 20, "no interval was asked for")) == not_tested(
        "no interval was asked for"
    )


def test_other_pictures_need_every_stage() -> None:
    gone, stays = value(-0.1, 0.3), value(0.2, 0.6)
    assert other_pictures({"half": gone, "all": gone}) == Condition(
        "passed", "half: rank correlation 0.10 [−0.10, 0.30]; all: rank correlation 0.10 [−0.10, 0.30]"
    )
    kept = "rank correlation 0.40 [0.20, 0.60], not below 0.5"
    assert other_pictures({"half": stays, "all": gone}) == Condition("failed", f"half: {kept}")
    assert other_pictures({"half": gone, "all": stays}) == Condition("failed", f"all: {kept}")
    assert other_pictures({"half": MISSING, "all": stays}) == not_tested("half: nothing is marked")


def test_above_nought() -> None:
    assert above_nought(UP, "rise") == Condition("passed", "rise 0.20 [0.10, 0.30]")
    assert above_nought(OPEN, "rise") == Condition("failed", "rise 0.05 [−0.10, 0.20]")
    assert above_nought(MISSING, "rise") == not_tested("nothing is marked")


GOOD = {"faithful": YES, "localizing": YES, "randomisation": YES, "noise": YES, "shift": YES}


def test_usable_for_both() -> None:
    found = judge(GOOD)
    assert found.usable_for == (FAITHFUL, LOCALIZING)
    assert found.sentence == f"usable for {FAITHFUL} and {LOCALIZING}."


@pytest.mark.parametrize(
    ("changed", "usable", "words"),
    [
        ({"faithful": NO}, (LOCALIZING,), f"not shown to be better than a centred map at {FAITHFUL}"),
        ({"localizing": NO}, (FAITHFUL,), f"not shown to be better than a centred map at {LOCALIZING}"),
        ({"randomisation": NO}, (), "it stays the same when the model's layers are drawn anew"),
        ({"noise": NO}, (), "a little noise changes the picture"),
        ({"positive": NO}, (LOCALIZING,), "counts no more than random places"),
        ({"negative": NO}, (FAITHFUL, LOCALIZING), "evidence against the class is not shown"),
        ({"permuted": NO}, (LOCALIZING,), "a model trained on permuted labels draws the same picture"),
        ({"second": NO}, (FAITHFUL, LOCALIZING), "another training draws another picture"),
        ({"localizing": not_tested("nothing is marked")}, (FAITHFUL,), "not tested (nothing is marked)"),
        ({"randomisation": not_tested("no interval")}, (), "no verdict"),
        ({"noise": not_tested("no interval")}, (FAITHFUL, LOCALIZING), "usable"),
    ],
)
def test_what_one_condition_does_to_the_verdict(
    changed: dict[str, Condition], usable: tuple[str, ...], words: str
) -> None:
    found = judge(GOOD | changed)
    assert found.usable_for == usable and words in found.sentence


def test_a_shortcut_is_told_beside_a_faithful_picture() -> None:
    assert judge(GOOD, flagged=True).sentence.endswith(f"; {SHORTCUT}.")


def test_the_table_of_the_docs_is_that_of_the_conditions() -> None:
    page = (Path(__file__).parents[1] / "docs" / "trust.md").read_text(encoding="utf-8")
    table = page[page.index("| condition | in the terminal |") :].split("\n\n")[0].splitlines()[2:]
    stated = [tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in table]
    assert stated == [
        (f"`{key}`", facts.short, facts.sentence, facts.rule) for key, facts in CONDITIONS.items()
    ]


def test_short_names_tell_conditions_apart() -> None:
    short = [facts.short for facts in CONDITIONS.values()]
    assert len(set(short)) == len(short) and sum(map(len, short)) + len(short) <= 80


def test_every_condition_has_its_rule_in_words() -> None:
    assert set(RULES) == {
        *GOOD,
        "permuted",
        "second",
        "positive",
        "negative",
        "attention",
        FAITHFUL,
        LOCALIZING,
    }
