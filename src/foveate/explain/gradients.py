"""Explanations at the resolution of the input, through Captum: which pixels the score depends on.

A case goes through the model ``batch_size`` altered copies at a time; cases never meet in a batch, so
the maps of N cases are those of N calls. Several views are explained together: a case's maps share one
path, one noise, or one image that is left whole while another is occluded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from captum.attr import IntegratedGradients, Occlusion, Saliency
from jaxtyping import Float
from monai.networks.layers.convutils import gaussian_1d
from monai.networks.layers.simplelayers import separable_filtering
from torch import Tensor

from foveate.contract import Classifier, Views
from foveate.errors import UsageError
from foveate.explain.isolation import isolated
from foveate.explain.options import Baseline, ExplainOptions

_BLUR = 0.1  # standard deviation of the blurred baseline, as a share of each side


def integrated_gradients(
    model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
) -> dict[str, Tensor]:
    """Integrated gradients, summed over channels (Sundararajan et al. 2017, equation 1).

    Complete: the maps of all views of a case add up to ``score(image) − score(baseline)``, as far as
    ``ig_steps`` Gauss–Legendre points resolve the path; ``completeness_gap`` measures what is missing.
    """
    method = IntegratedGradients(_scores(model, tuple(views)))

    def explain(case: tuple[Tensor, ...], target: int) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = method.attribute(
            case,
            baselines=tuple(baseline_of(x, options.baseline) for x in case),
            target=target,
            n_steps=options.ig_steps,
            internal_batch_size=options.batch_size,
        )
        return tuple(x.sum(dim=1) for x in found)

    return _each_case(views, targets, explain)


def smooth_grad(
    model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
) -> dict[str, Tensor]:
    """SmoothGrad: ``max over channels of |mean gradient over noisy copies|`` (Smilkov et al. 2017).

    Never negative: it is sensitivity, not evidence. The sign of a gradient says whether brighter or
    darker raises the score, and a dark lesion counts as much as a bright one (Simonyan et al. 2014,
    section 3.1, is the source of the magnitude and the maximum). The noise depends on ``seed`` alone,
    so that cases, targets and devices can be compared.
    """
    method = Saliency(_scores(model, tuple(views)))

    def explain(case: tuple[Tensor, ...], target: int) -> tuple[Tensor, ...]:
        totals = [torch.zeros_like(x) for x in case]
        for copies in _noisy_copies(case, options, seed):
            for total, gradient in zip(totals, method.attribute(copies, target, abs=False), strict=True):
                total += gradient.sum(dim=0, keepdim=True)
        return tuple((total / options.smoothgrad_samples).abs().amax(dim=1) for total in totals)

    return _each_case(views, targets, explain)


def occlusion(
    model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
) -> dict[str, Tensor]:
    """Occlusion: the drop of the score when a window is covered (Zeiler & Fergus 2014, section 4.2).

    Signed: positive where the window spoke for the class. A pixel gets the mean drop over the windows
    that cover it. All targets come from the same covered copies.

    Raises:
        UsageError: the window does not fit the image, or its stride leaves gaps.
    """
    sweeps = {view: _sweep(view, tuple(x.shape[2:]), options) for view, x in views.items()}
    maps: dict[str, list[Tensor]] = {view: [] for view in views}
    for case in _cases(views):
        for view, (window, stride) in sweeps.items():
            others = [name for name in views if name != view]
            scores = _scores(model, (view, *others), list(targets))
            found = Occlusion(scores).attribute(
                case[view],
                sliding_window_shapes=(case[view].shape[1], *window),
                strides=(1, *stride),
                baselines=baseline_of(case[view], options.baseline),
                additional_forward_args=tuple(case[name] for name in others) or None,
                perturbations_per_eval=options.batch_size,
            )  # (T, C, *space), the same in every channel, as the window covers all of them
            maps[view].append(found[:, 0])
    return {view: torch.stack(found) for view, found in maps.items()}


def completeness_gap(
    model: Classifier,
    views: Views,
    targets: Sequence[int],
    maps: Mapping[str, Float[Tensor, "B T *space"]],
    *,
    options: ExplainOptions | None = None,
) -> Float[Tensor, "B T"]:
    """What integrated gradients missed: the sum of all maps less ``score(image) − score(baseline)``.

    Args:
        model: the one that was explained.
        views: each ``(B, C, *space)``.
        targets: T class indices.
        maps: of ``integrated_gradients`` for these.
        options: those of the maps; None means the defaults.

    Returns:
        ``(B, T)`` in units of the score; nearer 0 with more ``ig_steps``.
    """
    chosen = options or ExplainOptions()
    with isolated(model, views) as (worker, inputs), torch.no_grad():
        blank = {view: baseline_of(x, chosen.baseline) for view, x in inputs.items()}
        rise = (worker(inputs).logits - worker(blank).logits)[:, list(targets)]
    gap: Tensor = sum(x.flatten(2).sum(dim=2) for x in maps.values()) - rise.float()
    return gap


def baseline_of(x: Float[Tensor, "B C *space"], kind: Baseline) -> Float[Tensor, "B C *space"]:
    """The image that says nothing, as ``ExplainOptions.baseline`` names it."""
    if kind == "zero":
        return torch.zeros_like(x)
    if kind == "mean":
        return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True).expand(x.shape)
    widths = [torch.tensor(_BLUR * side, device=x.device) for side in x.shape[2:]]
    kernels = [gaussian_1d(width, approx="sampled", normalize=True) for width in widths]
    blurred: Tensor = separable_filtering(x, kernels, mode="replicate")
    return blurred


def _scores(
    model: Classifier, names: tuple[str, ...], targets: list[int] | None = None
) -> Callable[..., Float[Tensor, "B K"]]:
    """The model as Captum calls it: views by position, logits out (all, or those of the targets)."""

    def scores(*inputs: Tensor) -> Tensor:
        logits: Tensor = model(dict(zip(names, inputs, strict=True))).logits
        return logits if targets is None else logits[:, targets]

    return scores


def _cases(views: Views) -> Iterator[dict[str, Tensor]]:
    """Each case of a batch as a batch of one."""
    for row in range(len(next(iter(views.values())))):
        yield {view: x[row : row + 1] for view, x in views.items()}


def _each_case(
    views: Views,
    targets: Sequence[int],
    explain: Callable[[tuple[Tensor, ...], int], tuple[Tensor, ...]],
) -> dict[str, Tensor]:
    """Stack the maps ``(1, *space)`` of each view that ``explain`` gives for one case and target."""
    rows = []
    for case in _cases(views):
        inputs = tuple(case.values())
        by_target = [explain(inputs, target) for target in targets]
        rows.append([torch.stack(found, dim=1) for found in zip(*by_target, strict=True)])
    columns = zip(*rows, strict=True)
    return {view: torch.cat(found).detach() for view, found in zip(views, columns, strict=True)}


def _noisy_copies(
    case: tuple[Tensor, ...], options: ExplainOptions, seed: int
) -> Iterator[tuple[Tensor, ...]]:
    """All noisy copies of one case, ``batch_size`` at a time, ready for a gradient."""
    draw = torch.Generator().manual_seed(seed)  # on the CPU: the same noise on every device
    widths = [options.smoothgrad_noise * (x.max() - x.min()) for x in case]
    for first in range(0, options.smoothgrad_samples, options.batch_size):
        count = min(options.batch_size, options.smoothgrad_samples - first)
        copies = []
        for x, width in zip(case, widths, strict=True):
            noise = torch.randn((count, *x.shape[1:]), generator=draw).to(x)
            copies.append((x + width * noise).requires_grad_())
        yield tuple(copies)


def _sweep(
    view: str, space: tuple[int, ...], options: ExplainOptions
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Window and stride of an occlusion along each axis, checked against the image."""
    window = _per_axis(options.occlusion_window, tuple(-(-side // 8) for side in space))
    stride = _per_axis(options.occlusion_stride, tuple(-(-side // 2) for side in window))
    fits = len(window) == len(stride) == len(space) and all(
        1 <= step <= wide <= side for step, wide, side in zip(stride, window, space, strict=True)
    )
    if not fits:
        raise UsageError(
            f"an occlusion window of {window} with stride {stride} does not sweep an image of {space}",
            where=f"view {view}",
            fix="choose 1 ≤ stride ≤ window ≤ image along each axis",
        )
    return window, stride


def _per_axis(value: int | tuple[int, ...] | None, default: tuple[int, ...]) -> tuple[int, ...]:
    """One number for each axis."""
    if value is None:
        return default
    return (value,) * len(default) if isinstance(value, int) else value
