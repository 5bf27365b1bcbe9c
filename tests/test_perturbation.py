"""Squares of an image, their order, and what fills them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_grad_cam.metrics import road
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from foveate.errors import UsageError
from foveate.explain.perturbation import BlockGrid, NoisyLinearImputer, foremost, hindmost, ranks
from tiny_classifiers import images

SPACES = [(8, 8), (10, 7), (4, 9, 6)]
Floats = NDArray[np.float64]


def square_of(place: Sequence[int], space: Sequence[int], counts: Sequence[int]) -> tuple[int, ...]:
    """The square that a pixel lies in, by looking through the edges."""
    return tuple(
        next(i for i in range(count) if side * i // count <= at < side * (i + 1) // count)
        for at, side, count in zip(place, space, counts, strict=True)
    )


@pytest.mark.parametrize(
    ("space", "blocks", "counts"),
    [
        ((224, 224), 14, (14, 14)),
        ((10, 7), 3, (3, 2)),
        ((16, 128, 128), 14, (2, 14, 14)),
        ((3, 8), 8, (3, 8)),
    ],
)
def test_squares_are_about_as_long_as_wide(
    space: tuple[int, ...], blocks: int, counts: tuple[int, ...]
) -> None:
    assert BlockGrid({"image": torch.zeros(1, 1, *space)}, blocks).counts == {"image": counts}


@pytest.mark.parametrize("space", SPACES)
def test_every_pixel_lies_in_one_square(space: tuple[int, ...]) -> None:
    grid = BlockGrid({"image": torch.zeros(1, 1, *space)}, 3)
    counts = grid.counts["image"]
    chosen = torch.eye(grid.squares, dtype=torch.bool)
    pixels = grid.pixels(chosen)["image"]
    assert pixels.shape == (grid.squares, 1, *space)
    for place in np.ndindex(*space):
        expected = np.ravel_multi_index(square_of(place, space, counts), counts)
        assert pixels[(slice(None), 0, *place)].nonzero().tolist() == [[expected]]


@pytest.mark.parametrize("space", SPACES)
def test_a_fine_map_is_summed_over_each_square(space: tuple[int, ...]) -> None:
    views = {"image": images(2, *space)}
    grid = BlockGrid(views, 3)
    values = images(2, *space, seed=1)[:, 0]
    expected = np.zeros((2, *grid.counts["image"]))
    for place in np.ndindex(*space):
        expected[(slice(None), *square_of(place, space, grid.counts["image"]))] += values[
            (slice(None), *place)
        ].numpy()
    np.testing.assert_allclose(grid.masses({"image": values}), expected.reshape(2, -1), rtol=1e-6)


@pytest.mark.parametrize(("space", "coarse"), [((12, 12), (3, 3)), ((8, 12, 4), (2, 3, 2))])
def test_a_coarse_map_is_enlarged_linearly_and_keeps_its_total(
    space: tuple[int, ...], coarse: tuple[int, ...]
) -> None:
    grid = BlockGrid({"image": images(1, *space)}, 4)
    values = images(1, *coarse, seed=1)[:, :1].abs()[:, 0]
    factors = [side / cells for side, cells in zip(space, coarse, strict=True)]
    enlarged = ndimage.zoom(values[0].double(), factors, order=1, mode="nearest", grid_mode=True)
    fine = grid.masses({"image": torch.from_numpy(enlarged)[None]})
    found = grid.masses({"image": values})
    np.testing.assert_allclose(found, fine / np.prod(factors), rtol=1e-6)
    even = grid.masses({"image": torch.ones(1, *coarse)})
    assert float(even.sum()) == pytest.approx(np.prod(coarse))


def test_views_are_numbered_through_and_a_missing_one_has_no_squares() -> None:
    views = {"ct": images(2, 8, 8), "mr": images(2, 6, 4)}
    views["mr"][1] = torch.nan
    grid = BlockGrid(views, 2)
    assert grid.counts == {"ct": (2, 2), "mr": (2, 1)} and grid.squares == 6
    assert grid.present.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    pixels = grid.pixels(torch.tensor([[False, True, False, False, False, True]]))
    assert pixels["ct"][0, 0].sum() == 16 and pixels["ct"][0, 0, :4, 4:].all()
    assert pixels["mr"][0, 0].sum() == 12 and pixels["mr"][0, 0, 3:].all()


def test_too_many_squares_are_refused() -> None:
    with pytest.raises(UsageError, match="more than 4096"):
        BlockGrid({"image": torch.zeros(1, 1, 20, 20, 20)}, 20)


def test_the_order_is_that_of_signed_values_and_what_is_missing_comes_last() -> None:
    values = torch.tensor([[0.5, -2.0, 3.0, 0.0], [9.0, 1.0, 2.0, 8.0]])
    present = torch.tensor([[True, True, True, True], [False, True, True, False]])
    places = ranks(values, present, torch.rand(2, 4))
    assert places[0].tolist() == [1, 3, 0, 2]
    assert places[1, [2, 1]].tolist() == [0, 1]
    assert foremost(places, present, 0.5).tolist() == [
        [True, False, True, False],
        [False, False, True, False],
    ]
    assert hindmost(places, present, 0.25).tolist()[0] == [False, True, False, False]
    assert hindmost(places, present, 0.5).tolist()[1] == [False, True, False, False]


def test_ties_are_broken_at_random() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(3000, 4)
    present = torch.ones(3000, 4, dtype=torch.bool)
    places = ranks(values, present, torch.rand(3000, 4, generator=generator))
    assert (places[:, 0] == 0).all()
    for square, place in product((1, 2, 3), (1, 2, 3)):
        share = float((places[:, square] == place).double().mean())
        assert abs(share - 1 / 3) < 0.035, "four standard errors"


# --- What fills the holes -------------------------------------------------------------------------


def filled_slowly(pixels: Floats, gone: NDArray[np.bool_]) -> Floats:
    """Rong et al. 2022: one equation per lost pixel, written out, solved by SciPy."""
    space = gone.shape
    number = {tuple(place): index for index, place in enumerate(np.argwhere(gone))}
    system, given = sparse.lil_matrix((len(number),) * 2), np.zeros((len(number), len(pixels)))
    for place, row in number.items():
        for step in product((-1, 0, 1), repeat=len(space)):
            other = tuple(at + by for at, by in zip(place, step, strict=True))
            inside = all(0 <= at < side for at, side in zip(other, space, strict=True))
            if not any(step) or not inside:
                continue
            moved = sum(map(abs, step))
            weight = {2: {1: 1 / 6, 2: 1 / 12}, 3: {1: 4 / 56, 2: 2 / 56, 3: 1 / 56}}[len(space)][moved]
            system[row, row] += weight
            if other in number:
                system[row, number[other]] -= weight
            else:
                given[row] += weight * pixels[(slice(None), *other)]
    whole = pixels.copy()
    whole[:, gone] = spsolve(system.tocsc(), given).reshape(len(number), -1).T
    return whole


def imputed(pixels: torch.Tensor, gone: torch.Tensor, blocks: int) -> torch.Tensor:
    """The image with what the imputer says in the squares that are gone, ``(1, C, *space)`` each."""
    views = {"image": pixels}
    grid = BlockGrid(views, blocks)
    imputer = NoisyLinearImputer(grid, views, {"image": torch.zeros_like(pixels)})
    filling = imputer(torch.tensor([0]), gone)["image"]
    return torch.where(grid.pixels(gone)["image"], filling, pixels)


@pytest.mark.parametrize(("space", "blocks"), [((8, 8), 8), ((10, 8), 5), ((4, 6, 6), 6)])
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_cells_of_one_pixel_are_filled_as_the_paper_says(
    space: tuple[int, ...], blocks: int, share: float
) -> None:
    pixels = images(1, *space)
    grid = BlockGrid({"image": pixels}, blocks)
    gone = torch.rand(1, grid.squares, generator=torch.Generator().manual_seed(1)) < share
    found = imputed(pixels, gone, blocks)
    mask = grid.pixels(gone)["image"][0, 0].numpy()
    assert 0 < mask.sum() < mask.size
    np.testing.assert_allclose(found[0], filled_slowly(pixels[0].double().numpy(), mask), atol=1e-5)


def test_the_filling_is_that_of_another_library() -> None:
    pixels = images(1, 12, 12)
    gone = torch.rand(1, 36, generator=torch.Generator().manual_seed(2)) < 0.5
    mask = BlockGrid({"image": pixels}, 6).pixels(gone)["image"][0, 0]
    system, given = road.NoisyLinearImputer.setup_sparse_system(
        (~mask).numpy(), pixels[0].numpy(), road.neighbors_weights
    )
    expected = spsolve(system.tocsc(), given).T
    np.testing.assert_allclose(imputed(pixels, gone, 6)[0][:, mask], expected, atol=1e-5)


def test_coarser_cells_fill_nearly_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.from_numpy(ndimage.gaussian_filter(images(1, 64, 64).numpy(), (0, 0, 4, 4)))
    pixels = pixels / pixels.std()
    gone = torch.rand(1, 64, generator=generator) < 0.4
    mask = BlockGrid({"image": pixels}, 8).pixels(gone)["image"][0, 0].numpy()
    exact = filled_slowly(pixels[0].double().numpy(), mask)
    found = imputed(pixels, gone, 8)[0].double().numpy()
    apart = np.abs(found - exact)[:, mask]
    lost = np.abs(pixels[0].numpy() - exact)[:, mask]
    assert np.median(apart) < 0.3 * np.median(lost), "far nearer to the exact filling than the image is"
    assert np.corrcoef(found[:, mask].ravel(), exact[:, mask].ravel())[0, 1] > 0.98


def test_nothing_left_is_filled_by_the_mean_and_an_even_image_by_itself() -> None:
    pixels = images(1, 8, 8)
    everything = torch.ones(1, 16, dtype=torch.bool)
    expected = pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)
    torch.testing.assert_close(imputed(pixels, everything, 4), expected, rtol=0, atol=1e-5)
    even = torch.full((1, 3, 8, 8), 0.7)
    some = torch.arange(16)[None] % 3 == 0
    torch.testing.assert_close(imputed(even, some, 4), even, rtol=0, atol=1e-6)


def test_a_missing_view_stays_missing() -> None:
    views = {"ct": images(1, 8, 8), "mr": torch.full((1, 3, 8, 8), torch.nan)}
    grid = BlockGrid(views, 4)
    imputer = NoisyLinearImputer(grid, views, {view: torch.zeros_like(x) for view, x in views.items()})
    gone = (torch.arange(32)[None] % 2 == 0) & grid.present
    filling = imputer(torch.tensor([0]), gone)
    assert filling["ct"].isfinite().all() and not grid.pixels(gone)["mr"].any()
