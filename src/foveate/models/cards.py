"""What is known of each model: where it comes from, how large it is, and what was published of it.

A table without torch, for listings and reports. Published numbers come from other data than yours and
are never targets.
"""

from __future__ import annotations

import difflib

from foveate.errors import UsageError
from foveate.models.agf.card import AGF_CARDS
from foveate.models.can.card import CAN_CARDS
from foveate.models.card import ModelCard, Published
from foveate.models.cervical.card import CERVICAL_CARDS
from foveate.models.dadrn.card import DADRN_CARDS
from foveate.models.lca_db.card import LCA_DB_CARDS

__all__ = ["CARDS", "ModelCard", "Published", "find_card", "list_models"]

CARDS: dict[str, ModelCard] = {
    **DADRN_CARDS,
    **AGF_CARDS,
    **CERVICAL_CARDS,
    **CAN_CARDS,
    **LCA_DB_CARDS,
    "timm:<name>": ModelCard(
        system="timm",
        summary="any image backbone of timm with a spatial last map, such as timm:resnet18; option attention",
        parameters=None,
        paper="that of the backbone; see timm's documentation",
        provenance=("network and weights: timm's",),
        caveats=(
            "Transformers that classify from a class token are built to average their patches instead, so "
            "that heat maps exist.",
            "With an attention block (option attention) it is a network of ours; none is published.",
        ),
    ),
}


def list_models() -> list[tuple[str, str, str, str]]:
    """Rows of name, system, what it is, and parameters in millions (5 or 7 classes), in the table's order."""
    return [
        (name, card.system, card.summary, f"{card.parameters / 1e6:.1f} M" if card.parameters else "–")
        for name, card in CARDS.items()
    ]


def find_card(name: str) -> ModelCard:
    """The card of a model.

    Raises:
        UsageError: there is none.
    """
    if name in CARDS:
        return CARDS[name]
    if name.startswith("timm:"):
        return CARDS["timm:<name>"]
    close = difflib.get_close_matches(name, CARDS, n=3)
    fix = f"did you mean {' or '.join(close)}?" if close else "`foveate models` lists them"
    raise UsageError(f"there is no model '{name}'", fix=fix, code="unknown-model")
