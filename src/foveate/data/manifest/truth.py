"""The truth of cases as a table tells it: which columns are findings, and how labels are spelt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from foveate.data.manifest.rows import Header, ManifestRow, Problem
from foveate.data.manifest.words import Missing, in_quotes, is_number, meaning, plain
from foveate.study.settings import TableRules

_TYPOS = (
    0.1  # so many cells of a finding may be none of its words, and be asked for; with more it is metadata
)
_GRADES = 8  # different numbers beside 0 and 1 that still look like a finding with grades
_MANY = 100  # different cells without a meaning, after which no further one is looked at
_WHOLE = re.compile(r"([+-]?\d+)[.,]0+")
_WORDS: Mapping[str, int | None] = {"present": 1, "absent": 0, "unknown": None}
_UNCERTAIN: Mapping[str, int | None] = {"unknown": None, "positive": 1, "negative": 0}


def rest_of(rules: TableRules, classes: Iterable[str]) -> Missing:
    """The words for what is not known; none of them is a class."""
    found = Missing.of(rules.missing)
    return Missing(found.words - {plain(name).casefold() for name in classes})


# ---- findings -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FoundFindings:
    """What the values of columns say.

    Attributes:
        names: columns of findings.
        counted: those among them that hold both 0 and 1, in figures.
        aside: columns that look like findings and are none, with the reason.
        odd: cells that keep a column from being a finding, as ``(line, text)``.
    """

    names: tuple[str, ...]
    counted: tuple[str, ...]
    aside: Mapping[str, str]
    odd: tuple[Problem, ...]

    @classmethod
    def among(cls, table: Header, candidates: Sequence[str], missing: Missing) -> FoundFindings:
        """Look at every column that has no part yet."""
        names, counted, aside, odd = [], [], dict[str, str](), list[Problem]()
        for name in candidates:
            cells = ColumnCells.of(table.column(name), missing)
            if cells.is_finding:
                names.append(name)
                if cells.is_counted:
                    counted.append(name)
            elif cells.has_typos:
                odd += _odd(table, name, cells)
            elif reason := cells.reason_aside():
                aside[name] = reason
        return cls(tuple(names), tuple(counted), aside, tuple(odd))


@dataclass(frozen=True, slots=True)
class ColumnCells:
    """What the cells of one column mean.

    Attributes:
        counts: of each text, as it stands there.
        meanings: of those that have one.
    """

    counts: Mapping[str, int]
    meanings: Mapping[str, str]

    @classmethod
    def of(cls, texts: Iterable[str], missing: Missing) -> ColumnCells:
        """Count them."""
        counts, meanings, failed = Counter(texts), dict[str, str](), 0
        for text in counts:
            try:
                meanings[text] = meaning(text, missing)
            except ValueError:
                failed += 1
            if failed > _MANY:  # a column of names, ages or remarks
                break
        return cls(counts, meanings)

    def with_meaning(self, *wanted: str) -> list[str]:
        """The texts of some meanings."""
        return [text for text, found in self.meanings.items() if found in wanted]

    @property
    def odd(self) -> list[str]:
        """The texts that mean nothing for a finding."""
        return [text for text in self.counts if text not in self.meanings]

    @property
    def is_finding(self) -> bool:
        """Every cell has a meaning, and 0 or 1 occur; in words, both of them."""
        known = self.with_meaning("present", "absent")
        return not self.odd and (any(is_number(text) for text in known) or self._both)

    @property
    def is_counted(self) -> bool:
        """A finding that holds both 0 and 1 in figures."""
        told = {self.meanings[text] for text in self.with_meaning("present", "absent") if is_number(text)}
        coded = any(is_number(text) for text in self.with_meaning("unknown"))
        return not self.odd and len(told) == 2 and not coded

    @property
    def has_typos(self) -> bool:
        """Nearly every cell has a meaning."""
        cells = sum(count for text, count in self.counts.items() if self.meanings.get(text) != "unknown")
        odd = self.odd
        words = [text for text in odd if not is_number(text)]
        return bool(words) and self._both and sum(self.counts[text] for text in odd) <= _TYPOS * cells

    def reason_aside(self) -> str:
        """Why a column that looks like a finding is none; empty if it does not look like one."""
        odd, known = self.odd, self.with_meaning("present", "absent")
        if not odd and (known or self.with_meaning("uncertain")):
            seen = known + self.with_meaning("uncertain")
            return f"holds nothing but {in_quotes(seen)}" + (" and unknown" * (len(self.counts) > len(seen)))
        if odd and self._both and (len(odd) <= _GRADES or not all(map(is_number, odd))):
            return f"holds {in_quotes(odd)} beside {in_quotes(known)}"
        numbers = {text.removesuffix(".0") for text in self.counts if self.meanings.get(text) != "unknown"}
        if numbers == {"1", "2"}:
            return "holds 1 and 2: if it is a finding, write 1 where it is present and 0 where it is absent"
        return ""

    @property
    def _both(self) -> bool:
        return {"present", "absent"} <= set(self.meanings.values())


def _odd(table: Header, name: str, cells: ColumnCells) -> list[Problem]:
    odd, way = set(cells.odd), "correct it, or name the findings without this column (--finding)"
    return [
        (line, f"{name} is '{text}', where nearly all others say present or absent: {way}")
        for line, text in table.numbered(name)
        if text in odd
    ]


@dataclass(frozen=True, slots=True)
class FindingReader:
    """How the cells of a finding become 1, 0 or unknown.

    Attributes:
        missing: words that say that it is not known.
        uncertain: what those say that it is uncertain.
        known: the cells that were read before.
    """

    missing: Missing
    uncertain: int | None
    known: dict[str, int | None] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, missing: Missing, rules: TableRules) -> FindingReader:
        """By the rules of a table."""
        return cls(missing, _UNCERTAIN[rules.uncertain])

    def read(self, text: str) -> int | None:
        """What a cell says: 1 present, 0 absent, None unknown.

        Raises:
            ValueError: it says nothing of the kind.
        """
        if text not in self.known:
            found = meaning(text, self.missing)
            self.known[text] = self.uncertain if found == "uncertain" else _WORDS[found]
        return self.known[text]


def one_of(row: ManifestRow, names: Sequence[str], missing: Missing) -> str | None:
    """The one column of several that is 1, of columns that exclude each other; None if all are empty.

    Raises:
        ValueError: it is not exactly one, or a cell is neither 0 nor 1.
    """
    found = {}
    for name in names:
        try:
            found[name] = meaning(row.values[name], missing)
        except ValueError:
            raise ValueError(
                f"{name} is '{row.values[name]}': columns that exclude each other are 0 or 1"
            ) from None
    there = [name for name, value in found.items() if value == "present"]
    doubtful = [name for name, value in found.items() if value == "uncertain"]
    if len(there) == 1 and not doubtful:
        return there[0]
    if not there and set(found.values()) == {"unknown"}:
        return None
    what = (
        f"{' and '.join(there)} {'are' if len(there) > 1 else 'is'} 1"
        if there
        else f"none of {', '.join(names)} is 1"
    )
    doubt = f", and {', '.join(doubtful)} uncertain" if doubtful else ""
    raise ValueError(f"{what}{doubt}: one_hot needs exactly one 1")


# ---- labels -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LabelReader:
    """How the cells of a label become names of classes.

    Attributes:
        missing: words that say that the label is not known.
        names: by ``whole`` of a name, the name.
        separator: between several findings in one cell; None where a cell holds one class.
    """

    missing: Missing
    names: Mapping[str, str] = field(default_factory=dict)
    separator: str | None = None

    @classmethod
    def of(cls, texts: Iterable[str], classes: Sequence[str], rules: TableRules) -> LabelReader:
        """Learn the spellings.

        Args:
            texts: of the column; of equal ones but for ``.0`` the shorter one is the name.
            classes: that are known beforehand; then ``texts`` do not count.
            rules: of the table.
        """
        missing = rest_of(rules, classes)
        if classes or rules.separator:
            return cls(missing, {whole(plain(name)): name for name in classes}, rules.separator)
        spelt = {plain(text) for text in set(texts) if text not in missing}
        return cls(missing, {whole(name): name for name in sorted(spelt, key=len, reverse=True)})

    def read(self, text: str) -> str | None:
        """The class that a cell names; None where it says that the class is not known."""
        if text in self.missing:
            return None
        name = plain(text)
        return self.names.get(whole(name), name)

    def parts(self, text: str) -> list[str] | None:
        """The findings that a cell names; None where it says that they are not known."""
        if text in self.missing:
            return None
        return [name for part in plain(text).split(self.separator) if (name := part.strip())]


def whole(name: str) -> str:
    """A name by which ``1`` and ``1.0`` are the same."""
    return match[1] if (match := _WHOLE.fullmatch(name)) else name


def loosely(name: str) -> str:
    """A key under which names are the same that differ by case, zeros in front, blanks, ``-`` and ``_``."""
    text = re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", whole(name).casefold())
    return re.sub(r"(?<![\d.,])0+(?=\d)", "", text)


Listing = Literal["|", ";", ",", "/", "+", "&"]
_LISTINGS: tuple[Listing, ...] = ("|", ";", ",", "/", "+", "&")


def listing_in(labels: Sequence[str]) -> dict[str, Listing]:
    """Labels that seem to name several findings: with ``|``, or of parts that are labels by themselves."""
    alone = set(labels)
    found: dict[str, Listing] = {}
    for label in labels:
        for mark in _LISTINGS:
            parts = [part.strip() for part in label.split(mark)]
            if len(parts) > 1 and all(parts) and (mark == "|" or alone.issuperset(parts)):
                found[label] = mark
                break
    return found
