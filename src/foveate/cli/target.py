"""What most commands are given: a study or the folder of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from foveate.run import Run

Target = Annotated[Path, typer.Argument(metavar="STUDY|RUN", help="A study (.yaml), or the folder of a run.")]
RunOption = Annotated[
    Path | None, typer.Option("--run", help="Folder of the run [default: runs/<study name>].")
]
Allow = Annotated[
    list[str] | None, typer.Option("--allow", help="Audit finding to accept, by its code; repeatable.")
]
Part = Annotated[str, typer.Option("--part", help="train, val or test.")]


def open_run(target: Path, folder: Path | None, allow: list[str] | None = None) -> Run:
    """Open the run that a study file or a run folder names."""
    from foveate.run import Run
    from foveate.train.study import Study

    if target.is_dir():
        opened = Run.open(target)
    else:
        study = Study.load(target)
        opened = Run.create(study, folder or Path("runs") / study.name)
    return opened.allowing(allow) if allow else opened
