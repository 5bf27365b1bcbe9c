"""Does the heat map point at the lesion? Scores of maps, what they must beat, and could reach.

Conventions, the same for a heat map, its controls and its ceiling:

* Evidence is the positive part of the map, and nothing outside the organ mask where there is one.
* A map without evidence is a miss in every measure: 0, never left out. The denominator is every pair of case
  and class that has a truth, misclassified cases included; these are also counted and told apart.
* A map is highest at the centre of the hottest cell of its own grid, not on the plateau that enlarging makes
  of an outer one. Volumes are also scored by cell, plane and depth, since their maps have few slices.
* Every threshold is chosen on validation cases. Where the best one of the scored cases themselves is told
  (``…_at_best``), its name says so.

``cases`` scores one map (with ``peaks`` and ``volumes``), ``controls`` draws what it has to beat,
``ceiling`` what any map of its grid could reach, ``summary`` averages with patient-clustered intervals,
``published`` holds figures to stand beside.
"""

from foveate.evaluate.localization.cases import IOBB_THRESHOLDS, IOU_THRESHOLDS, CaseScore, score_case
from foveate.evaluate.localization.ceiling import best_of, ceiling_cells
from foveate.evaluate.localization.controls import control_maps
from foveate.evaluate.localization.peaks import Cells
from foveate.evaluate.localization.summary import (
    BOX_IOUS,
    BoxThresholds,
    choose_box_thresholds,
    summarise_localization,
)
from foveate.evaluate.localization.volumes import VolumeTruth

__all__ = [
    "BOX_IOUS",
    "IOBB_THRESHOLDS",
    "IOU_THRESHOLDS",
    "BoxThresholds",
    "CaseScore",
    "Cells",
    "VolumeTruth",
    "best_of",
    "ceiling_cells",
    "choose_box_thresholds",
    "control_maps",
    "score_case",
    "summarise_localization",
]
