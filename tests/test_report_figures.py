"""Charts and pictures: what is drawn are the numbers, at the right place, on a stated scale."""

from __future__ import annotations

import base64
import io
import re

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.testing import assert_allclose
from PIL import Image

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.metrics import PrCurve, RocCurve
from foveate.evaluate.results.probabilities import CalibrationBin
from foveate.report.figures import drawing as figures
from foveate.report.figures.calibration import calibration_figure
from foveate.report.figures.localization import bench_figure, overlap_figure
from foveate.report.pictures import overlays
from foveate.report.pictures.overlays import (
    Legend,
    Picture,
    outline,
    overlay_uri,
    palette,
    palette_indices,
    picture_uri,
)
from foveate.types import Array, Box
from page import parse


def line(axes: Axes, label: str) -> Line2D:
    (found,) = (item for item in axes.get_lines() if item.get_label() == label)
    return found


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_curves_draw_the_points_of_the_file() -> None:
    roc = RocCurve(fpr=(0.0, 0.0, 0.25, 1.0), tpr=(0.0, 0.5, 0.75, 1.0))
    axes = figures.roc_figure(roc).axes[0]
    assert_allclose(line(axes, "model").get_xydata(), np.transpose([roc.fpr, roc.tpr]))
    assert_allclose(line(axes, "chance").get_xydata(), [[0, 0], [1, 1]])
    pr = PrCurve(recall=(1.0, 0.5, 0.0), precision=(0.3, 0.8, 1.0))
    axes = figures.pr_figure(pr, 0.3).axes[0]
    assert_allclose(line(axes, "model").get_xydata(), np.transpose([pr.recall, pr.precision]))
    assert line(axes, "model").get_drawstyle() == "steps-post", "precision is not interpolated between points"
    assert_allclose(line(axes, "chance").get_ydata(), 0.3)
    assert len(figures.pr_figure(pr, None).axes[0].get_lines()) == 1


@pytest.mark.parametrize(("share", "texts"), [(False, "3 1 0 0 2 0 0 0 0"), (True, "75 25 0 0 100 0 – – –")])
def test_a_confusion_matrix_writes_every_count(share: bool, texts: str) -> None:
    counts = [[3, 1, 0], [0, 2, 0], [0, 0, 0]]
    axes = figures.confusion_figure(("a", "b", "c"), counts, share=share).axes[0]
    cells = {
        (round(item.get_position()[1]), round(item.get_position()[0])): item.get_text() for item in axes.texts
    }
    assert [cells[index] for index in np.ndindex(3, 3)] == texts.split()
    shades = [patch.get_alpha() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert shades == [0.75, 0.25, 0, 0, 1, 0, 0, 0, 0], "the shade is the share of the row"
    assert axes.yaxis_inverted() and [item.get_text() for item in axes.get_yticklabels()] == ["a", "b", "c"]


def test_a_calibration_curve_leaves_empty_bins_out() -> None:
    bins = [
        CalibrationBin(low=0.0, high=0.5, confidence=0.4, accuracy=0.25, n=4),
        CalibrationBin(low=0.5, high=0.75, confidence=None, accuracy=None, n=0),
        CalibrationBin(low=0.75, high=1.0, confidence=0.9, accuracy=1.0, n=7),
    ]
    upper, lower = calibration_figure(bins).axes
    assert_allclose(line(upper, "model").get_xydata(), [[0.4, 0.25], [0.9, 1.0]])
    bars = [
        (bar.get_x(), bar.get_width(), bar.get_height())
        for bar in lower.patches
        if isinstance(bar, Rectangle)
    ]
    assert_allclose(bars, [(0, 0.5, 4), (0.5, 0.25, 0), (0.75, 0.25, 7)])


def test_training_lines_skip_what_is_undefined_and_mark_the_best() -> None:
    epochs = np.array([1.0, 2, 3])
    series = {"train loss": np.array([3.0, 2, 1]), "val loss": np.array([np.nan, 2, 2.5])}
    axes = figures.lines_figure(epochs, series, 1).axes[0]
    assert_allclose(line(axes, "train loss").get_xydata(), [[1, 3], [2, 2], [3, 1]])
    assert_allclose(line(axes, "val loss").get_xydata(), [[2, 2], [3, 2.5]])
    assert_allclose(line(axes, "best epoch 2").get_xdata(), 2)
    assert len(figures.lines_figure(epochs, series, None).axes[0].get_lines()) == 2


def test_overlap_curves_carry_their_intervals() -> None:
    heatmap = {
        "0.1": Value(0.9, 0.8, 1.0, 10, 5),
        "0.5": Value(0.4, 0.2, 0.6, 10, 5),
        "0.7": Value(None, None, None, 0, 0),
    }
    random = {"0.1": Value(0.1, None, None, 10, 5)}
    axes = overlap_figure({"Heat map": heatmap, "Random map": random}).axes[0]
    assert_allclose(line(axes, "Heat map").get_xydata(), [[0.1, 0.9], [0.5, 0.4]])
    assert_allclose(line(axes, "Random map").get_xydata(), [[0.1, 0.1]])
    (band,) = axes.collections
    assert {tuple(point) for point in band.get_paths()[0].vertices.round(6)} == {
        (0.1, 0.8), (0.1, 1.0), (0.5, 0.2), (0.5, 0.6)
    }  # fmt: skip


def test_the_bench_shows_each_method_at_its_value() -> None:
    methods = {name: Value(at, None, None, 9, 9) for name, at in (("ceiling", 0.9), ("random", 0.1))}
    methods["heatmap"] = Value(0.5, 0.4, 0.6, 9, 9)
    names = {"heatmap": "Heat map", "ceiling": "Ceiling", "random": "Random map"}
    axes = bench_figure({"IoU": methods, "Dice": methods}, names).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["IoU", "Dice"]
    for name, at in (("Heat map", 0.5), ("Ceiling", 0.9), ("Random map", 0.1)):
        shown = [float(item.get_xdata()[0]) for item in axes.get_lines() if item.get_label() == name]
        assert shown == [at, at]


def test_inline_svg_is_clean_and_takes_the_pages_colours() -> None:
    counts = [[2, 1], [0, 3]]
    names = ("<b>$x$", "肝 & co")
    text = figures.svg(figures.confusion_figure(names, counts, share=False), 'matrix "of" <two>')
    root = parse(text).one("svg")
    assert root.attributes["aria-label"] == 'matrix "of" <two>'
    words = [node.text for node in root.all("text")]
    assert words.count("<b>$x$") == 2 and words.count("肝 & co") == 2, (
        "text stays text, dollars are no formula"
    )
    assert "http" not in text and "<style" not in text and "<!--" not in text
    assert "var(--blue)" in text and not set(re.findall(r"#[0-9a-f]{6}\b", text)) & {
        figures.BLUE,
        figures.INK,
        figures.PAPER,
    }
    other = figures.svg(figures.confusion_figure(names, counts, share=True), "another")
    assert set(re.findall(r'id="([^"]+)"', text)).isdisjoint(re.findall(r'id="([^"]+)"', other))


def test_colours_grow_with_the_evidence_and_zero_is_transparent() -> None:
    colours = palette().astype(float)
    assert colours.shape == (255, 4) and colours[127, 3] == 0
    opacity = 255 * overlays.OPACITY * np.abs(np.arange(-127, 128)) / 127
    assert_allclose(colours[:, 3], opacity, atol=0.51)
    linear = np.where(
        colours[:, :3] / 255 <= 0.04045,
        colours[:, :3] / 3294.6,
        ((colours[:, :3] / 255 + 0.055) / 1.055) ** 2.4,
    )
    lightness = 116 * np.cbrt(np.maximum(linear @ [0.2126, 0.7152, 0.0722], 0.008856)) - 16  # CIE L*
    assert (np.diff(lightness[127:]) > -0.3).all() and (np.diff(lightness[:128]) < 0.3).all(), (
        "no band of its own"
    )
    assert colours[254, 0] > colours[254, 2] and colours[0, 2] > colours[0, 0], "warm for, blue against"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0, 2]], (0, 2, 0, 2, False)),
        ([[-1, 2]], (-2, 2, -1, 2, False)),
        ([[-4, 2]], (-4, 4, -4, 2, False)),
        ([[0, 0]], (0, 0, 0, 0, True)),
        ([[-3, -1]], (-3, 3, -3, -1, True)),
        ([[-3, 0]], (-3, 3, -3, 0, True)),
        ([[np.nan, 1]], (0, 1, 0, 1, False)),
        ([[1, 2]], (0, 2, 1, 2, False)),
    ],
)
def test_a_scale_is_symmetric_around_zero_and_says_what_is_empty(
    values: Array, expected: tuple[float, ...]
) -> None:
    legend = Legend.of(np.array(values, dtype=np.float32))
    assert (legend.low, legend.high, legend.raw_low, legend.raw_high, legend.empty) == expected


def test_an_overlay_has_the_colour_of_each_value() -> None:
    values = np.array([[-2, -1, 0], [1, 2, np.nan]], dtype=np.float32)
    picture = np.asarray(opened(overlay_uri(values, Legend.of(values))).convert("RGBA"))
    indices = np.array([[0, 64, 127], [190, 254, 127]])  # by hand: 127 + 127 * value / 2, half to even
    assert (palette_indices(np.nan_to_num(values), 2.0) == indices).all()
    assert (picture == palette()[indices]).all()


def test_a_weak_map_is_as_colourful_as_its_scale_says() -> None:
    """Doubling all evidence changes the legend, not the picture; nothing is stretched to fill a range."""
    values = np.array([[0.5, 1.0]], dtype=np.float32)
    one, two = (opened(overlay_uri(factor * values, Legend.of(factor * values))) for factor in (1, 2))
    assert np.asarray(one).ravel().tolist() == np.asarray(two).ravel().tolist() == [190, 254]
    offset = values + 9  # min-max stretching would map 9.5 to nothing
    assert np.asarray(opened(overlay_uri(offset, Legend.of(offset)))).ravel().tolist() == [248, 254]


@pytest.mark.parametrize("shape", [(40, 30), (700, 350), (350, 700, 3)])
def test_pictures_are_reduced_but_keep_their_shape(shape: tuple[int, ...]) -> None:
    image = opened(picture_uri(np.full(shape, 90, dtype=np.uint8)))
    scale = min(1, 256 / max(shape[:2]))
    assert image.size == (round(shape[1] * scale), round(shape[0] * scale))
    assert image.mode == ("RGB" if len(shape) == 3 else "L")
    assert abs(float(np.asarray(image).mean()) - 90) < 1


def corners(path: str) -> Array:
    return np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path), dtype=float)


def test_an_outline_runs_along_the_border_of_the_true_pixels() -> None:
    mask = np.zeros((8, 9), dtype=bool)
    mask[2:5, 3:7] = True
    found = corners(outline(mask))
    assert_allclose(
        [found.min(axis=0), found.max(axis=0)], [[3, 2], [7, 5]], err_msg="x from 3 to 7, y from 2 to 5"
    )
    mask[:] = True
    found = corners(outline(mask))
    assert_allclose(
        [found.min(axis=0), found.max(axis=0)], [[0, 0], [9, 8]], err_msg="closed at the image's edge"
    )
    assert outline(np.zeros((4, 4), dtype=bool)) == ""


def test_an_outline_of_a_large_mask_is_coarse_but_in_place() -> None:
    y, x = np.mgrid[:2000, :1500]
    found = corners(outline((y - 1200) ** 2 + (x - 600) ** 2 < 300**2))
    assert_allclose(np.hypot(found[:, 0] - 600, found[:, 1] - 1200), 300, atol=8)
    assert len(found) < 1500


def test_a_picture_is_stored_once_and_everything_lies_in_original_pixels() -> None:
    picture = Picture("picture-1", (400, 300), np.zeros((40, 30), dtype=np.uint8))
    first = parse(picture.svg(label="case <1>"))
    second = parse(picture.svg(label="map", overlay="data:x", truth="M1 2Z", boxes=[Box((10, 20), (50, 80))]))
    assert first.one("svg").attributes["viewbox"] == "0 0 300 400"
    assert first.one("svg").attributes["aria-label"] == "case <1>"
    assert first.one("g", id="picture-1").one("image").attributes["href"].startswith("data:image/jpeg")
    assert second.one("use").attributes["href"] == "#picture-1"
    assert second.one("image").attributes | {"href": ""} == {
        "href": "", "width": "300", "height": "400", "preserveaspectratio": "none"
    }  # fmt: skip
    box = second.one("rect", class_="found").attributes
    assert [box[name] for name in ("x", "y", "width", "height")] == ["20", "10", "60", "40"]
    assert second.one("path", class_="truth").attributes["d"] == "M1 2Z"


def test_drawing_changes_no_global_setting() -> None:
    before = dict(matplotlib.rcParams)
    figures.svg(figures.roc_figure(RocCurve(fpr=(0, 1), tpr=(0, 1))), "roc")
    assert dict(matplotlib.rcParams) == before
