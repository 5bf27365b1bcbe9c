"""The command line within the test's own process."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from rich.console import Console

from foveate.cli import app as cli
from foveate.cli import terminal


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and what it printed on either stream."""

    code: int
    out: str
    err: str


def foveate(*arguments: object, folder: Path | None = None) -> Ended:
    """Run ``foveate ARGUMENTS`` as ``main`` does, in a folder or where the test runs, and catch its end."""
    out, err = io.StringIO(), io.StringIO()
    consoles = {
        "console": Console(file=out, soft_wrap=True, highlight=False),
        "_errors": Console(file=err, soft_wrap=True, highlight=False),
    }
    code = 0
    with contextlib.ExitStack() as stack:
        if folder is not None:
            stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(patch.object(sys, "argv", ["foveate", *map(str, arguments)]))
        stack.enter_context(patch.multiple(terminal, **consoles))
        for name in [each for each in sys.modules if each.startswith("foveate.cli.")]:
            if name != terminal.__name__ and hasattr(sys.modules[name], "console"):
                stack.enter_context(patch.object(sys.modules[name], "console", consoles["console"]))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
    return Ended(code, out.getvalue(), err.getvalue())
