"""One pass over the files: what is kept of each image, where, and what happens when there is no room."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cohort_files import picture, write_image
from foveate.data.audit import looks
from foveate.data.audit.looks import look_at_all
from foveate.data.audit.similarity import spectrum
from foveate.errors import RunFailed
from foveate.types import Case


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """Two views: pictures 0, 1, 0 again, none, 2 in the first; one picture and a flat image in the second."""
    first = {0: 0, 1: 1, 2: 0, 4: 2}
    found = []
    for number in range(5):
        views = {}
        if number in first:
            views["a"] = write_image(tmp_path / f"a{number}.png", picture(first[number]))
        if number > 2:
            flat = np.full((20, 20), 7, np.uint8)
            views["b"] = write_image(tmp_path / f"b{number}.bmp", flat if number == 3 else picture(9))
        found.append(Case(f"c{number}", f"p{number}", views))
    return found


def test_each_picture_is_kept_once_with_the_first_case_that_shows_it(cases: list[Case]) -> None:
    seen = look_at_all(cases)
    assert seen.pictures["a"].cases.tolist() == [0, 1, 4]
    assert seen.pictures["a"].copies.tolist() == [[0, 2]]
    for values, seed in zip(seen.pictures["a"].spectra, range(3), strict=True):
        np.testing.assert_array_equal(values, spectrum(picture(seed)[None]))
    assert seen.pictures["b"].cases.tolist() == [4] and not len(seen.pictures["b"].copies)
    assert set(seen.seen) == {(0, "a"), (1, "a"), (2, "a"), (4, "a"), (3, "b"), (4, "b")}


def test_files_come_in_their_order_however_few_are_read_ahead(
    cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = look_at_all(cases)
    for ahead in (0, 2):
        monkeypatch.setattr(looks, "_AHEAD", ahead)
        found = look_at_all(cases)
        assert found.seen == usual.seen and list(found.seen) == list(usual.seen)


def test_spectra_of_many_images_lie_in_a_file(cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    usual = look_at_all(cases)
    monkeypatch.setattr(looks, "_IN_MEMORY", 0)
    found = look_at_all(cases)
    base: object = found.pictures["a"].spectra
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    np.testing.assert_array_equal(found.pictures["a"].spectra, usual.pictures["a"].spectra)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room in a file")
def test_a_full_disk_is_told_before_the_first_image_is_read(
    cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(looks, "_IN_MEMORY", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(looks, "read_image", lambda path: pytest.fail("an image was read"))
    with pytest.raises(RunFailed, match=r"4 images needs 0\.0 GB .* No space left") as caught:
        look_at_all(cases)
    assert "TMPDIR" in str(caught.value)
