"""Published figures of single classes that may stand beside a cohort's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from foveate.evaluate.localization.published import CHESTXRAY14
from foveate.evaluate.results.comparison import PublishedClasses
from foveate.models.by_class import class_tables
from foveate.types import Task

_CHEST = (
    "published, other data: 984 boxes of ChestX-ray14; any box of the rule two_thresholds counts, not the "
    "largest from half of the maximum on"
)


def published_by_class(classes: Sequence[str], task: Task) -> tuple[PublishedClasses, ...]:
    """Published rows of cohorts with these classes; none where no published table is of such a cohort.

    One class a case: the classes of the table and no other. Several findings a case: every finding of the
    table is one of the cohort's, since each finding is a task of its own.
    """
    return (*_of_systems(classes, task), *_of_boxes(classes, task))


def _of_systems(classes: Sequence[str], task: Task) -> Iterator[PublishedClasses]:
    for table in class_tables(classes, task):
        for name in table.rows:
            yield PublishedClasses(
                name=name,
                system=table.system,
                figure=table.figure,
                values=dict(table.of_classes(name, classes)),
                named=table.named,
                data=table.data,
                source=table.source,
            )


def _of_boxes(classes: Sequence[str], task: Task) -> Iterator[PublishedClasses]:
    if task == "multilabel" and set(CHESTXRAY14) <= set(classes):
        yield PublishedClasses(
            name="ChestX-ray8",
            system="ChestX-ray8",
            figure="localized_0.3",
            values={name: row["localization_accuracy 0.3"] for name, row in CHESTXRAY14.items()},
            named="localization accuracy at T(IoU) = 0.3",
            data=_CHEST,
            source="Wang et al. 2017, as later papers quote it",
        )
