"""What can be asked of an explainer: classes, views, and pixels that make sense together."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from foveate.contract import Classifier, Views
from foveate.errors import RunFailed, UsageError


def checked_targets(model: Classifier, targets: Sequence[int]) -> list[int]:
    """Targets as plain integers that are classes of the model.

    Raises:
        UsageError: there is none, or one is no class of the model.
    """
    wanted = [operator.index(target) for target in targets]
    outside = [target for target in wanted if not 0 <= target < model.num_classes]
    if outside or not wanted:
        raise UsageError(
            f"the model has no class {outside[0]}" if outside else "no class to explain was given",
            fix=f"give class indices from 0 to {model.num_classes - 1}",
        )
    return wanted


def lacking(model: Classifier, views: Views) -> dict[str, Bool[Tensor, "B"]]:
    """For each view, which cases lack it: rows that are NaN in every pixel.

    Raises:
        UsageError: the views do not fit the model or each other; a case lacks a view although the model
            cannot do without, or lacks all of them.
        RunFailed: a view that is there holds values that are not finite.
    """
    _check_views(model, views)
    missing = {view: x.flatten(1).isnan().all(dim=1) for view, x in views.items()}
    for view, x in views.items():
        rows = missing[view].view(-1, *[1] * (x.ndim - 1))
        check_finite(torch.where(rows, 0, x), f"view '{view}' holds values")
    together = torch.stack([rows.cpu() for rows in missing.values()], dim=1)
    without = together.all(dim=1) if model.tolerates_missing else together.any(dim=1)
    if without.any():
        raise UsageError(
            f"views are missing at batch positions {_positions(without)}",
            fix="leave out cases without any view"
            if model.tolerates_missing
            else "give every view; this model cannot do without",
            code="view-missing",
        )
    return missing


def check_finite(values: Tensor, whose: str) -> None:
    """Raise if there is NaN or infinity, naming the cases by their position in the batch."""
    broken = (~values.isfinite()).flatten(1).any(dim=1)
    if broken.any():
        raise RunFailed(
            f"{whose} that are not finite, at batch positions {_positions(broken)}",
            fix="look for NaN or infinity in these images and in the model's weights",
            code="explanation-not-finite",
        )


def _check_views(model: Classifier, views: Mapping[str, Tensor]) -> None:
    """Raise if a view is unknown to the model, or if the views are not of the same cases."""
    unknown = [view for view in views if view not in model.input_spec.views]
    if unknown or not views:
        raise UsageError(
            f"the model has no view '{unknown[0]}'" if unknown else "no view was given",
            fix=f"its views are: {', '.join(model.input_spec.views)}",
        )
    sizes = {view: len(x) for view, x in views.items()}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise UsageError(f"every view needs the same number of cases, at least one; got {sizes}")


def _positions(rows: Bool[Tensor, "B"]) -> str:
    return ", ".join(map(str, rows.nonzero().flatten().tolist()))
