"""A path becomes bytes that are safe to decode: a regular file, hashed, its kind told by its content."""

from __future__ import annotations

import errno
import hashlib
import re
import stat
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np

from foveate.errors import FoveateError, InputRefused
from foveate.types import Array

Kind = Literal["png", "jpeg", "tiff", "bmp", "dicom", "dicom-series", "nifti"]

MAX_PIXELS = 2**28
"""Most pixels (or voxels) that a header may declare before anything is allocated: 16,384 × 16,384, or
1,024 CT slices of 512 × 512."""

MAX_BYTES = 16 * MAX_PIXELS
"""Most bytes that a file, or all files of a series together, may have: 16 for each permitted pixel."""

SERIES_LIST = "foveate-series"
"""How a list of the files of one series begins; see ``listed``."""

_HEAD = 4096  # bytes that tell the kind
_FORMATS = "PNG, JPEG, TIFF, BMP, DICOM or NIfTI"
_OTHERS = {  # formats that users hold for one of ours
    b"GIF8": "GIF",
    b"RIFF": "WebP or AVI",
    b"PK\x03\x04": "ZIP (or npz)",
    b"%PDF": "PDF",
    b"\x93NUMPY": "NumPy",
    b"\x89HDF": "HDF5",
    b"NRRD": "NRRD",
    b"\x00\x00\x00\x0cjP": "JPEG 2000 outside DICOM",
    b"\xff\x4f\xff\x51": "JPEG 2000 outside DICOM",
}
_VALUE_REPRESENTATIONS = frozenset((b"UI", b"UL", b"CS", b"DA", b"TM", b"OB", b"SH", b"LO", b"ST", b"PN"))
_UNKNOWN = re.compile(  # how Pillow, libtiff, pydicom, nibabel and zlib say that they lack something
    r"not (yet )?(supported|implemented|recognized|available)|unsupported|no codec|cannot handle|"
    r"unknown (pixel mode|data layout|raw mode|compression|data type|datatype)|unrecognized image mode",
    re.IGNORECASE,
)
_LONGEST_REASON = 1000  # characters
_one_decoder_at_a_time = threading.RLock()  # warning filters and library switches are global


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One file, read once.

    Attributes:
        name: the path as the user gave it; errors cite it.
        data: all bytes.
        kind: what the content is.
        sha256: hex hash of ``data``.
    """

    name: str
    data: bytes
    kind: Kind
    sha256: str

    def stream(self) -> BytesIO:
        """The bytes as a file, for libraries that read one."""
        return BytesIO(self.data)


def read_source(path: Path, kind: Kind) -> ImageSource:
    """Read a file whole, once, and hash it.

    Args:
        path: a regular file.
        kind: as ``kind_of`` told.

    Raises:
        InputRefused: it cannot be read.
    """
    with _reaching(path):
        data = path.read_bytes()
    return ImageSource(str(path), data, kind, hashlib.sha256(data).hexdigest())


def kind_of(path: Path) -> Kind:
    """Tell what a path holds from its first bytes, whatever its suffix says; a folder or a list of
    files is a DICOM series.

    Raises:
        InputRefused: there is no such file, it is not a regular one, is empty, too large, or no image.
    """
    with _reaching(path):
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return "dicom-series"
        if not stat.S_ISREG(status.st_mode):
            raise InputRefused(
                "this is a device, pipe or socket, not a file",
                where=str(path),
                fix="give a regular file or a folder of DICOM slices",
                code="not-a-regular-file",
            )
        check_bytes(status.st_size, str(path))
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    if head.startswith(SERIES_LIST.encode() + b" "):
        return "dicom-series"
    kind = sniff(head)
    if kind is None:
        raise _not_an_image(head, str(path))
    return kind


def sniff(head: bytes) -> Kind | None:
    """Kind of the file that starts with these bytes, or None if it is none of ours."""
    if head[128:132] == b"DICM" or _dicom_without_preamble(head):
        return "dicom"  # asked first: the 128 bytes before may pose as a TIFF (PS3.10 7.1)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124):
        return "bmp"
    if _starts_nifti(head) or (head[:2] == b"\x1f\x8b" and _starts_nifti(_inflated(head))):
        return "nifti"
    return None


def check_bytes(size: int, where: str) -> None:
    """Refuse an empty file and one too large to hold an image within ``MAX_PIXELS``."""
    if size == 0:
        raise InputRefused("the file is empty", where=where, fix="fetch it again", code="empty-file")
    if size > MAX_BYTES:
        raise InputRefused(
            f"{size:,} bytes are more than the limit of {MAX_BYTES:,}",
            where=where,
            fix="crop or split the image",
            code="too-large",
        )


def check_pixels(shape: Sequence[int], limit: int, where: str) -> None:
    """Refuse, before anything is allocated, a spatial shape that is empty or larger than ``limit``."""
    if min(shape) < 1:
        raise InputRefused(
            f"the header declares an empty image, {_times(shape)}",
            where=where,
            fix="export it again",
            code="no-pixels",
        )
    if prod(shape) > limit:
        raise InputRefused(
            f"the header declares {_times(shape)} = {prod(shape):,} pixels, more than the limit of {limit:,}",
            where=where,
            fix="crop or downsample it; if the file is sound and memory suffices, raise max_pixels",
            code="too-many-pixels",
        )


def check_finite(pixels: Array, where: str) -> None:
    """Refuse NaN and infinite values, with their number."""
    if pixels.dtype.kind == "f" and not (finite := np.isfinite(pixels)).all():
        raise InputRefused(
            f"{int((~finite).sum()):,} of {pixels.size:,} values are NaN or infinite",
            where=where,
            fix="replace them before use",
            code="not-finite",
        )


@contextmanager
def decoding(where: str, kind: Kind) -> Iterator[list[str]]:
    """Make a library's decoder end as a value or as ``InputRefused``; one runs at a time.

    On damaged bytes libraries raise whatever they stumble over, and on odd ones they warn. Any exception
    becomes a refusal, ``damaged-<kind>`` or, where the library says that it does not know the variant,
    ``encoding-unsupported``; warnings become the code ``<kind>-irregular`` and reach nobody else.

    Args:
        where: the path, for the error.
        kind: what is being decoded.

    Yields:
        A list to which the body adds warning codes.
    """
    codes: list[str] = []
    with _one_decoder_at_a_time, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield codes
        except FoveateError:
            raise
        except MemoryError as error:
            raise InputRefused(
                "there is not enough memory for this image",
                where=where,
                fix="crop or split it",
                code="too-large",
            ) from error
        except Exception as error:
            raise _refused_by_library(error, where, kind) from error
    if caught:
        codes.append(f"{kind}-irregular")


@contextmanager
def _reaching(path: Path) -> Iterator[None]:
    """Say in the user's words why a path cannot be reached."""
    try:
        yield
    except FileNotFoundError:
        raise InputRefused(
            "there is no such file", where=str(path), fix="correct the path", code="not-found"
        ) from None
    except (OSError, ValueError) as error:
        loop = getattr(error, "errno", None) == errno.ELOOP
        what = "the symbolic links lead in a circle" if loop else "the path cannot be read"
        raise InputRefused(
            f"{what} ({_first_line(error)})",
            where=str(path),
            fix="correct the link, or the path and its permissions",
            code="symlink-loop" if loop else "unreadable",
        ) from error


def _refused_by_library(error: Exception, where: str, kind: Kind) -> InputRefused:
    """A library's exception as a refusal: of a variant that it says it does not know, or of damage."""
    reason = _whole(error)
    unknown = isinstance(error, NotImplementedError) or _UNKNOWN.search(reason) is not None
    what = (
        "is of a variant that cannot be read" if unknown else "is damaged, or says of itself what is not so"
    )
    return InputRefused(
        f"the {kind} file {what} ({reason})",
        where=where,
        fix="save it as PNG, NIfTI or uncompressed DICOM with a program that opens it"
        if unknown
        else "fetch it again; if other programs open it, save it as PNG, NIfTI or uncompressed DICOM",
        code="encoding-unsupported" if unknown else f"damaged-{kind}",
    )


def _not_an_image(head: bytes, where: str) -> InputRefused:
    other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)
    if head[:2] == b"\x1f\x8b":
        other = "gzip, with something other than a NIfTI file inside"
    if int.from_bytes(head[:4], "little") == 348 and len(head) >= 348:
        other = "one half of an Analyze or NIfTI pair (.hdr and .img)"
    known = f"the content is {other}" if other else f"the content is not {_FORMATS}, whatever the name says"
    return InputRefused(
        known,
        where=where,
        fix=f"convert it to {_FORMATS}",
        code="unsupported-format" if other else "not-an-image",
    )


def _dicom_without_preamble(head: bytes) -> bool:
    """Whether the bytes start with a data element of group 0002 or 0008, as old exports do."""
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        group, element = (int.from_bytes(head[at : at + 2], order) for at in (0, 2))
        if group in (2, 8) and element < 0x20 and len(head) > 132:
            length = int.from_bytes(head[4:8], "little")
            implicit = order == "little" and length < 128 and length % 2 == 0
            return head[4:6] in _VALUE_REPRESENTATIONS or implicit
    return False


def _starts_nifti(head: bytes) -> bool:
    """Whether a NIfTI-1 or NIfTI-2 single-file header (or its torn beginning) is at the start."""
    size = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    if 348 in size:
        return len(head) < 348 or head[344:348] == b"n+1\0"
    return 540 in size and (len(head) < 540 or head[4:8] == b"n+2\0")


def _inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, 540)
    except zlib.error:
        return b""


def _times(shape: Sequence[int]) -> str:
    return " × ".join(f"{size:,}" for size in shape)


def _first_line(error: Exception) -> str:
    return _whole(error).split("; ")[0]


def _whole(error: Exception) -> str:
    """All lines of an error, one after the other; of a mere key or attribute also its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = "; ".join(lines)[:_LONGEST_REASON]
    bare = isinstance(error, KeyError | IndexError | AttributeError | AssertionError) or not text
    return f"{type(error).__name__}: {text}".removesuffix(": ") if bare else text
