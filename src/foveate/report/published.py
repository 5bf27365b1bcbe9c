"""Published figures of single classes that may stand beside a cohort's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from foveate.evaluate.localization.published import CHESTXRAY14
from foveate.models.by_class import class_tables
from foveate.types import Task

_CHEST = (
    "published, other data: 984 boxes of ChestX-ray14; any box of the rule two_thresholds counts, not the "
    "largest from half of the maximum on"
)


def published_by_class(classes: Sequence[str], task: Task) -> list[dict[str, Any]]:
    """Published rows of cohorts with these classes; none where no published table is of such a cohort.

    One class a case: the classes of the table and no other. Several findings a case: every finding of the
    table is one of the cohort's, since each finding is a task of its own.

    Returns:
        Plain JSON, a row each: its ``name``, the ``figure`` of ours that it stands beside, by class the
        ``values``, what the paper calls them (``named``), ``data`` and ``source``.
    """
    return [*_of_systems(classes, task), *_of_boxes(classes, task)]


def _of_systems(classes: Sequence[str], task: Task) -> Iterator[dict[str, Any]]:
    for table in class_tables(classes, task):
        for name in table.rows:
            values = table.of_classes(name, classes)
            yield {
                "name": name,
                "system": table.system,
                "figure": table.figure,
                "values": values,
                "named": table.named,
                "data": table.data,
                "source": table.source,
            }


def _of_boxes(classes: Sequence[str], task: Task) -> Iterator[dict[str, Any]]:
    if task == "multilabel" and set(CHESTXRAY14) <= set(classes):
        yield {
            "name": "ChestX-ray8",
            "system": "ChestX-ray8",
            "figure": "localized_0.3",
            "values": {name: row["localization_accuracy 0.3"] for name, row in CHESTXRAY14.items()},
            "named": "localization accuracy at T(IoU) = 0.3",
            "data": _CHEST,
            "source": "Wang et al. 2017, as later papers quote it",
        }
