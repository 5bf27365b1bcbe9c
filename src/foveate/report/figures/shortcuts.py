"""Chart of a search for shortcuts: the tiles of one view, and which of them move the answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from foveate.evaluate.results.probes import TileGrid
from foveate.report.figures.drawing import BLUE, LINE, MUTED, VERMILLION, new_figure, styled

_LONGER_SIDE = 3.4  # inches


@styled
def tiles_figure(tiles: TileGrid, found: Sequence[Sequence[float]]) -> Figure:
    """How much each tile moves the answers when it is exchanged, as the depth of its blue.

    Args:
        tiles: of a view; a dot marks tiles in which nothing of the disease should be.
        found: boxes (top, left, bottom, right as shares) that tell the class; drawn in vermillion.
    """
    moved = np.clip(np.asarray(tiles.moved, dtype=float), 0, None)
    rows, columns = np.asarray(tiles.rows), np.asarray(tiles.columns)
    height, width = rows[-1], columns[-1]
    inch = _LONGER_SIDE / max(height, width)
    figure, axes = new_figure(width * inch, height * inch)
    for (row, column), value in np.ndenumerate(moved / max(moved.max(), 1e-12)):
        (left, right), (top, bottom) = columns[column : column + 2], rows[row : row + 2]
        corner, across, down = (float(left), float(top)), float(right - left), float(bottom - top)
        axes.add_patch(Rectangle(corner, across, down, facecolor=BLUE, alpha=float(value), edgecolor="none"))
        axes.add_patch(Rectangle(corner, across, down, facecolor="none", edgecolor=LINE, linewidth=0.6))
        if tiles.suspect[row][column]:
            axes.plot(corner[0] + across / 2, corner[1] + down / 2, ".", color=MUTED, markersize=3)
    for top, left, bottom, right in found:
        corner, across, down = (left * width, top * height), (right - left) * width, (bottom - top) * height
        axes.add_patch(
            Rectangle(corner, across, down, fill=False, edgecolor=VERMILLION, linewidth=2.4, clip_on=False)
        )
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=(), yticks=(), aspect="equal")
    axes.grid(False)
    return figure
