"""Random variation of training images, drawn per case and applied to a whole batch at once.

What is drawn depends only on ``(seed, epoch, position in the epoch's order)``: neither the number of
threads or devices nor an interruption changes it. The matrices are MONAI's; the resampling is one
``grid_sample`` per batch, which gives what MONAI's ``Affine`` gives image by image (a test compares
them) at more than twenty times its speed, so that two processor cores are left for the network.

Images are in [0, 1] and come out in [0, 1]; what is drawn in from outside the picture is 0, the lowest
value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from monai.transforms.utils import create_rotate, create_scale, create_translate
from numpy.typing import NDArray
from torch import Tensor

from foveate.settings import AugmentConfig

_STREAM = 2  # keeps these random numbers apart from those of the order


@dataclass(frozen=True, slots=True)
class Variation:
    """What was drawn for one case.

    Attributes:
        rotation: radians.
        shift: along (rows, columns), as shares of the image's height and width.
        magnification: > 1 enlarges the picture.
        mirrored: whether rows, columns are reversed.
        brightness: factor on intensities.
        contrast: factor on differences from the image's mean.
    """

    rotation: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    magnification: float = 1.0
    mirrored: tuple[bool, bool] = (False, False)
    brightness: float = 1.0
    contrast: float = 1.0

    def matrix(self, height: int, width: int) -> NDArray[np.float64]:
        """``(3, 3)`` from output to input pixels ``(row, column, 1)``, counted from the image's centre."""
        sign = [-1.0 if flipped else 1.0 for flipped in self.mirrored]
        rotate = create_rotate(2, self.rotation)
        translate = create_translate(2, [self.shift[0] * height, self.shift[1] * width])
        scale = create_scale(2, [direction / self.magnification for direction in sign])
        return np.asarray(rotate @ translate @ scale, dtype=np.float64)


def draw_variation(config: AugmentConfig, seed: int, epoch: int, position: int) -> Variation:
    """Draw the variation of the case at one position of one epoch.

    The position is used rather than the case, so that a rare case drawn twice in an epoch differs.

    Args:
        config: the ranges.
        seed: of the study.
        epoch: counted from 0.
        position: of the case in the epoch's order over all devices.
    """
    chance = np.random.default_rng([seed, epoch, position, _STREAM])
    turn, down, right = chance.uniform(-1, 1, size=3)
    brighter, steeper = chance.uniform(-1, 1, size=2)
    mirror_rows, mirror_columns = chance.random(2) < 0.5
    return Variation(
        rotation=float(np.deg2rad(config.rotate_degrees) * turn),
        shift=(float(config.translate * down), float(config.translate * right)),
        magnification=float(chance.uniform(*config.scale)),
        mirrored=(
            bool(mirror_rows and "vertical" in config.flip),
            bool(mirror_columns and "horizontal" in config.flip),
        ),
        brightness=float(1 + config.brightness * brighter),
        contrast=float(1 + config.contrast * steeper),
    )


def augment_batch(
    batch: Float[Tensor, "B C H W"], variations: Sequence[Variation]
) -> Float[Tensor, "B C H W"]:
    """Vary a batch of images in [0, 1]: contrast and brightness first, then one resampling.

    Args:
        batch: float32, on any device.
        variations: one per image.
    """
    contrast = batch.new_tensor([item.contrast for item in variations]).view(-1, 1, 1, 1)
    brightness = batch.new_tensor([item.brightness for item in variations]).view(-1, 1, 1, 1)
    mean = batch.mean(dim=(1, 2, 3), keepdim=True)
    varied = (((batch - mean) * contrast + mean) * brightness).clamp_(0, 1)
    grid = torch.nn.functional.affine_grid(
        _normalized(variations, batch), list(batch.shape), align_corners=False
    )
    return torch.nn.functional.grid_sample(
        varied, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )


def _normalized(variations: Sequence[Variation], batch: Tensor) -> Float[Tensor, "B 2 3"]:
    """The matrices as ``affine_grid`` takes them: (x, y) order, the image spanning [-1, 1]."""
    height, width = batch.shape[-2:]
    to_pixels = np.diag([height / 2, width / 2, 1.0])
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])
    matrices = [
        swap @ np.linalg.inv(to_pixels) @ item.matrix(height, width) @ to_pixels @ swap for item in variations
    ]
    return torch.from_numpy(np.stack(matrices)[:, :2]).to(batch)
