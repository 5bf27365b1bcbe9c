"""Which pixels of a file the model is to see, and which values become 0 and 1; importing this costs no torch.

The first half of preprocessing, in NumPy: what training, prediction and exported graphs share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused, UsageError
from foveate.io.laying import StoredMask
from foveate.prepare.geometry import FieldOfView
from foveate.prepare.orientation import PLANES
from foveate.study.settings import PreprocessConfig
from foveate.types import Array, Case, Geometry, Image

ImageReader = Callable[[Path], Image]
MaskReader = Callable[[Path, str], StoredMask]


def with_views_of(case: Case, views: Sequence[str], *, tolerant: bool) -> Case:
    """The case with the model's views alone.

    Args:
        case: as in the manifest.
        views: names of the model's inputs.
        tolerant: whether the model can do without some of them (``Classifier.tolerates_missing``).

    Raises:
        InputRefused: a view is missing that the model cannot do without; all of them, if it is tolerant.
    """
    there = {view: case.views[view] for view in views if view in case.views}
    if not there or (len(there) < len(views) and not tolerant):
        missing = ", ".join(view for view in views if view not in there)
        needs = "at least one of the views" if tolerant else "the views"
        raise InputRefused(
            f"the model needs {needs} {', '.join(views)}; missing: {missing}",
            where=f"case {case.case_id}",
            fix="give one of them, or leave this case out"
            if tolerant
            else "give every view, leave this case out, or train a model that tolerates missing views",
            code="view-missing",
        )
    return replace(case, views=there)


def limits(image: Image, config: PreprocessConfig) -> tuple[float, float]:
    """Values that become 0 and 1: the window, the 8-bit range, or the image's percentiles without padding."""
    if config.window is not None:
        return config.window
    if image.value_range is not None and image.pixels.dtype == np.uint8:
        return image.value_range
    ranks = np.array(config.percentiles)
    if image.padding_share:  # padding holds the lowest value: leave out as many of the lowest
        last = image.pixels.size - 1
        padding = round(image.padding_share * image.pixels.size)
        ranks = 100 * (padding + ranks / 100 * (last - padding)) / last
    with np.errstate(invalid="ignore"):  # of infinities; ``prepare`` refuses what comes of them
        low, high = np.percentile(image.pixels, ranks)
    return float(low), float(high)


def chosen_pixels(image: Image, config: PreprocessConfig, slice_index: int | None = None) -> Array:
    """``(C, D, H, W)`` if the model sees volumes, else ``(C, H, W)``, as the file stores them.

    Args:
        image: as read.
        config: the study's choices.
        slice_index: 0-based slice to classify, if the image is a volume and the model sees pictures.

    Raises:
        UsageError: the study's choices do not fit the image (both sides are named).
        InputRefused: the volume has no such slice.
    """
    if not config.volumes:
        return _planes(image, config.neighbours, slice_index)
    if image.dimensions == 2:
        raise UsageError(
            f"the study takes volumes (preprocess.size is {list(config.size)}), and this is a single image",
            where=image.source,
            fix="give preprocess.size two numbers (H, W), or volumes (NIfTI or a DICOM series)",
        )
    if slice_index is not None:
        raise UsageError(
            f"the study takes whole volumes (preprocess.size is {list(config.size)}), and the "
            f"manifest names slice {slice_index}",
            where=image.source,
            fix="give preprocess.size two numbers (H, W), or leave out the column 'slice'",
        )
    return image.pixels


def field_of(
    image: Image,
    config: PreprocessConfig,
    organ: NDArray[np.bool_] | None = None,
) -> FieldOfView:
    """Where the model's field lies in an image, or in the plane or volume of it that is classified.

    Args:
        image: as read.
        config: of the view.
        organ: over the chosen plane or volume, see ``FieldOfView.of``.

    Raises:
        InputRefused: the study turns volumes to an orientation or brings them to a spacing, and those of this
            one are unknown; or its slices lie in another plane.
    """
    frame = plane_or_volume(image, config)
    if image.dimensions == 3 and frame.orientation is None and config.orientation not in ("auto", "none"):
        raise InputRefused(
            f"the study turns volumes to {config.orientation}, and this one does not say how it lies in the "
            "patient (it has no affine)",
            where=image.source,
            fix="give a file with its geometry (NIfTI with qform or sform, DICOM with positions), leave this "
            "case out, or train with preprocess.orientation: none",
            code="no-affine",
        )
    codes = image.geometry.orientation
    sliced = image.dimensions == 3 and not config.volumes
    if sliced and codes and config.plane and (lies := PLANES[codes[0]]) != config.plane:
        raise InputRefused(
            f"the slices of this volume are {lies}, and the study takes {config.plane} ones",
            where=image.source,
            fix="give volumes whose first axis (`slice` counts along it) is the same, or leave this case out",
            code="mixed-planes",
        )
    return FieldOfView.of(
        frame.shape, config, organ, orientation=frame.orientation, spacing=frame.spacing, where=image.source
    )


def plane_or_volume(image: Image, config: PreprocessConfig) -> Geometry:
    """Geometry of what the model sees of an image: all of it, or one slice of a volume."""
    return plane_of(image.geometry) if image.dimensions == 3 and not config.volumes else image.geometry


def plane_of(geometry: Geometry) -> Geometry:
    """Geometry of one slice of a volume along its first axis; it says nothing of which."""
    spacing, orientation = geometry.spacing, geometry.orientation
    return Geometry(geometry.shape[1:], spacing and spacing[1:], orientation=orientation and orientation[1:])


def _planes(image: Image, reach: int, slice_index: int | None) -> Array:
    """``(C, H, W)``: the image itself, or the slice with its neighbours (edges replicated)."""
    if image.dimensions == 2:
        if reach:
            raise UsageError(
                "the study asks for neighbouring slices, but this is a single image",
                where=image.source,
                fix="set preprocess.neighbours: 0, or give volumes (NIfTI or a DICOM series)",
            )
        return image.pixels
    depth = image.pixels.shape[1]
    if slice_index is None:
        raise UsageError(
            f"this is a volume of {depth} slices, and the manifest does not say which one to classify",
            where=image.source,
            fix="add a column 'slice' (0-based) to the manifest, or give preprocess.size three numbers "
            "(D, H, W) to classify whole volumes",
        )
    if not 0 <= slice_index < depth:
        raise InputRefused(
            f"slice {slice_index} does not exist: the volume has {depth} slices, 0 to {depth - 1}",
            where=image.source,
            fix="correct the column 'slice'",
            code="slice-outside-volume",
        )
    if image.channels != 1 and reach:
        raise UsageError("neighbouring slices as channels need a grey volume", where=image.source)
    chosen = np.clip(np.arange(slice_index - reach, slice_index + reach + 1), 0, depth - 1)
    return image.pixels[0, chosen] if image.channels == 1 else image.pixels[:, slice_index]
