"""What a checklist is made of, and how it is filled in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from foveate.report.files import RunFiles

Status = Literal["run", "answered", "partly", "people", "absent"]


@dataclass(frozen=True, slots=True)
class ItemAnswer:
    """What the files of a run say to an item.

    Attributes:
        text: in a sentence; empty where the files it needs are not there.
        anchor: the section of the page that shows it.
        file: of the run folder, that it is read from.
    """

    text: str
    anchor: str
    file: str


Answerer = Callable[[RunFiles], ItemAnswer]


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a guideline.

    Attributes:
        number: as the guideline counts.
        part: its heading in the guideline.
        topic: what it asks for, in our words.
        answers: what the run knows of it; none where only people do.
        people: what people must add; blank where the run answers it whole.
    """

    number: str
    part: str
    topic: str
    answers: tuple[Answerer, ...] = ()
    people: str = ""


@dataclass(frozen=True, slots=True)
class Checklist:
    """A guideline.

    Attributes:
        name: its short name.
        source: where it was published.
        items: in its own order.
    """

    name: str
    source: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class FilledItem:
    """An item with what the run says to it.

    Attributes:
        item: of the guideline.
        answers: those that the files allow.
        missing: files that are not there yet.
        person: what people wrote to it in ``answers.yaml``.
        status: the ``run`` answered, people have ``answered``, ``partly`` where people must add, ``people``
            where it is theirs alone, ``absent`` where its files are not there yet.
    """

    item: Item
    answers: tuple[ItemAnswer, ...]
    missing: tuple[str, ...]
    person: str
    status: Status


def fill(checklist: Checklist, files: RunFiles) -> list[FilledItem]:
    """Answer every item from the files of a run, and from what people wrote."""
    return [
        _filled(item, files, files.answers.get(f"{checklist.name} {item.number}", ""))
        for item in checklist.items
    ]


def _filled(item: Item, files: RunFiles, person: str) -> FilledItem:
    asked = [answer(files) for answer in item.answers]
    given = tuple(answer for answer in asked if answer.text)
    missing = tuple(dict.fromkeys(answer.file for answer in asked if not answer.text))
    return FilledItem(item, given, missing, person, _status(item, bool(given), bool(missing), bool(person)))


def _status(item: Item, given: bool, missing: bool, person: bool) -> Status:
    if person:
        return "answered"
    if given:
        return "partly" if item.people or missing else "run"
    return "people" if item.people else "absent"
