"""The table of models, and building one by its name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from foveate.contract import Classifier, InputSpec
from foveate.errors import UsageError
from foveate.models.agf.baseline import late_fusion
from foveate.models.agf.network import agf, agf_resnet18, agf_resnet50
from foveate.models.can.network import can, can_densenet121, can_resnet50_densenet121
from foveate.models.cervical.densenet import densenet121_ca
from foveate.models.cervical.residual_attention import residual_attention56, residual_attention92
from foveate.models.dadrn.network import PRESETS, dadrn
from foveate.models.lca_db.baselines import can3d10, gated_mil10, resnet3d10, resnet3d18
from foveate.models.lca_db.network import (
    lca_db10,
    lca_db10_image,
    lca_db10_no_cross,
    lca_db10_no_similarity,
    lca_db10_patch,
    lca_db18,
    lca_db34,
)
from foveate.models.lca_db.rivals import damidl, deepganet
from foveate.models.options import call_with_options
from foveate.models.timm.attended import attended_classifier

MODELS: dict[str, Callable[..., Classifier]] = {
    **{name: partial(dadrn, *preset) for name, preset in PRESETS.items()},
    "agf_resnet18": agf_resnet18,
    "agf_resnet50": agf_resnet50,
    "agf": agf,
    "late_fusion": late_fusion,
    "residual_attention56": residual_attention56,
    "residual_attention92": residual_attention92,
    "densenet121_ca": densenet121_ca,
    "can_densenet121": can_densenet121,
    "can_resnet50_densenet121": can_resnet50_densenet121,
    "can": can,
    "lca_db10": lca_db10,
    "lca_db18": lca_db18,
    "lca_db34": lca_db34,
    "lca_db10_image": lca_db10_image,
    "lca_db10_patch": lca_db10_patch,
    "lca_db10_no_cross": lca_db10_no_cross,
    "lca_db10_no_similarity": lca_db10_no_similarity,
    "resnet3d10": resnet3d10,
    "resnet3d18": resnet3d18,
    "gated_mil10": gated_mil10,
    "can3d10": can3d10,
    "deepganet": deepganet,
    "damidl": damidl,
}
TIMM = "timm:"


def build_model(
    name: str,
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    options: Mapping[str, Any] | None = None,
) -> Classifier:
    """Build a model by its name.

    Args:
        name: an entry of ``MODELS``, or ``timm:`` and any timm architecture.
        num_classes: K.
        spec: what the study's preprocessing feeds it.
        pretrained: True downloads weights, a path names a file or folder of them, False starts at random.
        options: named options of the model, as in a study's ``model: options``.

    Raises:
        UsageError: unknown model, unknown option, or a value that the option does not take.
    """
    return call_with_options(
        _factory(name),
        (num_classes, spec),
        options or {},
        name=name,
        where="model: options",
        fixed={"pretrained": pretrained},
    )


def _factory(name: str) -> Callable[..., Classifier]:
    if name.startswith(TIMM):
        return partial(attended_classifier, name.removeprefix(TIMM))
    if name in MODELS:
        return MODELS[name]
    import timm

    close = difflib.get_close_matches(name, MODELS, n=3)
    if timm.is_model(name.partition(".")[0]):
        close.append(TIMM + name)
    known = f"choose from: {', '.join(MODELS)}, {TIMM}<name>"
    raise UsageError(
        f"there is no model '{name}'",
        fix=f"did you mean {' or '.join(close)}?" if close else known,
        code="unknown-model",
    )
