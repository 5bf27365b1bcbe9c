"""Whether two names of patients, or of cases, are two spellings of one.

| spelling | what happens (``ids: checked``) |
|---|---|
| full-width digits, odd blanks, unseen characters | read as plain text |
| ``17`` and ``17.0`` where no name has another fraction | one name, ``17``: it went through floats |
| ``17`` and ``00017``; ``P17`` and ``p17``; ``P 17``, ``P-17`` and ``P17`` | refused: one or two? |
| ``1.23457E+22``; numbers of more than 15 digits that all end in zeros | refused: a spreadsheet cut them |
"""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from foveate.data.manifest.rows import Problem
from foveate.data.manifest.truth import whole
from foveate.data.manifest.words import in_quotes, plain
from foveate.study.settings import TableRules
from foveate.types import Case

_CUT = re.compile(r"\d([.,]\d*)?E\+\d+", re.IGNORECASE)
_FRACTION = re.compile(r"\d+[.,]\d+")
_ZEROS = re.compile(r"(?<![\d.,])0+(?=\d)")
_IN_NUMBERS = re.compile(r"(?<=\d)[\s_-]+(?=\d)")
_IN_WORDS = re.compile(r"(?<=[^\W\d_])[\s_-]+(?=\w)|(?<=\d)[\s_-]+(?=[^\W\d_])")
_PATTERN = str.maketrans(string.ascii_lowercase + string.digits, "a" * 26 + "0" * 10)
_EXACT = 15  # significant digits that spreadsheets keep of a number
_WAY_OUT = (
    "Write them alike if they are, or so that they differ by more; or say `ids: normalised` (they are one) "
    "or `ids: as-written` (they are two) in the study's data (foveate init --ids)"
)


def alike(name: str) -> str:
    """A key under which all likely spellings of one name are the same."""
    text = plain(name).casefold().strip("'\"")
    if text.isdecimal():
        return text.lstrip("0") or "0"
    if "0" in text:
        text = _ZEROS.sub("", whole(text))
    if "-" in text or "_" in text or " " in text:
        text = _IN_WORDS.sub("", _IN_NUMBERS.sub(" ", text))  # 1-7 is not 17
    return text


def _all_different(names: Iterable[str]) -> bool:
    """Whether names are certainly no spellings of each other: all of one pattern, and not by case alone."""
    folded = [name.casefold() for name in names]
    return len({name.translate(_PATTERN) for name in folded}) < 2 and len(set(folded)) == len(folded)


@dataclass(frozen=True, slots=True)
class SettledNames:
    """Cases whose names were compared.

    Attributes:
        cases: with one name for each patient, as far as that is certain or was asked for.
        problems: names that may be two spellings of one, or were cut, as ``(line, text)``.
        notes: what was taken for one, in words.
    """

    cases: list[Case]
    problems: list[Problem]
    notes: list[str]


def settle_names(
    cases: Sequence[Case], rules: TableRules, *, case: str | None, patient: str | None
) -> SettledNames:
    """Find names that are two spellings of one.

    Args:
        cases: of a manifest.
        rules: of the table.
        case, patient: the columns that name them; None where none does, or names need not be compared.
    """
    settled = SettledNames(list(cases), [], [])
    if rules.ids == "as-written":
        return settled
    if patient and patient != case:
        _settle(settled, rules, patient, "patient_id")
    if case:
        _settle(settled, rules, case, "case_id")
        if patient == case:
            settled.cases[:] = [replace(each, patient_id=each.case_id) for each in settled.cases]
    return settled


def _settle(settled: SettledNames, rules: TableRules, column: str, field: str) -> None:
    """Compare the names of one column."""
    counts = Counter(name for each in settled.cases if (name := getattr(each, field)))
    cut = _cut(counts)
    if not cut and _all_different(counts):
        return
    groups: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        if name not in cut:
            groups[alike(name)].append(name)
    several = [names for names in groups.values() if len(names) > 1]
    one = dict(_merged(several, counts, rules, floats=_are_floats(counts)))
    if one:
        settled.notes.append(_note(column, one))
        settled.cases[:] = [
            replace(each, **{field: one.get(name := getattr(each, field), name)}) for each in settled.cases
        ]
    settled.problems.extend(_problems(settled.cases, column, field, several, cut))


def _merged(
    several: Sequence[Sequence[str]], counts: Mapping[str, int], rules: TableRules, *, floats: bool
) -> Iterator[tuple[str, str]]:
    """Spellings that are taken for another one of the same name."""
    for names in several:
        if rules.ids == "normalised":
            usual = max(names, key=lambda name: (counts[name], -len(name), name))
            yield from ((name, usual) for name in names if name != usual)
        elif floats:
            yield from ((name, short) for name in names if (short := whole(name)) != name and short in names)


def _are_floats(names: Mapping[str, int]) -> bool:
    """Whether no name has a fraction other than zero."""
    return all(whole(name) != name for name in names if _FRACTION.fullmatch(name))


def _cut(names: Mapping[str, int]) -> set[str]:
    """Numbers whose last digits were lost."""
    long = {name for name in names if name.isdecimal() and len(name) > _EXACT}
    rounded = long if len(long) > 1 and all(not name[_EXACT:].strip("0") for name in long) else set()
    return {name for name in names if _CUT.fullmatch(name)} | rounded


def _note(column: str, one: Mapping[str, str]) -> str:
    pairs = [f"'{name}' as '{other}'" for name, other in one.items()]
    more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
    return f"{column}: read {', '.join(pairs[:3])}{more}"


def _problems(
    cases: Sequence[Case], column: str, field: str, several: Sequence[Sequence[str]], cut: set[str]
) -> Iterator[Problem]:
    """Rows that spell a name otherwise than the first row that has it, and rows whose name was cut."""
    present = {getattr(each, field) for each in cases}
    group = {name: number for number, names in enumerate(several) for name in names if name in present}
    first: dict[int, tuple[str, int]] = {}
    told = False
    for each in cases:
        name = getattr(each, field)
        if name in cut:
            what = "a spreadsheet cut this number, and others may have become the same: write it as text"
            yield each.row, f"{column} is '{name}': {what} (`ids: as-written` takes it as it is)"
        if name not in group:
            continue
        earlier, row = first.setdefault(group[name], (name, each.row))
        if earlier != name:
            way = "" if told else f" {_WAY_OUT}"
            told = True
            yield each.row, f"{column} is '{name}', and in row {row} '{earlier}': are they one?{way}"


def other_spellings(name: str, known: Iterable[str]) -> str:
    """Names that may be other spellings of one, as a question; empty if there are none."""
    key = alike(name)
    found = [each for each in known if alike(each) == key]
    return f": is it {in_quotes(found)}? Write it alike" if found else ""
