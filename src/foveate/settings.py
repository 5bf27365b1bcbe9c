"""Settings that several stations share, checked when a study is read; importing this costs no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Share = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused and values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PreprocessConfig(Settings):
    """How an image becomes the tensor that a model sees.

    Attributes:
        size: ``(H, W)`` in pixels that the model sees.
        window: ``(low, high)`` in the image's own unit (HU for CT) that becomes [0, 1]; values outside
            are clipped. None: 8-bit images keep 0 to 255; all others take their own percentiles.
        percentiles: ``(low, high)`` percentiles of the image that become 0 and 1, where nothing else says.
        neighbours: slices on each side that become further channels (2.5-D); needs volumes.
        organ_crop: crop to the organ mask, and set what lies outside it to the lowest value.
        organ_margin: pixels of the original image kept around the organ's bounding box.
        keep_aspect: pad to the model's aspect ratio before resizing, so that shapes stay true.
        colour: ``rgb`` keeps colour (grey is repeated), ``grey`` reduces to one luminance channel first.
        mean, std: per-channel normalization after scaling to [0, 1].
    """

    size: tuple[int, int] = (224, 224)
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)
    neighbours: Literal[0, 1] = 0
    organ_crop: bool = False
    organ_margin: Annotated[int, Field(ge=0)] = 10
    keep_aspect: bool = True
    colour: Literal["rgb", "grey"] = "rgb"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if min(self.size) < 1:
            raise ValueError(f"size must be positive, got {self.size}")
        for name, pair in (("window", self.window), ("percentiles", self.percentiles)):
            if pair is not None and not pair[0] < pair[1]:
                raise ValueError(f"{name} must rise from low to high, got {pair}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        return self


class SplitConfig(Settings):
    """How a cohort is divided; patients never part.

    Attributes:
        test: share of cases for testing (hold-out only; with folds, each fold's test part is 1/folds).
        val: share of the cases that are not for testing, used for model selection and thresholds.
        folds: number of cross-validation folds, or None for one hold-out split.
        fold: which of the folds this run trains on, 0-based.
        seed: of the assignment.
        column: manifest column that already holds train, val or test; then nothing is drawn.
        keep_twins_together: near-duplicate images are treated as one patient.
    """

    test: Share = 0.2
    val: Share = 0.15
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: Annotated[int, Field(ge=0)] = 0
    seed: int = 0
    column: str | None = None
    keep_twins_together: bool = True


class AugmentConfig(Settings):
    """How training images are varied, anew in every epoch; the label must survive each change.

    Attributes:
        rotate_degrees: largest rotation to either side.
        translate: largest shift along each axis, as a share of its length.
        scale: smallest and largest magnification, the same along both axes.
        flip: directions in which half of the images are mirrored; leave out those that medicine
            knows apart (a liver is never on the left).
        brightness: intensities are multiplied by a factor in 1 ± brightness.
        contrast: differences from the image's mean are multiplied by a factor in 1 ± contrast.
    """

    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 15
    translate: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.9, 1.1)
    flip: tuple[Literal["horizontal", "vertical"], ...] = ()
    brightness: Share = 0.05
    contrast: Share = 0.05

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must rise from smallest to largest, got {self.scale}")
        return self
