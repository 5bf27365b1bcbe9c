"""Tiles: which there are for a size; cutting, joining and averaging keep every pixel in its place."""

from __future__ import annotations

import pytest
import torch

from foveate.models.lca_db.tiles import Tiling, make_tiling


@pytest.mark.parametrize(
    ("size", "tile", "expected"),
    [
        ((16, 128, 128), 32, Tiling(4, 4, 32, 32)),  # the published one
        ((16, 64, 64), 32, Tiling(2, 2, 32, 32)),
        ((8, 48, 48), 32, Tiling(2, 2, 24, 24)),
        ((8, 32, 32), 32, Tiling(2, 2, 16, 16)),
        ((64, 192, 192), 32, Tiling(6, 6, 32, 32)),
        ((8, 80, 128), 32, Tiling(2, 4, 40, 32)),
        ((8, 64, 64), 16, Tiling(4, 4, 16, 16)),
        ((8, 100, 112), 32, Tiling(3, 3, 32, 40)),  # resampled to 96 and 120
        ((1, 7, 20), 32, Tiling(2, 3, 8, 8)),
    ],
)
def test_tiles_of_a_size(size: tuple[int, ...], tile: int, expected: Tiling) -> None:
    assert make_tiling(size, tile) == expected


def test_tile_n_is_row_times_cols_plus_col_in_the_order_of_cases() -> None:
    tiling, x = Tiling(2, 3, 4, 5), torch.arange(2 * 3 * 2 * 8 * 15.0).view(2, 3, 2, 8, 15)
    tiles = tiling.cut(x)
    assert tiles.shape == (12, 3, 2, 4, 5) and tiling.number == 6
    for case in range(2):
        for row in range(2):
            for col in range(3):
                place = x[case, :, :, 4 * row : 4 * row + 4, 5 * col : 5 * col + 5]
                tile = tiles[case * 6 + row * 3 + col]
                assert torch.equal(tile, place)
                average = tiling.average(x)[case, row * 3 + col]
                torch.testing.assert_close(average, place.mean(dim=(1, 2, 3)))
    assert torch.equal(tiling.join(tiles), x)
    on_grid = tiling.grid(tiling.average(x))
    assert on_grid.shape == (2, 2, 3, 3) and torch.equal(on_grid[1, 1, 2], tiling.average(x)[1, 5])


def test_a_size_that_tiles_do_not_divide_is_resampled_in_the_plane_only() -> None:
    ramp = torch.linspace(0, 1, 20).expand(1, 1, 3, 16, 20) + torch.arange(3.0).view(3, 1, 1)
    tiling = Tiling(2, 3, 8, 8)
    fitted = tiling.fit(ramp)
    assert fitted.shape == (1, 1, 3, 16, 24)
    torch.testing.assert_close(fitted[:, :, 1] - fitted[:, :, 0], torch.ones(1, 1, 16, 24))
    steps = fitted[0, 0, 0, 0, 2:-2].diff()
    torch.testing.assert_close(steps, torch.full_like(steps, 1 / 19 * 20 / 24))
    same = torch.zeros(1, 1, 3, 16, 24)
    assert tiling.fit(same) is same
