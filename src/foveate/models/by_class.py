"""Published figures of single classes: each table as its paper has it, and where it was read.

A literal table without torch. The numbers are of other data than yours and are never targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from foveate.types import Task

Figure = Literal["recall", "localized_0.5"]
_NO_CASES: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassTable:
    """One published table with a column for each class.

    Attributes:
        system: the published system it belongs to.
        figure: ours that it stands beside, as in ``comparison.json``.
        named: what the paper calls it, and what that is.
        classes: names of its columns, as data of that kind are labelled here.
        rows: shares in [0, 1] by the name of the row in the paper; None where a class has no figure.
        data: what it was measured on; starts with "published, other data".
        source: where the numbers were read.
        cases: test cases of each class, if published.
    """

    system: str
    figure: Figure
    named: str
    classes: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]
    data: str
    source: str
    cases: tuple[int, ...] = _NO_CASES

    def of(self, row: str) -> dict[str, float]:
        """Figures of one row by class, without those that are not published; nothing without such a row."""
        values = zip(self.classes, self.rows.get(row, ()), strict=False)
        return {name: value for name, value in values if value is not None}

    def of_classes(self, row: str, classes: Iterable[str]) -> dict[str, float]:
        """The same by a cohort's own names of the classes."""
        ours = {plain(name): name for name in classes}
        return {ours[plain(name)]: value for name, value in self.of(row).items()}


DADRN_DATA = "published, other data: 1091 arterial-phase CT liver slices, mean of two patient-disjoint splits"
DADRN_CLASSES = ("normal", "cyst", "FNH", "HCC", "hemangioma")
UPPER = "ResGLNet, given the lesion's region"
_SLIDES = "slides of the ICIP 2019 paper"
DADRN_RECALL = ClassTable(
    system="DADRN",
    figure="recall",
    named="class-wise accuracy, which is recall",
    classes=DADRN_CLASSES,
    rows={
        "DRN50": (0.9788, 0.9327, 0.7596, 0.8427, 0.5278),
        "SEResnet50": (0.9334, 0.9327, 0.7788, 0.9116, 0.5917),
        "RAResnet50": (0.9675, 0.9182, 0.7596, 0.8227, 0.5556),
        "SADRN50-A": (0.9577, 0.9096, 0.8132, 0.8816, 0.6625),
        "SADRN50-B": (0.9334, 0.8761, 0.7775, 0.8220, 0.5458),
        "CADRN50-A": (0.9675, 0.9551, 0.8530, 0.9016, 0.6181),
        "CADRN50-B": (0.9588, 0.9413, 0.8324, 0.8322, 0.5847),
        "DADRN50-A": (0.9690, 0.9451, 0.7802, 0.8024, 0.7069),
        "DADRN50-B": (0.9804, 0.9551, 0.8159, 0.9116, 0.6819),
        UPPER: (None, 0.9615, 0.8405, 0.8846, 0.8462),
    },
    data=DADRN_DATA,
    source=_SLIDES,
)
DADRN_LOCALIZATION = ClassTable(
    system="DADRN",
    figure="localized_0.5",
    named="localization accuracy, whose rule of correctness is not stated",
    classes=DADRN_CLASSES[1:],
    rows={
        "DRN50": (0.5110, 0.6676, 0.5941, 0.3798),
        "SEResnet50": (0.1898, 0.0742, 0.7327, 0.2532),
        "RAResnet50": (0.2628, 0.0742, 0.6931, 0.3292),
        "DADRN50-B": (0.5986, 0.6676, 0.7327, 0.5064),
    },
    data=DADRN_DATA,
    source=_SLIDES,
)

MULTI_CELL = "published, other data: SIPaKMeD, 101 multi-cell test images"
CROPPED = "published, other data: SIPaKMeD, 409 test crops of single cells"
MASKED = "published, other data: SIPaKMeD, 101 multi-cell test images, Otsu-masked"
HERLEV = "published, other data: Herlev, trained on SIPaKMeD crops"
_SIPAKMED = ("Dyskeratotic", "Koilocytotic", "Metaplastic", "Parabasal", "Superficial-Intermediate")
_HERLEV = (
    "carcinoma_in_situ",
    "light_dysplastic",
    "moderate_dysplastic",
    "normal_columnar",
    "normal_intermediate",
    "normal_superficiel",
    "severe_dysplastic",
)


def _cervical(
    data: str,
    classes: tuple[str, ...],
    cases: tuple[int, ...],
    rows: Mapping[str, tuple[float | None, ...]],
) -> ClassTable:
    source = "Results.md of the authors' repository, columns Recall and Support"
    return ClassTable("cervical", "recall", "recall", classes, rows, data, source, cases)


CERVICAL_RECALL = (
    _cervical(
        MULTI_CELL,
        _SIPAKMED,
        (23, 25, 28, 12, 13),
        {
            "ResNet50": (0.869, 0.64, 0.928, 1.0, 0.846),
            "RAN": (0.869, 0.72, 0.893, 0.917, 0.846),
            "DenseNet": (0.957, 0.76, 0.929, 0.917, 0.923),
            "CA-DenseNet": (1.0, 0.8, 0.929, 1.0, 0.923),
        },
    ),
    _cervical(
        CROPPED,
        _SIPAKMED,
        (82, 83, 80, 80, 84),
        {
            "ResNet50": (0.951, 0.928, 0.95, 0.988, 0.988),
            "DenseNet": (0.963, 0.879, 0.938, 0.988, 1.0),
            "CA-DenseNet": (0.976, 0.939, 0.95, 0.9875, 0.952),
        },
    ),
    _cervical(
        MASKED,
        _SIPAKMED,
        (23, 25, 28, 12, 13),
        {
            "ResNet50": (0.957, 0.6, 0.786, 0.833, 0.923),
            "DenseNet": (0.913, 0.84, 0.893, 0.75, 1.0),
            "CA-DenseNet": (0.913, 0.88, 0.857, 0.833, 0.615),
        },
    ),
    _cervical(
        HERLEV,
        _HERLEV,
        (120, 146, 117, 79, 56, 60, 158),
        {"ResNet50": (0.7, 0.685, 0.402, 0.481, 0.875, 0.783, 0.335)},
    ),
)

CLASS_TABLES: tuple[ClassTable, ...] = (DADRN_RECALL, DADRN_LOCALIZATION, *CERVICAL_RECALL)
"""No published table of CAN or LCA-DB by class could be read; only their averages are known (their cards)."""


def class_tables(classes: Iterable[str], task: Task) -> list[ClassTable]:
    """The published tables of cohorts with these classes, one class a case.

    A table fits if the cohort has its classes and no other: telling apart more or fewer is another task.
    Names are the same if they differ in nothing but case, spaces, hyphens and underscores. In a
    localization table a class may be absent, since what is normal has no place. No table here is of cohorts
    with several findings a case; ``evaluate.localization.published`` has one of boxes.
    """
    if task != "multiclass":
        return []
    ours = {plain(name) for name in classes}
    whole = {"DADRN": {plain(name) for name in DADRN_CLASSES}}
    return [
        table for table in CLASS_TABLES if whole.get(table.system, set(map(plain, table.classes))) == ours
    ]


def plain(name: str) -> str:
    """A class name without what writing it differs in: case, spaces, hyphens and underscores."""
    return "".join(letter for letter in name.casefold() if letter not in " -_")
