"""How well the truth is told without the disease: by metadata and files alone, by the background alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from foveate.data.columns import names_parts
from foveate.evaluate.hypothesis import holm
from foveate.evaluate.intervals import Bootstrap, Floats
from foveate.evaluate.metadata_model import (
    Columns,
    Features,
    Told,
    best_columns,
    encode,
    fit_and_score,
    how_well_told,
)
from foveate.evidence.probing.material import Material, Places
from foveate.evidence.probing.regions import Tiles, clear_frame, outside_organ

CELLS = 32  # along each side, that background pixels are averaged in
TELLING = 0.6  # AUROC from which on something is called telling
ALPHA = 0.05
Json = dict[str, Any]


def metadata_alone(train: Material, test: Material, bootstrap: Bootstrap, *, seed: int = 0) -> Json:
    """A model of all metadata columns, image sizes, spacings and file formats, tested on other patients.

    Returns:
        ``columns`` used, ``strongest`` of them, and the figures of ``_figures``; or ``reason``.
    """
    columns = _columns([*_rows(train), *_rows(test)])
    features = encode(columns)
    if not features.columns:
        return {"columns": [], "reason": "no column of the manifest and no property of the files differs"}
    values = features.values
    fitted, asked = values[: len(train.items)], values[len(train.items) :]
    scores = fit_and_score(fitted, train.truth, asked, seed=seed)
    told = how_well_told(scores, test.truth, test.patients, test.bundle.classes, bootstrap)
    strongest = best_columns(Features(fitted, features.owners), train.truth, seed=seed)
    return {"columns": list(features.columns), "strongest": list(strongest), **figures(told)}


def background_alone(
    train: Material,
    test: Material,
    places: tuple[Places, Places],
    view: str,
    tiles: Tiles,
    bootstrap: Bootstrap,
    *,
    seed: int = 0,
) -> Json:
    """A model of the pixels outside the organ alone (or of the frame, where no organ is known).

    The pixels, reduced to a grid of ``CELLS`` × ``CELLS``, go to the same trees as the metadata.

    Args:
        train, test: cases that all have the view.
        places: of the two.
        view: whose pixels.
        tiles: the frame is as wide as a tile.
        bootstrap: of the intervals.
        seed: of the trees.

    Returns:
        ``region``, and the figures of ``figures``; or ``reason``.
    """
    name = "outside-organ" if places[1].organ is not None else "border"
    if test.bundle.preprocess.settings(view).organ_crop:
        return {"region": name, "reason": "the study crops to the organ and blacks out what lies outside"}
    cells = [
        _cells(material.views[view], _background(own, tiles))
        for material, own in zip((train, test), places, strict=True)
    ]
    seen = np.isfinite(np.concatenate(cells)).mean(axis=0) > 0.5
    if not seen.any():
        return {"region": name, "reason": "there is hardly any background"}
    usual = np.nanmean(np.concatenate(cells)[:, seen], axis=0)
    fitted, asked = (np.where(np.isnan(own[:, seen]), usual, own[:, seen]) for own in cells)
    scores = fit_and_score(fitted, train.truth, asked, seed=seed)
    told = how_well_told(scores, test.truth, test.patients, test.bundle.classes, bootstrap)
    return {"region": name, **figures(told)}


def figures(told: Told) -> Json:
    """As JSON: ``auroc_macro``, ``per_class`` with ``p`` corrected by Holm, and ``telling``: classes told.

    A class is told if its corrected p is below ``ALPHA``, its AUROC at least ``TELLING`` and the lower end of
    its interval above one half.
    """
    tested = {name: p for name, p in told.p.items() if not np.isnan(p)}
    corrected = dict(zip(tested, holm(np.array(list(tested.values()))), strict=True))
    per_class: dict[str, Json] = {
        name: value.to_json() | {"p": float(corrected[name]) if name in corrected else None}
        for name, value in told.per_class.items()
    }
    telling = [
        name
        for name, row in per_class.items()
        if row["p"] is not None
        and row["p"] < ALPHA
        and float(row["value"] or 0) >= TELLING
        and float(row["low"] or 0) > 0.5
    ]
    return {"auroc_macro": told.macro.to_json(), "per_class": per_class, "telling": telling}


def _rows(material: Material) -> list[dict[str, str]]:
    return [
        {**item.case.metadata, **facts} for item, facts in zip(material.items, material.files, strict=True)
    ]


def _columns(rows: Sequence[dict[str, str]]) -> Columns:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name, "") for row in rows] for name in names}
    return {name: texts for name, texts in columns.items() if not names_parts(texts)}


def _background(places: Places, tiles: Tiles) -> Tensor:
    outside = outside_organ(places)
    return clear_frame(tiles, places) if outside is None else outside


def _cells(images: Tensor, where: Tensor) -> Floats:
    """Mean of the pixels of a region in each cell of a grid, ``(N, CELLS²)``; NaN where it has none."""
    inside = where.float()
    grey = images.float().mean(dim=1) * inside
    if grey.ndim == 4:
        grey, inside = grey.mean(dim=1), inside.mean(dim=1)
    sums, share = (adaptive_avg_pool2d(part[:, None], CELLS).flatten(1) for part in (grey, inside))
    found: Floats = torch.where(share > 0, sums / share, torch.nan).double().numpy()
    return found
