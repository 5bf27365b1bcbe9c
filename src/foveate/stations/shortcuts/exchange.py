"""What a region tells the model: its content exchanged between cases, taken out, and put in.

For each case two donors of other patients are drawn: one of the same truth, one of another. The content of a
region (a tile, the frame, …) is exchanged for that of the donor at the same place. Both exchanges disturb the
picture alike; only with the donor of another truth does what the region tells about the class change. So

    effect = AUROC (content from the same truth) - AUROC (content from another truth)

is 0 where the region holds nothing of the class that the model uses, however badly it bears the disturbance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.evaluate.averages import average_interval, difference_interval
from foveate.evaluate.delong import few_patients_interval
from foveate.evaluate.discrimination import Ranking
from foveate.evaluate.intervals import Bootstrap, Floats, Interval, Value, mean_of_defined, ratio
from foveate.evaluate.results.probes import ShareBox
from foveate.stations.shortcuts.material import ProbeMaterial
from foveate.stations.shortcuts.regions import Tiles, filled, over_channels
from foveate.types import Task, Track

FARTHEST = (
    0.25  # share of the cases of other patients, those whose findings differ most, that donors come from
)
_DIFFERENCES = {"effect": ("same", "other"), "removal": ("original", "removed")}  # of AUROCs
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class ExchangedRegion:
    """A part of one view that is asked about.

    Attributes:
        name: ``tile``, ``border``, ``outside-organ``, ``outside-lesion``, ``organ-without-lesion``,
            ``strokes``, or what the user called it.
        view: which view.
        mask: ``(H, W)`` for all cases, or ``(N, *space)`` for each.
        box: where, as shares of the field (top, left, bottom, right), if it is the same for all cases.
        take: exchange where the region of the case is (``own``), where those of case and donor both are
            (``both``), or where ``either`` is.
    """

    name: str
    view: str
    mask: Tensor
    box: ShareBox | None = None
    take: Literal["own", "both", "either"] = "own"

    def changed(self, images: Tensor, donors: Donors, *, other: bool) -> Tensor:
        """The images with the content of donors of another truth, or of the same: ``(N, C, *space)``."""
        return exchanged(images, self, donors.other if other else donors.same)

    def between(self, donors: Indices) -> Tensor:
        """Where content is exchanged with these donors."""
        if self.mask.ndim == 2 or self.take == "own":
            return self.mask
        given = self.mask[torch.from_numpy(donors)]
        return self.mask & given if self.take == "both" else self.mask | given


@dataclass(frozen=True, slots=True)
class Donors:
    """For each case the position of a case of another patient; its own where there is none.

    Attributes:
        same: ``(N,)`` of the same truth (multi-label: of those nearest to it).
        other: ``(N,)`` of another class (multi-label: of the quarter of cases that differ in most findings).
    """

    same: Indices
    other: Indices


def choose_donors(truth: Floats, patients: Sequence[str], *, seed: int = 0) -> Donors:
    """Draw donors.

    Args:
        truth: ``(N, K)`` 1, 0, or NaN where unknown.
        patients: of each case.
        seed: of the draws.
    """
    chance = np.random.default_rng(seed)
    known = np.nan_to_num(truth)
    away = np.abs(known[:, None] - known[None]).sum(axis=2)
    strange = np.asarray(patients, dtype=object)[:, None] != np.asarray(patients, dtype=object)[None]
    same, other = np.arange(len(truth)), np.arange(len(truth))
    one_class = bool((known.sum(axis=1) == 1).all())
    for row in range(len(truth)):
        candidates = np.flatnonzero(strange[row])
        distance = away[row, candidates]
        near = candidates[distance == (0 if one_class else distance.min(initial=np.inf))]
        far = candidates[(distance > 0) & (distance >= _quantile(distance, 1 - FARTHEST))]
        same[row] = chance.choice(near) if len(near) else row
        other[row] = chance.choice(far) if len(far) else row
    return Donors(same, other)


def exchanged(images: Tensor, region: ExchangedRegion, donors: Indices) -> Tensor:
    """Put the content of the donors' region into the cases: ``(N, C, *space)``."""
    given = images[torch.from_numpy(donors)]
    return torch.where(over_channels(region.between(donors), images), given, images)


def log_odds(logits: Floats, task: Task) -> Floats:
    """``(N, K)`` log-odds of each class: they rank as probabilities do, and do not saturate."""
    if task == "multilabel":
        return logits
    others = np.where(np.eye(logits.shape[1], dtype=bool), -np.inf, logits[:, None, :])
    return np.asarray(logits - np.logaddexp.reduce(others, axis=2))


def tile_region(view: str, tiles: Tiles, field: Tensor | None, *places: tuple[int, int]) -> ExchangedRegion:
    """Tiles as one region, exchanged only where both cases have image: padding is no content of theirs.

    Args:
        view: whose tiles.
        tiles: the grid.
        field: ``(N, *space)`` True where the cases have image; None: everywhere.
        places: of the tiles, by row and column.
    """
    mask, box = tiles.mask(*places), tiles.box(*places)
    if field is None or bool(field.all()):
        return ExchangedRegion("tile", view, mask, box)
    return ExchangedRegion("tile", view, field & mask, box, take="both")


def screen(
    material: ProbeMaterial,
    view: str,
    tiles: Tiles,
    original: Floats,
    donors: Donors,
    track: Track,
    *,
    field: Tensor | None = None,
) -> Floats:
    """By how much each tile moves the model's answers, when exchanged with a case of another truth.

    Args:
        material: N cases that all have the view.
        view: whose tiles.
        tiles: the grid.
        original: ``(N, K)`` logits as they are.
        donors: only ``other`` is used.
        track: shows progress.
        field: ``(N, *space)`` where the cases have image; None: everywhere.

    Returns:
        ``(rows, columns, K)``: fall of the log-odds of a class in cases that have it, plus their rise in
        cases that lack it and get the content of one that has it; means over cases, in standard deviations
        of the log-odds of the class over cases. 0 where a class has no such case.
    """
    truth, task = material.truth, material.bundle.task
    odds = log_odds(original, task)
    spread = np.maximum(odds.std(axis=0), 1e-6)
    has, gets = truth == 1, (truth == 0) & (truth[donors.other] == 1)
    found = np.zeros((*tiles.shape, truth.shape[1]))
    for place in track(tiles.places, f"Exchanging tiles ({view})"):
        region = tile_region(view, tiles, field, place)
        changed = exchanged(material.views[view], region, donors.other)
        shift = (log_odds(_answers(material, view, changed, original), task) - odds) / spread
        fall = ratio((-shift * has).sum(axis=0), has.sum(axis=0))
        rise = ratio((shift * gets).sum(axis=0), gets.sum(axis=0))
        found[place] = np.nan_to_num(fall) + np.nan_to_num(rise)
    return found


@dataclass(frozen=True)
class Effect:
    """What the exchange of a region does.

    Attributes:
        region: which.
        values: by name, one value for all classes together and one for each class (``by_class``):
            ``original``, ``same``, ``other`` and, if asked for, ``removed``: AUROC; ``effect`` is ``same -
            other``, ``removal`` is ``original - removed``; ``lost`` and ``gained``: mean change of a class's
            probability in cases that have it when the region is taken out, and in cases that lack it when
            they get the content of one that has it.
        p: of ``effect``, for all classes (under ``""``) and for each: one-sided, the share of bootstrap
            replicates in which it is not above 0.
    """

    region: ExchangedRegion
    values: Mapping[str, Value]
    by_class: Mapping[str, Mapping[str, Value]]
    p: Mapping[str, float]


def measure(
    material: ProbeMaterial,
    region: ExchangedRegion,
    original: Floats,
    donors: Donors,
    bootstrap: Bootstrap,
    *,
    remove: bool = False,
) -> Effect:
    """Exchange a region, and take it out, and see what becomes of the answers.

    Args:
        material: N cases that all have the region's view.
        region: what is exchanged.
        original: ``(N, K)`` logits as they are.
        donors: of the exchange.
        bootstrap: of the intervals, over patients.
        remove: whether the region is also taken out (filled from its surroundings).
    """
    images = material.views[region.view]
    logits = {"original": original}
    for name, other in (("same", False), ("other", True)):
        changed = region.changed(images, donors, other=other)
        logits[name] = _answers(material, region.view, changed, original)
    if remove:
        logits["removed"] = _answers(material, region.view, filled(images, region.mask), original)
    odds = {name: log_odds(values, material.bundle.task) for name, values in logits.items()}
    statistic = _statistic(material, logits, odds, donors)
    return _effect(material, region, statistic, odds, bootstrap)


def _answers(material: ProbeMaterial, view: str, changed: Tensor, original: Floats) -> Floats:
    """``(N, K)`` logits with a view changed; cases in which nothing changed are not asked again."""
    rows = (changed != material.views[view]).flatten(1).any(dim=1).nonzero().flatten().tolist()
    found = original.copy()
    if rows:
        found[rows] = material.part(rows).logits({view: changed[rows]})
    return found


def _statistic(
    material: ProbeMaterial, logits: Mapping[str, Floats], odds: Mapping[str, Floats], donors: Donors
) -> Callable[[Floats], dict[str, Floats]]:
    """Everything that ``Effect`` holds, as a function of case weights; each ``(B, K)``."""
    truth = material.truth
    rankings = {
        name: [Ranking.of(own[:, k], truth[:, k]) for k in range(truth.shape[1])]
        for name, own in odds.items()
    }
    said = {
        name: material.bundle.probabilities(torch.from_numpy(values)).numpy()
        for name, values in logits.items()
    }
    gets = ((truth == 0) & (truth[donors.other] == 1)).astype(float)
    has = (truth == 1).astype(float)
    gained = said["other"] - said["original"]

    def statistic(weights: Floats) -> dict[str, Floats]:
        found = {
            name: np.stack([ranking(weights)[0] for ranking in own], axis=1) for name, own in rankings.items()
        }
        found["effect"] = found["same"] - found["other"]
        found["gained"] = ratio(weights @ (gained * gets), weights @ gets)
        if "removed" in said:
            found["removal"] = found["original"] - found["removed"]
            found["lost"] = ratio(weights @ ((said["removed"] - said["original"]) * has), weights @ has)
        return found

    return statistic


def _effect(
    material: ProbeMaterial,
    region: ExchangedRegion,
    statistic: Callable[[Floats], dict[str, Floats]],
    odds: Mapping[str, Floats],
    bootstrap: Bootstrap,
) -> Effect:
    """The figures with their intervals; ``odds`` are those that the AUROCs are of."""
    truth, patients, classes = material.truth, material.patients, material.bundle.classes
    point = {name: own[0] for name, own in statistic(np.ones((1, len(patients)))).items()}
    drawn = bootstrap.replicates(statistic, patients)
    told = [k for k in range(len(classes)) if not np.isnan(point["original"][k])]

    def values(
        of: Callable[[Floats], Floats], interval: Callable[[str], Interval | None]
    ) -> dict[str, Value]:
        """Every figure of one class, or of their mean; what it is a difference of comes before it."""
        found: dict[str, Value] = {}
        for name, own in point.items():
            one, edge = float(of(own)), None
            if name in _DIFFERENCES:
                edge = difference_interval(*(found[part] for part in _DIFFERENCES[name]))
            found[name] = bootstrap.value(
                one,
                of(drawn[name]) if drawn else None,
                n=len(patients),
                patients=len(set(patients)),
                reason="no case tells it" if np.isnan(one) else "",
                exact=interval(name) if name in odds else None,
                edge=edge,
            )
        return found

    def of_class(k: int) -> dict[str, Value]:
        def interval(name: str) -> Interval | None:
            return few_patients_interval(odds[name][:, k], truth[:, k], patients, bootstrap.level)

        return values(lambda own: own[..., k], interval)

    by_class = [of_class(k) for k in told]

    def averaged(name: str) -> Interval | None:
        parts = [own[name] for own in by_class]
        return average_interval(parts, drawn[name][:, told] if drawn else None)

    def chance(own: Floats) -> float:
        own = own[~np.isnan(own)]
        return float((1 + (own <= 0).sum()) / (1 + len(own))) if drawn else float("nan")

    changes = drawn.get("effect", np.full((0, len(classes)), np.nan))
    return Effect(
        region,
        values(mean_of_defined, averaged),
        {classes[k]: own for k, own in zip(told, by_class, strict=True)},
        {"": chance(mean_of_defined(changes)), **{classes[k]: chance(changes[:, k]) for k in told}},
    )


def _quantile(values: Floats, share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else np.inf
