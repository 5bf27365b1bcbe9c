"""Explain: for an explicit class, where in the image the model's evidence lies.

``EXPLAINERS`` is the table of methods, ``explain_batch`` the one door to them. Maps are raw and signed,
at the resolution at which the method sees (features for CAMs, input for gradients); nothing is rescaled.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.contract import Classifier, Views
from foveate.errors import RunFailed, UsageError
from foveate.explain.cam import analytic_cam, from_gradients, grad_cam, grad_cam_plus_plus, hires_cam
from foveate.explain.controls import centre_map, random_map
from foveate.explain.gradients import completeness_gap, integrated_gradients, occlusion, smooth_grad
from foveate.explain.isolation import isolated
from foveate.explain.options import Explainer, ExplainOptions

__all__ = ["EXPLAINERS", "ExplainOptions", "Explainer", "completeness_gap", "explain_batch"]

EXPLAINERS: dict[str, Explainer] = {
    "cam": analytic_cam,
    "gradcam": from_gradients(grad_cam),
    "gradcam++": from_gradients(grad_cam_plus_plus),
    "hirescam": from_gradients(hires_cam),
    "integrated_gradients": integrated_gradients,
    "smoothgrad": smooth_grad,
    "occlusion": occlusion,
    "random": random_map,
    "centre": centre_map,
}


def explain_batch(
    model: Classifier,
    views: Views,
    targets: Sequence[int],
    explainer: str,
    *,
    options: ExplainOptions | None = None,
    seed: int = 0,
) -> dict[str, Float[Tensor, "B T *space"]]:
    """Explain the scores of some classes for a batch of cases, leaving no trace in the model.

    The model is used in evaluation mode and in float32 (float64 if its weights are), also where the
    caller has switched gradients off or autocast on. Its flags, weights, gradients and hooks, and the
    global random state, are afterwards as they were, even if this raises.

    Args:
        model: any classifier; of its insides only ``ModelOutput.features`` is used.
        views: for each view ``(B, C, *space)``, normalized, in 2-D or 3-D.
        targets: T class indices, each below ``model.num_classes``.
        explainer: a name in ``EXPLAINERS``.
        options: choices of the method; None means the defaults.
        seed: for explainers that draw.

    Returns:
        For each view ``(B, T, *space)`` float32, raw and signed, on the model's device. ``space`` is that
        of the feature map for CAM methods and ``random``, that of the input for the others.

    Raises:
        UsageError: an unknown explainer, view, target or feature, or a method that the model cannot have.
        RunFailed: an input or a map is not finite, or the model breaks its contract.
    """
    method = _find(explainer)
    chosen = options or ExplainOptions()
    wanted = _checked_targets(model, targets)
    _check_views(model, views)
    for view, x in views.items():
        _check_finite(x, f"view '{view}' holds values")
    with isolated(model, views) as (worker, inputs):
        parts = [method(worker, chunk, wanted, chosen, seed) for chunk in _chunks(inputs, chosen.batch_size)]
        maps = {view: torch.cat([part[view] for part in parts]).float() for view in views}
    for view, values in maps.items():
        _check_finite(values, f"{explainer} gave values for view '{view}'")
    return maps


def _find(name: str) -> Explainer:
    """The explainer of this name."""
    if name in EXPLAINERS:
        return EXPLAINERS[name]
    close = difflib.get_close_matches(name, EXPLAINERS, n=1)
    fix = f"did you mean '{close[0]}'?" if close else f"choose from: {', '.join(EXPLAINERS)}"
    raise UsageError(f"there is no explainer '{name}'", fix=fix)


def _checked_targets(model: Classifier, targets: Sequence[int]) -> list[int]:
    """Targets as plain integers that are classes of the model."""
    wanted = [operator.index(target) for target in targets]
    outside = [target for target in wanted if not 0 <= target < model.num_classes]
    if outside or not wanted:
        raise UsageError(
            f"the model has no class {outside[0]}" if outside else "no class to explain was given",
            fix=f"give class indices from 0 to {model.num_classes - 1}",
        )
    return wanted


def _check_views(model: Classifier, views: Views) -> None:
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


def _chunks(views: Views, size: int) -> list[dict[str, Tensor]]:
    """The batch in parts of at most ``size`` cases."""
    parts = zip(*(torch.split(x, size) for x in views.values()), strict=True)
    return [dict(zip(views, part, strict=True)) for part in parts]


def _check_finite(values: Tensor, whose: str) -> None:
    """Raise if there is NaN or infinity, naming the cases by their position in the batch."""
    broken = (~values.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise RunFailed(
            f"{whose} that are not finite, at batch positions {', '.join(map(str, broken))}",
            fix="look for NaN or infinity in these images and in the model's weights",
            code="explanation-not-finite",
        )
