"""Whether maps point at what is marked in a case, in the model's own field of view.

``foveate localize`` scores maps in the pixels of the original images. Here many methods are compared with one
another, and all of them see the image as the model does: the truth is taken the way of the image instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from foveate.bundle.bundle import Bundle
from foveate.evaluate.localization import Cells, VolumeTruth, score_case
from foveate.evaluate.localization.grids import whole
from foveate.maps.regions import Region
from foveate.predict import PreparedCase
from foveate.stations.shortcuts.material import in_field
from foveate.stations.truths import CaseFiles, Mask

_MODES = {2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, slots=True)
class Mark:
    """What is marked of one class in one view of a case.

    Attributes:
        view: over which it lies.
        target: the class.
        truth: in the model's field of view.
        organ: the organ that the study crops to, or None.
        case_id, patient_id: of the case.
    """

    view: str
    target: int
    truth: Region
    organ: Mask | None
    case_id: str
    patient_id: str


class Pointing:
    """Finds what is marked in the cases of a cohort.

    Args:
        bundle: whose classes and preprocessing count.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._files = CaseFiles(bundle.preprocess.config.mask_grid)

    def marks(self, item: PreparedCase) -> Iterator[Mark]:
        """Every true class that is marked in a view; one too small for the model's field is left out."""
        true = [index for index, value in enumerate(item.truth) if value == 1]
        for view, prepared in item.views.items():
            shape = prepared.field.shape
            mask = self._files.mask(item.case, view)
            crops = self._bundle.preprocess.settings(view).organ_crop
            organ = self._files.mask(item.case, view, organ=True) if crops else None
            for target in true:
                name = self._bundle.classes[target]
                boxes = [box for box in self._files.boxes(item.case, view) if box.label in (name, "")]
                marked = mask if mask is not None and len(true) == 1 else None  # it does not say of which
                if marked is None and boxes:
                    marked = Region.from_boxes(boxes, shape).mask
                if marked is None:
                    continue
                seen = in_field(marked, prepared.field).numpy()
                if seen.any():
                    inside = None if organ is None else in_field(organ, prepared.field).numpy()
                    yield Mark(
                        view, target, Region.from_mask(seen), inside, item.case.case_id, item.case.patient_id
                    )

    def score(self, values: Tensor, mark: Mark) -> dict[str, float]:
        """Pointing game and energy inside of one map; of volumes also the pointing game in the plane.

        Its maximum is sought among its own cells.

        Args:
            values: ``(*space)`` raw and signed, of any resolution.
            mark: what is marked.
        """
        size = mark.truth.mask.shape
        cells = Cells(values.float().cpu().numpy(), whole(size))
        if tuple(values.shape) != size:
            values = nn.functional.interpolate(
                values[None, None], size, mode=_MODES[len(size)], align_corners=False
            )[0, 0]
        nothing = Region(np.zeros(size, dtype=bool), ())  # no box is asked for
        found = score_case(
            values.float().cpu().numpy(),
            nothing,
            mark.truth,
            case_id=mark.case_id,
            patient_id=mark.patient_id,
            label=self._bundle.classes[mark.target],
            organ=mark.organ,
            cells=cells,
            volume=self._in_volume(mark, cells),
        )
        names = ("pointing_game", "energy_inside", *(("plane_pointing",) if len(size) == 3 else ()))
        return {name: getattr(found, name) for name in names}

    @staticmethod
    def _in_volume(mark: Mark, cells: Cells) -> VolumeTruth | None:
        if mark.truth.mask.ndim == 2:
            return None
        return VolumeTruth.of(mark.truth.mask, cells.values.shape, cells.field, organ=mark.organ)
