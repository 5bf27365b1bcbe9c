"""DICOM pixels as they are stored, for masks: a label keeps its number, and background stays 0."""

from __future__ import annotations

from pydicom import Dataset

from foveate.io.masks import RESCALED

_OF_VALUES = (
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
)


def as_stored(dataset: Dataset, codes: list[str]) -> None:
    """Take out of a data set what would change its stored values on reading.

    Args:
        dataset: is changed.
        codes: ``RESCALED`` is added where something would have been changed.
    """
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    changes = slope not in (None, "", 1) or intercept not in (None, "", 0) or "ModalityLUTSequence" in dataset
    for keyword in _OF_VALUES:
        if keyword in dataset:
            delattr(dataset, keyword)
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in dataset.get(name) or ():
            if "PixelValueTransformationSequence" in group:
                changes = True
                del group.PixelValueTransformationSequence
    if dataset.get("PhotometricInterpretation") in ("MONOCHROME1", "PALETTE COLOR"):
        changes = True
        dataset.PhotometricInterpretation = "MONOCHROME2"
    if changes:
        codes.append(RESCALED)
