"""The heatmaps folder: raw values survive, names are safe, pictures are true to their limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foveate.heatmaps import Entry, display_picture, file_name, read_case, read_index, write_case, write_index
from foveate.types import Heatmap


def test_maps_come_back_raw_and_signed(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)
    maps = [
        Heatmap(plane, name, "gradcam", "image") for plane, name in zip(values, ("hcc", "cyst"), strict=True)
    ]
    truth = values[0] > 0
    write_case(tmp_path / "a.npz", maps, np.zeros((3, 2), np.uint8), truth)
    stored = read_case(tmp_path / "a.npz")
    np.testing.assert_array_equal(stored.values, values)
    assert stored.targets == ("hcc", "cyst")
    np.testing.assert_array_equal(stored.truth, truth)


def test_the_index_comes_back(tmp_path: Path) -> None:
    entry = Entry(
        'a,"b"\nü', "p", "test", "image", "gradcam", ("hcc", "cyst"), "hcc", "cyst", 0.1 + 0.2, "f.npz"
    )
    write_index(tmp_path, [entry])
    assert read_index(tmp_path) == [entry]


@pytest.mark.parametrize("case_id", ["../../etc/passwd", "a/b\\c", "ü" * 300, ".hidden", "CON?*", ""])
def test_file_names_are_safe_and_differ(case_id: str) -> None:
    name = file_name(case_id, "image")
    assert Path(name).name == name and len(name) < 100 and name.isascii() and not name.startswith(".")
    assert name != file_name(case_id + "x", "image") != file_name(case_id, "imagex")


def test_pictures_clip_at_their_limits() -> None:
    pixels = np.array([[[-100, 0], [60, 500]]], np.int16)
    np.testing.assert_array_equal(display_picture(pixels, (0, 120)), [[0, 0], [128, 255]])


def test_large_pictures_are_reduced_and_colour_kept() -> None:
    picture = display_picture(np.zeros((3, 1300, 900), np.uint8), (0, 255))
    assert picture.shape == (434, 300, 3)
