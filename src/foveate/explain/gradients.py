"""Explanations at the resolution of the input, through Captum: which pixels the score depends on.

A case goes through the model ``batch_size`` altered copies at a time; cases never meet in a batch, so
the maps of N cases are those of N calls. Several views are explained together: a case's maps share one
path, one noise, or one image that is left whole while another is occluded. A view that a case lacks is
never changed, so that the model knows that it is missing, and its map is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.contract import Classifier, Views, given
from foveate.errors import UsageError
from foveate.explain.baselines import baselines_of
from foveate.explain.isolation import isolated
from foveate.explain.options import ExplainOptions, as_score

_RULES = {"midpoint": "riemann_middle", "gauss_legendre": "gausslegendre", "left": "riemann_left"}


def integrated_gradients(
    model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
) -> dict[str, Tensor]:
    """Integrated gradients, summed over channels (Sundararajan et al. 2017, equation 1).

    Complete: the maps of all views of a case add up to ``score(image) − score(baseline)``, as far as
    ``ig_steps`` points resolve the path; ``completeness`` measures what is missing. With several baselines
    (``random``), maps and scores are the means over them.

    The published code of the cervical comparison computes ``score="softmax"``, ``baseline="random"`` and
    ``ig_rule="left"``, with another noise for each image.
    """

    from captum.attr import IntegratedGradients

    def explain(case: _CaseBatch, target: int) -> dict[str, Tensor]:
        method = IntegratedGradients(_scores(model, case, options))
        total = {view: torch.zeros_like(x[:, 0]) for view, x in case.present.items()}
        starts = [baselines_of(x, view, options, seed) for view, x in case.present.items()]
        for start in zip(*starts, strict=True):
            found = method.attribute(
                tuple(case.present.values()),
                baselines=start,
                target=target,
                n_steps=options.ig_steps,
                method=_RULES[options.ig_rule],
                internal_batch_size=options.batch_size,
            )
            for view, values in zip(total, found, strict=True):
                total[view] += values.sum(dim=1) / len(starts[0])
        return total

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

    from captum.attr import Saliency

    def explain(case: _CaseBatch, target: int) -> dict[str, Tensor]:
        method = Saliency(_scores(model, case, options))
        totals = [torch.zeros_like(x) for x in case.present.values()]
        for copies in _noisy_copies(tuple(case.present.values()), options, seed):
            for total, gradient in zip(totals, method.attribute(copies, target, abs=False), strict=True):
                total += gradient.sum(dim=0, keepdim=True)
        means = [(total / options.smoothgrad_samples).abs().amax(dim=1) for total in totals]
        return dict(zip(case.present, means, strict=True))

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
    from captum.attr import Occlusion

    sweeps = {view: sweep(view, tuple(x.shape[2:]), options) for view, x in views.items()}
    rows = []
    for case in _cases(views):
        maps = {view: x.new_zeros(len(targets), *x.shape[2:]) for view, x in views.items()}
        for view, x in case.present.items():
            window, stride = sweeps[view]
            scores = _scores(model, case.only(view), options, list(targets))
            covers = baselines_of(x, view, options, seed)
            for cover in covers:
                found = Occlusion(scores).attribute(
                    x,
                    sliding_window_shapes=(x.shape[1], *window),
                    strides=(1, *stride),
                    baselines=cover,
                    perturbations_per_eval=options.batch_size,
                )  # (T, C, *space), the same in every channel, as the window covers all of them
                maps[view] += found[:, 0] / len(covers)
        rows.append(maps)
    return {view: torch.stack([row[view] for row in rows]) for view in views}


@dataclass(frozen=True, slots=True)
class Completeness:
    """What integrated gradients had to explain, and what they missed of it.

    Attributes:
        rise: ``(B, T)`` score of the image less (mean) score of the baseline.
        gap: ``(B, T)`` sum of a case's maps over all views, less ``rise``; in units of the score, nearer 0
            with more ``ig_steps``.
    """

    rise: Float[Tensor, "B T"]
    gap: Float[Tensor, "B T"]

    @property
    def relative(self) -> Float[Tensor, "B T"]:
        """``|gap| / |rise|``; infinite where there was nothing to explain and something was said."""
        return torch.where(self.gap == 0, 0, self.gap.abs() / self.rise.abs())


def completeness(
    model: Classifier,
    views: Views,
    targets: Sequence[int],
    maps: Mapping[str, Float[Tensor, "B T *space"]],
    *,
    options: ExplainOptions | None = None,
    seed: int = 0,
) -> Completeness:
    """Check maps of integrated gradients: ``Σ maps = score(image) − score(baseline)``.

    Costs one forward pass for the images and one for each baseline. There is one number for each case and
    target, for all its views together: ``gap[b, t]`` belongs beside ``maps[view][b, t]`` of every view.

    Args:
        model: the one that was explained.
        views: each ``(B, C, *space)`` as given to ``explain_batch``; rows of NaN are views that are missing.
        targets: T class indices.
        maps: of ``explain_batch(model, views, targets, "integrated_gradients", options=…, seed=…)``.
        options: those of the maps; None means the defaults.
        seed: that of the maps.
    """
    chosen, wanted = options or ExplainOptions(), list(targets)
    with isolated(model, views) as (worker, inputs), torch.no_grad():
        starts = [_score_of(worker, start, chosen) for start in _starts(inputs, chosen, seed)]
        rise = (_score_of(worker, inputs, chosen) - torch.stack(starts).mean(dim=0))[:, wanted]
    total = torch.stack([x.flatten(2).sum(dim=2).double() for x in maps.values()]).sum(dim=0)
    return Completeness(rise.float(), (total - rise).float())


def completeness_gap(
    model: Classifier,
    views: Views,
    targets: Sequence[int],
    maps: Mapping[str, Float[Tensor, "B T *space"]],
    *,
    options: ExplainOptions | None = None,
    seed: int = 0,
) -> Float[Tensor, "B T"]:
    """The ``gap`` of ``completeness``, which see."""
    return completeness(model, views, targets, maps, options=options, seed=seed).gap


@dataclass(frozen=True, slots=True)
class _CaseBatch:
    """One case as a batch of one: the views that it has, and rows of NaN for those that it lacks."""

    present: dict[str, Tensor]
    fixed: dict[str, Tensor]

    def only(self, view: str) -> _CaseBatch:
        """The case with one view to be changed, and the others left as they are."""
        others = {name: x for name, x in self.present.items() if name != view}
        return _CaseBatch({view: self.present[view]}, others | self.fixed)


def _cases(views: Views) -> Iterator[_CaseBatch]:
    """Each case of a batch."""
    for row in range(len(next(iter(views.values())))):
        alone = {view: x[row : row + 1] for view, x in views.items()}
        present = {view: x for view, x in alone.items() if given(x)[1]}
        yield _CaseBatch(present, {view: x for view, x in alone.items() if view not in present})


def _scores(
    model: Classifier, case: _CaseBatch, options: ExplainOptions, targets: list[int] | None = None
) -> Callable[..., Float[Tensor, "N K"]]:
    """The model as Captum calls it: N copies of each present view by position, scores out.

    Scores are those of all classes, or of the targets. The model is given the fixed views as they are.
    """

    def scores(*inputs: Tensor) -> Tensor:
        batch = dict(zip(case.present, inputs, strict=True))
        batch |= {view: x.expand(len(inputs[0]), *x.shape[1:]) for view, x in case.fixed.items()}
        found = as_score(model(batch).logits, options)
        return found if targets is None else found[:, targets]

    return scores


def _score_of(model: Classifier, views: Views, options: ExplainOptions) -> Float[Tensor, "B K"]:
    """Scores of a batch, ``batch_size`` cases at a time, in float64."""
    count = len(next(iter(views.values())))
    found = []
    for first in range(0, count, options.batch_size):
        part = {view: x[first : first + options.batch_size] for view, x in views.items()}
        found.append(as_score(model(part).logits, options).double())
    return torch.cat(found)


def _starts(views: Views, options: ExplainOptions, seed: int) -> list[dict[str, Tensor]]:
    """Baselines of a batch: each a batch like ``views``, whose missing views are missing too."""
    by_view = {}
    for view, x in views.items():
        whole, there = given(x)
        rows = there.view(-1, *[1] * (x.ndim - 1))
        by_view[view] = [torch.where(rows, each, x) for each in baselines_of(whole, view, options, seed)]
    return [dict(zip(by_view, start, strict=True)) for start in zip(*by_view.values(), strict=True)]


def _each_case(
    views: Views, targets: Sequence[int], explain: Callable[[_CaseBatch, int], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Stack the maps ``(1, *space)`` that ``explain`` gives; a view that a case lacks gets zeros."""
    maps = {view: x.new_zeros(len(x), len(targets), *x.shape[2:]) for view, x in views.items()}
    for row, case in enumerate(_cases(views)):
        for position, target in enumerate(targets):
            for view, values in explain(case, target).items():
                maps[view][row, position] = values[0].detach()
    return maps


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


def sweep(
    view: str, space: tuple[int, ...], options: ExplainOptions
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Window and stride of an occlusion along each axis, checked against the image of a view."""
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
