"""PNG, JPEG, TIFF and BMP against files written byte by byte or by other libraries, with known values."""

from __future__ import annotations

import hashlib
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as PILImage
from PIL import ImageFile

from foveate.errors import InputRefused
from foveate.io.reading import probe, read_image, read_mask
from foveate.types import Array, Image
from image_files import pillow, png, png_chunk, png_header

DRAW = np.random.default_rng(7)
GREY8 = DRAW.integers(0, 256, (11, 7), dtype=np.uint8)
RGB8 = DRAW.integers(0, 256, (11, 7, 3), dtype=np.uint8)


def read(folder: Path, data: bytes) -> Image:
    path = folder / "image.bin"
    path.write_bytes(data)
    image = read_image(path)
    seen = probe(path)
    assert (seen.shape, seen.channels) == (image.geometry.shape, image.channels)
    assert image.geometry.spacing is None and image.geometry.affine is None
    assert image.sha256 == hashlib.sha256(data).hexdigest()
    assert image.pixels.flags.c_contiguous
    return image


def refusal(folder: Path, data: bytes) -> str:
    path = folder / "image.bin"
    path.write_bytes(data)
    with pytest.raises(InputRefused) as caught:
        read_image(path)
    assert str(path) in caught.value.where and caught.value.fix
    return caught.value.code


def channels_first(pixels: Array) -> Array:
    return pixels[None] if pixels.ndim == 2 else np.stack([pixels[..., c] for c in range(pixels.shape[-1])])


def tiff(pixels: Array, **options: object) -> bytes:
    stream = BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("pixels", [GREY8, RGB8, GREY8[:1, :1], RGB8[:1, :1]])
def test_eight_bits_come_back_as_written(tmp_path: Path, kind: str, pixels: Array) -> None:
    image = read(tmp_path, pillow(pixels, kind))
    np.testing.assert_array_equal(image.pixels, channels_first(pixels))
    assert image.pixels.dtype == np.uint8
    assert image.value_range == (0, 255) and image.unit == "stored" and image.warnings == ()


@pytest.mark.parametrize(("bits", "step", "top"), [(1, 1, 1), (2, 85, 255), (4, 17, 255), (8, 1, 255)])
def test_png_of_few_bits_is_spread_exactly(tmp_path: Path, bits: int, step: int, top: int) -> None:
    samples = DRAW.integers(0, 2**bits, (9, 13))
    image = read(tmp_path, png(samples, bits, 0))
    np.testing.assert_array_equal(image.pixels, (samples * step)[None])
    assert image.value_range == (0, top)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour", "samples"), [(0, 1), (2, 3)])
def test_png_of_sixteen_bits_keeps_both_bytes(
    tmp_path: Path, colour: int, samples: int, interlaced: bool
) -> None:
    pixels = DRAW.integers(0, 65536, (19, 17, samples)).squeeze(-1 if samples == 1 else ())
    image = read(tmp_path, png(pixels, 16, colour, interlaced=interlaced))
    np.testing.assert_array_equal(image.pixels, channels_first(pixels))
    assert image.pixels.dtype == np.uint16 and image.value_range == (0, 65535)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("colour", "samples"), [(4, 2), (6, 4)], ids=["grey-alpha", "rgba"])
def test_alpha_is_dropped_if_opaque_and_composited_over_black_otherwise(
    tmp_path: Path, bits: int, colour: int, samples: int
) -> None:
    top = 2**bits - 1
    pixels = DRAW.integers(0, top + 1, (6, 5, samples))
    pixels[..., -1] = top
    opaque = read(tmp_path, png(pixels, bits, colour))
    np.testing.assert_array_equal(opaque.pixels, channels_first(pixels[..., :-1]))
    assert opaque.warnings == ("alpha-dropped",)

    pixels[..., -1] = DRAW.integers(0, top + 1, (6, 5))
    pixels[0, 0, -1], pixels[0, 1, -1] = 0, top
    seen = read(tmp_path, png(pixels, bits, colour))
    weight = pixels[..., -1:] / top
    np.testing.assert_array_equal(seen.pixels, channels_first(np.floor(pixels[..., :-1] * weight + 0.5)))
    assert seen.warnings == ("alpha-composited",)


@pytest.mark.parametrize(
    ("samples", "bits", "colour", "key"),
    [
        (np.array([[0, 1], [1, 1]]), 1, 0, (1,)),
        (np.array([[3, 15], [0, 7]]), 4, 0, (7,)),
        (np.array([[9, 200], [0, 7]]), 8, 0, (200,)),
        (np.array([[9, 40_000], [0, 7]]), 16, 0, (40_000,)),
        (np.array([[[9, 8, 7], [9, 8, 6]]]), 8, 2, (9, 8, 6)),
        (np.array([[[900, 800, 700], [900, 800, 701]]]), 16, 2, (900, 800, 701)),
    ],
    ids=["1-bit", "4-bit", "8-bit", "16-bit", "rgb8", "rgb16"],
)
def test_the_transparent_colour_of_a_png_becomes_black(
    tmp_path: Path, samples: Array, bits: int, colour: int, key: tuple[int, ...]
) -> None:
    plain = read(tmp_path, png(samples, bits, colour)).pixels
    transparency = png_chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    keyed = read(tmp_path, png(samples, bits, colour, extra=transparency))
    hit = (samples.reshape(*samples.shape[:2], -1) == key).all(axis=-1)
    assert hit.any()
    np.testing.assert_array_equal(keyed.pixels, np.where(hit, 0, plain))
    assert keyed.warnings == ("alpha-composited",)


def test_a_transparent_colour_that_no_pixel_has_changes_nothing(tmp_path: Path) -> None:
    transparency = png_chunk(b"tRNS", struct.pack(">H", 4))
    image = read(tmp_path, png(np.array([[1, 2], [3, 5]]), 8, 0, extra=transparency))
    np.testing.assert_array_equal(image.pixels, [[[1, 2], [3, 5]]])
    assert image.warnings == ("alpha-dropped",)


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    table = np.array([[0, 0, 0], [10, 200, 30], [255, 1, 2]], dtype=np.uint8)
    index = np.array([[0, 1, 2], [2, 1, 0]])
    plte = png_chunk(b"PLTE", table.tobytes())
    image = read(tmp_path, png(index, 8, 3, extra=plte))
    np.testing.assert_array_equal(image.pixels, channels_first(table[index]))

    opacity = png_chunk(b"tRNS", bytes([255, 51]))
    seen = read(tmp_path, png(index, 2, 3, extra=plte + opacity))
    np.testing.assert_array_equal(seen.pixels[:, 0, 1], [2, 40, 6])  # a fifth of (10, 200, 30)
    np.testing.assert_array_equal(seen.pixels[:, 0, 2], [255, 1, 2])
    assert seen.warnings == ("alpha-composited",)
    assert refusal(tmp_path, png(index, 8, 3, extra=png_chunk(b"PLTE", table[:2].tobytes()))) == "damaged-png"


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_palette_of_greys_is_grey_and_of_colours_is_rgb(tmp_path: Path, kind: str) -> None:
    index = PILImage.fromarray(np.array([[0, 1], [2, 3]], dtype=np.uint8), mode="L").convert("P")
    for colours, expected in [
        ([5, 5, 5, 90, 90, 90, 7, 7, 7, 200, 200, 200], [[[5, 90], [7, 200]]]),
        ([5, 6, 7, 90, 90, 90, 7, 7, 7, 1, 2, 3], [[[5, 90], [7, 1]], [[6, 90], [7, 2]], [[7, 90], [7, 3]]]),
    ]:
        index.putpalette(colours + [0] * (768 - len(colours)))
        stream = BytesIO()
        index.save(stream, kind)
        np.testing.assert_array_equal(read(tmp_path, stream.getvalue()).pixels, expected)


def test_a_tiff_colour_table_of_sixteen_bits_is_not_reduced(tmp_path: Path) -> None:
    table = np.arange(768, dtype=np.uint16).reshape(3, 256) * 31
    index = np.array([[0, 1], [100, 255]], dtype=np.uint8)
    image = read(tmp_path, tiff(index, photometric="palette", colormap=table))
    np.testing.assert_array_equal(image.pixels, table[:, index])
    assert image.pixels.dtype == np.uint16


@pytest.mark.parametrize("pixels", [GREY8, RGB8], ids=["grey", "rgb"])
def test_jpeg_is_what_its_decoder_says(tmp_path: Path, pixels: Array) -> None:
    data = pillow(pixels, "JPEG", quality=90)
    with PILImage.open(BytesIO(data)) as reference:
        np.testing.assert_array_equal(read(tmp_path, data).pixels, channels_first(np.asarray(reference)))


def test_cmyk_is_converted_by_the_stated_formula(tmp_path: Path) -> None:
    ink = PILImage.fromarray(DRAW.integers(0, 256, (8, 8, 4), dtype=np.uint8), mode="CMYK")
    for kind in ("TIFF", "JPEG"):
        stream = BytesIO()
        ink.save(stream, kind)
        with PILImage.open(BytesIO(stream.getvalue())) as reference:
            cmy, black = np.split(np.asarray(reference).astype(float), [3], axis=-1)
        image = read(tmp_path, stream.getvalue())
        np.testing.assert_allclose(image.pixels, channels_first((255 - cmy) * (255 - black) / 255), atol=0.51)
        assert image.warnings == ("cmyk-converted",)


def test_a_cmyk_jpeg_is_inverted_by_adobes_convention_and_refused_without_its_mark(tmp_path: Path) -> None:
    paper = np.zeros((8, 8, 4), dtype=np.uint8)  # no ink at all
    stream = BytesIO()
    PILImage.fromarray(paper, mode="CMYK").save(stream, "JPEG", quality=100)
    assert read(tmp_path, stream.getvalue()).pixels.min() >= 254  # white
    data = stream.getvalue()
    start = data.index(b"\xff\xee")
    length = int.from_bytes(data[start + 2 : start + 4])
    unmarked = data[:start] + data[start + 2 + length :]
    assert refusal(tmp_path, unmarked) == "encoding-unsupported"


# Where row 0 and column 0 of the stored pixels lie in the upright picture (EXIF 2.3, 4.6.4 A).
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def upright(stored: Array, orientation: int) -> Array:
    """Slow twin: every stored pixel is put where the standard says its row and column lie."""
    height, width = stored.shape[:2]
    swapped = orientation >= 5
    result = np.zeros((width, height) if swapped else (height, width), dtype=stored.dtype)
    far = {"bottom": result.shape[0] - 1, "right": result.shape[1] - 1}
    for row in range(height):
        for column in range(width):
            place = {}
            for side, index in zip(ORIENTATIONS[orientation], (row, column), strict=True):
                axis = "y" if side in ("top", "bottom") else "x"
                place[axis] = far[side] - index if side in far else index
            result[place["y"], place["x"]] = stored[row, column]
    return result


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "TIFF-LZW"])
def test_exif_orientation_is_applied_once_to_image_and_mask(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    stored = np.kron(np.array([[0, 255, 0], [0, 0, 0]], dtype=np.uint8), np.ones((8, 8), dtype=np.uint8))
    exif = PILImage.Exif()
    exif[274] = orientation
    options = {"compression": "tiff_lzw"} if kind == "TIFF-LZW" else {}
    options |= {"quality": 100} if kind == "JPEG" else {}
    image = read(tmp_path, pillow(stored, kind.split("-")[0], exif=exif, **options))
    expected = upright(stored, orientation)
    np.testing.assert_array_equal(image.pixels, expected[None])
    np.testing.assert_array_equal(read_mask(tmp_path / "image.bin").inside, expected > 0)


def test_a_torn_exif_block_costs_the_orientation_and_not_the_image(tmp_path: Path) -> None:
    plain = pillow(GREY8, "JPEG")
    block = b"Exif\0\0" + b"no TIFF header"
    image = read(tmp_path, plain[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block + plain[2:])
    np.testing.assert_array_equal(image.pixels, read(tmp_path, plain).pixels)
    assert image.warnings == ("exif-unreadable",)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "limits"),
    [("u1", (0, 255)), ("i1", (-128, 127)), ("u2", (0, 65535)), ("i2", (-32768, 32767)), ("f4", None)],
)
def test_tiff_numbers_keep_their_type(
    tmp_path: Path, dtype: str, limits: tuple[int, int] | None, byteorder: str
) -> None:
    pixels = (DRAW.normal(size=(6, 5)) * 1000).astype(np.int64).astype(dtype)
    for compression in (None, "zlib"):
        image = read(
            tmp_path, tiff(pixels, photometric="minisblack", byteorder=byteorder, compression=compression)
        )
        np.testing.assert_array_equal(image.pixels, pixels[None])
        assert image.pixels.dtype == np.dtype(dtype) and image.value_range == limits


def test_tiff_of_twelve_bits_is_unpacked(tmp_path: Path) -> None:
    values = [0, 1, 2048, 4095]  # two to every three bytes
    data = bytes.fromhex("".join(f"{value:03x}" for value in values))
    entries = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 6)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    start = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    image = read(tmp_path, start + data + struct.pack("<H", len(entries)) + directory + bytes(4))
    assert image.pixels.tolist() == [[values]]
    assert image.value_range == (0, 4095)


def test_tiff_of_32_bits_without_sign_does_not_wrap(tmp_path: Path) -> None:
    pixels = np.array([[0, 1], [2**31, 2**32 - 1]], dtype=np.uint32)
    np.testing.assert_array_equal(read(tmp_path, tiff(pixels)).pixels, pixels[None])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("samples", [3, 4])
def test_tiff_colour_of_sixteen_bits_keeps_both_bytes(
    tmp_path: Path, samples: int, compression: str | None, byteorder: str
) -> None:
    pixels = DRAW.integers(0, 65536, (9, 8, samples), dtype=np.uint16)
    pixels[..., 3:] = 65535
    options = {"extrasamples": ["unassalpha"]} if samples == 4 else {}
    data = tiff(pixels, photometric="rgb", compression=compression, byteorder=byteorder, **options)
    np.testing.assert_array_equal(read(tmp_path, data).pixels, channels_first(pixels[..., :3]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_where_zero_is_white_is_inverted_once(
    tmp_path: Path, dtype: type[np.generic], compression: str | None
) -> None:
    top = np.iinfo(dtype).max
    pixels = DRAW.integers(0, top + 1, (5, 6)).astype(dtype)
    data = tiff(pixels, photometric="miniswhite", compression=compression)
    np.testing.assert_array_equal(read(tmp_path, data).pixels[0], top - pixels)


def rgba_tiff(extra: str) -> bytes:
    return tiff(np.ones((8, 8, 4), np.uint8), photometric="rgb", extrasamples=[extra])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 3)])
@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_floats_of_other_widths_are_what_tifffile_reads(
    tmp_path: Path, kind: type, shape: tuple[int, ...], order: Any
) -> None:
    values = np.random.default_rng(4).normal(0, 900, shape).astype(kind)
    path = tmp_path / "floats.tif"
    photometric = "rgb" if len(shape) == 3 else "minisblack"
    tifffile.imwrite(
        path, values, byteorder=order, photometric=photometric, rowsperstrip=2, bigtiff=order == "<"
    )
    image = read_image(path)
    theirs = tifffile.imread(path)
    np.testing.assert_array_equal(np.moveaxis(image.pixels, 0, -1).reshape(shape), theirs)
    assert image.pixels.dtype == (np.float32 if kind is np.float16 else np.float64)
    seen = probe(path)
    assert (seen.shape, seen.channels) == (image.geometry.shape, image.channels)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (tiff(np.zeros((3, 8, 8), np.uint8), photometric="minisblack"), "several-pages"),
        (tiff(np.zeros((3, 8, 8), np.uint16), photometric="rgb", planarconfig=2), "encoding-unsupported"),
        (rgba_tiff("assocalpha"), "encoding-unsupported"),
        (rgba_tiff("unspecified"), "encoding-unsupported"),
        (tiff(np.ones((8, 8), np.float32), photometric="miniswhite"), "encoding-unsupported"),
        (tiff(np.full((8, 8), np.nan, np.float32)), "not-finite"),
        (tiff(np.ones((8, 8), np.float64), photometric="miniswhite"), "encoding-unsupported"),
        (tiff(np.ones((8, 8), np.float16), compression="zlib"), "encoding-unsupported"),
        (tiff(np.full((8, 8), np.inf, np.float16)), "not-finite"),
        (tiff(np.ones((8, 8), np.complex64)), "encoding-unsupported"),
    ],
    ids=[
        "pages",
        "planar16",
        "premultiplied",
        "extra",
        "white",
        "nan",
        "white64",
        "zlib16",
        "inf16",
        "complex",
    ],
)
def test_tiff_without_a_rule_is_refused(tmp_path: Path, data: bytes, code: str) -> None:
    assert refusal(tmp_path, data) == code


@pytest.mark.parametrize("options", [{"planarconfig": 2}, {"tile": (16, 16)}, {"rowsperstrip": 3}])
def test_tiff_in_planes_tiles_and_strips(tmp_path: Path, options: dict[str, object]) -> None:
    pixels = DRAW.integers(0, 256, (40, 37, 3), dtype=np.uint8)
    planes = np.moveaxis(pixels, -1, 0) if "planarconfig" in options else pixels
    data = tiff(planes, photometric="rgb", **options)
    np.testing.assert_array_equal(read(tmp_path, data).pixels, channels_first(pixels))


def test_an_animated_png_is_refused(tmp_path: Path) -> None:
    stream = BytesIO()
    frames = [PILImage.fromarray(GREY8), PILImage.fromarray(255 - GREY8)]
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    assert refusal(tmp_path, stream.getvalue()) == "several-pages"


def test_resolution_tags_are_not_millimetres(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG", "TIFF", "BMP"):
        assert read(tmp_path, pillow(GREY8, kind, dpi=(96, 96))).geometry.spacing is None


def test_a_bomb_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    bomb = png_header(20_000, 20_000, 8, 2) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb)
    for call in (read_image, read_mask, probe):
        with pytest.raises(InputRefused, match="400,000,000") as caught:
            call(path)
        assert caught.value.code == "too-many-pixels"


def test_the_limit_on_pixels_is_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(pillow(GREY8, "PNG"))
    assert read_image(path, max_pixels=77).pixels.size == 77
    with pytest.raises(InputRefused, match="76"):
        read_image(path, max_pixels=76)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_truncated_files_are_refused_whatever_pillow_is_set_to(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = pillow(DRAW.integers(0, 256, (40, 40, 3), dtype=np.uint8), kind)
    for share in (0.1, 0.5, 0.9):
        code = refusal(tmp_path, data[: int(len(data) * share)])
        assert code in (f"damaged-{kind.lower()}", "truncated-png")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_a_png_without_its_last_chunk_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, pillow(GREY8, "PNG")[:-12]) == "truncated-png"


def test_masks(tmp_path: Path) -> None:
    inside = np.zeros((24, 24), dtype=bool)
    inside[8:16, 4:20] = True
    path = tmp_path / "mask"
    for data in (
        pillow(inside, "PNG"),
        pillow(inside.astype(np.uint8), "PNG"),
        pillow(np.repeat(inside[..., None], 3, axis=-1).astype(np.uint8) * 255, "BMP"),
        pillow(np.where(inside, 60_000, 0).astype(np.uint16), "PNG"),
        pillow(inside.astype(np.uint8) * 255, "JPEG", quality=60),
    ):
        path.write_bytes(data)
        np.testing.assert_array_equal(read_mask(path).inside, inside)


def test_a_transparent_part_of_a_mask_is_outside(tmp_path: Path) -> None:
    pixels = np.full((2, 2, 4), 255, dtype=np.uint8)
    pixels[0, 0, 3] = 0
    path = tmp_path / "mask.png"
    path.write_bytes(pillow(pixels, "PNG"))
    assert read_mask(path).inside.tolist() == [[False, True], [True, True]]


def test_real_images_read_as_pillow_decodes_them(real_data: Path) -> None:
    for part in ("sipakmed/images", "busi/images", "busi/masks", "liver_ct_msd_sarah/masks"):
        files = [path for path in sorted((real_data / part).rglob("*")) if path.is_file()]
        assert files, part
        for path in files[:: max(1, len(files) // 12)]:
            with PILImage.open(path) as reference:
                expected = np.asarray(reference)
            image = read_image(path)
            np.testing.assert_array_equal(image.pixels, channels_first(expected))
            assert image.warnings == ()
            assert probe(path).shape == expected.shape[:2]
            if part == "busi/masks":
                np.testing.assert_array_equal(read_mask(path).inside, expected)
            if part == "liver_ct_msd_sarah/masks":
                np.testing.assert_array_equal(read_mask(path).inside, (expected > 127).any(axis=-1))
