"""The command that tells what is known of the models; the package registers it."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    name: Annotated[str | None, typer.Argument(help="One of them, to read its card.")] = None,
) -> None:
    """List the models, or print the card of one: paper, what is stated and what inferred, figures.

    Example: foveate models dadrn50
    """
    from foveate.cli import terminal
    from foveate.models.cards import find_card, list_models

    if name is None:
        terminal.show_models(list_models())
    else:
        terminal.show_card(name, find_card(name))
