"""Another cohort than the one that a model learned from, read for that model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from foveate.data.manifest.columns import Expected, views_there
from foveate.data.manifest.manifest import load_manifest
from foveate.data.manifest.rows import ManifestRows
from foveate.errors import InputRefused
from foveate.study.study import DataConfig
from foveate.types import Cohort, Track, quiet

if TYPE_CHECKING:
    from foveate.bundle.bundle import Bundle


def read_elsewhere(
    bundle: Bundle, data: DataConfig, *, refused: list[InputRefused] | None = None, track: Track = quiet
) -> Cohort:
    """Read a manifest for a model: all of it test cases, whose truth may be absent.

    Args:
        bundle: whose classes and views count.
        data: the manifest, and what its columns are called.
        refused: gets the cases whose files cannot be used; None refuses the manifest.
        track: shows progress.

    Raises:
        ManifestRefused: something is wrong with the table or its rows.
    """
    views = views_there(
        ManifestRows.at(data.manifest),
        data.views or bundle.views,
        tolerates_missing=bundle.model.tolerates_missing,
    )
    cohort = load_manifest(
        data.manifest,
        label=data.label,
        views=views,
        boxes=data.boxes,
        patient=data.patient,
        case=data.case,
        rules=data,
        expected=Expected(bundle.task, bundle.classes),
        refused=refused,
        track=track,
    )
    return replace(cohort, cases=tuple(replace(case, split="test") for case in cohort.cases))
