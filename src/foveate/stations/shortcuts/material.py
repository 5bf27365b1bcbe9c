"""The cases that a probe asks about, as the model sees them, and where their organ, truth and frame lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.bundle.bundle import Bundle
from foveate.data.images import file_facts
from foveate.errors import InputRefused
from foveate.io.reading import read_image
from foveate.maps.regions import Region
from foveate.parallel import read_ahead
from foveate.predict import PreparedCase, read_and_prepare
from foveate.prepare.align import Field
from foveate.prepare.resample import to_field
from foveate.stations.truths import CaseFiles, Mask
from foveate.types import Box, Case, Image, Track

_WORKERS = 2
_BATCH, _VOLUME_BATCH = 32, 2


@dataclass(frozen=True)
class ProbeMaterial:
    """Prepared cases of one part.

    Attributes:
        bundle: the model with its preprocessing.
        items: N prepared cases.
        views: by view ``(N, C, *space)`` float16 in [0, 1], as ``Preprocess.prepare`` made them; rows of NaN
            where a case lacks the view.
        truth: ``(N, K)`` 1, 0, or NaN where unknown.
        files: facts of each case's files, as text by name: size, spacing, format.
    """

    bundle: Bundle
    items: tuple[PreparedCase, ...]
    views: Mapping[str, Tensor]
    truth: NDArray[np.float64]
    files: tuple[Mapping[str, str], ...]

    @property
    def patients(self) -> list[str]:
        """Patient of each case."""
        return [item.case.patient_id for item in self.items]

    def part(self, rows: Sequence[int]) -> ProbeMaterial:
        """Some of the cases."""
        return ProbeMaterial(
            self.bundle,
            tuple(self.items[row] for row in rows),
            {name: values[list(rows)] for name, values in self.views.items()},
            self.truth[list(rows)],
            tuple(self.files[row] for row in rows),
        )

    def with_view(self, view: str) -> list[int]:
        """The cases that have a view."""
        return [row for row, item in enumerate(self.items) if view in item.views]

    @torch.inference_mode()
    def logits(self, changed: Mapping[str, Tensor] | None = None) -> NDArray[np.float64]:
        """Ask the model, with views changed or as they are.

        Args:
            changed: views that replace those of the cases, each ``(N, C, *space)``.

        Returns:
            ``(N, K)``.
        """
        views = {**self.views, **(changed or {})}
        model, preprocess = self.bundle.model, self.bundle.preprocess
        device = next(model.parameters()).device
        size = _VOLUME_BATCH if preprocess.config.volumes else _BATCH
        found = [
            model(
                {
                    name: preprocess.normalize(values[start : start + size].to(device), name)
                    for name, values in views.items()
                }
            ).logits
            for start in range(0, len(self.items), size)
        ]
        answered: NDArray[np.float64] = torch.cat(found).double().cpu().numpy()
        return answered

    def probabilities(self, changed: Mapping[str, Tensor] | None = None) -> NDArray[np.float64]:
        """Softmax or sigmoids of ``logits``, ``(N, K)``."""
        found: NDArray[np.float64] = self.bundle.probabilities(torch.from_numpy(self.logits(changed))).numpy()
        return found


def load_material(
    bundle: Bundle, cases: Sequence[Case], refused: list[InputRefused], track: Track, what: str
) -> ProbeMaterial:
    """Read and prepare cases; those that cannot be used are collected, not raised.

    Raises:
        InputRefused: none of them can be used.
    """
    facts = _FactReader(cases)

    def attempt(case: Case) -> PreparedCase | InputRefused:
        try:
            return read_and_prepare(bundle, case, image_reader=facts.read, plain=False)
        except InputRefused as error:
            return error

    results = read_ahead(attempt, cases, _WORKERS)
    tried = [found for _, found in zip(track(cases, what), results, strict=True)]
    refused += [found for found in tried if isinstance(found, InputRefused)]
    items = tuple(found for found in tried if isinstance(found, PreparedCase))
    if not items:
        raise InputRefused("none of the cases to be probed can be used", where=what, fix="see the audit")
    return ProbeMaterial(
        bundle,
        items,
        {view: _stacked(bundle, items, view) for view in bundle.views},
        np.stack([item.truth for item in items]),
        tuple(facts.of(item.case) for item in items),
    )


@dataclass(frozen=True, slots=True)
class Places:
    """Where things lie in one view of N cases, in the model's field.

    Attributes:
        field: ``(N, *space)`` True where there is image, False where it was padded.
        organ: ``(N, *space)``, all False where a case has no organ mask; None if none has one.
        truth: the same for lesions, from masks or boxes.
    """

    field: Tensor
    organ: Tensor | None
    truth: Tensor | None

    def part(self, rows: Sequence[int]) -> Places:
        """Of some of the cases."""
        organ, truth = (None if own is None else own[list(rows)] for own in (self.organ, self.truth))
        return Places(self.field[list(rows)], organ, truth)


def find_places(material: ProbeMaterial, view: str) -> Places:
    """Bring organ and lesion masks into the model's field.

    Args:
        material: cases that all have the view.
        view: whose.
    """
    files = CaseFiles(material.bundle.preprocess.config.mask_grid)
    fields = [item.views[view].field for item in material.items]
    organs: list[Mask | None] = []
    truths: list[Mask | None] = []
    for item, field in zip(material.items, fields, strict=True):
        organs.append(files.mask(item.case, view, organ=True))
        truths.append(_truth(files, item.case, view, field.shape))
    return Places(
        image_fields(material, view),
        _all_in_field(organs, fields),
        _all_in_field(truths, fields),
    )


def image_fields(material: ProbeMaterial, view: str) -> Tensor:
    """``(N, *space)`` True where there is image, False where the model's field was padded."""
    fields = [item.views[view].field for item in material.items]
    return torch.stack([in_field(np.ones(field.shape, dtype=bool), field) for field in fields])


def boxes_in_field(material: ProbeMaterial, view: str, boxes: Mapping[str, Sequence[Box]]) -> Tensor:
    """Boxes, in the pixels of each case's image, as a mask over the model's field: ``(N, *space)``.

    Args:
        material: cases that all have the view.
        view: over which the boxes lie.
        boxes: by case id; cases without any have an empty mask.
    """
    masks = []
    for item in material.items:
        field, own = item.views[view].field, boxes.get(item.case.case_id, ())
        flat = [box for box in own if len(box.start) == len(field.shape)]
        mask = Region.from_boxes(flat, field.shape).mask if flat else np.zeros(field.shape, dtype=bool)
        masks.append(in_field(mask, field))
    return torch.stack(masks)


def in_field(mask: Mask, field: Field) -> Tensor:
    """A mask over the original pixels, taken the way of the image: ``(*size)``, True from one half."""
    return to_field(mask[None], field)[0] >= 0.5


def _truth(files: CaseFiles, case: Case, view: str, shape: tuple[int, ...]) -> Mask | None:
    mask = files.mask(case, view)
    flat = [box for box in files.boxes(case, view) if len(box.start) == len(shape)]
    if mask is None and flat:
        return Region.from_boxes(flat, shape).mask
    return mask


def _all_in_field(masks: Sequence[Mask | None], fields: Sequence[Field]) -> Tensor | None:
    if all(mask is None for mask in masks):
        return None
    return torch.stack(
        [
            in_field(np.zeros(field.shape, dtype=bool) if mask is None else mask, field)
            for mask, field in zip(masks, fields, strict=True)
        ]
    )


def _stacked(bundle: Bundle, items: Sequence[PreparedCase], view: str) -> Tensor:
    """``(N, C, *space)``; grey images beside colour ones get three channels."""
    tensors = [item.views[view].tensor if view in item.views else None for item in items]
    channels = max((len(tensor) for tensor in tensors if tensor is not None), default=1)
    shape = (channels, *bundle.preprocess.config.size)
    lacking = torch.full(shape, torch.nan, dtype=torch.float16)
    return torch.stack([lacking if tensor is None else tensor.expand(shape) for tensor in tensors])


class _FactReader:
    """Reads images and remembers what their files were like."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._found: dict[Path, dict[str, str]] = {}
        self._volumes: dict[Path, Image] = {}
        self._shared = {path for path in _used_twice(cases)}
        self._lock = Lock()

    def read(self, path: Path) -> Image:
        """Read an image; that of a file with several cases is kept until another such file is read."""
        with self._lock:
            if path in self._volumes:
                return self._volumes[path]
        image = read_image(path)
        with self._lock:
            geometry = image.geometry
            self._found[path] = file_facts(path, geometry.shape, image.channels, geometry.spacing)
            if path in self._shared:
                self._volumes = {path: image}
        return image

    def of(self, case: Case) -> dict[str, str]:
        """Facts of the files of a case, by view and name."""
        return {
            f"{view}: {name}": text
            for view, path in case.views.items()
            for name, text in self._found.get(path, {}).items()
        }


def _used_twice(cases: Sequence[Case]) -> set[Path]:
    seen: set[Path] = set()
    twice: set[Path] = set()
    for case in cases:
        for path in case.views.values():
            (twice if path in seen else seen).add(path)
    return twice
