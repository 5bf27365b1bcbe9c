"""What the command line prints of a shift: its sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveate.terminal import say


def show_shift(found: Mapping[str, Any]) -> None:
    """Print what ``shift.json`` has to say in words."""
    for item in found["sentences"]:
        say(item["sentence"])
    if not found["sentences"]:
        say("no difference is shown")
