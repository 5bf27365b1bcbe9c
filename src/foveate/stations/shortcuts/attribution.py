"""How much of the stored heat maps lies where nothing of the disease is: outside the organ, at the border."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.intervals import Bootstrap, Floats
from foveate.evaluate.means import DIFFERENCE, SHARE, means
from foveate.evaluate.results.probes import EvidenceShares, ViewAttribution
from foveate.maps.heatmaps import MapEntry, read_case
from foveate.maps.regions import positive_evidence
from foveate.stations.truths import CaseFiles, Mask
from foveate.types import Case

_Rows = list[tuple[float, float]]


def attribution_shares(
    folder: Path,
    entries: Sequence[MapEntry],
    cases: Mapping[str, Case],
    files: CaseFiles,
    tiles: int,
    bootstrap: Bootstrap,
) -> ViewAttribution:
    """Share of positive evidence at the border and outside the organ, beside the share of the area.

    Args:
        folder: ``heatmaps/`` of a run.
        entries: of one part and one view.
        cases: by id.
        files: reads their organ masks.
        tiles: the border is as wide as the longer side of the image divided by it.
        bootstrap: of the intervals.

    Returns:
        For border and outside of the organ: mean over cases of the share of ``max(map, 0)`` of the predicted
        class, mean share of the pixels, and their difference; or the reason why not.
    """
    found: dict[str, _Rows] = {"border": [], "outside_organ": []}
    patients: dict[str, list[str]] = {"border": [], "outside_organ": []}
    for entry in entries:
        stored, case = read_case(folder / entry.file), cases[entry.case_id]
        said = entry.predicted_class.split(";")[0]
        values = stored.values[stored.targets.index(said) if said in stored.targets else 0]
        organ = files.mask(case, entry.view, organ=True)
        places = {"border": border(values.shape, tiles)}
        if organ is not None:
            places["outside_organ"] = ~organ
        for name, mask in places.items():
            found[name].append(_shares(values, mask))
            patients[name].append(entry.patient_id)
    reasons = {"border": "no test case has a heat map", "outside_organ": "no test case has an organ mask"}
    shares = {
        name: _means(np.array(rows), patients[name], bootstrap)
        if rows
        else EvidenceShares(reason=reasons[name])
        for name, rows in found.items()
    }
    return ViewAttribution(
        explainer=entries[0].explainer if entries else None,
        border=shares["border"],
        outside_organ=shares["outside_organ"],
    )


def border(shape: tuple[int, ...], tiles: int) -> Mask:
    """The outer frame of an image, through all slices of a volume."""
    width = max(round(max(shape[-2:]) / tiles), 1)
    mask: Mask = np.ones(shape, dtype=bool)
    mask[..., width:-width, width:-width] = False
    return mask


def _shares(values: NDArray[np.float32], mask: Mask) -> tuple[float, float]:
    evidence = positive_evidence(values)
    total = evidence.sum()
    return (float(evidence[mask].sum() / total) if total > 0 else float("nan")), float(mask.mean())


def _means(rows: Floats, patients: Sequence[str], bootstrap: Bootstrap) -> EvidenceShares:
    """Means over the cases whose map is not empty."""
    evidence, area = rows[:, 0], np.where(np.isnan(rows[:, 0]), np.nan, rows[:, 1])
    columns = {"evidence": evidence, "area": area, "excess": evidence - area}
    found = means(
        columns,
        patients,
        bootstrap,
        bounds={"evidence": SHARE, "area": SHARE, "excess": DIFFERENCE},
        reasons=dict.fromkeys(columns, "every map is empty") if np.isnan(evidence).all() else None,
    )
    return EvidenceShares(evidence=found["evidence"], area=found["area"], excess=found["excess"])
