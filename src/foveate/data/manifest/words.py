"""What the cells of a table mean, however people and programs write it.

| meaning | words, in any case |
|---|---|
| not known, in every column | ``NA N/A n.a. NaN NULL <NA> . ? - – —``, ``#N/A``, other errors of Excel |
| not known, but in metadata and paths | ``unknown unk missing unbekannt inconnu k.A.`` … |
| not known, in names of patients and cases | ``none anonymous`` … (as a label, ``none`` is a class) |
| present | ``1 1.0 1,0 true yes y positive + ja wahr vrai`` … |
| absent | ``0 0.0 0,0 false no n negative nein falsch faux`` … |
| uncertain | ``-1 u uncertain possible equivocal indeterminate`` … |
| not known, in findings | ``9 99 999 9999 -9 -99 -999 -9999``, as registries and SPSS write it |
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

BLANKS = " \t\r\n\v\f\u00a0\u200b\u200c\u200d\u2060\ufeff"
"""What is no text: blanks, and characters that nobody sees."""

NOT_KNOWN = frozenset(
    (
        "", "na", "n/a", "n.a.", "n.a", "nan", "-nan", "nat", "null", "<na>", "<null>", "(null)", "\\n",
        ".", "..", "...", "…", "?", "??", "-", "--", "---", "–", "—",
        "#n/a", "#na", "#null!", "#value!", "#ref!", "#div/0!", "#name?", "#num!",
        "#nv", "#wert!", "#bezug!", "#zahl!", "#valeur!", "#nom?", "#nombre!",
    )
)  # fmt: skip
UNKNOWN = (
    "unknown", "unk", "missing", "not known", "not available", "unbekannt", "unbek.", "k.a.", "k. a.",
    "keine angabe", "inconnu", "inconnue",
)  # fmt: skip
"""Words for what is not known that a study may take for something else: see ``TableRules.missing``."""

_NOBODY = frozenset(
    (*NOT_KNOWN, *UNKNOWN, "none", "nil", "anonymous", "anonymized", "anonymised", "anonym", "anonyme")
)
_PRESENT = frozenset(
    (
        "true", "t", "yes", "y", "positive", "pos", "+", "present", "checked",
        "ja", "j", "wahr", "positiv", "oui", "vrai", "positif",
    )
)  # fmt: skip
_ABSENT = frozenset(
    (
        "false", "f", "no", "n", "negative", "neg", "absent", "unchecked",
        "nein", "falsch", "negativ", "non", "faux", "négatif", "negatif",
    )
)  # fmt: skip
_UNCERTAIN = frozenset(("u", "uncertain", "possible", "equivocal", "indeterminate", "maybe", "unclear"))
_COMMON = frozenset(string.ascii_letters + string.digits)
_STARTS_NONE = _COMMON - {start for word in NOT_KNOWN if word for start in (word[0], word[0].upper())}
_STARTS_NOBODY = _COMMON - {start for word in _NOBODY if word for start in (word[0], word[0].upper())}
_LONGEST = 8  # characters of a word for what is not known, in any column
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)([.,]\d*)?(e[+-]?\d+)?")
_CODES = {1.0: 1, 0.0: 0}
_UNCERTAIN_CODE = -1.0
_UNKNOWN_CODES = frozenset(sign * nines for sign in (1.0, -1.0) for nines in (9.0, 99.0, 999.0, 9999.0))
_INNER = re.compile(" +")
_UNSEEN = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"))

Meaning = Literal["present", "absent", "uncertain", "unknown"]


def cells(record: Sequence[str]) -> list[str]:
    """Cells without blanks around them; ``="017"``, by which spreadsheets keep a text, is that text."""
    texts = [text.strip() for text in record]
    together = "".join(texts)
    return texts if together.isascii() and '="' not in together else [_cell(text) for text in texts]


def _cell(text: str) -> str:
    text = text.strip(BLANKS)
    return (
        text[2:-1].strip(BLANKS) if text.startswith('="') and text.endswith('"') and len(text) > 2 else text
    )


def plain(text: str) -> str:
    """The same text in plain characters: full-width digits, odd blanks and unseen characters are none.

    No two different things become one by this: it is what the eye takes for the same.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_UNSEEN)).replace("\u2212", "-").strip()
    return _INNER.sub(" ", text) if "  " in text else text


def is_blank(text: str) -> bool:
    """Whether a cell says, in any column, that nothing is known."""
    return not text or (len(text) <= _LONGEST and text[0] not in _STARTS_NONE and _folded(text) in NOT_KNOWN)


def is_nobody(text: str) -> bool:
    """Whether a cell names no patient, and no case."""
    return not text or (text[0] not in _STARTS_NOBODY and _folded(text) in _NOBODY)


@lru_cache(4096)
def _folded(text: str) -> str:
    return plain(text).casefold()


@dataclass(frozen=True, slots=True)
class Missing:
    """Which words say that a label or a finding is not known.

    Attributes:
        words: folded.
    """

    words: frozenset[str]

    @classmethod
    def of(cls, words: Collection[str] | None) -> Missing:
        """``NOT_KNOWN``, and those that a study names; None: ``UNKNOWN``."""
        return cls(NOT_KNOWN.union(UNKNOWN if words is None else map(_folded, words)))

    def __contains__(self, text: str) -> bool:
        return _folded(text) in self.words


def meaning(text: str, missing: Missing) -> Meaning:
    """What a cell says of a finding.

    Raises:
        ValueError: it is none of the words above.
    """
    found = _meaning(text, missing)
    if found is None:
        raise ValueError(text)
    return found


@lru_cache(4096)
def _meaning(text: str, missing: Missing) -> Meaning | None:
    word = _folded(text)
    if word in missing.words:
        return "unknown"
    if _NUMBER.fullmatch(word):
        value = float(word.replace(",", "."))
        if value in _CODES:
            return "present" if _CODES[value] else "absent"
        if value == _UNCERTAIN_CODE:
            return "uncertain"
        return "unknown" if value in _UNKNOWN_CODES else None
    if word in _PRESENT:
        return "present"
    if word in _ABSENT:
        return "absent"
    return "uncertain" if word in _UNCERTAIN else None


def is_number(text: str) -> bool:
    """Whether a cell holds a number, with a point or a comma."""
    return bool(_NUMBER.fullmatch(_folded(text)))


def in_quotes(texts: Iterable[str], most: int = 4) -> str:
    """Some texts as a list for a sentence."""
    named = [f"'{text}'" for text in texts]
    return ", ".join(named[:most]) + (", …" if len(named) > most else "")
