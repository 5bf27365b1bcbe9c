"""``foveate predict MODEL IMAGE…``: single images through any engine, without torch where it needs none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foveate.types import Heatmap


def predict_single(
    target: Path, images: Sequence[Path], views: Sequence[str], *, engine: str, maps: Path | None
) -> None:
    """Classify images, or one case of several views, and print what is found.

    Args:
        target: a run, a bundle, or an exported file.
        images: one file each; or
        views: each ``name=path`` of one case.
        engine: that runs it.
        maps: folder for the map of each image's most probable class; None leaves them out.
    """
    from foveate.engines import open_engine
    from foveate.engines.files import image_cases, views_case
    from foveate.terminal.predictions import show_predictions

    opened = open_engine(target, engine)
    cases = [views_case(opened.facts, views)] if views else image_cases(opened.facts, images)
    for case in cases:
        ready = opened.read(case)
        (answer,) = opened.predict([ready])
        show_predictions(opened.facts.classes, [answer.prediction])
        if maps is not None:
            _write(maps, opened.heatmaps(ready, answer))


def _write(folder: Path, heatmaps: Sequence[Heatmap]) -> None:
    """One ``CASE.VIEW.CLASS.npy`` each: float32, raw and signed, in the pixels of the original image."""
    import numpy as np

    from foveate.errors import UsageError
    from foveate.files import replacing
    from foveate.terminal import say

    if not heatmaps:
        raise UsageError("this model has no maps of its classes", fix="leave out --maps")
    for item in heatmaps:
        name = "_".join(f"{item.case_id}.{item.view}.{item.target}".replace("/", "_").split())
        path = folder / f"{name}.npy"
        with replacing(path) as temporary:
            np.save(temporary, item.values)
        say(f"map: {path}")
