"""What a bundle keeps of its images knows copies again: beside a search by hand through every pair."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageEnhance
from scipy import fft

from cohort_files import picture, write_image
from foveate.data.audit.gathered import Evidence, gather
from foveate.data.audit.similarity import DETAIL, DETAIL_TURNED, FLOOR, find_twins, spectrum
from foveate.data.images import image_rows, read_images, write_images
from foveate.data.known import KnownImages, Recognised, read_looks, view_looks, write_looks
from foveate.types import Case, Cohort, quiet

Picture = Pillow.Image
Pixels = NDArray[np.uint8]


def cohort(folder: Path, pictures: dict[str, Pixels]) -> Cohort:
    """A case for each picture, each of a patient of its own."""
    cases = [
        Case(name, f"patient of {name}", {"image": write_image(folder / f"{name}.png", pixels)}, label="x")
        for name, pixels in pictures.items()
    ]
    return Cohort(tuple(cases), "multiclass", ("x",), ("image",), folder / "m.csv", "0")


def evidence(folder: Path, pictures: dict[str, Pixels]) -> Evidence:
    return gather(cohort(folder, pictures), None, quiet)


def known(found: Evidence, without: tuple[str, ...] = ()) -> KnownImages:
    """What a bundle keeps of a cohort, but for some of its cases."""
    kept = {case.case_id: case.patient_id for case in found.cohort.cases if case.case_id not in without}
    return KnownImages.of(image_rows(found.cohort, found.looks), view_looks(found.looks), kept)


def recognised(images: KnownImages, found: Evidence) -> dict[str, Recognised]:
    by_case = images.recognise(found.looks, [case.patient_id for case in found.cohort.cases])
    return {found.cohort.cases[index].case_id: item for (index, _), item in by_case.items()}


def names_of(images: KnownImages, found: Evidence) -> dict[int, str]:
    """Name of the learned case of each image."""
    owners = {row.digest: case for (case, _), row in image_rows(found.cohort, found.looks).items()}
    return {number: owners[digest] for number, digest in images.numbers(owners).items()}


def recompressed(image: Picture) -> Picture:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Pillow.open(stream)


EDITS: dict[str, Callable[[Picture], Picture]] = {
    "smaller": lambda image: image.resize((80, 80), Pillow.Resampling.BILINEAR),
    "stretched": lambda image: image.resize((200, 130), Pillow.Resampling.BICUBIC),
    "recompressed": recompressed,
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "flatter": lambda image: ImageEnhance.Contrast(image).enhance(0.5),
    "mirrored": lambda image: image.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda image: image.transpose(Pillow.Transpose.ROTATE_90),
    "cut": lambda image: image.crop((1, 1, 159, 159)),
    "in colour": lambda image: image.convert("RGB"),
}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    pictures = {f"old{n:02d}": picture(n, (160, 160), smooth=5) for n in range(40)}
    return evidence(tmp_path_factory.mktemp("learned"), pictures)


class TestCopies:
    @pytest.mark.parametrize("edit", EDITS)
    def test_each_kind_of_copy_is_known_and_named(self, learned: Evidence, tmp_path: Path, edit: str) -> None:
        images = known(learned)
        pictures = {
            f"copy{n}": np.asarray(EDITS[edit](Pillow.fromarray(picture(n, (160, 160), smooth=5))))
            for n in (3, 11, 29)
        }
        strangers = {f"new{n}": picture(500 + n, (160, 160), smooth=5) for n in range(20)}
        new = evidence(tmp_path, pictures | strangers)
        found = recognised(images, new)
        names = names_of(images, learned)
        assert {case: names[item.image] for case, item in found.items()} == {
            "copy3": "old03",
            "copy11": "old11",
            "copy29": "old29",
        }
        same_pixels = edit == "in colour"  # grey in three equal channels is grey
        assert {item.same for item in found.values()} == {same_pixels}

    def test_what_was_not_learned_from_is_not_known(self, learned: Evidence) -> None:
        without = ("old07", "old08")
        found = recognised(known(learned, without), learned)
        assert set(found) == {case.case_id for case in learned.cohort.cases} - set(without)
        assert all(item.same for item in found.values())

    def test_cases_that_show_the_same_copy_are_all_found(self, learned: Evidence, tmp_path: Path) -> None:
        dark = (picture(5, (160, 160), smooth=5) * 0.7).astype(np.uint8)
        found = recognised(known(learned), evidence(tmp_path, {"a": dark, "b": dark}))
        assert set(found) == {"a", "b"} and len({item.image for item in found.values()}) == 1

    def test_flat_images_are_known_by_their_pixels_alone(self, tmp_path: Path) -> None:
        flat = {"flat": np.full((20, 20), 7, np.uint8), "other": picture(1)}
        images = known(evidence(tmp_path / "old", flat))
        new = evidence(tmp_path / "new", {"same": flat["flat"], "paler": np.full((20, 20), 9, np.uint8)})
        assert {case: item.same for case, item in recognised(images, new).items()} == {"same": True}


class TestAgainstEveryPair:
    """Few images, so that the threshold is the floor whatever chance says."""

    def by_hand(self, new: Pixels, old: Pixels) -> bool:
        """Correlations of pictures of 16 × 16 in eight directions, in pixels and not in frequencies."""

        def small(pixels: Pixels, coarse: int = 0) -> NDArray[np.float64]:
            found = spectrum(pixels[None])
            assert found is not None
            low = found[:16, :16].astype(np.float64)
            low[:coarse, :coarse] = 0
            return np.asarray(fft.idctn(low, norm="ortho"))

        for number in range(8):
            turned = np.rot90(new, number % 4) if number < 4 else np.fliplr(np.rot90(new, number % 4))
            least = DETAIL if number == 0 else DETAIL_TURNED
            whole = np.corrcoef(small(turned).ravel(), small(old).ravel())[0, 1]
            one, other = small(turned, 6).ravel(), small(old, 6).ravel()
            detail = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            if whole >= FLOOR and detail >= least:
                return True
        return False

    def test_it_is_the_search_through_every_pair(self, tmp_path: Path) -> None:
        draw = np.random.default_rng(0)
        old = {f"old{n}": picture(n, (96, 96), smooth=4) for n in range(8)}
        new = {}
        for number in range(16):  # ever more of another picture is mixed in
            mixed = picture(number % 8, (96, 96), smooth=4) * 1.0
            mixed += 0.1 * number * (picture(900 + number, (96, 96), smooth=4) - 128.0)
            mixed = np.rot90(mixed, int(draw.integers(4)))
            mixed = (mixed - mixed.min()) / np.ptp(mixed) * 255
            new[f"new{number}"] = mixed.astype(np.uint8)
        wanted = {a for a, one in new.items() if any(self.by_hand(one, other) for other in old.values())}
        found = recognised(known(evidence(tmp_path / "old", old)), evidence(tmp_path / "new", new))
        assert set(found) == wanted and 2 < len(wanted) < 14

    def test_rows_are_compared_with_the_others_only(self) -> None:
        spectra = np.stack(
            [found for n in (1, 2, 3, 1, 4, 4) if (found := spectrum(picture(n)[None])) is not None]
        )
        numbers = np.arange(6)
        links = find_twins(spectra, numbers, np.array([0, 0, 0, 1, 1, 1]), rows=3).links
        assert links.tolist() == [[0, 3]]  # and not the last two
        assert find_twins(spectra, numbers, numbers).links.tolist() == [[0, 3], [4, 5]]


class TestFiles:
    def test_the_files_of_a_run(self, learned: Evidence, tmp_path: Path) -> None:
        rows, looks = image_rows(learned.cohort, learned.looks), view_looks(learned.looks)
        write_images(tmp_path, rows)
        write_looks(tmp_path, looks)
        assert read_images(tmp_path) == rows
        facts = rows["old00", "image"].facts
        values = picture(0, (160, 160), smooth=5)
        assert (facts["width"], facts["height"], facts["channels"], facts["format"]) == (
            "160",
            "160",
            "1",
            ".png",
        )
        assert float(facts["99th percentile"]) == pytest.approx(np.percentile(values, 99), abs=1)
        again = read_looks(tmp_path)["image"]
        assert again.digests == looks["image"].digests and (again.looks == looks["image"].looks).all()

    def test_runs_of_the_first_version_know_digests_only(self, tmp_path: Path) -> None:
        (tmp_path / "digests.csv").write_text("case_id,view,sha256\na,image,12ab\n")
        assert {key: (row.digest, row.facts) for key, row in read_images(tmp_path).items()} == {
            ("a", "image"): ("12ab", {})
        }
        assert read_looks(tmp_path) == {} and read_images(tmp_path / "none") == {}

    def test_what_a_bundle_keeps_is_read_back_without_a_digest(
        self, learned: Evidence, tmp_path: Path
    ) -> None:
        images = known(learned)
        facts = images.save(tmp_path)
        again = KnownImages.load(tmp_path, facts)
        assert recognised(again, learned) == recognised(images, learned)
        digests = {row.digest for row in image_rows(learned.cohort, learned.looks).values()}
        kept = str(facts).encode() + (tmp_path / "looks.safetensors").read_bytes()
        assert not any(digest.encode() in kept or bytes.fromhex(digest) in kept for digest in digests)
        assert (tmp_path / "looks.safetensors").stat().st_size < 40 * 600
