"""DICOM objects that hold what was found in images, and are no images: segmentations, maps, reports.

They have rows, columns and pixels like images, and a model that is shown one answers. Which objects are
refused as images is told by their SOP Class (PS3.4 B.5), or, where an export has lost it, by their
modality.

Secondary captures are a case of their own. Photographs, screenshots and images of old archives are kept as
such, and are read. What is refused is a capture in colour that itself says that it was made of an acquired
image: it names an image of another class as its source (Source Image Sequence), or the equipment that
acquired its source images (Contributing Equipment with the purpose 109101, DCM). That is how overlays are
written.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydicom import Dataset

from foveate.errors import InputRefused

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # SEG, label map
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"  # RT structure set
_CAPTURES = "1.2.840.10008.5.1.4.1.1.7"  # and those below it
_ACQUIRED = ("109101", "DCM")  # purpose of a contributing equipment: it acquired the source images

_AS_MASK = "give it in the column mask or organ_mask, and the image that it was drawn on as the image"
_SOURCE = "give the image that it was made of"
_KINDS: Mapping[str, tuple[str, str]] = {  # by the beginning of the SOP Class UID
    SEGMENTATIONS[0]: ("a segmentation", _AS_MASK),
    SEGMENTATIONS[1]: ("a label map", _AS_MASK),
    STRUCTURES: ("a set of contours (RTSTRUCT)", _AS_MASK),
    "1.2.840.10008.5.1.4.1.1.66": ("a surface, registration or other result", _SOURCE),
    "1.2.840.10008.5.1.4.1.1.67": ("a mapping of values", _SOURCE),
    "1.2.840.10008.5.1.4.1.1.30": (
        "a parametric map",
        f"{_SOURCE}; to classify such maps themselves, convert them to NIfTI",
    ),
    "1.2.840.10008.5.1.4.1.1.11": ("a presentation state", "give the images that it shows"),
    "1.2.840.10008.5.1.4.1.1.88": ("a structured report", "give the images that it tells of"),
    "1.2.840.10008.5.1.4.1.1.104": ("a document", "give the images themselves"),
    "1.2.840.10008.5.1.4.1.1.9": ("a waveform", "give images"),
    "1.2.840.10008.5.1.4.1.1.481.2": ("a dose", _SOURCE),
    "1.2.840.10008.5.1.4.1.1.481.5": ("a plan", _SOURCE),
}
_MODALITIES = {
    "SEG": SEGMENTATIONS[0],
    "RTSTRUCT": STRUCTURES,
    "RTDOSE": "1.2.840.10008.5.1.4.1.1.481.2",
    "PR": "1.2.840.10008.5.1.4.1.1.11",
    "SR": "1.2.840.10008.5.1.4.1.1.88",
    "KO": "1.2.840.10008.5.1.4.1.1.88",
}


def class_of(dataset: Dataset) -> str:
    """SOP Class UID; where it is lost, one that the modality stands for, else empty."""
    named = str(dataset.get("SOPClassUID") or "")
    return named or _MODALITIES.get(str(dataset.get("Modality") or ""), "")


def result_in(dataset: Dataset) -> tuple[str, str] | None:
    """What a data set holds instead of an image, and what to do about it; None for all that may be images."""
    uid = class_of(dataset)
    for begin in sorted(_KINDS, key=len, reverse=True):
        if _below(uid, begin):
            return _KINDS[begin]
    if _below(uid, _CAPTURES) and _in_colour(dataset) and _made_of_an_image(dataset):
        return "a colour picture of another image (an overlay or capture of results)", _SOURCE
    return None


def not_an_image(dataset: Dataset, where: str) -> InputRefused:
    """The refusal of a data set that holds no image."""
    what, fix = result_in(dataset) or (str(dataset.get("Modality") or "other data"), "give the image itself")
    return InputRefused(
        f"this DICOM file holds no image but {what}", where=where, fix=fix, code="dicom-not-an-image"
    )


def _in_colour(dataset: Dataset) -> bool:
    photometric = str(dataset.get("PhotometricInterpretation"))
    return photometric == "PALETTE COLOR" or int(dataset.get("SamplesPerPixel") or 1) == 3


def _made_of_an_image(dataset: Dataset) -> bool:
    sources = [
        str(item.get("ReferencedSOPClassUID", "")) for item in dataset.get("SourceImageSequence") or ()
    ]
    if any(uid and not _below(uid, _CAPTURES) for uid in sources):
        return True
    return any(
        (purpose.get("CodeValue"), purpose.get("CodingSchemeDesignator")) == _ACQUIRED
        for equipment in dataset.get("ContributingEquipmentSequence") or ()
        for purpose in equipment.get("PurposeOfReferenceCodeSequence") or ()
    )


def _below(uid: str, begin: str) -> bool:
    return uid == begin or uid.startswith(f"{begin}.")
