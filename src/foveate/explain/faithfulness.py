"""Do heat maps show what the answer rests on? The image is changed where a map says it matters.

* Deletion and insertion (Petsiuk et al. 2018, "causal metrics"): take the image away, or bring it back, from
  the most to the least important places, and watch the score.
* ROAD (Rong et al. 2022, "Remove and Debias"): remove the most, or the least, important places first; what
  fills them follows from what is left, so that the shape of the hole tells nothing.
* Sensitivity-n (Ancona et al. 2018): do the values in random sets of places add up to what the score loses
  without these places?

Maps of any resolution are asked about the same squares of the image (``perturbation.BlockGrid``), so that a
coarse map and a fine one can be compared; what is finer than a square is not tested. All maps meet the same
random sets, noise and tie-breaks. ``random_order``, a random order of the squares, is measured beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from foveate.contract import Classifier, Views
from foveate.errors import UsageError
from foveate.explain.checks import check_finite, checked_targets, lacking
from foveate.explain.curves import Curve, PerturbationBench
from foveate.explain.isolation import isolated
from foveate.explain.options import FaithfulnessOptions

__all__ = ["RANDOM_ORDER", "Faithfulness", "FaithfulnessOptions", "higher_is_better", "measure_faithfulness"]

RANDOM_ORDER = "random_order"
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """What was found for B cases and each map; NaN where undefined.

    Attributes:
        measures: by measure and map ``(B,)``. ``deletion_<baseline>`` and ``insertion_<baseline>``: area
            under the normalized curve, 0.5 for an order that tells nothing of a model that adds up; ``road``:
            mean score with the least important places removed less that with the most important ones
            removed; ``sensitivity_n``: mean over the set sizes of the correlation over sets.
            For ``deletion`` lower is better, for the others higher.
        curves: by curve and map ``(B, points)``, at the shares that ``shares`` has for this curve.
            ``deletion_…`` and ``insertion_…`` in units of the rise from the baseline's score (0) to the whole
            image's (1); ``road_most`` and ``road_least`` (most and least important first) in units of the
            score; ``sensitivity_n`` correlations.
        shares: by curve, shares of the squares.
        whole: ``(B,)`` score of the whole image.
        empty: by baseline ``(B,)`` score of the baseline.
    """

    measures: Mapping[str, Mapping[str, Floats]]
    curves: Mapping[str, Mapping[str, Floats]]
    shares: Mapping[str, Floats]
    whole: Floats
    empty: Mapping[str, Floats]

    @classmethod
    def joined(cls, parts: Sequence[Faithfulness]) -> Faithfulness:
        """Put the cases of several measurements with the same maps and options together, in their order."""
        first = parts[0]
        return cls(
            measures={name: _stacked([part.measures[name] for part in parts]) for name in first.measures},
            curves={name: _stacked([part.curves[name] for part in parts]) for name in first.curves},
            shares=first.shares,
            whole=np.concatenate([part.whole for part in parts]),
            empty=_stacked([part.empty for part in parts]),
        )

    def mean_curve(self, curve: str, method: str) -> Floats:
        """Mean curve ``(points,)`` over the cases for which it is defined; NaN if there is none."""
        values = self.curves[curve][method]
        known = values[~np.isnan(values).any(axis=1)]
        return known.mean(axis=0) if len(known) else np.full(values.shape[1], np.nan)


def higher_is_better(measure: str) -> bool:
    """Whether a faithful map has a high value; only deletion wants a low one."""
    return not measure.startswith("deletion")


def measure_faithfulness(
    model: Classifier,
    views: Views,
    maps: Mapping[str, Mapping[str, Float[Tensor, "B *space"]]],
    targets: Sequence[int],
    options: FaithfulnessOptions | None = None,
    *,
    seed: int = 0,
) -> Faithfulness:
    """Measure how far maps name what the scores of a batch rest on, leaving no trace in the model.

    Several views are changed together, by one ranking of the squares of all of them; a view that a case lacks
    stays away. What is drawn depends on the seed and a case's pixels: a batch is its cases one by one.

    Args:
        model: any classifier.
        views: for each view ``(B, C, *space)``, normalized, in 2-D or 3-D; NaN rows are missing views.
        maps: by name, for each view ``(B, *space)``, raw and signed, of any resolution: the heat maps of
            methods and of controls. Places are ordered by signed value.
        targets: B class indices, the class that each case's maps explain.
        options: None means the defaults.
        seed: of ties, random sets, noise, and the random order.

    Returns:
        Measures and curves of all maps, and of ``random_order``.

    Raises:
        UsageError: maps, views and targets do not fit together.
        RunFailed: a map or a score is not finite.
    """
    chosen = options or FaithfulnessOptions()
    wanted = checked_targets(model, targets)
    lacking(model, views)
    _check_maps(views, maps, wanted)
    with isolated(model, views) as (worker, inputs), torch.no_grad():
        bench = PerturbationBench(worker, inputs, wanted, chosen, seed)
        masses = torch.stack([bench.grid.masses(own) for own in maps.values()])
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.agrees_in_bf16()):
            curves = bench.curves(masses)
        names = (*maps, RANDOM_ORDER)
        return Faithfulness(
            measures={measure: _by_map(values, names) for measure, values in _measures(curves).items()},
            curves={name: _by_map(curve.values, names) for name, curve in curves.items()},
            shares={name: curve.shares.numpy() for name, curve in curves.items()},
            whole=bench.whole.numpy(),
            empty={name: values.numpy() for name, values in bench.empty.items()},
        )


def _measures(curves: Mapping[str, Curve]) -> dict[str, Float[Tensor, "M B"]]:
    """One number for each curve, or pair of curves."""
    found = {
        name: torch.trapezoid(curve.values, curve.shares[:, None], dim=1)
        for name, curve in curves.items()
        if name.startswith(("deletion", "insertion"))
    }
    if "road_most" in curves:
        found["road"] = (curves["road_least"].values - curves["road_most"].values)[:, 1:].mean(dim=1)
    if "sensitivity_n" in curves:
        found["sensitivity_n"] = curves["sensitivity_n"].values.nanmean(dim=1)
    return found


def _by_map(values: Float[Tensor, "M *points B"], names: Sequence[str]) -> dict[str, Floats]:
    """By map ``(B,)`` or ``(B, points)``."""
    return {name: own.numpy().T for name, own in zip(names, values, strict=True)}


def _stacked(parts: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_maps(views: Views, maps: Mapping[str, Mapping[str, Tensor]], targets: Sequence[int]) -> None:
    """Raise if there is no map, or one does not lie over the views, or targets are not one per case."""
    cases = len(next(iter(views.values())))
    if not maps or RANDOM_ORDER in maps:
        raise UsageError(f"name at least one map, and none '{RANDOM_ORDER}', which is always measured")
    if len(targets) != cases:
        raise UsageError(f"{cases} cases need {cases} targets, got {len(targets)}")
    for name, own in maps.items():
        for view, x in views.items():
            if view not in own or own[view].ndim != x.ndim - 1 or len(own[view]) != cases:
                raise UsageError(f"the map '{name}' of view '{view}' must be {cases} maps over its space")
            check_finite(own[view], f"the map '{name}' holds values")
