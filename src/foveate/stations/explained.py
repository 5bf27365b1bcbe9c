"""Heat maps of prepared cases, and what belongs beside them: what they miss, how much each view counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.bundle.bundle import Bundle
from foveate.explain.explainers import explain_batch
from foveate.explain.gradients import completeness_gap
from foveate.explain.options import ExplainOptions
from foveate.explain.shares import ShareOptions, map_shares, view_shares
from foveate.maps.heatmaps import Share
from foveate.predict import PreparedCase, as_batch, bring_back, bundle_index
from foveate.prepare.geometry import FieldOfView
from foveate.study.sections import ExplainConfig
from foveate.types import Box, Heatmap

_OPTIONS = ShareOptions(batch_size=16)


@dataclass(frozen=True, slots=True)
class Explained:
    """What was found out about one case.

    Attributes:
        maps: one raw, signed heat map per view that the case has and target, in original pixels.
        gaps: for integrated gradients, by target, what the maps of all views miss of the score's rise.
        shares: of each view that the case has and target, if the model has several views.
        cells: by view, ``(T, *grid)`` the raw maps of the targets, before they were brought back; none of a
            view that was brought onto the grid of another.
        fields: by view, where their grid lies in original pixels.
    """

    maps: tuple[Heatmap, ...]
    gaps: Mapping[str, float]
    shares: tuple[Share, ...]
    cells: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    fields: Mapping[str, Box] = field(default_factory=dict)


def explain_cases(
    bundle: Bundle,
    cases: Sequence[PreparedCase],
    targets: Sequence[Sequence[str]],
    *,
    explainer: str,
    seed: int = 0,
    options: ExplainOptions | None = None,
    usual: NDArray[np.float64] | None = None,
    weigh_views: bool = True,
) -> list[Explained]:
    """Explain a batch of prepared cases, each for its own targets.

    Args:
        bundle: the model.
        cases: N prepared cases.
        targets: for each case, the class names to explain.
        explainer: a name in ``EXPLAINERS``.
        seed: for explainers and random orders of views.
        options: of the explainer, see ``explain_options``.
        usual: ``(K,)`` logits that stand for the answer to no view at all, such as the mean over a cohort;
            None: all 0.
        weigh_views: whether to ask how much each view counts, which takes a prediction for each set of views.
    """
    wanted = sorted({bundle_index(bundle, name) for names in targets for name in names})
    views = as_batch(bundle, cases)
    maps = explain_batch(bundle.model, views, wanted, explainer, options=options, seed=seed)
    gaps = None
    if explainer == "integrated_gradients":
        gaps = completeness_gap(bundle.model, views, wanted, maps, options=options, seed=seed).cpu()
    several = weigh_views and len(views) > 1
    shares = _shares(bundle, views, maps, wanted, usual, seed) if several else None
    found = []
    for row, (item, names) in enumerate(zip(cases, targets, strict=True)):
        columns = {name: wanted.index(bundle_index(bundle, name)) for name in names}
        own = {view: values[row] for view, values in maps.items()}
        fields = {
            view: each.field for view, each in item.views.items() if isinstance(each.field, FieldOfView)
        }
        found.append(
            Explained(
                maps=tuple(bring_back(bundle, item, own, columns, explainer)),
                gaps={} if gaps is None else {name: float(gaps[row, t]) for name, t in columns.items()},
                shares=() if shares is None else tuple(_rows(bundle, item, columns, shares[:, row])),
                cells={
                    view: fields[view].unturned(values[list(columns.values())].float().cpu().numpy())
                    for view, values in own.items()
                    if view in fields
                },
                fields={view: field.box for view, field in fields.items()},
            )
        )
    return found


def explain_options(bundle: Bundle, settings: ExplainConfig) -> ExplainOptions:
    """Options of the explainers for a model, as a study has them.

    What black and white become by normalization is known where it is fixed; where each image is normalized by
    its own values, an image's own least and greatest take their place.

    Args:
        bundle: the model with its preprocessing.
        settings: the section ``explain`` of the study.
    """
    pixel = torch.zeros(1, 1, *(1 for _ in bundle.model.input_spec.size))
    fixed = [view for view in bundle.views if bundle.preprocess.settings(view).intensity == "fixed"]
    black, white = (
        {view: bundle.preprocess.normalize(pixel + value, view).flatten().tolist() for view in fixed}
        for value in (0, 1)
    )
    return ExplainOptions(
        score=settings.score,
        baseline=settings.baseline,
        baselines=settings.baselines,
        ig_steps=settings.ig_steps,
        ig_rule=settings.ig_rule,
        black=black,
        white=white,
    )


def _shares(
    bundle: Bundle,
    views: Mapping[str, Tensor],
    maps: Mapping[str, Tensor],
    wanted: Sequence[int],
    usual: NDArray[np.float64] | None,
    seed: int,
) -> Tensor:
    """``(2, B, T, V)``: Shapley values, and shares in the maps."""
    options = _OPTIONS
    if usual is not None:
        options = ShareOptions(batch_size=options.batch_size, empty=torch.from_numpy(usual))
    values = view_shares(bundle.model, views, wanted, options=options, seed=seed)
    return torch.stack([values.cpu(), map_shares(maps).cpu()])


def _rows(bundle: Bundle, item: PreparedCase, columns: Mapping[str, int], shares: Tensor) -> list[Share]:
    """Rows of ``shares.csv`` from the ``(2, T, V)`` shares of one case."""
    case = item.case
    withheld = "missing" if bundle.model.tolerates_missing else "blank"
    return [
        Share(
            case.case_id,
            case.patient_id,
            case.split or "",
            name,
            view,
            value=float(shares[0, column, position]),
            share=float(shares[1, column, position]),
            withheld=withheld,
            sampled=len(item.views) > _OPTIONS.exact_up_to,
        )
        for name, column in columns.items()
        for position, view in enumerate(bundle.views)
        if view in item.views
    ]
