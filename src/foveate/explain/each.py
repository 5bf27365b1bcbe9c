"""Explain each case of a batch for a class of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.contract import Classifier, Views
from foveate.explain.explainers import explain_batch
from foveate.explain.options import ExplainOptions


def explain_each(
    model: Classifier,
    views: Views,
    targets: Sequence[int],
    explainer: str,
    *,
    options: ExplainOptions | None = None,
    seed: int = 0,
) -> dict[str, Float[Tensor, "B *space"]]:
    """Explain one class per case; cases with the same class go through the explainer together.

    Args:
        model, views, explainer, options, seed: as in ``explain_batch``.
        targets: B class indices.

    Returns:
        For each view ``(B, *space)`` float32, raw and signed.

    Raises:
        UsageError, RunFailed: as ``explain_batch`` does.
    """
    wanted = torch.tensor(list(targets))
    maps: dict[str, Tensor] = {}
    for target in sorted(set(wanted.tolist())):
        rows = (wanted == target).nonzero()[:, 0]
        chunk = {view: x[rows.to(x.device)] for view, x in views.items()}
        found = explain_batch(model, chunk, [target], explainer, options=options, seed=seed)
        for view, values in found.items():
            if view not in maps:
                maps[view] = values.new_zeros(len(wanted), *values.shape[2:])
            maps[view][rows.to(values.device)] = values[:, 0]
    return maps
