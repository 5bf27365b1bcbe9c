"""Published localization figures, to stand beside a run's own, never mixed into them."""

from __future__ import annotations

from collections.abc import Iterable

from foveate.evaluate.results.localization import PublishedLocalization

_FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
)
_IOU_30 = (0.24, 0.46, 0.30, 0.28, 0.15, 0.04, 0.17, 0.13)
_IOBB_50 = (0.19, 0.95, 0.42, 0.65, 0.31, 0.00, 0.48, 0.27)

CHESTXRAY14: dict[str, dict[str, float]] = {
    name: {"localization_accuracy 0.3": iou, "iobb_accuracy 0.5": iobb}
    for name, iou, iobb in zip(_FINDINGS, _IOU_30, _IOBB_50, strict=True)
}
"""Share of boxes found at T(IoU) = 0.3 and T(IoBB) = 0.5 on the 984 boxes of ChestX-ray14 (Wang et al. 2017,
CVPR, section 4.3), as later papers quote them; boxes of both thresholds of the rule ``two_thresholds``."""
CHESTXRAY14["Cardiomegaly"]["iobb_accuracy 0.1"] = 1.0
CHESTXRAY14["Nodule"]["iobb_accuracy 0.1"] = 0.15


def published_beside(labels: Iterable[str]) -> PublishedLocalization | None:
    """Published figures for these labels; None where none of them has any."""
    rows = {name: dict(CHESTXRAY14[name]) for name in labels if name in CHESTXRAY14}
    if not rows:
        return None
    return PublishedLocalization(
        source="ChestX-ray14, 984 boxes on 880 test images (Wang et al. 2017)",
        rule="two_thresholds",
        rows=rows,
    )
