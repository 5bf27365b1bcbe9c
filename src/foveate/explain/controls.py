"""Maps that know nothing of the model's reasons; an explainer must beat them to have shown anything."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from foveate.contract import Classifier, Views
from foveate.explain.cam import feature_keys, spatial_features
from foveate.explain.options import ExplainOptions


def random_map(
    model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
) -> dict[str, Tensor]:
    """Uniform noise in [0, 1), as coarse as the model's CAMs so that its blobs are as large as theirs.

    Drawn from the seed, the view's name and the case's own pixels: every case has a map of its own, and
    the same one in any batch and for any choice of other targets.
    """
    keys = feature_keys(model, views, options)
    with torch.no_grad():
        features = spatial_features(model({view: x[:1] for view, x in views.items()}), keys)
    maps = {}
    for view, x in views.items():
        shape = (model.num_classes, *features[keys[view]].shape[2:])
        drawn = [torch.rand(shape, generator=generator_of(case, view, seed)) for case in x]
        maps[view] = torch.stack(drawn)[:, list(targets)].to(x.device)
    return maps


def centre_map(
    model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
) -> dict[str, Tensor]:
    """A centred Gaussian at the input's resolution: the photographer's prior.

    The maximum is in the middle, and half of it is reached at the middle half of each axis.
    """
    maps = {}
    for view, x in views.items():
        bump = torch.ones(())
        for side in x.shape[2:]:
            offset = (torch.arange(side) + 0.5) / side * 2 - 1  # −1 … 1 from edge to edge
            bump = bump[..., None] * 0.5 ** (4 * offset**2)
        maps[view] = bump.to(x.device).expand(len(x), len(targets), *x.shape[2:]).clone()
    return maps


def edge_map(
    model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
) -> dict[str, Tensor]:
    """Where the image has edges: the Sobel gradient's magnitude, averaged over channels, never negative.

    It looks like a saliency map and knows nothing of the model (a control of Adebayo et al. 2018).
    """
    maps = {}
    for view, x in views.items():
        planes = x.flatten(0, 1).cpu().numpy()
        slopes = [
            ndimage.generic_gradient_magnitude(plane, ndimage.sobel, mode="nearest") for plane in planes
        ]
        edges = torch.from_numpy(np.stack(slopes)).to(x.device).reshape(x.shape).mean(dim=1)
        maps[view] = edges.unsqueeze(1).repeat(1, len(targets), *[1] * (x.ndim - 2))
    return maps


def generator_of(case: Tensor, name: str, seed: int) -> torch.Generator:
    """A generator seeded by the pixels of one case, so that what it draws does not depend on the batch.

    Args:
        case: any shape; NaN where a view is missing.
        name: of what is drawn for.
        seed: of the run.
    """
    digest = hashlib.sha256(f"{seed}:{name}:".encode() + case.float().cpu().numpy().tobytes()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))
