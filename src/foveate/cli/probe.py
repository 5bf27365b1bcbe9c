"""``foveate probe``: does the model read its answer where nothing of the disease is?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.target import Part, RunOption, Target, open_run


def probe(
    target: Target,
    run: RunOption = None,
    part: Part = "test",
    region: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=CSV: boxes of a region to ask about, such as of markers "
            "(case_id, label, x, y, w, h); repeatable."
        ),
    ] = None,
) -> None:
    """Look for shortcuts: exchange and remove regions, and ask what metadata and background alone tell.

    Example: foveate probe runs/study --region ruler=rulers.csv
    """
    from foveate import terminal
    from foveate.errors import UsageError
    from foveate.evidence.probes import probe as probe_run
    from foveate.terminal.probes import show_probes

    named: dict[str, Path] = {}
    for text in region or ():
        name, sign, path = text.partition("=")
        if not (name and sign and path):
            raise UsageError(f"'{text}' does not name a region", where="--region", fix="write NAME=CSV")
        named[name] = Path(path)
    opened = open_run(target, run)
    show_probes(probe_run(opened, part, named=named, track=terminal.track))
    terminal.say(f"probes: {opened.folder / 'probes.json'}")
