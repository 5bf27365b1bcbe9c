"""Settings that several stations share, checked when a study is read; importing this costs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Share = Annotated[float, Field(ge=0, lt=1)]
_EPOCHS_OF_FULL_AUGMENTATION = 30
FORMER: Mapping[str, Any] = {
    "aspect": "pixels",
    "orientation": "none",
    "spacing": None,
    "align": "none",
    "reference": None,
    "agreement": 0.1,
    "plane": None,
    "mask_grid": "same",
}
"""Settings that 0.1.0 did not have, with the values under which it did what they ask for. It laid masks on by
array, which is the same for masks on their image's grid, and wrong for all others."""


def _orientation(value: str) -> str:
    letters = value.upper()
    if value in ("auto", "none") or sorted(map("RLAPSI".find, letters)) in _ORIENTATIONS:
        return value if value in ("auto", "none") else letters
    raise ValueError(
        f"'{value}' is no orientation: auto, none, or where columns, rows and slices grow, such as LPS or RAS"
    )


_ORIENTATIONS = [[x, y, z] for x in (0, 1) for y in (2, 3) for z in (4, 5)]


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused and values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TableRules(Settings):
    """How a manifest is understood where it can be read in more than one way.

    Attributes:
        missing: words that say that a label or finding is not known, beside empty cells, ``NA``, ``NaN``,
            ``NULL``, ``.``, ``?`` and the like; None: ``unknown``, ``missing`` and the like.
        uncertain: what ``-1`` or ``u`` says of a finding (CheXpert's labels): that it is ``unknown``,
            ``positive`` or ``negative``.
        unlabelled: cases without a label are ``refused``, or ``left-out``.
        one_hot: several columns of 0 and 1, of which each case has exactly one 1, are one label.
        separator: what stands between several findings in the column of the label, such as ``|``.
        ids: names of patients or cases that may be two spellings of one (``017`` and ``17``, ``P1`` and
            ``p1``) are refused (``checked``), are one (``normalised``), or are two (``as-written``).
    """

    missing: list[str] | None = None
    uncertain: Literal["unknown", "positive", "negative"] = "unknown"
    unlabelled: Literal["refused", "left-out"] = "refused"
    one_hot: bool = False
    separator: Annotated[str, Field(min_length=1)] | None = None
    ids: Literal["checked", "normalised", "as-written"] = "checked"

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.one_hot and self.separator is not None:
            raise ValueError("one_hot reads several columns, separator one: give one of the two")
        return self


USUAL_RULES = TableRules()


class ViewPreprocess(Settings):
    """What one view has of its own; whatever is left out is as for all views.

    Attributes:
        window, percentiles, colour, mask, organ_crop, keep_aspect, intensity, mean, std: as in
            ``PreprocessConfig``.
    """

    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    colour: Literal["rgb", "grey"] | None = None
    mask: Literal["none", "otsu_dark"] | None = None
    organ_crop: bool | None = None
    keep_aspect: bool | None = None
    intensity: Literal["fixed", "zscore"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


class PreprocessConfig(Settings):
    """How an image or volume becomes the tensor that a model sees.

    Attributes:
        size: ``(H, W)`` in pixels that the model sees; three numbers ``(D, H, W)`` for whole volumes of D
            slices.
        orientation: which way every image is turned, exactly, by exchanging and mirroring its axes: three
            letters for the patient's directions in which columns, rows and slices grow, such as ``LPS`` (to
            the left, to the back, up) or ``RAS``. ``auto`` is ``LPS`` where images have an affine, ``none``
            the order of the file. Pictures (single images and slices of volumes) keep their plane; in them
            the vertical axis always runs from head to feet.
        plane: in which slices of volumes must lie, ``axial``, ``coronal`` or ``sagittal``, by the closest
            axis; None: that of the first slice a training sees, which goes into the bundle.
        spacing: mm from one voxel of the model to the next along each axis of ``size``, after turning;
            ``auto``: the training images' median. The model then sees a field of a fixed extent around the
            middle of the image (or the organ), cut or padded with zeros. None: all of the image in ``size``.
        align: how the views of a case, volumes, come onto one grid: ``affine`` resamples each onto the grid
            of the reference view by what both say of how they lie in the patient; ``rigid`` also looks for
            how the patient moved in between, and goes back by that (extra ``register``); ``none`` takes each
            as it is.
        reference: the view whose grid counts; None: the first one.
        agreement: lowest agreement of a registered view with the reference, 0 to 1 (see
            ``prepare.register``); below it the case is refused.
        window: ``(low, high)`` in the image's own unit (HU for CT) that becomes [0, 1]; values outside
            are clipped. None: 8-bit images keep 0 to 255; all others take their own percentiles.
        percentiles: ``(low, high)`` percentiles of the image that become 0 and 1, where nothing else says.
        neighbours: slices on each side that become further channels (2.5-D); needs volumes.
        organ_crop: crop to the organ mask, and set what lies outside it to the lowest value.
        organ_margin: pixels of the original image kept around the organ's bounding box; in volumes
            voxels along each axis.
        mask_grid: how masks meet images. ``same``: by affines, on the image's grid in any order of axes, else
            refused; ``resample``: from another grid the nearest voxel; ``array``: by array,
            whatever affines say. Without an affine on either side it is always by array.
        keep_aspect: pad to the model's aspect ratio before resizing, so that shapes stay true; in volumes
            within the slices only.
        aspect: what stays true: lengths in ``mm``, where the file tells how far its rows and columns are
            apart, or the numbers of ``pixels``, as where it does not.
        resize: ``linear`` interpolates, with antialiasing on the way down; ``area`` averages what falls into
            each pixel (adaptive average, blocks on the way up).
        colour: ``rgb`` keeps colour (grey is repeated), ``grey`` reduces to one luminance channel first;
            volumes are always grey.
        mask: ``otsu_dark`` keeps the pixels that Otsu's threshold calls dark and blackens the rest.
        intensity: ``fixed`` normalizes with ``mean`` and ``std``; ``zscore`` with each image's own mean
            and population standard deviation, taken over all of its pixels after augmentation.
        mean, std: per-channel normalization after scaling to [0, 1]; volumes take the first of each.
        views: what single views have of their own, by name: any of ``window``, ``percentiles``,
            ``colour``, ``mask``, ``organ_crop``, ``keep_aspect``, ``intensity``, ``mean``, ``std``.
    """

    size: Annotated[tuple[int, ...], Field(min_length=2, max_length=3)] = (224, 224)
    orientation: Annotated[str, AfterValidator(_orientation)] = "auto"
    plane: Literal["axial", "coronal", "sagittal"] | None = None
    spacing: tuple[Annotated[float, Field(gt=0)], ...] | Literal["auto"] | None = None
    align: Literal["none", "affine", "rigid"] = "none"
    reference: str | None = None
    agreement: Annotated[float, Field(ge=0, lt=1)] = 0.1
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)
    neighbours: Literal[0, 1] = 0
    organ_crop: bool = False
    organ_margin: Annotated[int, Field(ge=0)] = 10
    mask_grid: Literal["same", "resample", "array"] = "same"
    keep_aspect: bool = True
    aspect: Literal["mm", "pixels"] = "mm"
    resize: Literal["linear", "area"] = "linear"
    colour: Literal["rgb", "grey"] = "rgb"
    mask: Literal["none", "otsu_dark"] = "none"
    intensity: Literal["fixed", "zscore"] = "fixed"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    views: dict[str, ViewPreprocess] = Field(default_factory=dict)

    @property
    def volumes(self) -> bool:
        """Whether the model sees whole volumes."""
        return len(self.size) == 3

    @classmethod
    def stored(cls, settings: Mapping[str, Any]) -> Self:
        """Settings as a run, a bundle or an export spells them out; those of 0.1.0 mean what they did."""
        return cls.model_validate({**FORMER, **settings})

    def spelt(self, exclude: set[str] | None = None) -> dict[str, Any]:
        """All settings as JSON, without those that 0.1.0 did not have where they change nothing."""
        plain = self.model_dump(mode="json", exclude=exclude)
        return {name: value for name, value in plain.items() if name not in FORMER or value != FORMER[name]}

    def for_view(self, name: str) -> Self:
        """The settings of one view, with what it has of its own put in."""
        own = self.views[name].model_dump(exclude_none=True) if name in self.views else {}
        return type(self).model_validate(self.model_dump(exclude={"views"}) | own)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if min(self.size) < 1:
            raise ValueError(f"size must be positive, got {self.size}")
        for name, pair in (("window", self.window), ("percentiles", self.percentiles)):
            if pair is not None and not pair[0] < pair[1]:
                raise ValueError(f"{name} must rise from low to high, got {pair}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if isinstance(self.spacing, tuple) and len(self.spacing) != len(self.size):
            raise ValueError(f"spacing needs as many numbers as size, {len(self.size)}, got {self.spacing}")
        if self.align != "none" and not self.volumes:
            raise ValueError(f"align: {self.align} is for whole volumes, and size has two numbers")
        if self.reference is not None and self.align == "none":
            raise ValueError("reference does nothing unless align says how views come onto its grid")
        if self.volumes and self.neighbours:
            raise ValueError("neighbours are for slices: a size of three numbers takes the whole volume")
        if self.volumes and self.mask != "none":
            raise ValueError(f"mask: {self.mask} is for pictures, not for volumes")
        for name in self.views:
            try:
                self.for_view(name)
            except ValidationError as error:
                raise ValueError(f"view '{name}': {error.errors()[0]['msg']}") from None
        return self


class SplitConfig(Settings):
    """How a cohort is divided; patients never part.

    Attributes:
        test: share of cases for testing (hold-out only; with folds, each fold's test part is 1/folds).
        val: share of the cases that are not for testing, used for model selection and thresholds.
        folds: number of cross-validation folds, or None for one hold-out split.
        fold: which of the folds this run trains on, 0-based.
        seed: of the assignment.
        column: manifest column that already holds train, val or test; then nothing is drawn. Several columns
            are a split each: what ``folds`` and ``fold`` are for a cross-validation that is drawn.
        keep_twins_together: near-duplicate images are treated as one patient.
    """

    test: Share = 0.2
    val: Share = 0.15
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: Annotated[int, Field(ge=0)] = 0
    seed: int = 0
    column: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    keep_twins_together: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold the splits, one for each; none if they are drawn."""
        return (self.column,) if isinstance(self.column, str) else self.column or ()

    @property
    def rounds(self) -> int | None:
        """Splits that are to be trained on, each by a run of its own; None if there is but one."""
        return self.folds if self.column is None or isinstance(self.column, str) else len(self.column)


class AugmentConfig(Settings):
    """How training images are varied, anew in every epoch; the label must survive each change.

    Defaults are those of trainings of 30 epochs and more; a study of fewer has ``for_epochs``.

    Attributes:
        rotate_degrees: largest rotation to either side; in volumes within the slices.
        tilt_degrees: largest tilt of volumes to either side, in the plane of slices and rows and counted in
            voxels of the model's grid.
        translate: largest shift along rows and columns, as a share of their length.
        scale: smallest and largest magnification, the same along rows and columns.
        flip: directions in which images are mirrored; leave out those that medicine knows apart (a liver
            is never on the left). ``depth`` is for volumes.
        flip_together: mirror along all of these directions at once, or not at all.
        probability: chance that an image is turned (rotation and tilt), and, separately, that it is
            mirrored along each direction. None: always turned, mirrored half of the time.
        padding: what comes in from outside the image: ``zero``, or the values of its ``edge``.
        brightness: intensities are multiplied by a factor in 1 ± brightness.
        contrast: differences from the image's mean are multiplied by a factor in 1 ± contrast.
        shared: vary all views of a case alike, so that registered ones stay registered; false varies each
            on its own.
        drop_views: chance that a view is withheld in training, so that the model learns to do without;
            a case keeps at least one.
    """

    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 15
    tilt_degrees: Annotated[float, Field(ge=0, le=90)] = 0
    translate: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.9, 1.1)
    flip: tuple[Literal["horizontal", "vertical", "depth"], ...] = ()
    flip_together: bool = False
    probability: Annotated[float, Field(ge=0, le=1)] | None = None
    padding: Literal["zero", "edge"] = "zero"
    brightness: Share = 0.05
    contrast: Share = 0.05
    shared: bool = True
    drop_views: Share = 0

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must rise from smallest to largest, got {self.scale}")
        return self

    def for_epochs(self, epochs: int) -> Self:
        """The same settings, with the ranges that nobody chose as mild as a short training needs.

        Variation delays learning and pays where images are seen often enough to be learned by heart. The
        default ranges of rotation, shift, magnification, brightness and contrast are multiplied by
        ``min(1, epochs / 30)``; what was chosen stays, and so does what counts as chosen.
        """
        share = min(1.0, epochs / _EPOCHS_OF_FULL_AUGMENTATION)
        full = AugmentConfig()
        ranges = ("rotate_degrees", "translate", "brightness", "contrast")
        milder: dict[str, object] = {name: round(getattr(full, name) * share, 4) for name in ranges}
        milder["scale"] = tuple(round(1 + (end - 1) * share, 4) for end in full.scale)
        fitted = self.model_copy()
        fitted.__dict__.update({k: v for k, v in milder.items() if k not in self.model_fields_set})
        return fitted
