"""Which group each case belongs to by a column of the manifest: age bands, thirds of a number, or values.

* Ages (a column called age, in years or as DICOM writes them: ``045Y``, ``006M``): under 18, 18 to 39, 40
  to 64, 65 and over.
* Other numbers with more than 12 distinct values: thirds of the cases, named by their bounds.
* Anything else: one group per value, at most 12; more is refused, because no group would be large enough.
* Cases without a value are a group of their own: that a value is missing is seldom by chance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.intervals import Floats

MOST = 12  # values of a column that are groups of their own
MISSING = "not recorded"
BANDS = ((18, "under 18"), (40, "18–39"), (65, "40–64"), (np.inf, "65 and over"))
#: Words in a column's name by which it is looked at unasked.
TELLING = frozenset(
    (
        *("age", "sex", "gender", "race", "ethnicity", "skin", "site", "view", "projection"),
        *("scanner", "manufacturer", "vendor", "device", "station"),
        *("institution", "hospital", "center", "centre", "country"),
    )
)
_BLANK = frozenset(("", "nan", "na", "n/a", "none", "null", "unknown", "?", "-"))
_AGE = re.compile(r"(\d+(?:\.\d+)?)([YMWD]?)", re.IGNORECASE)
_PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 365.25 / 7, "D": 365.25}


@dataclass(frozen=True, slots=True)
class Grouping:
    """The groups of one column.

    Attributes:
        kind: ``bands``, ``thirds``, ``values``, or ``refused``.
        names: of the groups that occur, in order; a group of missing values is the last.
        members: ``(N,)`` place of each case's group among the names.
        reason: why the column is refused.
    """

    kind: Literal["bands", "thirds", "values", "refused"]
    names: tuple[str, ...]
    members: NDArray[np.intp]
    reason: str = ""


def telling_columns(names: Iterable[str]) -> list[str]:
    """The columns whose name holds one of the words of ``TELLING``, in their order."""
    return [name for name in names if TELLING & _words(name)]


def group(name: str, values: Sequence[str]) -> Grouping:
    """Divide cases into groups.

    Args:
        name: of the column.
        values: ``(N,)`` of the cases, as text.
    """
    blank = np.array([value.strip().lower() in _BLANK for value in values], dtype=bool)
    given = [value.strip() for value, gone in zip(values, blank, strict=True) if not gone]
    if not given:
        return _refused(len(values), "no case has a value")
    ages = [_AGE.fullmatch(value) for value in given]
    if "age" in _words(name) and all(ages):
        years = np.array([float(age[1]) / _PER_YEAR[age[2].upper()] for age in ages if age])
        place = np.searchsorted([limit for limit, _ in BANDS], years, side="right")
        return _named("bands", [label for _, label in BANDS], place, blank)
    distinct = sorted(set(given), key=_in_order)
    if len(distinct) <= MOST:
        return _named("values", distinct, np.array([distinct.index(value) for value in given]), blank)
    numbers = [_number(value) for value in given]
    if not np.isfinite(numbers).all():
        return _refused(
            len(values), f"{len(distinct)} different values are too many to be groups (at most {MOST})"
        )
    return _named("thirds", *_thirds(np.array(numbers)), blank)


def _thirds(numbers: Floats) -> tuple[list[str], NDArray[np.intp]]:
    """Names and members of the lower, middle and upper third; equal numbers stay together."""
    low, high = np.quantile(numbers, [1 / 3, 2 / 3], method="inverted_cdf")
    names = [f"up to {low:g}", f"over {low:g}, up to {high:g}", f"over {high:g}"]
    return names, np.searchsorted([low, high], numbers, side="left")


def _named(
    kind: Literal["bands", "thirds", "values"],
    names: Sequence[str],
    place: NDArray[np.intp],
    blank: NDArray[np.bool_],
) -> Grouping:
    """Leave out the groups that do not occur, and add the one of missing values."""
    members = np.full(len(blank), len(names))
    members[~blank] = place
    occurring = np.unique(members)
    all_names = [*names, MISSING]
    return Grouping(
        kind, tuple(all_names[number] for number in occurring), np.searchsorted(occurring, members)
    )


def _refused(cases: int, reason: str) -> Grouping:
    return Grouping("refused", (), np.zeros(cases, dtype=np.intp), reason)


def _words(name: str) -> set[str]:
    """``PatientAge``, ``patient_age`` and ``Patient Age`` are the words patient and age."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return set(re.findall(r"[a-z]+", parted.lower()))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _in_order(text: str) -> tuple[float, str]:
    """Numbers by size, then words by letters."""
    number = _number(text)
    return (number, text) if np.isfinite(number) else (np.inf, text)
