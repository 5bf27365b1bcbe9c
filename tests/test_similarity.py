"""Twins: what is found equals what comparing every pair in every direction finds, and chance is not."""

from __future__ import annotations

from io import BytesIO

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import ndimage

from cohort_files import picture
from foveate.data.audit import similarity
from foveate.data.audit.similarity import (
    FLOOR,
    chance_threshold,
    correlations,
    find_twins,
    groups_of,
    spectrum,
)
from foveate.data.phantoms.ct import PhantomConfig, draw_patient

Pixels = NDArray[np.float32]


def spectra_of(images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    found = [spectrum(image[None]) for image in images]
    assert all(item is not None for item in found)
    return np.stack([item for item in found if item is not None])


def reduced(image: NDArray[np.uint8]) -> Pixels:
    """The 48 × 48 picture with mean 0 and norm 1, by means of blocks of pixels."""
    blocks = (
        image.reshape(48, image.shape[0] // 48, 48, image.shape[1] // 48).astype(np.float64).mean(axis=(1, 3))
    )
    blocks -= blocks.mean()
    return np.asarray(blocks / np.linalg.norm(blocks), dtype=np.float32)


def directions(pixels: Pixels) -> list[Pixels]:
    return [
        turned for flipped in (pixels, pixels[:, ::-1]) for turned in (np.rot90(flipped, n) for n in range(4))
    ]


def without_coarse(pixels: Pixels) -> Pixels:
    """Remove the 36 lowest cosines, each built from its formula, and scale to norm 1."""
    places = np.arange(48) + 0.5
    waves = [np.cos(np.pi * k * places / 48) * np.sqrt((1 if k == 0 else 2) / 48) for k in range(6)]
    left = pixels.astype(np.float64)
    for down in waves:
        for across in waves:
            wave = np.outer(down, across)
            left = left - (pixels * wave).sum() * wave
    return np.asarray(left / np.linalg.norm(left), dtype=np.float32)


def every_pair(images: list[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """The slow twin: each picture with each other in each direction, pixel by pixel."""
    small = [reduced(image) for image in images]
    fine = [without_coarse(pixels) for pixels in small]
    found = set()
    for i in range(len(images)):
        for j in range(i + 1, len(images)):
            for n, (whole, detail) in enumerate(zip(directions(small[j]), directions(fine[j]), strict=True)):
                needed = similarity.DETAIL if n == 0 else similarity.DETAIL_TURNED
                if (small[i] * whole).sum() >= FLOOR and (fine[i] * detail).sum() >= needed:
                    found.add((i, j))
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)


class TestSpectrum:
    def test_inner_product_is_the_correlation_of_reduced_pictures(self) -> None:
        one, two = picture(1, (96, 144)), picture(2, (144, 96))
        spectra = spectra_of([one, two])
        r = np.corrcoef(reduced(one).ravel(), reduced(two).ravel())[0, 1]
        assert float((spectra[0] * spectra[1]).sum()) == pytest.approx(r, abs=1e-5)

    @pytest.mark.parametrize("dense", [0, 1000])
    def test_correlations_with_all_directions(self, dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(similarity, "_DENSE", dense)
        images = [picture(seed, (96, 96)) for seed in range(5)]
        pairs = np.array([[0, 1], [3, 2], [0, 4], [2, 2]])
        found = correlations(spectra_of(images), pairs)
        for (i, j), own in zip(pairs, found, strict=True):
            wanted = [float((reduced(images[i]) * turned).sum()) for turned in directions(reduced(images[j]))]
            assert own[0] == pytest.approx(wanted[0], abs=1e-5)  # upright comes first
            np.testing.assert_allclose(sorted(own), sorted(wanted), atol=1e-5)
        assert found[3, 0] == pytest.approx(1, abs=1e-5)

    def test_brightness_and_contrast_do_not_count(self) -> None:
        image = picture(4)
        one, two = spectra_of([image, (image // 2 + 40).astype(np.uint8)])
        assert float((one * two).sum()) > 0.9995

    def test_colour_is_reduced_to_its_luminance(self) -> None:
        rgb = np.stack([picture(seed) for seed in (1, 2, 3)])
        grey = (0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]).astype(np.float32)
        assert np.allclose(spectrum(rgb), spectrum(grey[None]), atol=1e-4)

    @pytest.mark.parametrize("value", [0, 7, 255])
    def test_flat_images_have_none(self, value: int) -> None:
        assert spectrum(np.full((1, 33, 20), value, np.uint8)) is None


class TestSearch:
    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 10_000), st.sampled_from((0, similarity._DENSE)))
    def test_equals_the_search_through_every_pair(self, seed: int, dense: int) -> None:
        rng = np.random.default_rng(seed)
        images = [picture(int(rng.integers(1_000_000)), (96, 96), rng.uniform(1, 12)) for _ in range(12)]
        for _ in range(12):  # copies: turned, mixed with others so that r lies around the threshold
            source, other = images[rng.integers(12)], images[rng.integers(12)]
            mixed = (1 - (share := rng.uniform(0, 0.3))) * source + share * other
            images.append(
                np.ascontiguousarray(directions(mixed.astype(np.float32))[rng.integers(8)]).astype(np.uint8)
            )
        numbers = np.arange(len(images))
        with pytest.MonkeyPatch.context() as changed:
            changed.setattr(similarity, "_DENSE", dense)
            found = find_twins(spectra_of(images), numbers, numbers)
        assert found.threshold == FLOOR
        assert as_sets(groups_of(found.links, 24)) == as_sets(groups_of(every_pair(images), 24))

    def test_many_tiles_find_what_one_tile_finds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        images = [picture(seed // 2, smooth=2) for seed in range(60)]
        numbers = np.arange(60)
        whole = find_twins(spectra_of(images), numbers, numbers)
        monkeypatch.setattr(similarity, "_TILE", (7, 13))
        monkeypatch.setattr(similarity, "_BLOCK", 3)
        tiles = find_twins(spectra_of(images), numbers, numbers)
        assert whole.links.tolist() == tiles.links.tolist() == [[n, n + 1] for n in range(0, 60, 2)]

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 10_000), st.floats(1, 40), st.sampled_from((8, 48)))
    def test_bounds_are_never_below_what_they_bound(self, seed: int, steep: float, side: int) -> None:
        rng = np.random.default_rng(seed)
        square = np.arange(side) ** 2
        spectra = rng.standard_normal((20, side, side)) * np.exp(-np.add.outer(square, square) / steep**2)
        alternating = 1.0 - 2 * (np.arange(side) % 2)
        spectra[1] = spectra[0].T * alternating + 0.1 * spectra[1]  # turned by 90 degrees, with noise
        spectra = (spectra / np.linalg.norm(spectra, axis=(1, 2), keepdims=True)).astype(np.float32)
        search = similarity._Search(spectra, np.arange(20), FLOOR)
        pairs = np.stack(np.triu_indices(20, 1), axis=1)
        best = correlations(spectra, pairs).max(axis=1)
        assert best[0] > 0.9
        assert ((search.keys @ search.keys.T)[tuple(pairs.T)] >= best - 1e-5).all()
        low = correlations(search.low, pairs).max(axis=1) + search.rest[pairs].prod(axis=1)
        assert (low >= best - 1e-5).all()

    def test_a_chain_is_one_group_whoever_is_compared_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(similarity, "_TILE", (2, 3))
        angles = np.random.default_rng(3).permutation(np.arange(30)) * 0.2  # neighbours r = 0.98, next 0.92
        ends = [spectrum(picture(seed, smooth=1)[None]) for seed in (1, 2)]
        one, other = (np.asarray(end) for end in ends)
        other = other - (one * other).sum() * one
        other /= np.linalg.norm(other)
        near = angles < 1.5  # no more than a quarter turn, so that none is the negative of another
        spectra = (np.cos(angles[near, None, None]) * one + np.sin(angles[near, None, None]) * other).astype(
            np.float32
        )
        numbers = np.arange(len(spectra))
        (group,) = groups_of(find_twins(spectra, numbers * 0, numbers).links, len(spectra))
        assert len(group) == len(spectra) == 8

    def test_links_stay_few(self) -> None:
        same = spectra_of([picture(1)] * 200)
        found = find_twins(same, np.zeros(200, int), np.arange(200))
        assert len(found.links) < 2 * 200
        assert len(groups_of(found.links, 200)) == 1

    def test_slices_of_one_volume_are_not_compared(self) -> None:
        spectra = spectra_of([picture(1), picture(1), picture(2), picture(1)])
        found = find_twins(spectra, np.array([0, 0, 1, 2]), np.array([5, 5, 6, 7]))
        assert as_sets(groups_of(found.links, 4)) == {
            frozenset({0, 1, 3})
        }  # both are twins of the other file
        alone = find_twins(spectra[:3], np.array([0, 0, 1]), np.array([5, 5, 6]))
        assert not len(alone.links)

    def test_an_independent_perceptual_hash_agrees(self) -> None:
        images = [picture(seed, smooth=4) for seed in range(40)]
        copies = [np.asarray(Pillow.fromarray(image).resize((90, 50))) for image in images[:20]]
        everything = images + copies
        hashes = [imagehash.phash(Pillow.fromarray(image)) for image in everything]
        near = {(i, j) for j in range(60) for i in range(j) if hashes[i] - hashes[j] <= 8}
        numbers = np.arange(60)
        found = groups_of(find_twins(spectra_of(everything), numbers, numbers).links, 60)
        assert (
            as_sets(found)
            == {frozenset(pair) for pair in near}
            == {frozenset({n, 40 + n}) for n in range(20)}
        )


class TestChance:
    def alike(self, count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
        """Photographs of one bright disc that differ in little: unrelated pairs correlate above 0.97."""
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        disc = 200.0 * (x**2 + y**2 < 0.8)
        noise = np.random.default_rng(seed).standard_normal((count, 64, 64))
        smooth = ndimage.gaussian_filter(noise, (0, 2, 2))
        return list(np.clip(disc + 20 + 12 * smooth / smooth.std(), 0, 255).astype(np.uint8))

    def test_images_that_are_all_alike_are_no_twins(self) -> None:
        images = self.alike(120)
        copies = [np.asarray(Pillow.fromarray(image).resize((50, 60))) for image in images[:10]]
        spectra, numbers = spectra_of(images + copies), np.arange(130)
        unrelated = spectra[:120].reshape(120, -1) @ spectra[:120].reshape(120, -1).T
        assert unrelated[np.triu_indices(120, 1)].min() > FLOOR
        found = find_twins(spectra, numbers, numbers)
        assert found.threshold > unrelated[np.triu_indices(120, 1)].max()
        assert as_sets(groups_of(found.links, 130)) == {frozenset({n, 120 + n}) for n in range(10)}

    @pytest.mark.parametrize("count", [10, 24, 60])
    @pytest.mark.parametrize("alike", [True, False])
    def test_small_cohorts(self, count: int, alike: bool) -> None:
        """None of a clean cohort; with two copies, darker and saved as JPEG, these two."""
        images = self.alike(count) if alike else [picture(seed) for seed in range(count)]
        numbers = np.arange(count)
        assert not len(find_twins(spectra_of(images), numbers, numbers).links)
        copies = [saved_again((image * 0.8).astype(np.uint8)) for image in images[:2]]
        found = find_twins(spectra_of([*images[:-2], *copies]), numbers, numbers)
        wanted = {frozenset({0, count - 2}), frozenset({1, count - 1})}
        assert as_sets(groups_of(found.links, count)) == wanted

    @pytest.mark.parametrize("count", [10, 24, 60])
    def test_slices_of_imaginary_livers_are_no_twins(self, count: int) -> None:
        config = PhantomConfig(patients=count, slices=1, size=64)
        slices = [draw_patient(index, config).hu[1] for index in range(count)]
        spectra, numbers = spectra_of(slices), np.arange(count)
        pairs = np.stack(np.triu_indices(count, 1), axis=1)
        assert (
            correlations(spectra, pairs)[:, 0] > FLOOR
        ).mean() > 0.3  # a fixed threshold would call them so
        assert not len(find_twins(spectra, numbers, numbers).links)

    def test_what_is_own_is_without_the_mean_of_the_others(self) -> None:
        images = [picture(seed, (96, 96)) for seed in range(8)]
        images.append(np.ascontiguousarray(images[0][:, ::-1]))
        small = np.stack([reduced(image) for image in images]).astype(np.float64)
        found = similarity._own_correlations(spectra_of(images), np.array([[0, 8], [2, 5]]))
        for (i, j), own in zip([(0, 8), (2, 5)], found, strict=True):
            mean = np.delete(small, (i, j), axis=0).mean(axis=0)
            one, turned = small[i] - mean, [each - mean for each in directions(small[j])]
            wanted = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for other in turned]
            np.testing.assert_allclose(np.sort(own), np.sort(wanted), atol=1e-4)
        assert found[0].argmax() == 1  # mirrored across

    def test_the_tail_of_a_normal_distribution(self) -> None:
        z = np.random.default_rng(1).normal(0.3, 0.2, 50_000).astype(np.float32)
        assert similarity._tail(z, (0.9, 0.99), 1e-6) == pytest.approx(0.3 + 0.2 * 4.753424, abs=0.02)
        of_ten = similarity._tail(z, (0.9, 0.99), 0.0025, 10)  # Student's t, 10 degrees of freedom
        assert of_ten == pytest.approx(0.3 + 0.2 * 3.5814, abs=0.02)

    def test_varied_images_need_the_floor_only(self) -> None:
        assert chance_threshold(spectra_of([picture(seed) for seed in range(50)]), np.arange(50)) == FLOOR

    def test_with_one_patient_nothing_is_known_of_chance(self) -> None:
        assert chance_threshold(spectra_of(self.alike(40)), np.zeros(40, int)) == FLOOR


def saved_again(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    Pillow.fromarray(image).save(file := BytesIO(), "JPEG", quality=80)
    return np.asarray(Pillow.open(file))


def as_sets(groups: list[NDArray[np.int64]]) -> set[frozenset[int]]:
    return {frozenset(int(index) for index in group) for group in groups}
