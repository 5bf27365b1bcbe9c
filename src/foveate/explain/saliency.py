"""Gradients of a score for the pixels: as they are, by the guided rule, and guided within a CAM.

One forward pass for a batch and one pass backward for each class. Maps tell how much, not in which direction:
the sign of a gradient says whether a brighter or a darker pixel raises the score, and a dark lesion counts as
much as a bright one (Simonyan et al. 2014, section 3.1, for the magnitude and the maximum over channels).

Guided maps look sharper than they are true: the rule restores the edges of the image, nearly whatever the
later layers and the class are (Adebayo et al. 2018; Nie et al. 2018). ``foveate.study.methods.caveat`` says
so wherever such a map is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from foveate.contract import Classifier, Views
from foveate.errors import UsageError
from foveate.explain.cam import from_gradients, grad_cam
from foveate.explain.options import Explainer, ExplainOptions, as_score

_RECTIFIERS = ("relu", "relu_")
# What stands in a ReLU's place and has no guided rule; gates (sigmoid, tanh, softmax) pass gradients as ever.
_OTHERS = (
    *("gelu", "silu", "silu_", "elu", "elu_", "selu", "selu_", "celu", "celu_", "leaky_relu", "leaky_relu_"),
    *("prelu", "rrelu", "rrelu_", "hardswish", "hardswish_", "mish", "mish_", "softplus", "logsigmoid"),
    *("relu6", "hardtanh", "hardtanh_"),
)
_MODES = {2: "bilinear", 3: "trilinear"}
_grad_cam: Explainer = from_gradients(grad_cam)


def gradient(
    model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
) -> dict[str, Tensor]:
    """Plain gradients: ``max over channels of |∂score/∂pixel|`` (Simonyan et al. 2014, section 3.1).

    Never negative: it is sensitivity, not evidence.
    """
    return _magnitudes(model, views, targets, lambda logits: as_score(logits, options))


def guided_backprop(
    model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
) -> dict[str, Tensor]:
    """Guided backpropagation: a ReLU passes back only what is positive (Springenberg et al. 2015, figure 1).

    ``R_l = (x_l > 0) · (R_{l+1} > 0) · R_{l+1}`` at every ReLU, the plain gradient elsewhere; then as
    ``gradient``. The rule hangs on the graph of this one pass, not on modules, so that it holds for
    functional and in-place ReLUs too. Of the logit, as published.

    Raises:
        UsageError: the model has activations without such a rule, or no ReLU at all.
    """
    with (rule := _GuidedReLU()):
        return _magnitudes(model, views, targets, lambda logits: rule.checked(model, logits))


def guided_gradcam(
    model: Classifier, views: Views, targets: Sequence[int], options: ExplainOptions, seed: int
) -> dict[str, Tensor]:
    """Guided Grad-CAM: Grad-CAM enlarged linearly, times guided backpropagation (Selvaraju et al. 2017, 3.2).

    Positive where Grad-CAM is.
    NOTE[DIFF]: the paper enlarges Grad-CAM after its ReLU and multiplies channel by channel, for a picture in
    colour; here the map stays signed, as all class activation maps do, and the factor is the magnitude of
    ``guided_backprop``.

    Raises:
        UsageError: as ``guided_backprop``; the model names no feature map for a view.
    """
    coarse = _grad_cam(model, views, targets, options, seed)
    fine = guided_backprop(model, views, targets, options, seed)
    return {
        view: fine[view]
        * functional.interpolate(
            values, fine[view].shape[2:], mode=_MODES[values.ndim - 2], align_corners=False
        )
        for view, values in coarse.items()
    }


def _magnitudes(
    model: Classifier,
    views: Views,
    targets: Sequence[int],
    score: Callable[[Float[Tensor, "B K"]], Float[Tensor, "B K"]],
) -> dict[str, Tensor]:
    """Largest gradient over channels by view ``(B, T, *space)``; 0 for a view that no score needs."""
    inputs = {view: x.detach().requires_grad_() for view, x in views.items()}
    scores = score(model(inputs).logits)
    rows: list[list[Tensor]] = []
    for target in targets:
        total = scores[:, target].sum()  # evaluation mode: no case touches another
        taken = torch.autograd.grad(total, list(inputs.values()), retain_graph=True, materialize_grads=True)
        rows.append([each.abs().amax(dim=1) for each in taken])
    return {
        view: torch.stack(maps, dim=1) for view, maps in zip(inputs, zip(*rows, strict=True), strict=True)
    }


class _GuidedReLU(TorchFunctionMode):
    """While it is entered, what goes back through a ReLU is cut at 0; notes which activations it meets."""

    def __init__(self) -> None:
        super().__init__()
        self._met: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _RECTIFIERS or name in _OTHERS:
            self._met.add(name)
        if name in _RECTIFIERS and result.requires_grad:
            # The hook is of this result's graph and goes with it; the ReLU's own gradient does the rest.
            result.register_hook(lambda passed: passed.clamp(min=0))
        return result

    def checked(self, model: Classifier, logits: Tensor) -> Tensor:
        """The logits of a pass that this has watched."""
        others = sorted(self._met.difference(_RECTIFIERS))
        if not others and self._met:
            return logits
        met = (
            f"{', '.join(others)} where the rule needs ReLU"
            if others
            else "no ReLU, to which the rule belongs"
        )
        raise UsageError(
            f"guided backpropagation is defined for networks of ReLUs; {type(model).__name__} has {met}",
            fix="use gradient, integrated_gradients or gradcam",
        )
