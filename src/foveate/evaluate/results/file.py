"""What all result files have in common: a class that writes and reads the file, a version, a JSON schema.

A station makes an object of the file's class and writes it; report, terminal, comparison and viewer read the
object, never keys of the JSON. The schemas are published in ``docs/schemas/``.

A file says in ``format`` which version of its class wrote it; files of 0.1.0, which say nothing, are version
0. Whatever a version adds has a default, so that older files still open. Keys that a class does not know are
passed over, and a file of a newer version is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from foveate.errors import InputRefused
from foveate.files import write_json


class Part(BaseModel):
    """A part of a result file; it cannot be changed once it is made."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    def to_json(self) -> dict[str, Any]:
        """As plain numbers, text, lists and mappings."""
        return self.model_dump(mode="json")


class SparsePart(Part):
    """A part of which only what is there is written: fields that are None are left out."""

    @model_serializer(mode="wrap")
    def _without_none(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if value is not None}


class ResultFile(Part):
    """A whole result file of a run folder.

    Attributes:
        format: version of the class that wrote the file; 0 for files of Foveate 0.1.0.
    """

    NAME: ClassVar[str]
    """Of the file, inside the run folder."""
    MADE_BY: ClassVar[str]
    """The command that writes it."""
    FORMAT: ClassVar[int] = 1

    format: int = 0

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same, whichever version wrote them."""
        return isinstance(other, type(self)) and self.to_json() == other.to_json()

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The file of a run folder, or None where it is not there yet.

        Raises:
            InputRefused: it is there but is not such a file, or a newer Foveate wrote it.
        """
        path = folder / cls.NAME
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            return cls.from_json(json.loads(text, parse_constant=lambda _: None))
        except (ValidationError, ValueError) as error:
            raise InputRefused(
                f"this is not what `foveate {cls.MADE_BY}` writes: {_first_problem(error)}",
                where=str(path),
                fix=f"run `foveate {cls.MADE_BY} {folder}` again",
                code="result-damaged",
            ) from None

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """The object of a file's content.

        Raises:
            ValueError: the content is not such a file (pydantic's ``ValidationError`` is one), or newer.
        """
        found = cls.model_validate(content)
        if found.format > cls.FORMAT:
            raise ValueError(
                f"its format {found.format} is newer than {cls.FORMAT}, which this Foveate knows"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """The file's content: plain numbers, text, lists and mappings, with the current version first."""
        content = self.model_dump(mode="json")
        return {"format": self.FORMAT, **{key: value for key, value in content.items() if key != "format"}}

    def write(self, folder: Path) -> None:
        """Write the file whole, or leave the old one."""
        write_json(folder / self.NAME, self.to_json())


def _first_problem(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
    return str(error)
