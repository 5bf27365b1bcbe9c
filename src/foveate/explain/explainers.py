"""Explain: for an explicit class, where in the image the model's evidence lies.

``EXPLAINERS`` is the table of methods, ``explain_batch`` the one door to them. Maps are raw and signed,
at the resolution at which the method sees (features for CAMs, input for gradients); nothing is rescaled.
How much each view of a case counts is asked in ``foveate.explain.shares``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveate.contract import Classifier, Views
from foveate.errors import UsageError
from foveate.explain.attention import attention_map
from foveate.explain.cam import analytic_cam, from_gradients, grad_cam, grad_cam_plus_plus, hires_cam
from foveate.explain.checks import check_finite, checked_targets, lacking
from foveate.explain.controls import centre_map, edge_map, random_map
from foveate.explain.gradients import integrated_gradients, occlusion, smooth_grad
from foveate.explain.isolation import isolated
from foveate.explain.options import Explainer, ExplainOptions
from foveate.explain.saliency import gradient, guided_backprop, guided_gradcam

EXPLAINERS: dict[str, Explainer] = {
    "cam": analytic_cam,
    "gradcam": from_gradients(grad_cam),
    "gradcam++": from_gradients(grad_cam_plus_plus),
    "hirescam": from_gradients(hires_cam),
    "guided_gradcam": guided_gradcam,
    "gradient": gradient,
    "guided_backprop": guided_backprop,
    "integrated_gradients": integrated_gradients,
    "smoothgrad": smooth_grad,
    "occlusion": occlusion,
    "attention": attention_map,
    "random": random_map,
    "centre": centre_map,
    "edge": edge_map,
}
# These use no map of the model.
_OF_INPUT = (
    "gradient",
    "guided_backprop",
    "integrated_gradients",
    "smoothgrad",
    "occlusion",
    "centre",
    "edge",
)


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

    A case lacks a view whose row is NaN in every pixel, if the model tolerates that; its map there is
    zero everywhere, for whatever is not there is evidence of nothing.

    Args:
        model: any classifier; of its insides only what ``ModelOutput`` hands out is used.
        views: for each view ``(B, C, *space)``, normalized, in 2-D or 3-D.
        targets: T class indices, each below ``model.num_classes``.
        explainer: a name in ``EXPLAINERS``; ``name:map`` makes a CAM of the model's feature ``map``, or
            draws the attention ``map``, instead of the model's own choice.
        options: choices of the method; None means the defaults.
        seed: for explainers that draw.

    Returns:
        For each view ``(B, T, *space)`` float32, raw and signed, on the model's device. ``space`` is that
        of the feature map for CAM methods and ``random``, that of the attention for ``attention``, that
        of the input for the others.

    Raises:
        UsageError: an unknown explainer, view, target or feature, a method that the model cannot have, or
            a view that is missing although the model cannot do without.
        RunFailed: an input or a map is not finite, or the model breaks its contract.
    """
    method, chosen = _find(explainer, options or ExplainOptions())
    wanted = checked_targets(model, targets)
    missing = lacking(model, views)
    with isolated(model, views) as (worker, inputs):
        parts = [method(worker, chunk, wanted, chosen, seed) for chunk in _chunks(inputs, chosen.batch_size)]
        maps = {view: torch.cat([part[view] for part in parts]).float() for view in views}
    maps = _blanked(maps, missing)
    for view, values in maps.items():
        check_finite(values, f"{explainer} gave values for view '{view}'")
    return maps


def _find(name: str, options: ExplainOptions) -> tuple[Explainer, ExplainOptions]:
    """The explainer of this name, and the options with the feature that the name may carry."""
    method, colon, feature = name.partition(":")
    if method not in EXPLAINERS:
        close = difflib.get_close_matches(method, EXPLAINERS, n=1)
        fix = f"did you mean '{close[0]}'?" if close else f"choose from: {', '.join(EXPLAINERS)}"
        raise UsageError(f"there is no explainer '{method}'", fix=fix)
    if colon and method in _OF_INPUT:
        raise UsageError(
            f"{method} is made of the input, not of a feature of the model", where=name, fix=f"use {method}"
        )
    return EXPLAINERS[method], replace(options, feature=feature) if feature else options


def _chunks(views: Views, size: int) -> list[dict[str, Tensor]]:
    """The batch in parts of at most ``size`` cases."""
    parts = zip(*(torch.split(x, size) for x in views.values()), strict=True)
    return [dict(zip(views, part, strict=True)) for part in parts]


def _blanked(
    maps: Mapping[str, Float[Tensor, "B T *space"]], missing: Mapping[str, Bool[Tensor, "B"]]
) -> dict[str, Float[Tensor, "B T *space"]]:
    """The maps, zero where the case lacks the view."""
    found = {}
    for view, values in maps.items():
        rows = missing[view].to(values.device).view(-1, *[1] * (values.ndim - 1))
        found[view] = torch.where(rows, 0, values) if rows.any() else values
    return found
