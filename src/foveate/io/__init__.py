"""A file becomes an ``Image``: see ``reading``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate.io.nifti import write_nifti
    from foveate.io.reading import probe, read_image, read_mask

__all__ = ["probe", "read_image", "read_mask", "write_nifti"]

_PUBLIC = {name: "foveate.io.reading" for name in ("probe", "read_image", "read_mask")}
_PUBLIC["write_nifti"] = "foveate.io.nifti"  # whose libraries pictures can do without


def __getattr__(name: str) -> Any:
    """Load a public name from the module that holds it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'foveate.io' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
