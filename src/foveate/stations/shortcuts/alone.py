"""How well the truth is told by less than the image: metadata and files, the background, the shape of a mask.

Each such model stands beside the network on the same cases: where the network is not shown to be better, it
is not shown to know more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from foveate.data.manifest.columns import names_parts
from foveate.evaluate.comparing.hypothesis import holm
from foveate.evaluate.discrimination import Ranking
from foveate.evaluate.intervals import Bootstrap, Floats, Value, mean_of_defined
from foveate.evaluate.metadata_model import (
    Columns,
    Features,
    MetadataAuroc,
    best_columns,
    encode,
    fit_and_score,
    how_well_told,
)
from foveate.evaluate.results.probes import Alone, ClassAlone
from foveate.stations.shortcuts.exchange import log_odds
from foveate.stations.shortcuts.material import Places, ProbeMaterial
from foveate.stations.shortcuts.questions import AskedView
from foveate.stations.shortcuts.regions import Tiles, clear_frame, outside_organ
from foveate.stations.shortcuts.shape import ASPECTS, mask_features

CELLS = 32  # along each side, that background pixels are averaged in
TELLING = 0.6  # AUROC from which on something is called telling
ALPHA = 0.05
FEWEST = 10  # cases with a mask, to learn from and to be tested on
Kind = Literal["lesion", "organ"]


def metadata_alone(
    train: ProbeMaterial, test: ProbeMaterial, network: Floats, bootstrap: Bootstrap, *, seed: int = 0
) -> Alone:
    """A model of all metadata columns, image sizes, spacings and file formats, tested on other patients.

    Args:
        train, test: cases.
        network: ``(N, K)`` the network's logits on the test cases.
        bootstrap: of the intervals.
        seed: of the trees.

    Returns:
        The figures of ``_tested``, with the columns that were used and the strongest of them; or the reason.
    """
    columns = _columns([*_rows(train), *_rows(test)])
    features = encode(columns)
    if not features.columns:
        return Alone(columns=(), reason="no column of the manifest and no property of the files differs")
    values = features.values
    fitted, asked = values[: len(train.items)], values[len(train.items) :]
    strongest = best_columns(Features(fitted, features.owners), train.truth, seed=seed)
    told = _tested(fitted, asked, (train, test), network, bootstrap, seed)
    return told.model_copy(update={"columns": tuple(features.columns), "strongest": tuple(strongest)})


def background_alone(
    train: ProbeMaterial, places: Places, view: AskedView, bootstrap: Bootstrap, *, seed: int = 0
) -> Alone:
    """A model of the pixels outside the organ alone (or of the frame, where no organ is known).

    The pixels, reduced to a grid of ``CELLS`` × ``CELLS``, go to the same trees as the metadata.

    Args:
        train: cases that all have the view.
        places: of these.
        view: whose pixels, with the cases that are asked; the frame is as wide as a tile.
        bootstrap: of the intervals.
        seed: of the trees.

    Returns:
        The figures of ``_tested``, with the region; or the reason.
    """
    name, test = "outside-organ" if view.places.organ is not None else "border", view.cases
    if test.bundle.preprocess.settings(view.name).organ_crop:
        return Alone(region=name, reason="the study crops to the organ and blacks out what lies outside")
    cells = [
        _cells(material.views[view.name], _background(own, view.tiles))
        for material, own in ((train, places), (test, view.places))
    ]
    seen = np.isfinite(np.concatenate(cells)).mean(axis=0) > 0.5
    if not seen.any():
        return Alone(region=name, reason="there is hardly any background")
    usual = np.nanmean(np.concatenate(cells)[:, seen], axis=0)
    fitted, asked = (np.where(np.isnan(own[:, seen]), usual, own[:, seen]) for own in cells)
    told = _tested(fitted, asked, (train, test), view.original, bootstrap, seed)
    return told.model_copy(update={"region": name})


def masks_alone(
    train: ProbeMaterial, places: Places, view: AskedView, kind: Kind, bootstrap: Bootstrap
) -> dict[str, Alone]:
    """Models of nothing but the area, the position and the outline of a mask, on the cases that have one.

    Args:
        train: cases that all have the view.
        places: of these.
        view: with the cases that are asked.
        kind: whose mask.
        bootstrap: of the intervals.

    Returns:
        By aspect (``ASPECTS``) the figures of ``_tested``; or the reason.
    """
    masks = [own.truth if kind == "lesion" else own.organ for own in (places, view.places)]
    both = [own for own in masks if own is not None]
    if len(both) < len(masks):
        return dict.fromkeys(ASPECTS, Alone(reason="no training case has a mask"))
    fields = places.field, view.places.field
    rows = [own.flatten(1).any(dim=1).nonzero().flatten().tolist() for own in both]
    if min(len(own) for own in rows) < FEWEST:
        return dict.fromkeys(ASPECTS, Alone(reason=f"fewer than {FEWEST} cases have a mask"))
    learned, asked = (
        mask_features(mask[own], field[own]) for mask, field, own in zip(both, fields, rows, strict=True)
    )
    parts = train.part(rows[0]), view.cases.part(rows[1])
    if not any({0.0, 1.0} <= set(column) for column in parts[1].truth.T):
        return dict.fromkeys(ASPECTS, Alone(reason="all cases with a mask are of one class"))
    own = view.original[rows[1]]
    return {
        name: _tested(learned[name], asked[name], parts, own, bootstrap, bootstrap.seed) for name in ASPECTS
    }


def _tested(
    fitted: Floats,
    asked: Floats,
    parts: tuple[ProbeMaterial, ProbeMaterial],
    network: Floats,
    bootstrap: Bootstrap,
    seed: int,
) -> Alone:
    """Learn from the features of training cases, test on others, and put it beside the network.

    Returns:
        The AUROC of each class and their mean, of the model and of the network on the same cases.
    """
    train, test = parts
    scores = fit_and_score(fitted, train.truth, asked, seed=seed)
    classes, odds = test.bundle.classes, log_odds(network, test.bundle.task)
    told = how_well_told(scores, test.truth, test.patients, classes, bootstrap)
    known = np.where(np.isnan(scores), np.nan, test.truth)
    rankings = [
        [Ranking.of(np.nan_to_num(own[:, k]), known[:, k]) for k in range(len(classes))]
        for own in (odds, scores)
    ]

    def statistic(weights: Floats) -> dict[str, Floats]:
        own, other = (np.stack([rank(weights)[0] for rank in ranks], axis=1) for ranks in rankings)
        both = {"network": own, "difference": own - other}
        return {
            name: np.concatenate([mean_of_defined(values)[:, None], values], axis=1)
            for name, values in both.items()
        }

    point, drawn = statistic(np.ones((1, len(scores)))), bootstrap.replicates(statistic, test.patients)
    people = len(set(test.patients))

    def beside(k: int) -> tuple[Value, Value]:
        """``network`` and ``difference`` of all classes (k = 0) or of one."""
        network, difference = (
            bootstrap.value(
                float(values[0, k]), drawn[name][:, k] if drawn else None, n=len(scores), patients=people
            )
            for name, values in point.items()
        )
        return network, difference

    return _figures(told, beside(0), [beside(k) for k in range(1, len(classes) + 1)])


def _figures(
    told: MetadataAuroc, overall: tuple[Value, Value], by_class: Sequence[tuple[Value, Value]]
) -> Alone:
    """The figures with p corrected by Holm, and the classes that are told.

    A class is told if its corrected p is below ``ALPHA``, its AUROC at least ``TELLING`` and the lower end of
    its interval above one half.

    Args:
        told: AUROC of the model.
        overall: of the mean, that of the network on the same cases, and how much more that is.
        by_class: the same of each class.
    """
    tested = {name: p for name, p in told.p.items() if not np.isnan(p)}
    corrected = dict(zip(tested, holm(np.array(list(tested.values()))), strict=True))
    per_class = {
        name: ClassAlone(
            **asdict(value),
            p=float(corrected[name]) if name in corrected else None,
            network=network,
            difference=difference,
        )
        for (name, value), (network, difference) in zip(told.per_class.items(), by_class, strict=True)
    }
    telling = tuple(
        name
        for name, row in per_class.items()
        if row.p is not None and row.p < ALPHA and (row.value or 0) >= TELLING and (row.low or 0) > 0.5
    )
    return Alone(
        auroc_macro=told.macro,
        per_class=per_class,
        telling=telling,
        network=overall[0],
        difference=overall[1],
    )


def _rows(material: ProbeMaterial) -> list[dict[str, str]]:
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
