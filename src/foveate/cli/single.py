"""``foveate predict MODEL IMAGE…``: single images through any engine, without torch where it needs none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.errors import InputRefused, Partial, UsageError

if TYPE_CHECKING:
    from foveate.types import Heatmap


def predict_single(
    target: Path,
    images: Sequence[Path],
    views: Sequence[str],
    *,
    engine: str,
    maps: Path | None,
    out: Path | None,
) -> None:
    """Classify images, or one case of several views, print what is found and write it.

    Args:
        target: a run, a bundle, or an exported file.
        images: one file each; or
        views: each ``name=path`` of one case.
        engine: that runs it.
        maps: folder for the map of each image's most probable class; None leaves them out.
        out: CSV for the answers, as ``foveate.evaluate.table`` describes it; None leaves it out.

    Raises:
        InputRefused: no file could be used.
        Partial: some could not; the others are answered.
    """
    if out is not None and out.suffix != ".csv":
        raise UsageError(f"'{out}' is no CSV", where="--out", fix="call it OUT.csv")
    from foveate.engines import open_engine
    from foveate.engines.files import image_cases, views_case
    from foveate.engines.single import answer_files
    from foveate.evaluate.table import write_predictions
    from foveate.terminal import say
    from foveate.terminal.predictions import show_answer, show_known_cautions

    opened = open_engine(target, engine)
    facts, refused = opened.facts, list[InputRefused]()
    cases = [views_case(facts, views)] if views else image_cases(facts, images)
    found = []
    for answer in answer_files(opened, cases, refused, maps=maps is not None):
        show_answer(facts, opened.operating_points, answer)
        if maps is not None:
            _write(maps, answer.heatmaps)
        found.append(answer.prediction)
    show_known_cautions(target)
    if out is not None and found:
        write_predictions(out, facts.task, facts.classes, found, thresholds=facts.thresholds)
        say(f"{len(found)} predictions: {out}")
    _complain(refused, len(found))


def _complain(refused: Sequence[InputRefused], answered: int) -> None:
    """End with the files that could not be used, if there are any."""
    if len(refused) == 1 and not answered:
        raise refused[0]
    if refused:
        listing = "\n".join(f"  - [{error.code}] {error.where}: {error.what}" for error in refused)
        if not answered:
            raise InputRefused(f"none of these files can be used:\n{listing}", fix=refused[0].fix)
        fix = "correct these files, and predict them alone"
        raise Partial(f"predicted {answered} of {answered + len(refused)} images:\n{listing}", fix=fix)


def _write(folder: Path, heatmaps: Sequence[Heatmap]) -> None:
    """One ``CASE.VIEW.CLASS.npy`` each: float32, raw and signed, in the pixels of the original image."""
    import numpy as np

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
