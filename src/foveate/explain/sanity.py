"""Sanity checks of heat maps: what a map of a model's reasons must do, and what it must not survive.

* Randomisation (Adebayo et al. 2018, section 3.1): with its layers drawn anew the model knows nothing; a map
  that stays the same shows the image, not the model.
* Noise and shift: what does not change the answer should not change the picture.
* Signs: to take away what a map calls evidence for a class lowers its score, to take away what it calls
  evidence against the class raises it.

Nothing here changes the model: layers are drawn anew in a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from foveate.contract import Classifier, Views
from foveate.explain.baselines import baselines_of
from foveate.explain.isolation import isolated
from foveate.explain.options import ExplainOptions
from foveate.maps.map_similarity import Floats, rank_correlation, structural_similarity

HALF = 0.5
STAGES = (0.0, HALF, 1.0)  # shares of the layers that are drawn anew: the last layer alone, half, all
NOISE = 0.1  # standard deviation of the noise, as a share of the image's own
SHIFT = 32  # an image is shifted by this part of its sides
REMOVED = 0.2  # largest share of the pixels that the sign check takes away
SIDE = 64  # cells along each side at which maps are compared
_MODES = {2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two sets of maps are, case by case; NaN where a map is the same everywhere.

    Attributes:
        signed: ``(B,)`` rank correlation of the maps.
        magnitude: ``(B,)`` rank correlation of their absolute values.
        structure: ``(B,)`` structural similarity of their absolute values.
    """

    signed: Floats
    magnitude: Floats
    structure: Floats


def likeness(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Likeness:
    """Compare the maps of the same cases; of several views the mean over those that a case has.

    Maps are compared on the coarser of their two grids, and on at most ``SIDE`` cells along each side: nobody
    reads single pixels off a heat map.

    Args:
        first, second: by view ``(B, *space)``; a view that a case lacks is zero everywhere.
    """
    pairs = [_on_one_grid(first[view], second[view]) for view in first]
    return Likeness(
        _mean([rank_correlation(one, two) for one, two in pairs]),
        _mean([rank_correlation(np.abs(one), np.abs(two)) for one, two in pairs]),
        _mean([structural_similarity(one, two) for one, two in pairs]),
    )


def randomised(
    model: Classifier, views: Views, *, stages: Sequence[float] = STAGES, seed: int = 0
) -> Iterator[tuple[str, Classifier]]:
    """Draw more and more layers of a copy of the model anew, from the last to the first.

    A layer is a module with parameters of its own, in the order in which the forward pass meets them; it is
    set back by the initializer of its own class. Batch normalization is then estimated anew on the images, so
    that a deep network without training still answers to its input.

    Args:
        model: stays as it is.
        views: a batch of at least two cases, normalized.
        stages: shares of the layers, ascending; at 0 it is the last layer alone.
        seed: of the draws; the global random state stays as it is.

    Yields:
        The share drawn anew and the first of these layers in words, and the copy; the next step changes it.
    """
    with isolated(model, views) as (worker, inputs), torch.random.fork_rng(devices=_devices(worker)):
        torch.manual_seed(seed)
        fresh = copy.deepcopy(worker)
        order = _layers(fresh, inputs)[::-1]
        done = 0
        for share in stages:
            upto = max(1, round(share * len(order)))
            for _, layer in order[done:upto]:
                _reset(layer)
            _estimate([layer for _, layer in order[done:upto]], fresh, inputs)
            done = upto
            yield f"{done} of {len(order)} layers, down to {order[done - 1][0]}", fresh


def noisy(views: Views, *, share: float = NOISE, seed: int = 0) -> dict[str, Tensor]:
    """Add normal noise to each image, as strong as ``share`` of its own standard deviation.

    Args:
        views: each ``(B, C, *space)``; rows of NaN stay so.
        share: of the standard deviation.
        seed: of the noise.
    """
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for view, x in views.items():
        deviation = x.flatten(1).std(dim=1).view(-1, *[1] * (x.ndim - 1))
        found[view] = x + torch.randn(x.shape, generator=draw).to(x) * share * deviation
    return found


def shifted(views: Views) -> dict[str, Tensor]:
    """Move each image down and to the right by one ``SHIFT``-th of its sides; the border is repeated."""
    found = {}
    for view, x in views.items():
        down, right = (_step(side) for side in x.shape[-2:])
        flat = x.flatten(1, -3)  # the planes of a volume move alike
        moved = functional.pad(flat, (right, 0, down, 0), mode="replicate")[..., : x.shape[-2], : x.shape[-1]]
        found[view] = moved.reshape(x.shape)
    return found


def unshifted(
    maps: Mapping[str, Tensor], moved: Mapping[str, Tensor], views: Views
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Bring the maps of shifted images back over those of the images, at the resolution of the input.

    Args:
        maps: of the images, by view ``(B, *space)``.
        moved: of the shifted images.
        views: the images.

    Returns:
        Both, without the strip along the border that only one of them has.
    """
    before, after = {}, {}
    for view, x in views.items():
        height, width = x.shape[-2:]
        down, right = _step(height), _step(width)
        before[view] = _enlarged(maps[view], x)[..., : height - down, : width - right]
        after[view] = _enlarged(moved[view], x)[..., down:, right:]
    return before, after


def sign_check(
    model: Classifier,
    views: Views,
    maps: Mapping[str, Tensor],
    targets: Sequence[int],
    *,
    batch_size: int = 32,
) -> tuple[Floats, Floats]:
    """Take the strongest evidence for the class away, then the strongest against it.

    What is taken away are the pixels with the highest values above 0 (the lowest below 0), at most
    ``REMOVED`` of each view; the blurred image takes their place.

    Args:
        model: any classifier.
        views: each ``(B, C, *space)``, normalized.
        maps: by view ``(B, *space)``, raw and signed, of any resolution.
        targets: B class indices.
        batch_size: cases at once.

    Returns:
        ``(B,)`` by how much the logit falls without the positive evidence, and ``(B,)`` by how much it rises
        without the negative evidence; NaN where the map has none.
    """
    whole = _logits(model, views, targets, batch_size)
    changes: list[Floats] = []
    for sign in (1, -1):
        covered, any_of_it = _without(views, {view: sign * values for view, values in maps.items()})
        change = sign * (whole - _logits(model, covered, targets, batch_size))
        changes.append(np.where(any_of_it, change, np.nan))
    return changes[0], changes[1]


def _layers(model: nn.Module, views: Views) -> list[tuple[str, nn.Module]]:
    """Modules with parameters of their own, in the order of the forward pass; those it never calls first."""
    own = {name: module for name, module in model.named_modules() if list(module.parameters(recurse=False))}
    met: dict[str, nn.Module] = {}

    def note(name: str, module: nn.Module) -> None:
        met.pop(name, None)  # a layer that is used twice stands where it is used last
        met[name] = module

    hooks = [
        module.register_forward_hook(lambda *_, name=name, module=module: note(name, module))
        for name, module in own.items()
    ]
    with torch.no_grad():
        model({view: x[:2] for view, x in views.items()})
    for hook in hooks:
        hook.remove()
    return [*((name, module) for name, module in own.items() if name not in met), *met.items()]


def _reset(layer: nn.Module) -> None:
    """Set a layer back by its own initializer; parameters without one get normal noise of the same size."""
    reset = getattr(layer, "reset_parameters", None)
    if callable(reset) and not list(layer.children()):
        reset()
        return
    with torch.no_grad():
        for values in layer.parameters(recurse=False):
            values.normal_(0, float(values.square().mean().sqrt()))


def _estimate(layers: Sequence[nn.Module], model: nn.Module, views: Views) -> None:
    """Estimate the running statistics of batch normalization layers anew on a batch."""
    norms = [layer for layer in layers if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not norms:
        return
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(views)
    for norm in norms:
        norm.eval()


def _devices(model: nn.Module) -> list[torch.device]:
    """Devices other than the CPU whose random state draws would change."""
    return sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=str)


def _on_one_grid(first: Tensor, second: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    sizes = zip(first.shape[1:], second.shape[1:], strict=True)
    grid = [min(one, two, SIDE) for one, two in sizes]
    one, two = (
        maps
        if list(maps.shape[1:]) == grid
        else functional.interpolate(maps[:, None], grid, mode="area")[:, 0]
        for maps in (first.float().cpu(), second.float().cpu())
    )
    return one.numpy(), two.numpy()


def _mean(values: Sequence[Floats]) -> Floats:
    """Mean over views of what is defined, NaN where nothing is."""
    table = np.stack(values)
    known = ~np.isnan(table)
    total = np.where(known, table, 0).sum(axis=0)
    found: Floats = np.full(len(total), np.nan)
    np.divide(total, known.sum(axis=0), out=found, where=known.any(axis=0))
    return found


def _step(side: int) -> int:
    return max(1, round(side / SHIFT))


def _enlarged(maps: Float[Tensor, "B *space"], x: Tensor) -> Float[Tensor, "B *size"]:
    """Maps at the resolution of the input."""
    size = list(x.shape[2:])
    if list(maps.shape[1:]) == size:
        return maps
    return functional.interpolate(maps[:, None], size, mode=_MODES[len(size)], align_corners=False)[:, 0]


def _without(views: Views, maps: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], NDArray[np.bool_]]:
    """Images without what the maps hold most of, and which cases had any of it."""
    covered, any_of_it = {}, torch.zeros(len(next(iter(views.values()))), dtype=torch.bool)
    for view, x in views.items():
        flat = _enlarged(maps[view].to(x.device), x).flatten(1)
        least = flat.kthvalue(max(1, round((1 - REMOVED) * flat.shape[1])), dim=1, keepdim=True).values
        chosen = ((flat > 0) & (flat > least)).view(len(x), 1, *x.shape[2:])
        blurred = baselines_of(x, view, ExplainOptions(baseline="blur"), 0)[0]
        covered[view] = torch.where(chosen, blurred, x)
        any_of_it |= chosen.flatten(1).any(dim=1).cpu()
    return covered, any_of_it.numpy()


def _logits(model: Classifier, views: Views, targets: Sequence[int], size: int) -> Floats:
    with isolated(model, views) as (worker, inputs), torch.no_grad():
        starts = range(0, len(targets), size)
        parts = [worker({view: x[at : at + size] for view, x in inputs.items()}).logits for at in starts]
        logits = torch.cat(parts).double().cpu()
    return logits[torch.arange(len(targets)), torch.tensor(list(targets))].numpy()
