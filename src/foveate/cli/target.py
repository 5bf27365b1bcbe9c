"""What most commands are given: a study or the folder of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate.errors import UsageError

if TYPE_CHECKING:
    from foveate.stations.run import Run

Target = Annotated[Path, typer.Argument(metavar="STUDY|RUN", help="A study (.yaml), or the folder of a run.")]
RunOption = Annotated[
    Path | None, typer.Option("--run", help="Folder of the run \\[default: runs/<study name>].")
]
Allow = Annotated[
    list[str] | None, typer.Option("--allow", help="Audit finding to accept, by its code; repeatable.")
]
Part = Annotated[str, typer.Option("--part", help="train, val or test.")]


def refuse_unused(context: typer.Context, way: str, *used: str) -> None:
    """Refuse what was given on the command line and would be passed over.

    Args:
        context: of the command.
        way: what the command does here, as in "single images are classified".
        used: names of the parameters that this takes.

    Raises:
        UsageError: something else was given.
    """
    given = [each for each in context.command.params if each.name not in used and _typed(context, each.name)]
    if given:
        names = [
            max(each.opts, key=len) if each.param_type_name == "option" else str(each.name) for each in given
        ]
        raise UsageError(
            f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not used where {way}",
            where=context.command_path,
            fix=f"leave it out; `{context.command_path} --help` says what each option is for",
        )


def _typed(context: typer.Context, name: str | None) -> bool:
    """Whether a parameter was given on the command line, and has not its default."""
    source = context.get_parameter_source(name) if name else None
    return source is not None and source.name == "COMMANDLINE"


def open_run(target: Path, folder: Path | None, allow: list[str] | None = None) -> Run:
    """Open the run that a study file or a run folder names.

    Raises:
        UsageError: a folder is named for a run that is one already.
    """
    from foveate.stations.run import Run
    from foveate.study.study import Study

    if target.is_dir():
        if folder is not None:
            raise UsageError(
                f"{target} is the folder of a run already",
                where="--run",
                fix="leave out --run, or give a study",
            )
        opened = Run.open(target)
    else:
        study = Study.load(target)
        opened = Run.create(study, folder or Path("runs") / study.name, anew=True)
    return opened.allowing(allow) if allow else opened
