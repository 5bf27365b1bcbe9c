"""Rules that say which series of a study is which view of a case.

``--series 'ART=.*arterial.*'`` is a view and a regular expression, sought in the description of the series
with what tells its parts apart (``dwi b=800``), in any case of letters. A rules file says more, by columns
of the table of series::

    ART:
      description: arterial
      modality: CT
      plane: axial
      slices: ">= 20"
    T2:
      description: t2.*tse
      choose: most slices

``choose`` (``first``, ``last`` by date and number, or ``most slices``) says which is taken where several fit.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.data.hospital.volumes import SeriesPart
from foveate.errors import UsageError
from foveate.study.yaml_file import read_yaml

CHOICES = ("first", "last", "most slices")
_NUMBERS = ("slices", "parts", "rows", "columns")
_TEXTS = ("modality", "plane", "protocol", "study_description", "part", "laterality", "view_position")
_COMPARED = re.compile(r"\s*(>=|<=|>|<|=)?\s*(\d+(?:\.\d+)?)\s*")
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq,
}  # fmt: skip
Condition = Callable[[SeriesPart], bool]


@dataclass(frozen=True, slots=True)
class ViewRule:
    """Which series are a view.

    Attributes:
        view: its name.
        conditions: all of which hold.
        choose: one of ``CHOICES``, or empty: several that fit are a question for the user.
    """

    view: str
    conditions: tuple[Condition, ...]
    choose: str = ""

    def fits(self, part: SeriesPart) -> bool:
        """Whether a part of a series is this view."""
        return not part.problem and all(condition(part) for condition in self.conditions)

    def chosen(self, parts: Sequence[SeriesPart]) -> Sequence[SeriesPart]:
        """The one of several that is taken, or all of them if the rule does not say."""
        if not self.choose or len(parts) < 2:
            return parts
        if self.choose == "most slices":
            most = max(part.slices for part in parts)
            return [part for part in parts if part.slices == most]
        ordered = sorted(parts, key=_when)
        return [ordered[0] if self.choose == "first" else ordered[-1]]


def rules_from_options(options: Sequence[str]) -> list[ViewRule]:
    """Rules of ``--series NAME=REGEX`` options.

    Raises:
        UsageError: one is not of that form, names a view twice, or is no regular expression.
    """
    pairs = [option.partition("=") for option in options]
    for option, (view, equals, _) in zip(options, pairs, strict=True):
        if not view.strip() or not equals:
            raise UsageError(
                f"'{option}' is not NAME=REGEX", where="--series", fix="write --series 'ART=.*arterial.*'"
            )
    names = [view.strip() for view, _, _ in pairs]
    if len(set(names)) < len(names):
        raise UsageError("a view stands twice", where="--series", fix="join its expressions with |")
    return [
        ViewRule(name, (_condition("description", pattern, "--series"),))
        for name, (_, _, pattern) in zip(names, pairs, strict=True)
    ]


def rules_from_file(path: Path) -> list[ViewRule]:
    """Rules of a YAML file.

    Raises:
        UsageError: it cannot be read, or holds a column, choice or expression that there is not.
    """
    rules = []
    for view, wanted in read_yaml(path, "rules file").items():
        where = f"{path}, {view}"
        wanted = {"description": wanted} if isinstance(wanted, str) else wanted
        if not isinstance(wanted, dict) or not wanted:
            raise UsageError(
                "a rule has columns and what they hold", where=where, fix="description: arterial"
            )
        choose = str(wanted.pop("choose", ""))
        if choose and choose not in CHOICES:
            raise UsageError(f"'{choose}' is no choice", where=where, fix=f"choose: {' | '.join(CHOICES)}")
        conditions = tuple(_condition(str(name), value, where) for name, value in wanted.items())
        rules.append(ViewRule(str(view), conditions, choose))
    return rules


def _condition(column: str, value: Any, where: str) -> Condition:
    if column in _NUMBERS:
        return _number_condition(column, str(value), where)
    if column not in ("description", *_TEXTS):
        known = ", ".join(("description", *_TEXTS, *_NUMBERS))
        raise UsageError(
            f"there is no column '{column}' for rules", where=where, fix=f"the columns are: {known}"
        )
    try:
        pattern = re.compile(str(value), re.IGNORECASE)
    except re.error as error:
        raise UsageError(
            f"'{value}' is no regular expression: {error}", where=where, fix="escape signs with \\"
        ) from None
    return lambda part: pattern.search(_text(part, column)) is not None


def _number_condition(column: str, text: str, where: str) -> Condition:
    found = _COMPARED.fullmatch(text)
    if found is None:
        raise UsageError(f"'{text}' is no condition on a number", where=where, fix=f'{column}: ">= 20"')
    compare, limit = _OPERATORS[found[1] or "="], float(found[2])
    return lambda part: compare(float(_number(part, column)), limit)


def _text(part: SeriesPart, column: str) -> str:
    if column == "description":
        return part.text
    return (
        part.plane
        if column == "plane"
        else part.part
        if column == "part"
        else str(part.facts.get(column, ""))
    )


def _number(part: SeriesPart, column: str) -> int:
    return int(getattr(part, column) if column in ("slices", "parts") else part.facts.get(column) or 0)


def _when(part: SeriesPart) -> tuple[str, str, float, str]:
    facts = part.facts
    number = float(facts.get("number") or 0)
    return str(facts.get("date", "")), str(facts.get("time", "")), number, part.files[0]
