"""What is known of the explanation methods without torch: the options that they read, and their caveats.

A method is named as in ``foveate.explain.explainers.EXPLAINERS``; ``name:map`` makes ``name`` of one map of
the model.
"""

from __future__ import annotations

from typing import Literal

Baseline = Literal["zero", "mean", "blur", "black", "random"]
Rule = Literal["midpoint", "gauss_legendre", "left"]
Score = Literal["logit", "softmax", "sigmoid"]
RuleKind = Literal[
    "peak", "two_thresholds", "top", "patch"
]  # by which a box is drawn around a map's hot spot

_INSENSITIVE = (
    "guided maps stay much the same when the model's later layers are drawn anew, or another class is asked "
    "for: they restore edges of the image more than they show reasons of the model (Adebayo et al., NeurIPS "
    "2018; Nie et al., ICML 2018)"
)
_CAVEATS = {"guided_backprop": _INSENSITIVE, "guided_gradcam": _INSENSITIVE}
OPTIONS = ("score", "baseline", "baselines", "ig_steps", "ig_rule")
"""Of the section ``explain`` of a study, what not every method reads."""
_READ = {
    "gradient": ("score",),
    "smoothgrad": ("score",),
    "occlusion": ("score", "baseline", "baselines"),
    "integrated_gradients": OPTIONS,
}


def caveat(method: str) -> str:
    """What a reader of a method's maps has to know, as a clause; empty if there is nothing."""
    return _CAVEATS.get(method.partition(":")[0], "")


def options_of(method: str) -> tuple[str, ...]:
    """Those of ``OPTIONS`` that a method reads."""
    return _READ.get(method.partition(":")[0], ())
