"""Every error says what happened, where (file, row, tag), and what to do; its class fixes the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class FoveateError(Exception):
    """Base of all errors that are meant for the user.

    Args:
        what: what happened, in one sentence.
        where: the file, row, tag or option it happened at.
        fix: the way out, in one sentence.
        code: a short stable name for machines, such as ``not-an-image``.
    """

    exit_code = 4
    default_code = "run-failed"

    def __init__(self, what: str, *, where: str = "", fix: str = "", code: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        self.code = code or self.default_code
        super().__init__(self._text())

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies in other processes say the same, whatever their class is made from."""
        return _copied, (type(self), self.args, self.__dict__)

    def _text(self) -> str:
        place = f"{self.where}: " if self.where else ""
        way_out = f"\n  → {self.fix}" if self.fix else ""
        return f"{place}{self.what}{way_out}"


def _copied(kind: type[FoveateError], args: tuple[Any, ...], facts: dict[str, Any]) -> FoveateError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class UsageError(FoveateError):
    """The command or study asks for something that does not exist or does not fit together."""

    exit_code = 2
    default_code = "usage"


class InputRefused(FoveateError):
    """A file cannot be used as it is: unreadable, unsafe, or ambiguous."""

    exit_code = 3
    default_code = "input-refused"


class ManifestRefused(InputRefused):
    """The manifest has problems; all of them are listed, not just the first.

    Args:
        where: path of the manifest.
        problems: one line per problem, each naming its row.
    """

    default_code = "manifest-refused"

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        listing = "\n".join(f"  - {problem}" for problem in self.problems)
        count = f"{len(self.problems)} problem" + ("s" if len(self.problems) != 1 else "")
        fix = "correct these, and run the command again"
        super().__init__(f"{count}\n{listing}", where=where, fix=fix)


class AuditStopped(InputRefused):
    """Leakage or contradiction was found in the cohort, and nobody has said that it is acceptable."""

    default_code = "audit-stopped"


class UndoImpossible(FoveateError):
    """A heat map cannot be brought back to the pixels of its original image."""

    default_code = "undo-impossible"


class RunFailed(FoveateError):
    """Work that had started could not be finished; what is on disk is whole."""


class Partial(FoveateError):
    """The command finished, but some of its cases were refused; they are listed in its output."""

    exit_code = 5
    default_code = "partial"


class MissingExtra(UsageError):
    """An optional part is not installed.

    Args:
        extra: the name of the extra, such as ``tensorboard``.
    """

    default_code = "missing-extra"

    def __init__(self, extra: str) -> None:
        super().__init__(f"this needs the optional part '{extra}'", fix=f"pip install 'foveate[{extra}]'")
