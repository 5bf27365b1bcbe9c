"""Every registered model at a size that a test can afford; contract tests go over this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foveate.contract import Classifier, InputSpec
from foveate.models import build_model

CLASSES = 4
SLICE = InputSpec(views=("ct",), dimensions="2.5", size=(64, 96))
PHASES = InputSpec(views=("t2", "c_arterial"), dimensions="3", size=(8, 32, 32), channels=1)
PUBLISHED = InputSpec(views=("t2",), dimensions="3", size=(8, 64, 64), channels=1)
PAIR = InputSpec(views=("clinical", "ultrasound"), size=(64, 64))


@dataclass(frozen=True)
class Tiny:
    """One model to build: its name, its options, and what it eats."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    spec: InputSpec = SLICE

    def build(self, seed: int = 0) -> Classifier:
        torch.manual_seed(seed)
        return build_model(self.name, CLASSES, self.spec, options=self.options)

    def views(self, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
        chance = torch.Generator().manual_seed(seed)
        shape = (batch, self.spec.channels, *self.spec.size)
        return {name: torch.randn(shape, generator=chance) for name in self.spec.views}


_SMALL = {"width": 0.125, "depths": (1, 1, 1, 1)}
_DENSE = {"depths": (1, 1, 1, 2), "growth": 16}
_THIN = {"width": 0.125}
_PAIR = {"first": "test_resnet", "second": "test_resnet"}
#: One of each system and of each way to be built: what the quick check goes over.
QUICK = frozenset(
    ("dadrn50", "agf", "can", "densenet121_ca", "residual_attention56", "lca_db10", "timm:resnet10t+spatial")
)
ZOO: dict[str, Tiny] = {
    **{name: Tiny(name, _SMALL) for name in ("drn50", "sadrn50", "cadrn50", "dadrn50", "seresnet50")},
    "sadrn50-B": Tiny("sadrn50", _SMALL | {"normalization": "softmax"}),
    "sadrn50-paper": Tiny("sadrn50", _SMALL | {"variant": "paper"}),
    "cadrn50-B": Tiny("cadrn50", _SMALL | {"normalization": "softmax", "variant": "paper"}),
    "dadrn50-A": Tiny("dadrn50", _SMALL | {"fusion": "sum", "normalization": "softmax", "variant": "paper"}),
    "dadrn50-narrow": Tiny("dadrn50", _SMALL | {"reduce": "before", "fusion": "sum", "first_block": "fyu"}),
    "dadrn50-back": Tiny("dadrn50", _SMALL | {"reduce": "after", "output_stride": 16}),
    "agf_resnet18": Tiny("agf_resnet18", spec=PAIR),
    "agf_resnet50": Tiny("agf_resnet50", {"missing": "refuse", "masking": "random"}, PAIR),
    "agf": Tiny("agf", {"encoder": "resnet10t"}, PAIR),
    "agf-intra": Tiny("agf", {"encoder": "convnext_atto", "local": "intra", "global_gate": False}, PAIR),
    "agf-inter": Tiny("agf", {"encoder": "resnet10t", "local": "inter", "masking": "cross_modal"}, PAIR),
    "agf-none": Tiny("agf", {"encoder": "resnet10t", "local": "none", "reconstruction": False}, PAIR),
    "late_fusion": Tiny("late_fusion", {"encoder": "resnet10t"}, PAIR),
    "late_fusion-mean": Tiny("late_fusion", {"encoder": "convnext_atto", "fusion": "mean"}, PAIR),
    "late_fusion-shared": Tiny("late_fusion", {"encoder": "resnet10t", "shared": True}, PAIR),
    "late_fusion-one": Tiny("late_fusion", {"encoder": "resnet10t"}, SLICE),
    "residual_attention56": Tiny("residual_attention56", {"width": 0.125}),
    "residual_attention92": Tiny("residual_attention92", {"width": 0.125}),
    "densenet121_ca": Tiny("densenet121_ca", _DENSE),
    "densenet121_ca-authors": Tiny("densenet121_ca", _DENSE | {"placement": "authors"}),
    "densenet121_ca-rcab": Tiny("densenet121_ca", _DENSE | {"placement": "rcab"}),
    "can_densenet121": Tiny("can_densenet121", _PAIR),
    "can_resnet50_densenet121": Tiny("can_resnet50_densenet121", _PAIR | {"first": "resnet10t"}),
    "can": Tiny("can", _PAIR | {"fusion": "cat", "attention_loss": "channel", "drop_rate": 0.1}),
    "can-sums": Tiny("can", _PAIR | {"fusion": "sum+product", "transition": "always", "loss": "study"}),
    "can-sum": Tiny("can", _PAIR | {"fusion": "sum", "attention_loss": "none"}),
    "can-two": Tiny("can", _PAIR | {"first": "resnet10t", "fusion": "average_logits"}),
    **{
        name: Tiny(name, _THIN, PHASES)
        for name in (
            *("lca_db10", "lca_db18", "lca_db34", "lca_db10_image", "lca_db10_patch", "lca_db10_no_cross"),
            *("lca_db10_no_similarity", "resnet3d10", "resnet3d18", "gated_mil10", "can3d10"),
            *("deepganet", "damidl"),
        )
    },
    "damidl-paper": Tiny("damidl", _THIN | {"variant": "paper"}, PHASES),
    "lca_db10-paper": Tiny("lca_db10", {"width": 0.0625, "variant": "paper"}, PUBLISHED),
    "lca_db10-feature": Tiny("lca_db10", _THIN | {"cross": "feature", "cam": "regions"}, PHASES),
    "lca_db10-exp_sum": Tiny("lca_db10", _THIN | {"weighting": "exp_sum", "missing": "zero"}, PHASES),
    "gated_mil10-mlp": Tiny("gated_mil10", _THIN | {"pooling": "mlp"}, PHASES),
    "can3d10-product": Tiny("can3d10", _THIN | {"variant": "paper", "fusion": "product"}, PHASES),
    "resnet3d10-paper": Tiny("resnet3d10", _THIN | {"variant": "paper"}, PHASES),
    "timm:resnet18": Tiny("timm:resnet18"),
    "timm:vit_tiny_patch16_224": Tiny("timm:vit_tiny_patch16_224"),
    "timm:convnext_atto": Tiny("timm:convnext_atto"),
    "timm:resnet10t+spatial": Tiny("timm:resnet10t", {"attention": "spatial"}),
    "timm:vit_tiny_patch16_224+channel": Tiny("timm:vit_tiny_patch16_224", {"attention": "channel"}),
    "timm:test_resnet+dual": Tiny(
        "timm:test_resnet", {"attention": "dual", "attention_options": {"fusion": "concat"}}
    ),
    "timm:convnext_atto+se": Tiny("timm:convnext_atto", {"attention": "se"}),
    "timm:resnet10t+rca": Tiny(
        "timm:resnet10t", {"attention": "rca", "attention_options": {"residual": "rcab"}}
    ),
    "timm:test_resnet+loss": Tiny("timm:test_resnet", {"attention": "loss"}),
    "timm:convnext_atto+gated_mil": Tiny("timm:convnext_atto", {"attention": "gated_mil"}),
    "timm:resnet10t+query_key": Tiny("timm:resnet10t", {"attention": "query_key"}),
    "timm:resnet10t+hadamard": Tiny(
        "timm:resnet10t", {"attention": "hadamard", "attention_options": {"partner": "test_resnet"}}
    ),
}
