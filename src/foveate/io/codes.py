"""What readers notice and tolerate: one table of codes and sentences for all who tell of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

WARNINGS: Mapping[str, str] = {
    "alpha-dropped": "transparency that was opaque everywhere was left out",
    "alpha-composited": "transparent pixels were laid over black",
    "cmyk-converted": "inks (CMYK) became RGB",
    "exif-unreadable": "the EXIF data cannot be read, so the orientation is unknown",
    "beyond-bits-stored": "values need more bits than the header says are stored",
    "ct-without-hounsfield": "a CT without a rescale to Hounsfield units: its values are not in HU",
    "dicom-without-preamble": "an old export without the DICOM preamble",
    "frames-without-position": "frames do not say where they lie; they are in the order of the file",
    "monochrome1-kept": "Hounsfield units in MONOCHROME1 were not inverted",
    "padding-darkened": "pixels that the scanner marked as outside its field of view got the darkest value",
    "pixel-data-padded": "bytes follow the pixels",
    "trailing-bytes-ignored": "bytes follow the pixels",
    "slice-step-unknown": "a single slice without position or thickness: how far slices lie apart is unknown",
    "spacing-at-detector": "the spacing is that of the detector, not of the patient",
    "tilted-stack": "slices lean (gantry tilt); the affine leans with them",
    "nifti-without-affine": "the file does not say where it lies in the patient",
    "nifti-sform-taken": "qform or voxel size say something else than the sform, which was taken",
    "other-files-ignored": "files beside the series are not part of it",
    "empty-files-ignored": "empty files lie beside the series",
    "subfolders-ignored": "folders lie beside the series",
    "rescale-left-out": "a mask names a rescale, inversion or colours; its labels were taken as stored",
}
_IRREGULAR = "the decoding library warned: the file is not quite what its format asks for"
_ENDING = "-irregular"  # after the kind of the file


def in_words(code: str) -> str:
    """What a warning code says; the code itself where it is of another version."""
    return _IRREGULAR if code.endswith(_ENDING) else WARNINGS.get(code, code)


def joined(codes: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """The codes of several files, each once."""
    return tuple(dict.fromkeys(code for own in codes for code in own))
