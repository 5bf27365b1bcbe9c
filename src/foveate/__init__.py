"""Foveate: medical image classification that shows where it looked, from image-level labels only."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name → module that holds it; loaded on first use so that `import foveate` stays instant.
_PUBLIC = {
    "BoxRule": "foveate.maps.localize",
    "Case": "foveate.types",
    "read_image": "foveate.io.reading",
    "load_manifest": "foveate.data.manifest.manifest",
    "audit_cohort": "foveate.data.audit.audit",
    "split_cohort": "foveate.data.splits",
    "Study": "foveate.study.study",
    "fit": "foveate.train.fit",
    "load_bundle": "foveate.bundle.bundle",
    "predict_case": "foveate.predict",
    "explain_case": "foveate.predict",
    "evaluate_predictions": "foveate.evaluate",
    "localize_heatmap": "foveate.maps.localize",
    "write_report": "foveate.report.build",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Load a public name from the module that holds it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'foveate' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
