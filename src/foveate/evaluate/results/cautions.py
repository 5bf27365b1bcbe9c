"""``cautions.json``: what a reader must know before quoting anything of a run, the worst first."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field

from foveate.evaluate.results.file import Part, ResultFile


class Caution(Part):
    """One reason for care.

    Attributes:
        code: a key of ``foveate.report.cautions.HARM``.
        sentence: a whole sentence, or several.
        section: anchor of the report's section that has more.
    """

    code: str
    sentence: str
    section: str


class Cautions(ResultFile):
    """All reasons for care, the worst first, and what was looked for.

    Attributes:
        items: the reasons.
        asked: questions that were asked, in words.
        not_asked: those that were not, each with its reason.
    """

    NAME: ClassVar[str] = "cautions.json"
    MADE_BY: ClassVar[str] = "report"

    items: tuple[Caution, ...] = Field(validation_alias="cautions", serialization_alias="cautions")
    asked: tuple[str, ...]
    not_asked: tuple[str, ...]

    def for_others(self) -> Self:
        """The same without the names of cases and patients that an accepted fault of the data is shown by."""
        items = (
            item.model_copy(update={"sentence": f"{': '.join(item.sentence.split(': ')[:2]).rstrip('.')}."})
            if item.code == "accepted"
            else item
            for item in self.items
        )
        return self.model_copy(update={"items": tuple(items)})

    @property
    def all_clear(self) -> str:
        """What may be said where there is no caution: what was looked for, and what was not."""
        asked = f"Looked for: {'; '.join(self.asked)}." if self.asked else "Nothing was looked for yet."
        not_asked = f" Not looked for: {'; '.join(self.not_asked)}." if self.not_asked else ""
        return f"No reason for caution was found. {asked}{not_asked}"
