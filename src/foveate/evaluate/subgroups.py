"""For whom the figures hold: the same figures in each group of cases, and the gap between groups.

* A group is told with its figures from a minimum number of patients on; a smaller one is only counted.
* The gap of a figure is that of the group with the largest less that of the group with the smallest, among
  the groups that are told, averaged over the classes that each of them has at least 5 patients with and 5
  without: averages over different classes do not compare. Its interval is that of the difference between
  these two groups, in replicates of patients over all groups together, and may reach 0.
* The largest of several differences is large by chance alone. ``p`` is therefore the share of replicates in
  which groups that do not differ show as large a gap: each group's deviation from its own value, largest
  less smallest (bootstrap of a centred statistic: Davison and Hinkley 1997, section 4.4). ``p_holm`` holds
  for all gaps of a file together (Holm 1979).

Groups differ in more than the column that names them; a gap is a question, not an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np

from foveate.evaluate.classwise import Classwise
from foveate.evaluate.comparing.hypothesis import holm
from foveate.evaluate.discrimination import Bools, Discrimination
from foveate.evaluate.grouping import Grouping, group, telling_columns
from foveate.evaluate.intervals import Bootstrap, Floats, Value
from foveate.evaluate.measured import Measured, affordable
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.results.metrics import SubgroupColumn, SubgroupFigures, SubgroupGap
from foveate.evaluate.table import PredictionTable
from foveate.types import Task, Track, quiet

VIEWS = "views given"  # the column that is made of the views that cases were classified from
PER_CLASS = ("auroc", "recall")
_SHARED = 5  # patients with and without a class that each group needs for the class to be in a gap
_ENOUGH = f"{_SHARED} patients with it and {_SHARED} without in every group"
_ROUNDING = 1e-12


def main_figures(task: Task) -> dict[str, str]:
    """The figures that are told of parts of a cohort, and the per-class metric that each averages."""
    figures = {"accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy", "auroc_macro": "auroc"}
    return figures | ({"recall_macro": "recall"} if task == "multilabel" else {})


def subgroups(
    part: PredictionTable,
    options: EvaluateOptions,
    bootstrap: Bootstrap,
    thresholds: Mapping[str, float] | None = None,
    track: Track = quiet,
) -> dict[str, SubgroupColumn]:
    """The block ``subgroups`` of ``metrics.json``.

    Args:
        part: the cases to evaluate, each with some known truth.
        options: the metadata, which of its columns count, and the patients that a group needs.
        bootstrap: of the intervals.
        thresholds: of the findings (multi-label).
        track: shows progress.

    Returns:
        By column. Empty where the manifest has no telling column and all cases have the same views.
    """
    decided = part.decisions(thresholds)
    found = {
        name: _column(_Groups(part, decided, grouping, options.min_group), bootstrap, track)
        for name, grouping in _groupings(part, options).items()
    }
    gaps = [gap for column in found.values() for gap in column.gaps.values()]
    corrected = iter(holm(np.array([np.nan if gap.p is None else gap.p for gap in gaps])).tolist())
    return {
        name: column.model_copy(
            update={"gaps": {key: _corrected(gap, next(corrected)) for key, gap in column.gaps.items()}}
        )
        for name, column in found.items()
    }


class _Groups:
    """The groups of one column that are large enough to be told, as one function of case weights.

    Args:
        table: N cases over K classes.
        decided: ``(N, K)`` what the model decides.
        grouping: of the cases.
        least: patients that a group needs.
    """

    def __init__(self, table: PredictionTable, decided: Bools, grouping: Grouping, least: int) -> None:
        self.table, self.grouping, self.least = table, grouping, least
        self.tables = {
            name: table.only(grouping.members == place) for place, name in enumerate(grouping.names)
        }
        self.parts = {
            name: (rows := np.flatnonzero(grouping.members == place), Discrimination(own, decided[rows]))
            for place, (name, own) in enumerate(self.tables.items())
            if patients_of(own) >= least
        }

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """Each per-class metric ``(B, G, K)`` of the G groups that are told, for ``(B, N)`` case weights."""
        found = [discrimination(weights[:, rows]) for rows, discrimination in self.parts.values()]
        needed = {*main_figures(self.table.task).values(), *PER_CLASS, "specificity"}
        return {name: np.stack([values[name] for values in found], axis=1) for name in needed}

    def shared_classes(self) -> Bools:
        """The classes ``(K,)`` that every group that is told has enough patients with and without."""
        least = np.full(len(self.table.classes), np.iinfo(int).max)
        for name in self.parts:
            own = self.tables[name]
            patients = np.asarray(own.patient_ids, dtype=object)
            for value in (0, 1):
                counts = [len(set(patients[own.truth[:, k] == value])) for k in range(len(own.classes))]
                least = np.minimum(least, counts)
        return np.asarray(least >= _SHARED)


def _groupings(part: PredictionTable, options: EvaluateOptions) -> dict[str, Grouping]:
    """How each column that counts divides the cases."""
    rows = [options.metadata.get(case, {}) for case in part.case_ids]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    wanted = telling_columns(columns) if options.subgroups is None else options.subgroups
    found = {name: group(name, [row.get(name, "") for row in rows]) for name in wanted}
    if len(set(part.views)) > 1:
        found[VIEWS] = group(VIEWS, part.views)
    return found


def _column(groups: _Groups, bootstrap: Bootstrap, track: Track) -> SubgroupColumn:
    """Everything that is told of one column."""
    figures, gaps = {}, {}
    if groups.parts:
        bootstrap = affordable(bootstrap, groups.table)
        measured = Measured.of(groups, groups.table, bootstrap, track)
        for place, (name, (_, discrimination)) in enumerate(groups.parts.items()):
            figures[name] = figures_of(groups.tables[name], discrimination, measured, place)
        if len(groups.parts) > 1:
            for figure, metric in main_figures(groups.table.task).items():
                gaps[figure] = _gap(groups, metric, measured)
    return SubgroupColumn(
        kind=groups.grouping.kind,
        reason=groups.grouping.reason or None,
        replicates=bootstrap.n,
        groups={
            name: SubgroupFigures(
                n=len(own.case_ids),
                patients=patients_of(own),
                reason=None if name in figures else f"fewer than {groups.least} patients",
                metrics=figures[name][0] if name in figures else None,
                per_class=figures[name][1] if name in figures else {},
            )
            for name, own in groups.tables.items()
        },
        gaps=gaps,
    )


def figures_of(
    table: PredictionTable, discrimination: Discrimination, measured: Measured, place: int
) -> tuple[dict[str, Value], dict[str, dict[str, Value]]]:
    """The figures of one group: over all classes by name, and of each class.

    Args:
        table: the cases of the group.
        discrimination: of these cases; it knows why a figure is undefined.
        measured: per-class metrics ``(G, K)`` of all groups.
        place: of the group among the G.
    """
    classwise = Classwise(
        table,
        discrimination,
        measured.bootstrap,
        {name: values[place] for name, values in measured.point.items()},
        {name: values[:, place] for name, values in measured.replicates.items()},
    )
    return (
        {figure: classwise.average(metric) for figure, metric in main_figures(table.task).items()},
        {
            name: {metric: classwise.of_class(metric, k) for metric in PER_CLASS}
            for k, name in enumerate(table.classes)
        },
    )


def patients_of(table: PredictionTable) -> int:
    """Number of patients."""
    return len(set(table.patient_ids))


def _gap(groups: _Groups, metric: str, measured: Measured) -> SubgroupGap:
    """Largest less smallest group of one metric ``(G, K)``, and how easily chance alone gives as much."""
    values, replicates = measured.point[metric], measured.replicates.get(metric)
    names, shared = list(groups.parts), np.ones(values.shape[1], dtype=bool)
    cases, patients = len(measured.patients), len(set(measured.patients))
    if values.shape[1] == len(groups.table.classes):
        shared = groups.shared_classes()
    if not shared.any():
        value = measured.bootstrap.value(
            np.nan, None, n=cases, patients=patients, reason=f"no class has {_ENOUGH}"
        )
        return SubgroupGap(**asdict(value))
    means = values[:, shared].mean(axis=1)
    drawn = None if replicates is None else replicates[:, :, shared].mean(axis=2)
    high, low = int(means.argmax()), int(means.argmin())
    kept = [name for name, held in zip(groups.table.classes, shared, strict=False) if held]
    value = measured.bootstrap.value(
        float(means[high] - means[low]),
        None if drawn is None else drawn[:, high] - drawn[:, low],
        n=cases,
        patients=patients,
        reason="" if shared.all() else f"over the classes that have {_ENOUGH}: {', '.join(kept)}",
    )
    p = None if drawn is None or value.low is None else chance_of_gap(means, drawn[: measured.bootstrap.n])
    return SubgroupGap(**asdict(value), largest=names[high], smallest=names[low], p=p)


def _corrected(gap: SubgroupGap, p: float) -> SubgroupGap:
    return replace(gap, p_holm=None if np.isnan(p) else p)


def chance_of_gap(means: Floats, drawn: Floats) -> float:
    """How often groups that do not differ would show as large a gap, as defined above.

    Args:
        means: ``(G,)`` value of each group.
        drawn: ``(B, G)`` replicates of them; those with NaN are left out.
    """
    spread = np.ptp(drawn - means, axis=1)
    spread = spread[~np.isnan(spread)]
    return float((1 + (spread >= np.ptp(means) - _ROUNDING).sum()) / (1 + len(spread)))
