"""``foveate trust``: can the heat maps be trusted?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.target import Part, RunOption, Target, open_run


def trust(
    target: Target,
    run: RunOption = None,
    part: Part = "test",
    *,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Explanation method to test; repeatable \\[default: the study's trust.methods]."),
    ] = None,
    second: Annotated[
        Path | None, typer.Option(help="Run of the same study with another seed: is the picture the same?")
    ] = None,
    permuted: Annotated[
        Path | None, typer.Option(help="Run of the same study on permuted labels: is the picture another?")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train these two from the study, into RUN/trust/.")
    ] = False,
) -> None:
    """Test heat maps against controls, and say for each method what it may be used for.

    Example: foveate trust runs/study --second runs/study-seed1
    """
    from foveate import terminal
    from foveate.evidence.trust import trust as test_maps
    from foveate.terminal.trust import show_trust

    opened = open_run(target, run)
    found = test_maps(
        opened,
        part,
        methods=method or (),
        rivals={"second": second, "permuted": permuted},
        retrain=retrain,
        console=terminal.console,
        track=terminal.track,
    )
    show_trust(found)
    terminal.say(f"trust card: {opened.folder / 'trust.json'}")
