"""The maps of an archive: raw, signed, of all classes, on the grid that the network has.

In original pixels the maps of 100,000 pictures are a terabyte; on their own grid, which loses nothing, they
are some hundred megabytes. ``part-00000.npz`` holds those of one shard:

* ``case_id`` ``(N,)``;
* ``maps:<view>`` ``(N, K, *grid)`` and, where the model has such, ``attention:<view>`` ``(N, *grid)``; NaN
  where the case lacks the view;
* ``field:<view>`` ``(N, 7, axes)``: where the model's field lies in the original image, as ``FieldOfView``
  has it: shape, exchanged axes, mirrored ones, start, stop, before, after; 0 where the case lacks the view.
  Archives of 0.1.0 have ``shape:<view>`` ``(N, axes)`` in its place.

``maps.json`` says of which model they are. ``read_maps`` brings them to original pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate.deploy.engines.engine import Answer
from foveate.deploy.engines.facts import Facts
from foveate.errors import UsageError
from foveate.files import replacing, write_atomic
from foveate.prepare.geometry import FieldOfView
from foveate.prepare.orientation import Turn
from foveate.types import Array, Heatmap

FACTS = "maps.json"
Fields = Mapping[str, FieldOfView]


def begin_maps(folder: Path, facts: Facts) -> None:
    """Say in a folder of which model its maps are.

    Raises:
        UsageError: the model has no maps, they cannot be brought back from their grid alone, or there are
            others.
    """
    if any(folder.glob("part-*.npz")):
        raise UsageError("there are maps already", where=str(folder), fix="name another --maps, or remove it")
    if not facts.explainer:
        raise UsageError(f"{facts.model} has no maps of its classes", fix="leave out --maps")
    if any(facts.preprocess.for_view(view).organ_crop for view in facts.views):
        raise UsageError(
            "this model sees crops to the organ: where its maps lie is not told by the image's size alone",
            where="--maps",
            fix="leave out --maps; `foveate explain` makes maps of a run's cases",
        )
    if facts.preprocess.align != "none":
        raise UsageError(
            "this model sees views on the grid of another one: where its maps lie takes both files to tell",
            where="--maps",
            fix="leave out --maps; `foveate explain` makes maps of a run's cases",
        )
    write_atomic(folder / FACTS, facts.to_text())


def write_maps(path: Path, facts: Facts, answers: Sequence[Answer], fields: Sequence[Fields]) -> None:
    """Write the maps of one shard.

    Args:
        path: of the ``.npz``.
        facts: of the model.
        answers: N, with their maps.
        fields: by view, where it lies in the original image of each case.
    """
    content: dict[str, Array] = {
        "case_id": np.array([each.prediction.case_id for each in answers], dtype=str)
    }
    for view in facts.views:
        maps = [each.maps.get(view) for each in answers]
        attention = [each.attention.get(view) for each in answers]
        if any(each is not None for each in maps):
            content[f"maps:{view}"] = _stacked(maps)
        if any(each is not None for each in attention):
            content[f"attention:{view}"] = _stacked(attention)
        missing = np.zeros((7, len(facts.preprocess.size)))
        content[f"field:{view}"] = np.stack(
            [_numbers(each[view]) if view in each else missing for each in fields]
        )
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **content)


def read_maps(folder: Path, case_ids: Sequence[str] = ()) -> Iterator[Heatmap]:
    """Read the maps of an archive, in the pixels of the original images.

    Args:
        folder: that ``--maps`` named.
        case_ids: whose; none means all.

    Yields:
        One heat map for each case, view that it has, and class.
    """
    facts = Facts.from_text((folder / FACTS).read_text(encoding="utf-8"), str(folder / FACTS))
    wanted = set(case_ids)
    for path in sorted(folder.glob("part-*.npz")):
        with np.load(path, allow_pickle=False) as content:
            names = content["case_id"].tolist()
            rows = [row for row, name in enumerate(names) if not wanted or name in wanted]
            for view in facts.views if rows else ():
                if f"maps:{view}" in content:
                    older = f"field:{view}" not in content
                    values, places = (
                        content[f"maps:{view}"],
                        content[f"{'shape' if older else 'field'}:{view}"],
                    )
                    for row in rows:
                        if places[row].any():
                            field = _field(facts, view, places[row])
                            yield from _heatmaps(facts, view, names[row], values[row], field)


def _heatmaps(
    facts: Facts, view: str, case_id: str, values: NDArray[np.float32], field: FieldOfView
) -> Iterator[Heatmap]:
    for name, each in zip(facts.classes, values, strict=True):
        yield Heatmap(field.back(each), name, facts.explainer, view, case_id)


def _numbers(field: FieldOfView) -> NDArray[np.float64]:
    """``(7, axes)``, what tells one image's field from another's."""
    turn = field.turn
    rows = (field.shape, turn.axes, turn.flips, field.start, field.stop, field.before, field.after)
    return np.array(rows, dtype=np.float64)


def _field(facts: Facts, view: str, numbers: NDArray[np.float64]) -> FieldOfView:
    """The field that ``_numbers`` told of, or of an archive of 0.1.0 that of a shape."""
    config = facts.preprocess.for_view(view)
    if numbers.ndim == 1:
        return FieldOfView.of([int(side) for side in numbers], config)
    shape, axes, flips, start, stop = (tuple(int(each) for each in row) for row in numbers[:5])
    fixed = config.spacing is not None
    before, after = (tuple(row.tolist() if fixed else map(int, row)) for row in numbers[5:])
    turn = Turn(axes, tuple(map(bool, flips)))
    return FieldOfView(
        shape, turn, start, stop, before, after, tuple(config.size), config.resize, fixed=fixed
    )


def _stacked(maps: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32]:
    """All of one shape; NaN for those that are missing."""
    shape = next(each.shape for each in maps if each is not None)
    return np.stack([np.full(shape, np.nan, np.float32) if each is None else each for each in maps])
