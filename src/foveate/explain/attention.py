"""The model's own attention as a heat map: what the network says it looked at, the same for every class.

A model hands out any number of ``AttentionMap``; one lies over places if its axes can be read so:

| weights, n spatial axes | read as |
|---|---|
| ``(B, *space)`` of a feature's space | itself |
| ``(B, C, *space)`` of a feature's space | a gate per channel and place: the mean over channels |
| ``(B, *from, *to)``, each place reads all places | how much each place is read: the mean over the readers |
| ``(B, N)`` summing to one, N places of a feature | weights of places in a row (multiple-instance pooling) |

Gates of whole channels, matrices between channels and weights between views lie over no place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.contract import AttentionMap, Classifier, ModelOutput, Views
from foveate.errors import UsageError
from foveate.explain.options import ExplainOptions


def attention_map(
    model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
) -> dict[str, Tensor]:
    """The attention nearest to the logits, or the one that the option ``feature`` names.

    Never negative, and no evidence for a class: it says where the network looked, and every target gets
    the same map. An attention whose name holds the name of a view lies over that view (of several, over
    the last named), any other over all views. One that ends in ``inter`` is how the named view reads the
    other of two: it lies over that other view, and is drawn only if there is nothing else or it is asked for.

    Raises:
        UsageError: the model has no attention over places of a view, or none of this name.
    """
    with torch.no_grad():
        output = model(views)
    wanted = [each for each in output.attention if options.feature in (None, each.name)]
    if not wanted and output.attention:
        raise UsageError(
            f"the model hands out no attention '{options.feature}'", fix=f"choose from: {_names(output)}"
        )
    axes = next(iter(views.values())).ndim - 2
    over = {each.name: places(each, output, axes) for each in wanted}
    found = {}
    for view in views:
        drawn = {
            name: values
            for name, values in over.items()
            if values is not None and view in _lies_over(name, model.input_spec.views)
        }
        if not drawn and not (options.feature and any(values is not None for values in over.values())):
            raise _none_over(model, view, output)
        if not drawn:  # the one that was asked for lies over other views
            found[view] = torch.zeros(
                len(views[view]), len(targets), *[1] * axes, device=output.logits.device
            )
            continue
        found[view] = _nearest(drawn).detach()[:, None].expand(-1, len(targets), *[-1] * axes)
    return found


def own_attention(model: Classifier, output: ModelOutput, axes: int) -> dict[str, Float[Tensor, "B *space"]]:
    """The attention nearest to the logits over each view that has any, from an output that is there already.

    Args:
        model: that handed it out.
        output: of a batch.
        axes: number of spatial axes, 2 or 3.
    """
    over = {each.name: places(each, output, axes) for each in output.attention}
    found = {}
    for view in model.input_spec.views:
        drawn = {
            name: values
            for name, values in over.items()
            if values is not None and view in _lies_over(name, model.input_spec.views)
        }
        if drawn:
            found[view] = _nearest(drawn).detach()
    return found


def _nearest(drawn: Mapping[str, Tensor]) -> Tensor:
    """The last of them, rather one of a view itself than of how it reads another."""
    name = max(enumerate(drawn), key=lambda item: (not item[1].endswith("inter"), item[0]))[1]
    return drawn[name]


def places(attention: AttentionMap, output: ModelOutput, axes: int) -> Float[Tensor, "B *space"] | None:
    """One weight per place, or None if this attention lies over no place.

    Args:
        attention: handed out by the model.
        output: all that the model handed out; its features say which shapes are places.
        axes: number of spatial axes, 2 or 3.
    """
    weights = attention.weights.float()
    spaces = {tuple(x.shape[2:]) for x in output.features.values() if x.ndim == axes + 2}
    trailing = tuple(weights.shape[-axes:])
    if weights.ndim == 1 + 2 * axes:
        return weights.mean(dim=tuple(range(1, 1 + axes)))
    if weights.ndim == 2 + axes and (trailing in spaces or weights.shape[1] == 1):
        return weights.mean(dim=1)
    if weights.ndim == 1 + axes and trailing in spaces and attention.normalized_over != (weights.ndim - 1,):
        return weights
    if weights.ndim == 2 and attention.normalized_over in ((1,), (-1,)):
        rows = [space for space in spaces if math.prod(space) == weights.shape[1] > 1]
        return weights.reshape(-1, *rows[0]) if len(rows) == 1 else None
    return None


def _lies_over(name: str, views: Sequence[str]) -> tuple[str, ...]:
    """The views that an attention of this name is about."""
    ends = {
        view: found[-1].end()
        for view in views
        if (found := list(re.finditer(rf"(?<![A-Za-z0-9]){re.escape(view)}(?![A-Za-z0-9])", name)))
    }
    if not ends:
        return tuple(views)
    named = max(ends, key=lambda view: (ends[view], len(view)))
    if name.endswith("inter") and len(views) == 2:
        return tuple(view for view in views if view != named)
    return (named,)


def _names(output: ModelOutput) -> str:
    return ", ".join(each.name for each in output.attention)


def _none_over(model: Classifier, view: str, output: ModelOutput) -> UsageError:
    handed = f"it hands out {_names(output)}, none of it over places" if output.attention else "it has none"
    return UsageError(
        f"{type(model).__name__} has no attention over the places of view '{view}': {handed}",
        fix="use gradcam, which every model with a feature map supports",
        code="no-spatial-attention",
    )
