"""A case of the manifest becomes what the model sees: each of its views read and prepared."""

from __future__ import annotations

from foveate.io.laying import StoredMask
from foveate.io.reading import read_image, read_mask
from foveate.prepare.pixels import ImageReader, MaskReader
from foveate.prepare.preprocess import Prepared, Preprocess
from foveate.types import Case


def prepare_case(
    case: Case,
    preprocess: Preprocess,
    *,
    image_reader: ImageReader = read_image,
    mask_reader: MaskReader = read_mask,
) -> dict[str, Prepared]:
    """Read and prepare every view of a case.

    Args:
        case: as in the manifest.
        preprocess: the study's preprocessing.
        image_reader, mask_reader: how files are read; who prepares several slices of one volume
            passes readers that remember it.

    Returns:
        What ``Preprocess.prepare`` made of each view that the case has.

    Raises:
        InputRefused: a file cannot be used.
        UsageError: the preprocessing does not fit the images.
    """
    crops = any(preprocess.settings(view).organ_crop for view in case.views)
    organ = None
    if crops and case.organ_mask is not None:
        organ = mask_reader(case.organ_mask, case.organ_mask_segment)
    first = preprocess.reference(case.views)
    if first is not None:
        return _prepare_aligned(case, preprocess, first, image_reader, organ)
    return {
        view: preprocess.prepare(
            image_reader(path), view=view, slice_index=case.slice_index, organ_mask=organ
        )
        for view, path in case.views.items()
    }


def _prepare_aligned(
    case: Case,
    preprocess: Preprocess,
    first: str,
    image_reader: ImageReader,
    organ: StoredMask | None,
) -> dict[str, Prepared]:
    """All views on the grid of the first."""
    reference = image_reader(case.views[first])
    prepared = {}
    for view, path in case.views.items():
        if view == first:
            prepared[view] = preprocess.prepare(reference, view=view, organ_mask=organ)
            continue
        image = image_reader(path)
        found = preprocess.registration(image, view, reference, first)
        prepared[view] = preprocess.prepare(
            image,
            view=view,
            organ_mask=organ,
            reference=reference,
            moved=None if found is None else found.moved,
        )
    return prepared
