"""What the header of one DICOM file says of patient, study, series and place, as far as sorting needs it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.tag import Tag

from foveate.io.dicom import holds_image
from foveate.io.dicom_pixels import attribute
from foveate.io.source import sniff

Facts = Mapping[str, Any]
"""What is kept of a header: plain values, by the names in ``_KEYWORDS`` and ``facts_of``."""

_HEAD = 4096
_KEYWORDS = {
    "patient": "PatientID",
    "issuer": "IssuerOfPatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "instance_uid": "SOPInstanceUID",
    "date": "StudyDate",
    "time": "StudyTime",
    "accession": "AccessionNumber",
    "study_description": "StudyDescription",
    "description": "SeriesDescription",
    "protocol": "ProtocolName",
    "modality": "Modality",
    "number": "SeriesNumber",
    "instance": "InstanceNumber",
    "rows": "Rows",
    "columns": "Columns",
    "frames": "NumberOfFrames",
    "concatenated": "InConcatenationTotalNumber",
    "laterality": "ImageLaterality",
    "view_position": "ViewPosition",
    "kind": "ImageType",
    "temporal_position": "TemporalPositionIdentifier",
    "acquisition": "AcquisitionNumber",
    "echo_time": "EchoTime",
    "b_value": "DiffusionBValue",
    "trigger_time": "TriggerTime",
    "acquisition_time": "AcquisitionTime",
    "content_time": "ContentTime",
}
_B_VALUES = (  # group, creator of the private block, element
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x2001, "Philips Imaging DD 001", 0x03),
)
_SEQUENCES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
_PRIVATE = [
    tag for group, _, element in _B_VALUES for tag in ((group << 16) + 0x10, (group << 16) + 0x1000 + element)
]
_OF_RESULTS = (  # what tells results from images, see ``io.derived``
    "SOPClassUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "SourceImageSequence",
    "ContributingEquipmentSequence",
)
_OTHERS = ("Laterality", "SpecificCharacterSet", *_PRIVATE)
_TAGS = [Tag(each) for each in (*_KEYWORDS.values(), *_SEQUENCES, *_PLACE, *_OF_RESULTS, *_OTHERS)]


def facts_of(path: Path) -> Facts | None:
    """Facts of one file's header; None for what is no DICOM file, ``{}`` for one that holds no image.

    Raises:
        OSError: the file cannot be opened.
        Exception: whatever pydicom stumbles over in a damaged file.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
        if sniff(head) != "dicom":
            return None
        stream.seek(0)
        with disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the reader says what matters when the image is read
            dataset = dcmread(
                stream, stop_before_pixels=True, force=head[128:132] != b"DICM", specific_tags=_TAGS
            )
            if not holds_image(dataset):
                return {}
            facts = {name: _plain(dataset.get(keyword)) for name, keyword in _KEYWORDS.items()}
            facts["laterality"] = facts["laterality"] or _plain(dataset.get("Laterality"))
            if facts["b_value"] is None:
                facts["b_value"] = _private_b_value(dataset)
            facts |= _place(dataset, int(facts["frames"] or 1))
    return {name: value for name, value in facts.items() if value not in (None, "", [])}


def _place(dataset: Dataset, frames: int) -> dict[str, Any]:
    """Where the first frame lies, and of several how many places there are and how far apart."""
    place = {
        "position": attribute(dataset, 0, "PlanePositionSequence", _PLACE[0]),
        "orientation": attribute(dataset, 0, "PlaneOrientationSequence", _PLACE[1]),
        "spacing": attribute(dataset, 0, "PixelMeasuresSequence", _PLACE[2]),
        "thickness": attribute(dataset, 0, "PixelMeasuresSequence", _PLACE[3]),
    }
    found: dict[str, Any] = {name: _numbers(value) for name, value in place.items()}
    if frames > 1 and found["position"] and "PerFrameFunctionalGroupsSequence" in dataset:
        places = [_numbers(attribute(dataset, k, "PlanePositionSequence", _PLACE[0])) for k in range(frames)]
        known = np.unique(np.round([each for each in places if len(each) == 3], 3), axis=0)
        found["places"] = len(known)
        if len(known) > 1:
            found["step"] = float(np.linalg.norm(known[-1] - known[0]) / (len(known) - 1))
    return found


def _private_b_value(dataset: Dataset) -> str:
    """Diffusion b-value of manufacturers that keep it in attributes of their own."""
    for group, creator, element in _B_VALUES:
        block, value = (dataset.get((group << 16) + tag) for tag in (0x10, 0x1000 + element))
        if block is None or value is None or creator not in str(block.value):
            continue
        text = str(_plain(value.value)).split("\\")[0]
        if text.replace(".", "", 1).isdigit():
            return str(int(float(text)) % 100_000)  # General Electric adds 10^9
    return ""


def _plain(value: Any) -> Any:
    """A value that JSON can hold; several as one text."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else float(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return value.strip()
    return (
        "\\".join(str(each).strip() for each in value) if isinstance(value, Sequence) else str(value).strip()
    )


def _numbers(value: Any) -> list[float]:
    """Numbers of an attribute, none if there are none or some are not finite."""
    try:
        numbers = np.atleast_1d(np.array(value, dtype=np.float64))
    except (TypeError, ValueError):
        return []
    return numbers.tolist() if numbers.ndim == 1 and np.isfinite(numbers).all() else []
