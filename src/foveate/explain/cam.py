"""Class activation maps: which places of the last feature map speak for a class.

All classes come from one forward pass. With features ``A`` of C channels and N places, and
``g_k = ∂score/∂A_k`` for the class score before softmax or sigmoid, each method is one rule of ``A`` and
``g``. Where the model's head is global average pooling and one linear layer, ``g_k = w_k / N`` is known
without a backward pass, so no graph of the trunk is kept (for a ResNet-50 at 224 pixels that is 160 MB an
image); ``explain_batch`` checks the model's word on this against its logits.

All maps are signed. The papers' final ReLU belongs to whoever draws or localizes: what speaks against a
class is information, and an all-negative map must not look like an empty one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.contract import Classifier, ModelOutput, Views, given
from foveate.errors import RunFailed, UsageError
from foveate.explain.options import Explainer, ExplainOptions

Rule = Callable[[Float[Tensor, "B C *space"], Float[Tensor, "B C *space"]], Float[Tensor, "B *space"]]
_Gradients = Iterator[Mapping[str, Tensor]]


def grad_cam(
    features: Float[Tensor, "B C *space"], gradients: Float[Tensor, "B C *space"]
) -> Float[Tensor, "B *space"]:
    """Grad-CAM: ``Σ_k mean(g_k) A_k`` (Selvaraju et al. 2017, equations 1 and 2 without the ReLU)."""
    return _weighted(features, gradients.flatten(2).mean(dim=2))


def hires_cam(
    features: Float[Tensor, "B C *space"], gradients: Float[Tensor, "B C *space"]
) -> Float[Tensor, "B *space"]:
    """HiResCAM: ``Σ_k g_k ⊙ A_k``, place by place (Draelos & Carin 2020, equation 4)."""
    return (gradients * features).sum(dim=1)


def grad_cam_plus_plus(
    features: Float[Tensor, "B C *space"], gradients: Float[Tensor, "B C *space"]
) -> Float[Tensor, "B *space"]:
    """Grad-CAM++: ``Σ_k w_k A_k`` with ``w_k = Σ_ij α_ij relu(g_ij)`` (Chattopadhyay et al. 2018).

    The paper's equation 19, ``α = g² / (2 g² + (Σ_ab A_ab) g³)``, is used in its reduced form
    ``α = 1 / (2 + (Σ_ab A_ab) g)``, which needs no small constant in the denominator. It is made for
    features without negative values (after a ReLU); with others the denominator can come near zero, and
    one channel can then rule the map.
    NOTE[DIFF]: the paper explains ``exp(score)``, which multiplies every ``w_k`` of a map by that one
    positive number; it overflows for large scores and is left out.
    """
    totals = features.flatten(2).sum(dim=2).reshape(*features.shape[:2], *[1] * (features.ndim - 2))
    rising = gradients > 0  # only these enter w_k, and for features ≥ 0 their denominator is at least 2
    alpha = torch.where(rising, 1 / torch.where(rising, 2 + totals * gradients, 1), 0)
    return _weighted(features, (alpha * gradients).flatten(2).sum(dim=2))


def from_gradients(rule: Rule) -> Explainer:
    """Make an explainer of a rule that turns features and gradients into one map."""

    def explain(
        model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
    ) -> dict[str, Tensor]:
        keys = feature_keys(model, views, options)
        head = _declared_head(model, keys)
        if head is None:
            features, gradients = _by_autograd(model, views, targets, keys)
        else:
            features, gradients = _by_linear_head(model, head, views, targets, keys)
        # Views that share a feature (early fusion) share its map; it is made once.
        maps = [{key: rule(features[key], gradient[key]) for key in features} for gradient in gradients]
        by_key = {key: torch.stack([each[key] for each in maps], dim=1) for key in features}
        return {view: by_key[key] for view, key in keys.items()}

    return explain


def analytic_cam(
    model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
) -> dict[str, Tensor]:
    """CAM: ``Σ_k w_k A_k`` with the weights of the linear head (Zhou et al. 2016, equation 2).

    It is N times Grad-CAM; its mean over the places plus the head's bias is the class score.

    Raises:
        UsageError: the model's head is not global average pooling and one linear layer.
    """
    keys = feature_keys(model, views, options)
    head = _declared_head(model, keys)
    if head is None:
        raise UsageError(
            f"the analytic CAM needs logits that are one linear layer on pooled features; "
            f"{type(model).__name__} has none for {', '.join(sorted(set(keys.values())))}",
            fix="use gradcam, which equals it up to a factor where it exists",
        )
    features = _pooled_features(model, head, views, keys)
    key = next(iter(features))
    values = torch.einsum("tc,bc...->bt...", head.weight.detach()[list(targets)], features[key])
    return dict.fromkeys(keys, values)


def class_maps(model: Classifier, views: Views) -> tuple[ModelOutput, dict[str, Float[Tensor, "B K *space"]]]:
    """Logits, and Grad-CAM of every class, from one forward pass.

    Where the head is linear on the average these are ``w_k A / N`` and cost one small product; else one
    backward pass per class from the logits to the features, through the head alone. For a model in
    evaluation mode; its parameters may or may not require gradients.

    Args:
        model: any classifier.
        views: for each view ``(B, C, *space)``, normalized; a row of NaN where a case lacks it, whose map is
            zero.

    Returns:
        What the model hands out, and its maps by view; no maps if the model names no feature for some view.
    """
    if set(model.cam_feature) != set(views):
        with torch.no_grad():
            return model(views), {}
    keys = dict(model.cam_feature)
    head = _declared_head(model, keys)
    if head is None:
        output, by_key = _maps_by_autograd(model, views, keys)
    else:
        with torch.no_grad():
            output = model(views)
            ((key, values),) = spatial_features(output, keys).items()
            places = math.prod(values.shape[2:])
            by_key = {key: torch.einsum("kc,bc...->bk...", head.weight.to(values.dtype) / places, values)}
    if not model.tolerates_missing:
        return output, {view: by_key[key] for view, key in keys.items()}
    return output, {view: where_given(by_key[key], views[view]) for view, key in keys.items()}


def needs_no_gradients(model: Classifier) -> bool:
    """Whether ``class_maps`` is exact from the forward pass alone: one map, averaged into one layer."""
    return bool(model.cam_feature) and _declared_head(model, model.cam_feature) is not None


def where_given(maps: Float[Tensor, "B K *space"], view: Tensor) -> Tensor:
    """The maps, zero where a case lacks the view."""
    there = given(view)[1].view(-1, *[1] * (maps.ndim - 1))
    return torch.where(there, maps, 0)


def _maps_by_autograd(
    model: Classifier, views: Views, keys: Mapping[str, str]
) -> tuple[ModelOutput, dict[str, Tensor]]:
    """The output, and Grad-CAM of every class by feature: one forward pass, K backward through the head."""
    with torch.enable_grad():
        output = model({view: x.detach().requires_grad_() for view, x in views.items()})
        return output, class_maps_of(output.logits, spatial_features(output, keys))


def class_maps_of(
    logits: Float[Tensor, "B K"], features: Mapping[str, Float[Tensor, "B C *space"]]
) -> dict[str, Float[Tensor, "B K *space"]]:
    """Grad-CAM of every class for each feature on the way to the logits: K passes backward, to there."""
    found = [_grad_cams(logits[:, k].sum(), features) for k in range(logits.shape[1])]
    return {key: torch.stack([each[key] for each in found], dim=1).detach() for key in features}


def _grad_cams(score: Tensor, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Grad-CAM of one score for each feature."""
    gradients = _gradient(score, features, ())
    return {key: grad_cam(values, gradients[key]) for key, values in features.items()}


def feature_keys(model: Classifier, views: Views, options: ExplainOptions) -> dict[str, str]:
    """For each view, the key of ``ModelOutput.features`` that its map is made of.

    Raises:
        UsageError: the model names no feature for a view, and neither do the options.
    """
    keys = {view: options.feature or model.cam_feature.get(view) for view in views}
    if missing := sorted(view for view, key in keys.items() if key is None):
        raise UsageError(
            f"{type(model).__name__} names no feature map for {', '.join(missing)}",
            fix="choose one with the option feature, or use an explainer that works on the input",
        )
    return {view: key for view, key in keys.items() if key is not None}


def spatial_features(output: ModelOutput, keys: Mapping[str, str]) -> dict[str, Tensor]:
    """The feature maps ``(B, C, *space)`` that the keys name, each once.

    Raises:
        UsageError: the model hands out no such feature, or it has no spatial axes.
    """
    for key in keys.values():
        if key not in output.features:
            known = ", ".join(output.features) or "none"
            raise UsageError(f"the model hands out no feature '{key}'", fix=f"choose from: {known}")
        if output.features[key].ndim < 3:
            shape = tuple(output.features[key].shape)
            raise UsageError(f"the feature '{key}' of shape {shape} is no spatial map")
    return {key: output.features[key] for key in dict.fromkeys(keys.values())}


def _weighted(features: Tensor, weights: Tensor) -> Tensor:
    """``Σ_k w_k A_k`` for weights ``(B, C)``."""
    return torch.einsum("bc,bc...->b...", weights, features)


def _declared_head(model: Classifier, keys: Mapping[str, str]) -> nn.Linear | None:
    """The linear head, if all views ask for the one feature map that the model says is pooled into it."""
    wanted = set(keys.values())
    pooled = set(model.cam_feature.values())
    return model.linear_head if len(wanted) == 1 and wanted == pooled else None


def _pooled_features(
    model: Classifier, head: nn.Linear, views: Views, keys: Mapping[str, str]
) -> dict[str, Tensor]:
    """Features from a forward pass without a graph, after the model's word on its head was checked.

    Raises:
        RunFailed: the logits are not those of the linear head on the pooled features.
    """
    with torch.no_grad():
        output = model(views)
        features = spatial_features(output, keys)
        (pooled,) = (values.flatten(2).mean(dim=2) for values in features.values())
        fits = pooled.shape[1] == head.in_features and not _differ(head(pooled), output.logits)
    if not fits:
        raise RunFailed(
            f"{type(model).__name__} declares a linear_head, but its logits are not that layer on the "
            f"average of '{next(iter(features))}'",
            fix="set linear_head = None in the model; Grad-CAM then takes gradients",
            code="linear-head-mismatch",
        )
    return features


def _differ(found: Tensor, expected: Tensor) -> bool:
    """Whether scores differ by more than rounding; NaN is left to ``explain_batch`` to report."""
    return bool(((found - expected).abs() > 1e-3 * (1 + expected.abs())).any())


def _by_linear_head(
    model: Classifier, head: nn.Linear, views: Views, targets: Sequence[int], keys: Mapping[str, str]
) -> tuple[dict[str, Tensor], _Gradients]:
    """Features and, for each target, their gradients ``w_k / N``: the same at every place."""
    features = _pooled_features(model, head, views, keys)
    ((key, values),) = features.items()
    weights = head.weight.detach()[list(targets)] / math.prod(values.shape[2:])
    shape = (1, -1, *[1] * (values.ndim - 2))
    return features, ({key: weight.reshape(shape).expand_as(values)} for weight in weights)


def _by_autograd(
    model: Classifier, views: Views, targets: Sequence[int], keys: Mapping[str, str]
) -> tuple[dict[str, Tensor], _Gradients]:
    """Features and, for each target, their gradients: one forward pass, backward through the head only.

    The graph hangs on the inputs, so that it exists even if every parameter is frozen. A loop over
    targets is as quick as one batched backward pass on CPU, and holds one gradient at a time.

    A view that every case lacks may leave its feature beside the way to the logits: its gradient is 0.

    Raises:
        RunFailed: the feature of a view that is there is not on the way to the logits.
    """
    there = {view for view, x in views.items() if given(x)[1].any()}
    needed = {key for view, key in keys.items() if view in there}
    output = model({view: x.requires_grad_() for view, x in views.items()})
    features = spatial_features(output, keys)

    def gradients() -> _Gradients:
        for target in targets:
            score = output.logits[:, target].sum()  # evaluation mode: no case touches another
            yield _gradient(score, features, needed)

    return {key: values.detach() for key, values in features.items()}, gradients()


def _gradient(score: Tensor, features: Mapping[str, Tensor], needed: Collection[str]) -> dict[str, Tensor]:
    """Gradient of a score for each feature, keeping the graph for the next score."""
    reached = {key: values for key, values in features.items() if values.requires_grad}
    found: dict[str, Tensor | None] = dict.fromkeys(features)
    if score.requires_grad and reached:
        taken = torch.autograd.grad(score, list(reached.values()), retain_graph=True, allow_unused=True)
        found |= zip(reached, taken, strict=True)
    lost = [key for key, gradient in found.items() if gradient is None and key in needed]
    if lost:
        raise RunFailed(
            f"the feature '{lost[0]}' is not on the way to the logits, so it has no gradient",
            fix="choose another with the option feature; a model must hand out features still in the graph",
            code="feature-not-in-graph",
        )
    return {
        key: torch.zeros_like(features[key]) if gradient is None else gradient
        for key, gradient in found.items()
    }
