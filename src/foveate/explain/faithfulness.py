"""Do heat maps show what the answer rests on? The image is changed where a map says it matters.

* Deletion and insertion (Petsiuk et al. 2018, section 3.2): take the image away, or bring it back, from the
  most to the least important places, and watch the score.
* ROAD (Rong et al. 2022, section 4): remove the most, or the least, important places first; what fills them
  follows from what is left, so that the shape of the hole tells nothing.
* Sensitivity-n (Ancona et al. 2018, section 3.4): do the values in random sets of places add up to what the
  score loses without these places?

Maps of any resolution are asked about the same squares of the image (``perturbation.BlockGrid``), so that a
coarse map and a fine one can be compared; what is finer than a square is not tested. All maps meet the same
random sets, noise and tie-breaks, and ``random_order``, a random order of the squares, is measured beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from foveate.contract import Classifier, Views
from foveate.explain.options import Baseline, Score

RANDOM_ORDER = "random_order"
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaithfulnessOptions:
    """Choices of the measurement.

    Attributes:
        score: of the target: its probability by ``softmax`` or ``sigmoid``, or its ``logit``. Sensitivity-n
            takes the logit in any case, as the maps explain it.
        blocks: squares along the longest side of each view; the other sides get squares of about that size.
        baselines: what takes the place of squares in deletion and insertion, see ``ExplainOptions``.
        fractions: shares of the squares removed (deletion) or shown (insertion), besides 0 and 1.
        road_fractions: shares of the squares removed by ROAD.
        road_noise: standard deviation of ROAD's noise, in normalized pixels.
        subset_fractions: sizes of the random sets of sensitivity-n, as shares of the squares.
        subsets: random sets of each size; 0 leaves sensitivity-n out.
        least_rise: deletion and insertion are undefined for a case whose whole image scores less than this
            above the baseline: there is nothing to lose, and the curves are measured in units of that rise.
        precision: ``auto``: bfloat16 where the machine computes in it and a sample of the answers agrees with
            float32, else float32.
        batch_size: images that go through the model at once.
    """

    score: Score = "softmax"
    blocks: int = 14
    baselines: tuple[Baseline, ...] = ("blur", "mean")
    fractions: tuple[float, ...] = (0.1, 0.2, 0.4, 0.7)
    road_fractions: tuple[float, ...] = (0.1, 0.3, 0.6)
    road_noise: float = 0.01
    subset_fractions: tuple[float, ...] = (0.1, 0.5)
    subsets: int = 16
    least_rise: float = 0.1
    precision: Literal["auto", "float32"] = "auto"
    batch_size: int = 16

    def passes(self, maps: int) -> int:
        """Images that go through the model for each case when ``maps`` maps are measured at once."""
        raise NotImplementedError


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
        """Put the cases of several measurements with the same maps and options together."""
        raise NotImplementedError

    def mean_curve(self, curve: str, method: str) -> Floats:
        """Mean curve ``(points,)`` over the cases for which it is defined; NaN if there is none."""
        raise NotImplementedError


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
    stays away. What is drawn depends on the seed and a case's pixels, so that a batch is its cases one by one.

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
    raise NotImplementedError
