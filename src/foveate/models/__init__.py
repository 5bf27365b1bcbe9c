"""Models: a table of named systems, any timm backbone, and the losses that train them.

Names are loaded on first use, so that listing the models (``foveate.models.cards``) costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate.models.cards import list_models
    from foveate.models.objectives import count_classes, make_criterion
    from foveate.models.registry import MODELS, build_model

_HOMES = {
    "MODELS": "foveate.models.registry",
    "build_model": "foveate.models.registry",
    "count_classes": "foveate.models.objectives",
    "list_models": "foveate.models.cards",
    "make_criterion": "foveate.models.objectives",
}
__all__ = ["MODELS", "build_model", "count_classes", "list_models", "make_criterion"]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that holds it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'foveate.models' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
