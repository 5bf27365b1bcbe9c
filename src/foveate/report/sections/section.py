"""The parts that every section is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from foveate.evaluate.intervals import Value
from foveate.report.files import Json


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the page.

    Attributes:
        anchor: its identifier, and the name of its template.
        title: its heading.
        command: the command that makes its files.
        content: what its template needs, or None where the files are absent.
    """

    anchor: str
    title: str
    command: str
    content: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class SectionRow:
    """A figure on a scale from 0 to 1.

    Attributes:
        key: its name in the file.
        name: its name on the page.
        meaning: in a few words.
        value: with its interval.
        chance: what guessing would reach, or None where that is not defined.
    """

    key: str
    name: str
    meaning: str
    value: Value
    chance: float | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure, as inline SVG, under its title and the figure it stands for, if any."""

    svg: Markup
    title: str = ""
    value: Value | None = None


def within(content: Json | None, *keys: str) -> Any:
    """What lies under nested keys, or None where any of them is absent."""
    found: Any = content
    for key in keys:
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    return found


def reasons(values: Iterable[tuple[str, str, Value]], *, undefined: bool) -> list[str]:
    """Why figures are undefined, or their intervals missing or limited: one text per class and reason.

    Args:
        values: class, name of the figure, and the figure.
        undefined: which of the two is asked for.
    """
    grouped: dict[tuple[str, str], list[str]] = {}
    for owner, name, metric in values:
        if metric.reason and (metric.value is None) == undefined:
            grouped.setdefault((owner, metric.reason), []).append(name)
    return [f"{owner}: {', '.join(names)} ({reason})" for (owner, reason), names in grouped.items()]
