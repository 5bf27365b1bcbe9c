"""Pictures of cases: the image, the raw heat map over it, the true region and the boxes found.

A heat map is not rescaled before it comes here, and the scale of its picture is printed beside it. Zero is
always transparent and opacity grows in proportion to the evidence; a map with negative values is scaled
symmetrically around zero. Evidence for the class runs through *inferno* and evidence against it through the
blue half of Crameri's *berlin*: both are perceptually uniform, grow lighter with the strength of the
evidence, and differ for readers with colour-vision deficiencies.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from contourpy import contour_generator
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from foveate.types import Box

PICTURE_PIXELS, OVERLAY_PIXELS = 256, 160  # long sides in the page; on the screen they are about 150
OPACITY = 0.85  # of the strongest evidence
_ZERO = 127  # palette index of no evidence; 0 = most against, 254 = most for


@dataclass(frozen=True, slots=True)
class Legend:
    """What the colours of one overlay stand for.

    Attributes:
        low, high: the values at the two ends of the colour bar; ``low`` is 0 without negative values.
        raw_low, raw_high: the range of the raw map itself.
        empty: no value speaks for the class, so nothing is drawn.
    """

    low: float
    high: float
    raw_low: float
    raw_high: float
    empty: bool

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Legend:
        """Legend of a raw map of a plane or a volume; what is no finite number counts as no evidence."""
        finite = _finite(values)
        raw_low, raw_high = float(finite.min()), float(finite.max())
        most = max(-raw_low, raw_high)
        return cls(-most if raw_low < 0 else 0.0, most, raw_low, raw_high, empty=raw_high <= 0)


def picture_uri(pixels: NDArray[np.uint8]) -> str:
    """Data address of a JPEG of ``(H, W)`` or ``(H, W, 3)`` pixels, reduced to what the page shows."""
    image = Image.fromarray(pixels).convert("RGB" if pixels.ndim == 3 else "L")
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS), Image.Resampling.LANCZOS)
    return _data_uri(image, "jpeg", quality=85)


def overlay_uri(values: NDArray[np.float32], legend: Legend) -> str:
    """Data address of a transparent PNG of a raw ``(h, w)`` map on the scale of its legend."""
    reduced = Image.fromarray(_finite(values))
    reduced.thumbnail((OVERLAY_PIXELS, OVERLAY_PIXELS), Image.Resampling.BOX)
    image = Image.fromarray(palette_indices(np.asarray(reduced), legend.high))
    image.putpalette(palette()[:, :3].tobytes())
    return _data_uri(image, "png", transparency=palette()[:, 3].tobytes(), optimize=True)


def palette_indices(values: NDArray[np.float32], most: float) -> NDArray[np.uint8]:
    """Place values between −``most`` and ``most`` on the palette: 0 to 254, zero at 127."""
    share = np.clip(values / most, -1, 1) if most > 0 else np.zeros_like(values)
    return np.rint(share * _ZERO + _ZERO).astype(np.uint8)


def palette() -> NDArray[np.uint8]:
    """``(255, 4)`` colours with opacity, from most against over nothing to most for."""
    share = np.linspace(0, 1, _ZERO + 1)
    against, in_favour = mpl.colormaps["berlin"](0.5 - share / 2), mpl.colormaps["inferno"](share)
    for half in (against, in_favour):
        half[:, 3] = OPACITY * share
    colours: NDArray[np.float64] = np.concatenate([against[:0:-1], in_favour])
    return np.rint(colours * 255).astype(np.uint8)


def gradient(legend: Legend, stops: int = 9) -> str:
    """CSS gradient of the legend's colour bar."""
    first = 0 if legend.low < 0 else _ZERO
    chosen = palette()[np.linspace(first, 2 * _ZERO, stops).astype(int)]
    return (
        "linear-gradient(to right,"
        + ",".join(f"rgba({r},{g},{b},{a / 255:.2f})" for r, g, b, a in chosen)
        + ")"
    )


class Picture:
    """The picture of one view of a case, drawn once in the page and referred to afterwards.

    Args:
        name: identifier, unique in the page.
        size: ``(H, W)`` of the original image; everything is drawn in its pixels.
        pixels: ``(h, w)`` or ``(h, w, 3)`` uint8, possibly reduced.
    """

    def __init__(self, name: str, size: tuple[int, ...], pixels: NDArray[np.uint8]) -> None:
        self._name, (self._height, self._width) = name, size
        self._pixels: NDArray[np.uint8] | None = pixels

    def svg(
        self,
        *,
        label: str,
        overlay: str = "",
        truth: str = "",
        true_boxes: Iterable[Box] = (),
        boxes: Iterable[Box] = (),
    ) -> Markup:
        """The picture with everything drawn over it, as inline SVG.

        Args:
            label: what is shown, for readers who cannot see it.
            overlay: data address of the heat map, or empty.
            truth: SVG path of the true region's outline, or empty.
            true_boxes: true boxes, in original pixels; outlined like a true region.
            boxes: boxes found, in original pixels.
        """
        parts = [self._base(), self._image(overlay) if overlay else Markup()]
        if truth:
            parts.append(Markup('<path class="halo" d="{0}"/><path class="truth" d="{0}"/>').format(truth))
        parts += [_frame(box, "truth") for box in true_boxes] + [_frame(box, "found") for box in boxes]
        head = Markup('<svg class="picture" viewBox="0 0 {} {}" role="img" aria-label="{}">')
        return head.format(self._width, self._height, label) + Markup().join(parts) + Markup("</svg>")

    def _base(self) -> Markup:
        if self._pixels is None:
            return Markup('<use href="#{}"/>').format(self._name)
        image, self._pixels = self._image(picture_uri(self._pixels)), None
        return Markup('<g id="{}">{}</g>').format(self._name, image)

    def _image(self, uri: str) -> Markup:
        element = '<image href="{}" width="{}" height="{}" preserveAspectRatio="none"/>'
        return Markup(element).format(uri, self._width, self._height)


def _frame(box: Box, kind: str) -> Markup:
    place = Markup('x="{:g}" y="{:g}" width="{:g}" height="{:g}"').format(*box.xywh)
    return Markup('<rect class="halo" {0}/><rect class="{1}" {0}/>').format(place, kind)


def outline(mask: NDArray[np.bool_]) -> str:
    """SVG path around the true pixels of an ``(h, w)`` mask, in pixels of the mask."""
    step = max(1, max(mask.shape) // PICTURE_PIXELS)
    coarse = np.pad(mask[::step, ::step], 1).astype(np.float32)
    lines: Sequence[NDArray[np.float64]] = contour_generator(z=coarse).lines(0.5)  # type: ignore[assignment]
    paths = (np.round((line - 0.5) * step, 1) for line in lines)
    return "".join("M" + "L".join(f"{x:g} {y:g}" for x, y in path) + "Z" for path in paths)


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _data_uri(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
