"""Small classifiers for tests, each with one property that explainers must cope with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.contract import AttentionMap, Classifier, InputSpec, ModelOutput, Views

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def _trunk(dimensions: int, channels: int, width: int) -> nn.Sequential:
    """Two convolutions: an image of side 2n becomes a map of side n, without negative values."""
    conv, norm = _CONV[dimensions], _NORM[dimensions]
    return nn.Sequential(
        conv(channels, width, 3, padding=1),
        norm(width),
        nn.ReLU(),
        conv(width, width, 3, stride=2, padding=1),
        nn.ReLU(),
    )


class PooledCnn(Classifier):
    """Global average pool and one linear layer; ``declare`` says whether it tells."""

    def __init__(
        self, dimensions: int = 2, *, declare: bool = True, channels: int = 3, classes: int = 4
    ) -> None:
        super().__init__()
        self.input_spec = InputSpec(dimensions="3" if dimensions == 3 else "2", channels=channels)
        self.num_classes = classes
        self.cam_feature = {"image": "map"}
        self.trunk = _trunk(dimensions, 3, 6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, classes)
        self.declare = declare
        self.calls = 0
        self.graph_kept = False
        nn.init.normal_(self.head.weight)

    @property
    def linear_head(self) -> nn.Linear | None:
        return self.head if self.declare else None

    def forward(self, views: Views) -> ModelOutput:
        self.calls += 1
        early = self.trunk[:3](views["image"])
        features = self.trunk[3:](early)
        self.graph_kept = features.requires_grad
        logits = self.head(self.drop(features.flatten(2).mean(2)))
        maps = {"early": early, "map": features, "pooled": features.flatten(2).mean(2)}
        return ModelOutput(logits, maps, (AttentionMap("gate", features.mean(1, keepdim=True).sigmoid()),))


class LyingCnn(PooledCnn):
    """Says that its head is linear on the average, but pools by the maximum."""

    def forward(self, views: Views) -> ModelOutput:
        features = self.trunk(views["image"])
        return ModelOutput(self.head(features.flatten(2).amax(2)), {"map": features})


class PlacesCnn(Classifier):
    """A head with a weight for every place and a bend, so that gradients differ from place to place."""

    def __init__(self, dimensions: int = 2, *, side: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.input_spec = InputSpec(dimensions="3" if dimensions == 3 else "2", size=(side,) * dimensions)
        self.num_classes = classes
        self.cam_feature = {"image": "map"}
        self.trunk = _trunk(dimensions, 3, 5)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(5 * (side // 2) ** dimensions, 16), nn.Tanh(), nn.Linear(16, classes)
        )
        self.calls = 0

    def forward(self, views: Views) -> ModelOutput:
        self.calls += 1
        features = self.trunk(views["image"])
        return ModelOutput(
            self.head(self.drop(features)),
            {"map": features, "detached": features.detach(), "aside": self.trunk[0](views["image"])},
        )


class TwoViewCnn(Classifier):
    """Two views of different size, each with a trunk and a feature of its own; a head that mixes them."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.input_spec = InputSpec(views=("ct", "mr"))
        self.num_classes = classes
        self.cam_feature = {"ct": "ct_map", "mr": "mr_map"}
        self.ct = _trunk(2, 3, 4)
        self.mr = _trunk(2, 3, 4)
        self.head = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, classes))

    def forward(self, views: Views) -> ModelOutput:
        maps = {"ct_map": self.ct(views["ct"]), "mr_map": self.mr(views["mr"])}
        pooled = torch.cat([values.flatten(2).mean(2) for values in maps.values()], dim=1)
        return ModelOutput(self.head(pooled), maps)


class LinearScores(Classifier):
    """Each score is a weighted sum of the pixels of all views: every attribution is known by hand."""

    def __init__(self, *spaces: tuple[int, ...], classes: int = 3, channels: int = 2) -> None:
        super().__init__()
        names = tuple(f"view{number}" for number in range(len(spaces)))
        self.input_spec = InputSpec(views=names, size=spaces[0], channels=channels)
        self.num_classes = classes
        self.cam_feature = {}
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(classes, channels, *s)) for s in spaces)
        self.bias = nn.Parameter(torch.randn(classes))

    def forward(self, views: Views) -> ModelOutput:
        logits: Tensor = self.bias
        for name, weight in zip(self.input_spec.views, self.weights, strict=True):
            logits = logits + torch.einsum("bp,kp->bk", views[name].flatten(1), weight.flatten(1))
        return ModelOutput(logits)


def images(batch: int, *space: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Normal noise ``(batch, channels, *space)``."""
    return torch.randn((batch, channels, *space), generator=torch.Generator().manual_seed(seed))
