"""Random variation of training images, drawn per case and applied to a whole batch at once.

What is drawn depends only on ``(seed, epoch, position in the epoch's order)``, and on the view where each
view is varied on its own: neither the number of threads or devices nor an interruption changes it. The
matrices are MONAI's; the resampling is one ``grid_sample`` for all views that share their draw, which gives
what MONAI's ``Affine`` gives image by image (a test compares them) at more than twenty times its speed, so
that two processor cores are left for the network.

Images are in [0, 1] and come out in [0, 1]; what is drawn in from outside the picture is 0, the lowest
value, or the value at the edge. Volumes are turned, shifted and magnified within their slices, tilted
through them, and mirrored along all three axes, all in voxels of the model's grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from monai.transforms.utils import create_rotate, create_scale, create_translate
from numpy.typing import NDArray
from torch import Tensor

from foveate.study.settings import AugmentConfig

_STREAM = 2  # keeps these random numbers apart from those of the order
_DROP_STREAM = 3  # and those of the views that are withheld
_ALWAYS, _HALF = 1.0, 0.5  # chances of turning and of mirroring, if the study does not say
_TORCH_PADDING = {"zero": "zeros", "edge": "border"}


@dataclass(frozen=True, slots=True)
class Variation:
    """What was drawn for one case.

    Attributes:
        rotation: radians, within the slice.
        shift: along (rows, columns), as shares of the image's height and width.
        magnification: > 1 enlarges the picture, within the slice.
        mirrored: whether rows, columns are reversed.
        brightness: factor on intensities.
        contrast: factor on differences from the image's mean.
        tilt: radians, in the plane of slices and rows; of volumes.
        mirrored_depth: whether slices are reversed; of volumes.
    """

    rotation: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    magnification: float = 1.0
    mirrored: tuple[bool, bool] = (False, False)
    brightness: float = 1.0
    contrast: float = 1.0
    tilt: float = 0.0
    mirrored_depth: bool = False

    @property
    def moves(self) -> bool:
        """Whether any pixel goes elsewhere."""
        turned = (self.rotation, *self.shift, self.tilt) != (0.0, 0.0, 0.0, 0.0)
        return turned or self.magnification != 1 or any(self.mirrored) or self.mirrored_depth

    def matrix(self, *space: int) -> NDArray[np.float64]:
        """From output to input pixels, counted from the image's centre, in array order and homogeneous.

        Args:
            space: height and width, or depth, height and width.

        Returns:
            ``(3, 3)`` for ``(row, column, 1)`` or ``(4, 4)`` for ``(slice, row, column, 1)``.
        """
        height, width = space[-2:]
        along_slices = len(space) - 2  # 0 or 1 axes
        sign = [-1.0 if flipped else 1.0 for flipped in self.mirrored]
        depth = -1.0 if self.mirrored_depth else 1.0
        angles = [self.rotation, 0.0, self.tilt] if along_slices else [self.rotation]
        rotate = create_rotate(len(space), angles)
        shift = [0.0] * along_slices + [self.shift[0] * height, self.shift[1] * width]
        scale = [depth] * along_slices + [direction / self.magnification for direction in sign]
        matrix = rotate @ create_translate(len(space), shift) @ create_scale(len(space), scale)
        return np.asarray(matrix, dtype=np.float64)


def draw_variation(config: AugmentConfig, seed: int, epoch: int, position: int, view: int = 0) -> Variation:
    """Draw the variation of the case at one position of one epoch.

    The position is used rather than the case, so that a rare case drawn twice in an epoch differs.

    Args:
        config: the ranges.
        seed: of the study.
        epoch: counted from 0.
        position: of the case in the epoch's order over all devices.
        view: number of the view that the draw is for; 0 for the first, and where all views share one.
    """
    chance = np.random.default_rng([seed, epoch, position, _STREAM, *([view] if view else [])])
    turn, down, right = chance.uniform(-1, 1, size=3)
    brighter, steeper = chance.uniform(-1, 1, size=2)
    coins = list(chance.random(2))
    magnification = float(chance.uniform(*config.scale))
    tilt, depth_coin, turn_coin = chance.uniform(-1, 1), chance.random(), chance.random()
    turning, mirroring = (
        (_ALWAYS, _HALF) if config.probability is None else (config.probability, config.probability)
    )
    coins = [coins[0]] * 3 if config.flip_together else [*coins, depth_coin]
    tails = [coin < mirroring for coin in coins]
    turns = float(turn_coin < turning)
    return Variation(
        rotation=float(np.deg2rad(config.rotate_degrees) * turn * turns),
        shift=(float(config.translate * down), float(config.translate * right)),
        magnification=magnification,
        mirrored=(
            bool(tails[0] and "vertical" in config.flip),
            bool(tails[1] and "horizontal" in config.flip),
        ),
        brightness=float(1 + config.brightness * brighter),
        contrast=float(1 + config.contrast * steeper),
        tilt=float(np.deg2rad(config.tilt_degrees) * tilt * turns),
        mirrored_depth=bool(tails[2] and "depth" in config.flip),
    )


def draw_kept(
    chance_to_drop: float, present: NDArray[np.bool_], seed: int, epoch: int, position: int
) -> NDArray[np.bool_]:
    """Draw which of a case's views are shown in training.

    Each is withheld with the given chance, independently; if that leaves none, one that is there,
    drawn with equal chances, is kept.

    Args:
        chance_to_drop: in [0, 1).
        present: ``(V,)`` which views the case has, at least one.
        seed: of the study.
        epoch: counted from 0.
        position: of the case in the epoch's order over all devices.

    Returns:
        ``(V,)`` which are shown, a part of ``present``.
    """
    chance = np.random.default_rng([seed, epoch, position, _DROP_STREAM])
    kept = present & (chance.random(len(present)) >= chance_to_drop)
    if not kept.any():
        kept[chance.choice(np.flatnonzero(present))] = True
    return kept


def augment_views(
    views: Mapping[str, Float[Tensor, "B C *space"]],
    draws: Mapping[str, Sequence[Variation]],
    padding: Literal["zero", "edge"] = "zero",
) -> dict[str, Float[Tensor, "B C *space"]]:
    """Vary a batch of images in [0, 1]: contrast and brightness first, then the places.

    Views that share their draws are resampled in one go, as channels of one image. Images that stay where
    they are keep their bits; rows of NaN stay without meaning.

    Args:
        views: each float32, on any device; pictures or volumes, all of one size.
        draws: for each view, one variation per image.
        padding: what comes in from outside, see ``AugmentConfig``.
    """
    bright = {name: _vary_intensity(view, draws[name]) for name, view in views.items()}
    first, *others = (draws[name] for name in views)
    if any(list(other) != list(first) for other in others):
        return {name: _move(view, draws[name], padding) for name, view in bright.items()}
    together = _move(torch.cat(list(bright.values()), dim=1), first, padding)
    channels = [view.shape[1] for view in views.values()]
    return dict(zip(views, torch.split(together, channels, dim=1), strict=True))


def _vary_intensity(
    batch: Float[Tensor, "B C *space"], variations: Sequence[Variation]
) -> Float[Tensor, "B C *space"]:
    """Contrast about each image's mean (over channels and pixels), then brightness, clipped to [0, 1]."""
    shape = (-1,) + (1,) * (batch.ndim - 1)
    contrast = batch.new_tensor([item.contrast for item in variations]).view(shape)
    brightness = batch.new_tensor([item.brightness for item in variations]).view(shape)
    mean = batch.mean(dim=tuple(range(1, batch.ndim)), keepdim=True)
    return (batch * (contrast * brightness)).add_(mean * (1 - contrast) * brightness).clamp_(0, 1)


def _move(
    batch: Float[Tensor, "B C *space"], variations: Sequence[Variation], padding: Literal["zero", "edge"]
) -> Float[Tensor, "B C *space"]:
    """Turn, shift, magnify and mirror, in one resampling of the images that move."""
    rows = [row for row, item in enumerate(variations) if item.moves]
    if not rows:
        return batch
    moving = batch[rows] if len(rows) < len(batch) else batch
    matrices = _normalized([variations[row] for row in rows], moving)
    grid = torch.nn.functional.affine_grid(matrices, list(moving.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(
        moving, grid, mode="bilinear", padding_mode=_TORCH_PADDING[padding], align_corners=False
    )
    if moving is batch:
        return moved
    result = batch.clone()
    result[rows] = moved
    return result


def _normalized(variations: Sequence[Variation], batch: Tensor) -> Float[Tensor, "B n m"]:
    """The matrices as ``affine_grid`` takes them: (x, y, z) order, the image spanning [-1, 1]."""
    space = batch.shape[2:]
    to_pixels = np.diag([*(side / 2 for side in space), 1.0])
    order = [*reversed(range(len(space))), len(space)]
    swap = np.eye(len(space) + 1)[order]
    matrices = [
        swap @ np.linalg.inv(to_pixels) @ item.matrix(*space) @ to_pixels @ swap for item in variations
    ]
    return torch.from_numpy(np.stack(matrices)[:, : len(space)]).to(batch)
