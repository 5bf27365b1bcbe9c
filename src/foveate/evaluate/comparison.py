"""Several models on the same patients: means over seeds, and paired differences with intervals.

A *variant* is one model under the common protocol; it has one *entry* a seed. All entries of a seed were
tested on the same cases, which may differ between seeds (where the split was drawn anew).

* Figure of a variant: the mean over its seeds; beside it the standard deviation over seeds (n - 1 in the
  denominator), which tells how much chance in training does.
* Interval: a replicate draws patients with replacement, over all seeds together, and computes the mean over
  seeds from every seed's test cases of these patients (see ``intervals``). It speaks of other patients, not
  of other seeds.
* Paired difference: the mean over seeds of (figure of the variant - figure of the reference at that seed), in
  each replicate from the same patients for both, over the seeds that both have. Cases that are hard for both
  cancel out, so that it is narrower than two intervals side by side would suggest.
* Localization figures average over the pairs of case and class with a truth; a paired difference takes those
  that both variants were scored on.

Undefined is NaN here and never enters an average. There is no correction for many comparisons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.errors import UsageError
from foveate.evaluate.calibration import Calibration
from foveate.evaluate.discrimination import Discrimination
from foveate.evaluate.intervals import Bootstrap, Floats, Statistic, mean_of_defined, ratio
from foveate.evaluate.localization import CaseScore
from foveate.evaluate.summary import OVERALL
from foveate.evaluate.table import PredictionTable
from foveate.types import Track, quiet

#: Figures of the comparison that localization gives, by their names in ``CaseScore``.
LOCALIZED = ("pointing_game", "iou", "energy_inside")
FIGURES = (*OVERALL, "ece", *LOCALIZED)


@dataclass(frozen=True)
class Entry:
    """What one run left to be compared.

    Attributes:
        table: its predictions of the test part.
        thresholds: of the findings (multi-label), chosen on its validation cases.
        scores: of its heat maps; empty where nothing was marked or explained.
    """

    table: PredictionTable
    thresholds: Mapping[str, float] = field(default_factory=dict)
    scores: Sequence[CaseScore] = ()

    def __post_init__(self) -> None:
        known = np.asarray(~np.isnan(self.table.truth).all(axis=1))
        order = np.argsort(np.asarray(self.table.case_ids, dtype=object)[known], kind="stable")
        object.__setattr__(self, "table", _ordered(self.table.only(known), order))

    def only(self, cases: Set[str]) -> Entry:
        """The same on these cases."""
        keep = np.array([case in cases for case in self.table.case_ids], dtype=bool)
        rows = [row for row in self.scores if row.case_id in cases]
        return Entry(self.table.only(keep), self.thresholds, rows)


Variants = Mapping[str, Mapping[int, Entry]]
Key = tuple[str, str]


def compare(
    variants: Variants, reference: str, bootstrap: Bootstrap | None = None, track: Track = quiet
) -> dict[str, Any]:
    """Compare variants with each other and, paired, with a reference.

    Args:
        variants: by label, the entry of each seed.
        reference: the label that the others are paired with.
        bootstrap: of the intervals; None takes 1,000 replicates at 95 %.
        track: shows progress.

    Returns:
        Plain JSON: ``figures`` by variant and figure, each with ``value`` (the mean over seeds), ``low, high,
        n, patients, reason``, ``sd`` (None with one seed) and ``seeds`` (the value of each); ``differences``
        likewise, for every variant but the reference.

    Raises:
        UsageError: the reference has no entry, or entries of one seed were tested on different cases.
    """
    if not variants.get(reference):
        raise UsageError(f"no run of the reference '{reference}' is there to compare with", where="reference")
    check_same_cases(variants)
    drawn = bootstrap or Bootstrap()
    seeds = sorted({seed for entries in variants.values() for seed in entries})
    counting = _Counting(_Cohort.of(variants, seeds), drawn)
    present = {label: entries for label, entries in variants.items() if entries}
    return {
        "reference": reference,
        "bootstrap": {"n": drawn.n, "level": drawn.level, "unit": "patient", "seed": drawn.seed},
        "seeds": seeds,
        "cases": {str(seed): len(counting.cohort.places[seed]) for seed in seeds},
        "patients": len(set(counting.cohort.patient_ids)),
        "figures": {
            label: counting.figures(entries) for label, entries in track(list(present.items()), "Comparing")
        },
        "differences": {
            label: counting.differences(entries, present[reference])
            for label, entries in present.items()
            if label != reference
        },
    }


def check_same_cases(variants: Variants) -> None:
    """Refuse a comparison of unlike things.

    Raises:
        UsageError: at some seed two variants differ in classes, cases, patients or truth; all are listed.
    """
    problems: list[str] = []
    first: dict[int, tuple[str, PredictionTable]] = {}
    for label, entries in variants.items():
        for seed, entry in entries.items():
            other, table = first.setdefault(seed, (label, entry.table))
            if what := _difference(table, entry.table):
                problems.append(f"seed {seed}: {label} and {other} differ in their {what}")
    if problems:
        raise UsageError(
            "these runs were not tested on the same cases\n" + "\n".join(f"  - {line}" for line in problems),
            fix="compare runs of one manifest and one split; delete those that are of another",
            code="not-comparable",
        )


def only_shared_cases(variants: Variants) -> tuple[dict[str, dict[int, Entry]], int]:
    """Leave out, for all variants, what one of them refused: the others must not be tested on more.

    Returns:
        The variants on the cases that all of a seed have, and how many cases were left out, over all seeds.
    """
    seeds = {seed for entries in variants.values() for seed in entries}
    tables = {
        seed: [entries[seed].table for entries in variants.values() if seed in entries] for seed in seeds
    }
    shared = {
        seed: set.intersection(*(set(one.case_ids) for one in all_of)) for seed, all_of in tables.items()
    }
    whole = {seed: set.union(*(set(one.case_ids) for one in all_of)) for seed, all_of in tables.items()}
    kept = {
        label: {seed: entry.only(shared[seed]) for seed, entry in entries.items()}
        for label, entries in variants.items()
    }
    return kept, sum(len(whole[seed]) - len(shared[seed]) for seed in seeds)


def _difference(one: PredictionTable, other: PredictionTable) -> str:
    if (one.task, one.classes) != (other.task, other.classes):
        return "classes"
    if one.case_ids != other.case_ids:
        return "test cases"
    if one.patient_ids != other.patient_ids:
        return "patients"
    return "" if np.array_equal(one.truth, other.truth, equal_nan=True) else "true classes"


@dataclass(frozen=True)
class _Cohort:
    """The test cases of all seeds, one behind the other, as the bootstrap draws them.

    Attributes:
        patient_ids: of every case of every seed, N in all.
        places: of each seed, the place of each of its cases among the N.
    """

    patient_ids: list[str]
    places: Mapping[int, Mapping[str, int]]

    @classmethod
    def of(cls, variants: Variants, seeds: Sequence[int]) -> _Cohort:
        """Line up the cases of every seed, taken from any of its entries."""
        patients: list[str] = []
        places = {}
        for seed in seeds:
            table = next(entries[seed].table for entries in variants.values() if seed in entries)
            places[seed] = {case: len(patients) + number for number, case in enumerate(table.case_ids)}
            patients += table.patient_ids
        return cls(patients, places)


def _means(entries: Mapping[int, Entry], cohort: _Cohort) -> Statistic:
    """Figures of one variant, each the mean over its seeds."""
    parts = [_figures(entry, cohort.places[seed], _keys(entry)) for seed, entry in entries.items()]
    return lambda weights: _over_seeds([part(weights) for part in parts])


def _paired(own: Mapping[int, Entry], other: Mapping[int, Entry], cohort: _Cohort) -> Statistic:
    """Figures of one variant less those of another, each the mean over the seeds that both have."""
    parts = []
    for seed in [seed for seed in own if seed in other]:
        shared = _keys(own[seed]) & _keys(other[seed])
        places = cohort.places[seed]
        parts.append((_figures(own[seed], places, shared), _figures(other[seed], places, shared)))

    def difference(weights: Floats) -> dict[str, Floats]:
        pairs = [(one(weights), two(weights)) for one, two in parts]
        return _over_seeds([{name: a[name] - b[name] for name in a} for a, b in pairs])

    return difference


def _over_seeds(values: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    return {name: mean_of_defined(np.stack([part[name] for part in values], axis=-1)) for name in values[0]}


def _keys(entry: Entry) -> set[Key]:
    """The pairs of case and class that the heat maps were scored on."""
    return {(row.case_id, row.label) for row in entry.scores}


def _figures(entry: Entry, places: Mapping[str, int], keys: set[Key]) -> Statistic:
    """Every figure of one entry, as a function of the weights of all N cases."""
    table = entry.table
    own = np.array([places[case] for case in table.case_ids], dtype=np.intp)
    discrimination = Discrimination(table, table.decisions(entry.thresholds))
    calibration = Calibration(table)
    rows = [row for row in entry.scores if (row.case_id, row.label) in keys]
    where = np.array([places[row.case_id] for row in rows], dtype=np.intp)
    shares = _shares(rows)
    scores = np.array([[getattr(row, name) for name in LOCALIZED] for row in rows]).reshape(
        -1, len(LOCALIZED)
    )

    def statistic(weights: Floats) -> dict[str, Floats]:
        by_class = discrimination(weights[:, own])
        found = {name: mean_of_defined(by_class[source]) for name, source in OVERALL.items()}
        counted = weights[:, where] * shares
        located = ratio(counted @ scores, counted.sum(axis=1, keepdims=True))
        return {
            **found,
            "ece": calibration(weights[:, own])["ece"],
            **{name: located[:, place] for place, name in enumerate(LOCALIZED)},
        }

    return statistic


def _shares(rows: Sequence[CaseScore]) -> Floats:
    """Weight of each row, so that the views of one case and class count once together."""
    times = Counter((row.case_id, row.label) for row in rows)
    return np.array([1 / times[row.case_id, row.label] for row in rows], dtype=np.float64)


@dataclass(frozen=True)
class _Counting:
    """How many cases and patients a figure rests on, and its interval.

    Attributes:
        cohort: the test cases of all seeds.
        bootstrap: of the intervals.
    """

    cohort: _Cohort
    bootstrap: Bootstrap

    def figures(self, entries: Mapping[int, Entry]) -> dict[str, Any]:
        """Mean, spread and interval of every figure of one variant."""
        return self._values(_means(entries, self.cohort), {seed: (entry,) for seed, entry in entries.items()})

    def differences(self, own: Mapping[int, Entry], other: Mapping[int, Entry]) -> dict[str, Any]:
        """The same of every paired difference; nothing where no seed is in both."""
        both = {seed: (own[seed], other[seed]) for seed in own if seed in other}
        return self._values(_paired(own, other, self.cohort), both) if both else {}

    def _values(self, statistic: Statistic, entries: Mapping[int, tuple[Entry, ...]]) -> dict[str, Any]:
        point = statistic(np.ones((1, len(self.cohort.patient_ids))))
        replicates = self.bootstrap.replicates(statistic, self.cohort.patient_ids)
        single = {seed: self._of_seed(group) for seed, group in entries.items()}
        groups = list(entries.values())
        return {
            name: {
                **self._value(name, float(point[name][0]), replicates.get(name), groups),
                **_spread({seed: values[name] for seed, values in single.items()}),
            }
            for name in FIGURES
        }

    def _of_seed(self, group: tuple[Entry, ...]) -> dict[str, float]:
        """Every figure, or difference, of one seed alone."""
        one = {0: group[0]}
        cohort = _Cohort.of({"": one}, [0])
        statistic = _means(one, cohort) if len(group) == 1 else _paired(one, {0: group[1]}, cohort)
        values = statistic(np.ones((1, len(cohort.patient_ids))))
        return {name: float(values[name][0]) for name in FIGURES}

    def _value(
        self, name: str, point: float, replicates: Floats | None, groups: Sequence[tuple[Entry, ...]]
    ) -> dict[str, Any]:
        named = (_scored if name in LOCALIZED else _classified)(groups)
        return self.bootstrap.value(
            point,
            replicates,
            n=len({case for case, _ in named}),
            patients=len({patient for _, patient in named}),
            reason="" if named else "nothing was explained that has a true mask or box",
        ).to_json()


def _classified(groups: Sequence[tuple[Entry, ...]]) -> set[tuple[object, str]]:
    """Cases with their patients, over all seeds."""
    tables = [group[0].table for group in groups]
    return {pair for table in tables for pair in zip(table.case_ids, table.patient_ids, strict=True)}


def _scored(groups: Sequence[tuple[Entry, ...]]) -> set[tuple[object, str]]:
    """Pairs of case and class that every entry of a group was scored on, with their patients."""
    found: set[tuple[object, str]] = set()
    for group in groups:
        shared = set.intersection(*(_keys(entry) for entry in group))
        rows = ((row.case_id, row.label, row.patient_id) for row in group[0].scores)
        found |= {((case, label), patient) for case, label, patient in rows if (case, label) in shared}
    return found


def _spread(values: Mapping[int, float]) -> dict[str, Any]:
    """The value of each seed, and their standard deviation."""
    defined = [value for value in values.values() if not np.isnan(value)]
    return {
        "sd": float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
        "seeds": {str(seed): None if np.isnan(value) else value for seed, value in values.items()},
    }


def _ordered(table: PredictionTable, order: NDArray[np.intp]) -> PredictionTable:
    """The same cases in another order."""
    columns = {item.name: getattr(table, item.name) for item in fields(table)}
    for name in set(columns) - {"task", "classes"}:
        values = columns[name]
        columns[name] = values[order] if isinstance(values, np.ndarray) else tuple(values[i] for i in order)
    return PredictionTable(**columns)
