"""Liver CT with masks of liver and tumour: LiTS and the liver task of the Medical Segmentation Decathlon.

Layouts as published: LiTS ``volume-N.nii`` and ``segmentation-N.nii`` (in ROOT or in folders below it); MSD
``Task03_Liver/imagesTr/liver_N.nii.gz`` and ``labelsTr/liver_N.nii.gz``. In both, 1 is liver and 2 tumour.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from foveate.data.sources.source import DataSource, Listing, Row, count_labels, relative
from foveate.errors import InputRefused
from foveate.io.nifti import write_nifti
from foveate.io.reading import read_image
from foveate.study.settings import Settings
from foveate.types import Image, Track

VOLUMES = 131
_LAYOUT = (
    "ROOT holds volume-N.nii beside segmentation-N.nii (LiTS), or imagesTr/ and labelsTr/ (MSD Task03_Liver)"
)
_LITS, _MSD = re.compile(r"volume-(\d+)\.nii(\.gz)?"), re.compile(r"liver_(\d+)\.nii(\.gz)?")


class LiverCtOptions(Settings):
    """Choices of the adapter.

    Attributes:
        every: list every n-th slice that shows liver.
        liver_pixels: smallest area of liver in a listed slice.
        tumour_pixels: smallest area of tumour for the label ``lesion``; slices with less, but some, are left
            out, so that ``normal`` means none at all.
    """

    every: Annotated[int, Field(ge=1)] = 5
    liver_pixels: Annotated[int, Field(ge=1)] = 1000
    tumour_pixels: Annotated[int, Field(ge=1)] = 50


@dataclass(frozen=True, slots=True)
class _ScanFiles:
    number: int
    volume: Path
    segmentation: Path


def read_liver_ct(root: Path, home: Path, options: LiverCtOptions, track: Track) -> Listing:
    """List slices as ``lesion`` or ``normal``, with liver masks, and tumour masks written by the adapter."""
    scans = sorted(_scans(root), key=lambda scan: scan.number)
    if not scans:
        raise InputRefused(
            "no volume with its segmentation was found", where=str(root), fix=_LAYOUT, code="layout-unknown"
        )
    rows: list[Row] = []
    problems: list[str] = []
    for scan in track(scans, "Listing liver CT"):
        try:
            rows += _slices(scan, home, options)
        except InputRefused as error:
            problems.append(f"volume {scan.number}: {error.what}")
    volumes = len({row["patient_id"] for row in rows})
    return Listing(
        rows=rows,
        expected={"volumes": VOLUMES},
        found=count_labels(rows) | {"volumes": volumes},
        init="--label label # then preprocess: {window: [-60, 180], neighbours: 1, organ_crop: true}",
        problems=problems,
        notes=["labels say whether a slice shows a tumour; these sets do not say of which kind"],
    )


def _scans(root: Path) -> Iterator[_ScanFiles]:
    for path in sorted(root.glob("**/*.nii*")):
        if found := _LITS.fullmatch(path.name):
            truth = path.with_name(path.name.replace("volume", "segmentation"))
            others = [truth, *root.glob(f"**/{truth.name}"), *root.glob(f"**/{truth.name}.gz")]
        elif (found := _MSD.fullmatch(path.name)) and path.parent.name == "imagesTr":
            others = [path.parent.parent / "labelsTr" / path.name]
        else:
            continue
        if truths := [other for other in others if other.is_file()]:
            yield _ScanFiles(int(found[1]), path, truths[0])


def _slices(scan: _ScanFiles, home: Path, options: LiverCtOptions) -> list[Row]:
    truth = read_image(scan.segmentation)
    classes = truth.pixels[0]
    liver, tumour = ((classes >= value).sum(axis=(1, 2)) for value in (1, 2))
    mask = relative(_write_tumour(scan, truth, home), home) if tumour.any() else ""
    rows: list[Row] = []
    for index in np.flatnonzero(liver >= options.liver_pixels)[:: options.every]:
        if 0 < tumour[index] < options.tumour_pixels:
            continue
        rows.append(
            {
                "case_id": f"liver{scan.number:03d}-{index:03d}",
                "patient_id": f"liver{scan.number:03d}",
                "label": "lesion" if tumour[index] else "normal",
                "image": relative(scan.volume, home),
                "slice": str(index),
                "mask": mask if tumour[index] else "",
                "organ_mask": relative(scan.segmentation, home),
            }
        )
    return rows


def _write_tumour(scan: _ScanFiles, truth: Image, home: Path) -> Path:
    """The tumour alone: a mask is what is not zero, and in the segmentation that is the liver."""
    path = home / "masks" / f"tumour-{scan.number:03d}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, (truth.pixels[0] >= 2).astype(np.uint8), truth.geometry)
    return path


LIVER_CT = DataSource(
    name="liver-ct",
    title="LiTS and MSD Task03: 131 contrast-enhanced abdominal CTs with liver and tumour masks",
    where="the pages of the LiTS challenge or of the Medical Segmentation Decathlon",
    licence="LiTS: see its page; MSD: CC BY-SA 4.0",
    citation="Bilic et al., The liver tumor segmentation benchmark (LiTS), Medical Image Analysis 2023; "
    "Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 2022",
    layout=_LAYOUT,
    traps=(
        "MSD Task03 and LiTS are the same patients: never use one to test a model trained on the other.",
        "Volumes of LiTS differ in orientation; masks follow their volumes.",
        "There are no lesion types: the labels tell tumour from none, per slice.",
        "Some volumes come from one patient at several times; which, is not published.",
    ),
    read=read_liver_ct,
    options=LiverCtOptions,
)
