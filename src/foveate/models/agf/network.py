"""AGF-style network: two modalities of one lesion that attend to each other on every scale.

After AGFnet, attention-guided learning with feature reconstruction for clinical photographs and skin
ultrasound (IEEE TMI 2024, 44(1), 543–555). Public of it is the abstract alone, which names the roles of its
modules: ALL (attention-guided local learning: correlations within and between modalities, to fuse several
scales), AGL (attention-guided global learning) and FRL (feature reconstruction learning). Backbone, formulas,
losses, settings and data are not public: every layer here is our design, and no published number belongs
to it.

Our settings for full width: AdamW, lr 1e-4, weight decay 1e-2, cosine with 5 epochs of warm-up, 100 epochs,
batch 32, classes balanced, label-preserving augmentation drawn for each modality on its own, and some views
dropped in training if cases may lack one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal, cast

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional

from foveate.contract import AttentionMap, InputSpec, ModelOutput, Views
from foveate.errors import UsageError
from foveate.models.agf.local_attention import LocalAttention, as_rows
from foveate.models.agf.reconstruction import (
    FeatureReconstruction,
    Masking,
    ReconstructionPlan,
    reconstruction_loss,
    token_importance,
)
from foveate.models.agf.stages import STRIDES, Stages, where_there
from foveate.models.several_views import SeveralViewsClassifier

Local = Literal["none", "intra", "inter", "both"]
Missing = Literal["allow", "refuse"]
Rho = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]

_LATERAL, _LOCAL, _HIDDEN = 256, 512, 64  # channels of a lateral map, of L, and of the gate's hidden layer
_KINDS: dict[Local, tuple[str, ...]] = {
    "none": (),
    "intra": ("intra",),
    "inter": ("inter",),
    "both": ("intra", "inter"),
}


@dataclass(frozen=True, slots=True)
class AgfOutput(ModelOutput):
    """What the network hands out; ``features`` are the modalities' parts of the fused map F, in order.

    Attributes:
        present: ``(B, 2)`` which modality each case has; the reconstruction needs it.
    """

    present: Bool[Tensor, "B 2"] = field(default_factory=lambda: torch.ones(0, 2, dtype=torch.bool))


class Modality(nn.Module):
    """What one modality has of its own: encoder, lateral layers, and the layer that mixes their maps.

    Args:
        encoder: a timm architecture.
        spec: its view.
        pretrained: as for ``timm_classifier``.
    """

    def __init__(self, encoder: str, spec: InputSpec, *, pretrained: bool | str) -> None:
        super().__init__()
        self.encoder = Stages(encoder, spec, pretrained=pretrained)
        self.laterals = nn.ModuleList([_layer(width, _LATERAL) for width in self.encoder.channels])
        self.mix = _layer(_LATERAL * len(STRIDES), _LOCAL)

    def encode(self, stage: int, x: Tensor, there: Tensor | None) -> Float[Tensor, "B C h w"]:
        """The map after a stage, from the map that goes into it."""
        return where_there(partial(self.encoder.run, stage), self.encoder, x, there)

    def lateral(self, stage: int, x: Tensor, there: Tensor | None) -> Float[Tensor, "B 256 h w"]:
        """The lateral map of a stage."""
        return where_there(self.laterals[stage], self.laterals[stage], x, there)

    def local_map(self, laterals: Sequence[Tensor], there: Tensor | None) -> Float[Tensor, "B 512 h w"]:
        """L from the lateral maps of all stages, at the size of the last."""
        size = (laterals[-1].shape[2], laterals[-1].shape[3])
        joined = torch.cat([functional.adaptive_avg_pool2d(x, size) for x in laterals], dim=1)
        return where_there(self.mix, self.mix, joined, there)


class AgfClassifier(SeveralViewsClassifier):
    """Two encoders with ALL after their stages → a local map each → AGL → pooling → one linear layer.

    The modalities are the two views, in their order. After each stage (strides 8, 16, 32) ALL changes both
    maps, and its results go into the next stages. A lateral convolution of each, pooled to the last stage's
    size and joined, makes the local map L_i (512 channels). AGL scales the channels of both local maps by a
    gate that sees the averages of both: ``F = [L_1; L_2] ⊙ (1 + s)``. The logits are a linear layer on the
    average of F. ``features`` are the two parts of F under the names of the views, so that each view's class
    activation map shows its own contribution to the logit.

    Where a case lacks a modality, a learned vector stands at every place of its L_i, the other modality
    gathers nothing from it, and in training its zeros enter no batch norm: nothing depends on the content of
    what is missing. The vector starts at 0 (it adds nothing) and learns from cases that lack the modality.

    Args:
        name: for errors.
        num_classes: K.
        spec: two views.
        encoder: a timm architecture that ``Stages`` can take apart.
        pretrained: as for ``timm_classifier``, for both encoders.
        local: which correlations ALL uses; ``none`` leaves ALL out.
        global_gate: AGL; without it ``F = [L_1; L_2]``.
        reconstruction: FRL's settings; None for no FRL.
        missing: whether cases may lack a modality; ``refuse`` has no vectors for it.

    Raises:
        UsageError: there are not two views, or the encoder cannot be taken apart.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        spec: InputSpec,
        *,
        encoder: str = "resnet18",
        pretrained: bool | str = False,
        local: Local = "both",
        global_gate: bool = True,
        reconstruction: ReconstructionPlan | None = None,
        missing: Missing = "allow",
    ) -> None:
        super().__init__(
            name,
            num_classes,
            spec,
            cam_feature={view: view for view in spec.views},
            dimensions=("2", "2.5"),
            tolerates_missing=missing == "allow",
        )
        _check_two(name, spec)
        alone = InputSpec(spec.views[:1], spec.dimensions, spec.size, spec.channels)
        modalities = [Modality(encoder, alone, pretrained=pretrained) for _ in spec.views]
        widths, channels = modalities[0].encoder.channels, _LOCAL * len(modalities)
        self.modalities = nn.ModuleList(modalities)
        self.local = nn.ModuleList([LocalAttention(c, _KINDS[local]) for c in widths if _KINDS[local]])
        self.gate = _gate(channels, _HIDDEN) if global_gate else None
        self.head = nn.Linear(channels, num_classes)
        self.rebuild = FeatureReconstruction(_LOCAL, reconstruction) if reconstruction else None
        self.stand_in = nn.Parameter(torch.zeros(len(modalities), _LOCAL)) if missing == "allow" else None

    def forward(self, views: Views) -> AgfOutput:
        """Classify two views ``(B, C, H, W)``; F has a 32nd of their size."""
        pictures, present = self.pick(views)
        return self.fuse(list(pictures.values()), present)

    def fuse(self, pictures: Sequence[Float[Tensor, "B C H W"]], present: Bool[Tensor, "B 2"]) -> AgfOutput:
        """Classify pictures in the order of the views; missing ones may hold anything finite."""
        parts, attention = self._local_maps(pictures, self._lacking(present))
        if self.gate is not None:
            gates = self.gate(torch.cat(_averages(parts), dim=1)).chunk(2, dim=1)
            parts = [x * (1 + gate[:, :, None, None]) for x, gate in zip(parts, gates, strict=True)]
        return AgfOutput(
            logits=self.head(torch.cat(_averages(parts), dim=1)),
            features=dict(zip(self.input_spec.views, parts, strict=True)),
            attention=tuple(attention),
            present=present,
        )

    def objective(self, output: ModelOutput, targets: Tensor, progress: float) -> dict[str, Tensor]:
        """Classification, and in training the two weighted terms of FRL, with their sum under ``total``.

        ``L = CE(logits, y) + w λ_r L_rec + w λ_c CE(ŷ, y)`` where ŷ is the head on the average of the
        rebuilt map, and w rises from 0 (see ``ReconstructionPlan``).
        """
        total = self.criterion(output.logits, targets)
        terms = {"classification": total}
        if self.rebuild is not None and self.training and isinstance(output, AgfOutput):
            weight, plan = self.rebuild.plan.weight(progress), self.rebuild.plan
            loss, logits = self._rebuilt(self.rebuild, output, targets)
            terms["reconstruction"] = weight * plan.lambda_r * loss
            terms["rebuilt_classification"] = weight * plan.lambda_c * self.criterion(logits, targets)
            total = total + terms["reconstruction"] + terms["rebuilt_classification"]
        return terms | {"total": total}

    def _lacking(self, present: Bool[Tensor, "B 2"]) -> Bool[Tensor, "B 2"] | None:
        """Who has which modality, or None where nobody lacks one; a graph cannot ask what it is given."""
        if torch.compiler.is_exporting():
            return present if self.tolerates_missing else None
        return None if present.all() else present

    def _rebuilt(
        self, rebuild: FeatureReconstruction, output: AgfOutput, targets: Tensor
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "B K"]]:
        """Loss of the rebuilt map, and the logits of it."""
        fused = torch.cat([output.features[view] for view in self.input_spec.views], dim=1)
        hidden = rebuild.hide(token_importance(fused, self.head.weight, targets), output.present)
        rebuilt = rebuild(fused, hidden)
        loss = reconstruction_loss(rebuilt, fused, hidden & output.present[:, :, None, None])
        return loss, self.head(rebuilt.mean(dim=(2, 3))).float()

    def _local_maps(
        self, pictures: Sequence[Tensor], lacking: Tensor | None
    ) -> tuple[list[Float[Tensor, "B 512 h w"]], list[AttentionMap]]:
        """L of both modalities, and in evaluation the attention on the way there."""
        modalities = [cast(Modality, modality) for modality in self.modalities]
        # None: a module may see all cases, as none lacks the modality or no batch norm learns from them.
        there = [lacking[:, i] if self.training and lacking is not None else None for i in range(2)]
        maps, laterals, attention = list(pictures), [], []
        for stage in range(len(STRIDES)):
            maps = [m.encode(stage, x, t) for m, x, t in zip(modalities, maps, there, strict=True)]
            if len(self.local):
                maps, weights = self.local[stage](maps, lacking)
                attention += [] if self.training else self._named(stage, weights)
            laterals.append([m.lateral(stage, x, t) for m, x, t in zip(modalities, maps, there, strict=True)])
        scales = zip(*laterals, strict=True)
        local = [m.local_map(x, t) for m, x, t in zip(modalities, scales, there, strict=True)]
        return self._stand_in(local, lacking), attention

    def _stand_in(self, local: list[Tensor], lacking: Tensor | None) -> list[Tensor]:
        """Put the learned vectors in place of the local maps of missing modalities.

        Also where none is missing: so every parameter always has a gradient, as training on several devices
        needs.
        """
        if self.stand_in is None:
            return local
        there = torch.ones_like(local[0][:, :2, 0, 0], dtype=torch.bool) if lacking is None else lacking
        return [
            torch.where(as_rows(there[:, i], x), x, self.stand_in[i].to(x.dtype).view(1, -1, 1, 1))
            for i, x in enumerate(local)
        ]

    def _named(self, stage: int, weights: list[dict[str, Tensor]]) -> list[AttentionMap]:
        """Attention as ``stage2.<view>.intra``: stages count as in a ResNet, the first has stride 8."""
        return [
            AttentionMap(f"stage{stage + 2}.{view}.{kind}", values, (3, 4))
            for view, found in zip(self.input_spec.views, weights, strict=True)
            for kind, values in found.items()
        ]


def agf(
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    encoder: str = "resnet18",
    local: Local = "both",
    global_gate: bool = True,
    reconstruction: bool = True,
    masking: Masking = "attended",
    rho: Rho = 0.3,
    lambda_r: NonNegativeFloat = 1.0,
    lambda_c: NonNegativeFloat = 0.5,
    ramp: Share = 0.1,
    missing: Missing = "allow",
) -> AgfClassifier:
    """The AGF-style network on any timm backbone with stages.

    Args:
        num_classes: K.
        spec: two views.
        pretrained: True downloads timm's weights of the encoder; a path names a file or folder of them.
        encoder: a name of timm's.
        local: ALL: correlations within modalities, between them, both, or none (no ALL).
        global_gate: AGL.
        reconstruction: FRL, which works in training only.
        masking, rho, lambda_r, lambda_c: of FRL, see ``ReconstructionPlan``.
        ramp: share of the training over which FRL's terms rise; 0.1 is 10 of 100 epochs.
        missing: ``allow`` cases to lack one view, or ``refuse`` them.

    Raises:
        UsageError: there are not two views, or the encoder cannot be taken apart.
    """
    plan = ReconstructionPlan(masking, rho, lambda_r, lambda_c, ramp) if reconstruction else None
    return AgfClassifier(
        f"agf ({encoder})",
        num_classes,
        spec,
        encoder=encoder,
        pretrained=pretrained,
        local=local,
        global_gate=global_gate,
        reconstruction=plan,
        missing=missing,
    )


# The two sizes of the design; the same options.
agf_resnet18 = partial(agf, encoder="resnet18")
agf_resnet50 = partial(agf, encoder="resnet50")


def _averages(maps: Sequence[Float[Tensor, "B C h w"]]) -> list[Float[Tensor, "B C"]]:
    return [x.mean(dim=(2, 3)) for x in maps]


def _layer(channels: int, out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, kernel_size=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def _gate(channels: int, hidden: int) -> nn.Sequential:
    down, up = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
    return nn.Sequential(down, nn.ReLU(inplace=True), up, nn.Sigmoid())


def _check_two(name: str, spec: InputSpec) -> None:
    if len(spec.views) != 2:
        raise UsageError(
            f"{name} takes two views, the study has {len(spec.views)}: {', '.join(spec.views)}",
            fix="name two of them under data: views, or choose late_fusion, which takes any number",
            code="views-mismatch",
        )
