"""A trained run becomes one file that other programs can run, checked against the run on real cases."""

from __future__ import annotations

from foveate.export.exporting import Exported, export_run

__all__ = ["Exported", "export_run"]
