"""The heatmaps folder: raw values survive, names are safe, pictures are true to their limits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from foveate.maps.heatmaps import (
    MapEntry,
    Share,
    display_picture,
    file_name,
    read_case,
    read_index,
    read_shares,
    volume_name,
    write_case,
    write_index,
    write_shares,
)
from foveate.types import Box, Heatmap


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
    entry = MapEntry(
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


def test_boxes_come_back_in_planes_and_volumes(tmp_path: Path) -> None:
    for box in (Box((1.5, 2), (3, 4), "hcc"), Box((0, 1, 2), (1, 3, 5), "")):
        shape = (6,) * len(box.start)
        maps = [Heatmap(np.zeros(shape, np.float32), "hcc", "gradcam", "image")]
        write_case(tmp_path / "a.npz", maps, np.zeros(shape, np.uint8), None, [box])
        (stored,) = read_case(tmp_path / "a.npz").boxes
        assert (stored.start, stored.stop, stored.label) == (box.start, box.stop, box.label)


def test_an_index_without_gaps_is_read_too(tmp_path: Path) -> None:
    entry = MapEntry("a", "p", "test", "image", "gradcam", ("hcc", "cyst"), "", "", 0.1, "f.npz")
    with_gaps = MapEntry(*dataclasses.astuple(entry)[:-1], completeness_gap=(0.25, -1e-3))
    write_index(tmp_path, [entry, with_gaps])
    assert read_index(tmp_path) == [entry, with_gaps]
    text = (tmp_path / "index.csv").read_text()
    older = "\n".join(line.rsplit(",", 1)[0] for line in text.splitlines())
    (tmp_path / "index.csv").write_text(older)
    assert read_index(tmp_path) == [entry, entry]


def test_shares_come_back_and_none_leave_no_file(tmp_path: Path) -> None:
    shares = [
        Share("a", "p", "test", "hcc", "t2", -0.1 - 0.2, 1 / 3, "missing"),
        Share("ü,", "p", "", "x;y", "ct", 0.0, 0.0, "blank", sampled=True),
    ]
    write_shares(tmp_path, shares)
    assert read_shares(tmp_path) == shares
    write_shares(tmp_path, [])
    assert not (tmp_path / "shares.csv").exists() and read_shares(tmp_path) == []


def test_names_of_volumes_are_safe_and_differ() -> None:
    names = {volume_name("case_t2-12345678.npz", target) for target in ("a/b", "a_b", "../x", "ü" * 200)}
    assert len(names) == 4
    assert all(Path(name).name == name and name.isascii() and len(name) < 120 for name in names)
    assert all(name.startswith("case_t2-12345678-") and name.endswith(".nii.gz") for name in names)


def test_pictures_of_volumes_keep_every_slice() -> None:
    pixels = np.zeros((1, 7, 300, 520), np.int16)
    pixels[0, 3] = 50
    picture = display_picture(pixels, (0, 100))
    assert picture.shape == (7, 100, 174)
    assert picture[3].min() == picture[3].max() == 128 and not picture[2].any()
    assert display_picture(np.zeros((3, 2, 8, 8), np.uint8), (0, 255)).shape == (2, 8, 8, 3)
