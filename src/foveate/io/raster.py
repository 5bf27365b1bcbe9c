"""PNG, JPEG, TIFF and BMP become arrays by one rule each, never through a lossy conversion.

| in the file | becomes |
|---|---|
| grey of 1 bit | uint8, values 0 and 1 |
| grey of 2 or 4 bits | uint8, spread exactly over 0 to 255 |
| grey of 8, 12 or 16 bits; signed; 32-bit integers; 32-bit float | as stored (12 bits in uint16) |
| RGB of 8 or 16 bits | as stored, C = 3 |
| float TIFF of 16 bits, of 64 bits | float32, float64; uncompressed strips only, see ``tiff_floats`` |
| palette | looked up: C = 3, or C = 1 if every entry of the table is grey |
| alpha that is opaque everywhere, as a channel or as transparent colours | dropped, ``alpha-dropped`` |
| alpha otherwise | composited over black, v · alpha / max rounded, ``alpha-composited`` |
| CMYK (in JPEG inverted, as Adobe does) | R = (255 − C)(255 − K) / 255, and so on, ``cmyk-converted`` |
| CMYK JPEG without Adobe's whole mark | refused: it may be inverted or not |
| TIFF where zero is white | inverted, so that zero is black |
| EXIF orientation (JPEG, PNG, TIFF) | applied, once |
| several pages or pictures | refused with their number |
| extra channels, premultiplied alpha, LAB, 16-bit CMYK, 16-bit colour in separate planes | refused |

Spacing is always None: the resolution tags of these formats speak of printing (a screenshot has 96 dots to
the inch) and not of the patient. ICC profiles and gamma are not applied.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.Image import Exif
from PIL.Image import Image as Picture
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from foveate.errors import InputRefused
from foveate.io.source import ImageSource, Kind, check_finite, check_pixels, decoding
from foveate.io.tiff_floats import float_tiff
from foveate.types import Array, Geometry, Image

# Opened by class and not by Image.open, whose limit on pixels is global.
_OPENERS: dict[str, type[ImageFile.ImageFile]] = {
    "png": PngImageFile,
    "jpeg": JpegImageFile,
    "tiff": TiffImageFile,
    "bmp": BmpImageFile,
}
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_PLANAR, _TIFF_COLOURS, _TIFF_FORMAT = 258, 262, 284, 320, 339
_ORIENTATION = 274  # EXIF tag
_END_OF_PNG = b"IEND\xaeB`\x82"
_SAMPLE_STEP = {"L;2": 85, "L;4": 17}  # Pillow spreads 2 and 4 bits over 8
# libtiff hands samples out in native order, where Pillow still expects the order of the file.
_NATIVE_ORDER = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_SIXTEEN_BITS = (";16B", ";16L", ";16N")
Limits = tuple[float, float] | None

_PLAIN = {"1": 1, "L": 1, "LA": 1, "I;16": 1, "I;16B": 1, "I": 1, "F": 1, "RGB": 3, "RGBA": 3, "CMYK": 3}


def read_raster(source: ImageSource, max_pixels: int) -> Image:
    """Read a PNG, JPEG, TIFF or BMP file: ``(C, H, W)``.

    Raises:
        InputRefused: it is damaged, truncated, too large, or of an encoding without a rule.
    """
    kind = source.kind
    if kind == "png" and _END_OF_PNG not in source.data:
        raise InputRefused(
            "the file ends too early", where=source.name, fix="fetch it again", code="truncated-png"
        )
    with decoding(source.name, kind) as codes, _whole_files_only():
        if kind == "tiff" and (floats := float_tiff(source.stream(), source.name)):
            check_pixels(floats.shape, max_pixels, source.name)
            pixels, limits = floats.read(source.data), None
        else:
            picture = _open(source.stream(), kind, source.name, max_pixels)
            pixels, limits = _pixels(picture, source, codes)
            turned = 1 if kind == "tiff" else _orientation(picture, codes)  # Pillow turns TIFF
            pixels = _upright(pixels, turned)
        check_finite(pixels, source.name)
    return Image(
        pixels=pixels,
        geometry=Geometry((pixels.shape[1], pixels.shape[2])),
        source=source.name,
        sha256=source.sha256,
        value_range=limits,
        warnings=tuple(codes),
    )


def probe_raster(path: Path, kind: Kind, max_pixels: int) -> tuple[tuple[int, ...], int]:
    """Spatial shape and channels, from the header only."""
    with decoding(str(path), kind) as codes, path.open("rb") as stream:
        if kind == "tiff" and (floats := float_tiff(stream, str(path))):
            check_pixels(floats.shape, max_pixels, str(path))
            return floats.shape, floats.channels
        picture = _open(stream, kind, str(path), max_pixels)
        width, height = picture.size
        if kind != "tiff" and _orientation(picture, codes) >= 5:
            width, height = height, width
        if picture.mode in ("P", "PA"):
            channels = int(_palette(picture).shape[1])
        else:  # grey with alpha of 16 bits passes for RGBA
            channels = 1 if _raw_mode(picture).startswith("LA") else _PLAIN[picture.mode]
    return (height, width), channels


@contextmanager
def _whole_files_only() -> Iterator[None]:
    """Keep Pillow from filling up what a truncated file lacks, whatever the program has set."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _open(stream: BinaryIO, kind: Kind, where: str, max_pixels: int) -> ImageFile.ImageFile:
    """Parse the header and refuse what has no rule, before any pixel is allocated."""
    picture = _OPENERS[kind](stream)
    if picture.tile and picture.tile[0].codec_name == "libtiff":
        _with_raw_mode(picture, _NATIVE_ORDER.get(_raw_mode(picture), _raw_mode(picture)))
    check_pixels(picture.size[::-1], max_pixels, where)
    pages = getattr(picture, "n_frames", 1)
    if pages > 1:
        raise InputRefused(
            f"the file holds {pages} pages or pictures, and an image is one",
            where=where,
            fix="save the page you mean to a file of its own, or a stack as NIfTI",
            code="several-pages",
        )
    if reason := _without_rule(picture):
        way_out = "save it as grey or RGB, for instance as PNG"
        raise InputRefused(reason, where=where, fix=way_out, code="encoding-unsupported")
    return picture


def _without_rule(picture: ImageFile.ImageFile) -> str | None:
    """Why this encoding would be read wrongly or lossily, if it would."""
    if (
        isinstance(picture, JpegImageFile)
        and picture.mode == "CMYK"
        and "adobe_transform" not in picture.info
    ):
        return "a CMYK JPEG without Adobe's mark may be inverted or not"
    if picture.mode not in (*_PLAIN, "P", "PA"):
        return f"the colour mode {picture.mode} has no rule"
    if not isinstance(picture, TiffImageFile):
        return None
    tags, raw = picture.tag_v2, _raw_mode(picture)
    if "X" in raw:
        return "it has channels beyond its colours"
    if "a" in raw:
        return "its colours are premultiplied with alpha"
    wide = max(tags.get(_TIFF_BITS, (1,))) > 8
    if picture.mode == "CMYK" and wide:
        return "CMYK of 16 bits has no rule"
    if picture.mode in ("RGB", "RGBA") and wide and tags.get(_TIFF_PLANAR, 1) == 2:
        return "colour of 16 bits in separate planes has no rule"
    if picture.mode in ("F", "I") and tags.get(_TIFF_PHOTOMETRIC, 0) == 0:
        return "its zero is white, and there is no highest value to invert with"
    return None


def _pixels(picture: ImageFile.ImageFile, source: ImageSource, codes: list[str]) -> tuple[Array, Limits]:
    """Decoded ``(C, H, W)`` and the range of the encoding."""
    raw = _raw_mode(picture)
    if picture.mode == "CMYK":
        codes.append("cmyk-converted")
        return _channels_first(np.asarray(picture.convert("RGB"))), (0.0, 255.0)
    if picture.mode in ("P", "PA"):
        colour, alpha = _looked_up(picture)
    else:
        wide = picture.mode in ("RGB", "RGBA") and raw.endswith(_SIXTEEN_BITS)
        decoded = _sixteen_bit_colour(picture, source) if wide else _as_stored(picture)
        colour, alpha = _split_alpha(decoded, picture, _SAMPLE_STEP.get(raw, 1))
    limits = _limits(colour, picture.mode, raw)
    if alpha is not None and limits is not None:
        colour = _over_black(colour, alpha, int(limits[1]), codes)
    return _channels_first(colour), limits


def _as_stored(picture: ImageFile.ImageFile) -> Array:
    """Pixels in the type that the file has them in, where Pillow holds them in another."""
    pixels: Array = np.asarray(picture)
    if picture.mode == "1":
        return pixels.astype(np.uint8)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if isinstance(picture, TiffImageFile) and pixels.ndim == 2:
        signed = picture.tag_v2.get(_TIFF_FORMAT, (1,))[0] == 2
        bits = picture.tag_v2.get(_TIFF_BITS, (1,))[0]
        if picture.mode == "L" and signed:
            return pixels.view(np.int8)
        if picture.mode == "I":
            return pixels.astype(np.int16) if bits == 16 else pixels.view(np.int32 if signed else np.uint32)
        if picture.mode == "I;16" and picture.tag_v2.get(_TIFF_PHOTOMETRIC, 0) == 0:
            return np.uint16(65535) - pixels  # Pillow turns 8 bits and fewer, but not 16
    return pixels


def _limits(colour: Array, mode: str, raw: str) -> Limits:
    """Lowest and highest value of the encoding; None for floats."""
    if colour.dtype.kind == "f":
        return None
    if mode == "1":
        return 0.0, 1.0
    if raw == "I;12":
        return 0.0, 4095.0
    held = np.iinfo(colour.dtype)
    return float(held.min), float(held.max)


def _sixteen_bit_colour(picture: ImageFile.ImageFile, source: ImageSource) -> Array:
    """Both bytes of every sample ``(H, W, C)`` uint16, of which Pillow by itself keeps the higher.

    Pillow's unpackers for big and little endian each keep one byte of a sample: the first or the second. So
    the file is decoded once with each.
    """
    raw = _raw_mode(picture)
    if raw.startswith("LA"):  # grey with alpha: two samples of two bytes pass for four of one
        pairs = np.asarray(_with_raw_mode(picture, "RGBA"))
        return np.ascontiguousarray(pairs).view(">u2").astype(np.uint16)
    again = _OPENERS[source.kind](source.stream())
    first = np.asarray(_with_raw_mode(picture, f"{raw[:-1]}B")).astype(np.uint16)
    second = np.asarray(_with_raw_mode(again, f"{raw[:-1]}L")).astype(np.uint16)
    big = raw.endswith("B") or (raw.endswith("N") and sys.byteorder == "big")
    return first << 8 | second if big else second << 8 | first


def _with_raw_mode(picture: ImageFile.ImageFile, raw: str) -> ImageFile.ImageFile:
    """The picture, set to unpack its samples in another way."""
    picture.tile = [
        tile._replace(args=raw if isinstance(tile.args, str) else (raw, *(tile.args or ())[1:]))
        for tile in picture.tile
    ]
    return picture


def _raw_mode(picture: ImageFile.ImageFile) -> str:
    """Pillow's name for the layout of the samples in the file."""
    args = picture.tile[0].args if picture.tile else ""
    return args if isinstance(args, str) else str((args or ("",))[0])


def _looked_up(picture: ImageFile.ImageFile) -> tuple[Array, Array | None]:
    """Colours ``(H, W, C)`` of a palette image and their alpha."""
    table = _palette(picture)
    key = picture.info.get("transparency")
    stored = np.asarray(picture)
    index, alpha = (stored[..., 0], stored[..., 1]) if picture.mode == "PA" else (stored, None)
    if index.max() >= len(table):
        raise ValueError(f"a pixel names colour {index.max()} of a table of {len(table)}")
    if key is not None:
        opacity = np.full(256, 255, dtype=np.uint8)
        if isinstance(key, bytes):
            opacity[: len(key)] = np.frombuffer(key, dtype=np.uint8)
        else:
            opacity[key] = 0
        alpha = opacity[index]
    return table[index], alpha


def _palette(picture: ImageFile.ImageFile) -> Array:
    """Colour table ``(N, 3)``, or ``(N, 1)`` if all of it is grey; uint16 where 8 bits would lose."""
    table: Array = np.zeros((0, 3), dtype=np.uint8)
    if isinstance(picture, TiffImageFile):
        table = np.array(picture.tag_v2[_TIFF_COLOURS], dtype=np.uint16).reshape(3, -1).T
        for step in (257, 256):  # 8-bit colours are written either way
            if (table % step == 0).all():
                table = (table // step).astype(np.uint8)
                break
    elif held := picture.palette:
        order = held.rawmode or "RGB"  # or BGR, or BGRX
        whole = len(held.palette) // len(order) * len(order)
        entries = np.array(list(held.palette[:whole]), dtype=np.uint8).reshape(-1, len(order))
        table = entries[:, [order.index(colour) for colour in "RGB"]]
    return table[:, :1] if (table == table[:, :1]).all() else table


def _split_alpha(decoded: Array, picture: ImageFile.ImageFile, step: int) -> tuple[Array, Array | None]:
    """Colours, and the alpha that a channel or a transparent colour (PNG's tRNS) gives them.

    Args:
        decoded: ``(H, W)`` or ``(H, W, C)``; the last of 2 or 4 channels is alpha.
        picture: which may name a transparent colour.
        step: between values that neighbour each other in the file.
    """
    if decoded.ndim == 3 and decoded.shape[-1] in (2, 4):
        return decoded[..., :-1], decoded[..., -1]
    key = picture.info.get("transparency")
    if key is None:
        return decoded, None
    target = np.array(key) * step
    if picture.mode == "1":
        target = target // 255
    same = decoded == target
    opaque = ~(same.all(axis=-1) if decoded.ndim == 3 else same)
    top = 1 if picture.mode == "1" else int(np.iinfo(decoded.dtype).max)
    return decoded, opaque * decoded.dtype.type(top)


def _over_black(colour: Array, alpha: Array, top: int, codes: list[str]) -> Array:
    """Drop alpha that is opaque everywhere; else composite over black, rounded to nearest."""
    if (alpha == top).all():
        codes.append("alpha-dropped")
        return colour
    codes.append("alpha-composited")
    weight = (alpha if colour.ndim == 2 else alpha[..., None]).astype(np.uint32)
    composited: Array = ((colour * weight + top // 2) // top).astype(colour.dtype)
    return composited


def _orientation(picture: ImageFile.ImageFile, codes: list[str]) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    exif = Exif()
    try:
        exif.load(picture.info.get("exif", b""))  # not by getexif, which forgets that a block was torn
        value = exif.get(_ORIENTATION) or Picture.getexif(picture).get(_ORIENTATION, 1)  # else from XMP
    except Exception:  # a torn block raises anything, and the pixels do not need it
        codes.append("exif-unreadable")
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: Array, orientation: int) -> Array:
    """Turn ``(C, H, W)`` so that the first row is the top and the first column the left (EXIF 2.3, 4.6.4)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(-1, -2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[..., ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[..., ::-1, :]
    return np.ascontiguousarray(pixels)


def _channels_first(pixels: Array) -> Array:
    """``(H, W)`` or ``(H, W, C)`` to ``(C, H, W)``."""
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
