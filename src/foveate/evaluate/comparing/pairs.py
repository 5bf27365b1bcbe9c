"""What is told of one variant, or of two that are paired: values with intervals, and tests of the pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from foveate.evaluate.classwise import exact_intervals
from foveate.evaluate.comparing.hypothesis import bootstrap_p, holm, mcnemar
from foveate.evaluate.comparing.paired import (
    FIGURES,
    LOCALIZED,
    LOCATED,
    PER_CLASS,
    TAU,
    RunFigures,
    Samples,
    Seed,
    over_seeds,
)
from foveate.evaluate.delong import delong_test
from foveate.evaluate.intervals import Bootstrap, Floats, Interval
from foveate.evaluate.rates import pair
from foveate.evaluate.results.comparison import (
    AurocTest,
    ComparedClass,
    DecisionTest,
    PairedClass,
    RankTest,
    SeedDifference,
    SeedFigure,
    VariantPair,
)
from foveate.evaluate.short_intervals import noted
from foveate.evaluate.table import PredictionTable

_UNMARKED = "nothing was explained that has a true mask or box"
_NOT_RECORDED = "not recorded for these maps; cells and planes are of volumes"
_NOT_SWEPT = f"boxes were not tried at {TAU:g} of a map's maximum (localize.thresholds)"


Figure = TypeVar("Figure", SeedFigure, SeedDifference)


@dataclass(frozen=True)
class FiguresOverSeeds(Generic[Figure]):
    """Figures of one variant, or differences of two, over seeds.

    Attributes:
        entries: by seed, the entry of the variant, or those of the first and the second.
        samples: by seed, of every figure or difference.
        bootstrap: of the intervals.
        kind: what is told: ``SeedFigure`` of one variant, ``SeedDifference`` of two.
    """

    entries: Mapping[Seed, tuple[RunFigures, ...]]
    samples: Mapping[Seed, Samples]
    bootstrap: Bootstrap
    kind: type[Figure]

    def figures(self, names: Sequence[str] = FIGURES) -> dict[str, Figure]:
        """Mean over seeds, interval and spread of every figure, or of those named."""
        mean = over_seeds(list(self.samples.values()))
        classified, located = self._classified(), self._located()
        found = {}
        for name in names:
            named = located if name in LOCALIZED else classified
            seeds = {seed: part[name][0] for seed, part in self.samples.items()}
            found[name] = self._value(name, mean[name], named, seeds, "" if named else _UNMARKED)
        return found

    def patients(self, figure: str) -> int:
        """Number of patients that a figure rests on."""
        named = self._located() if figure in LOCALIZED else self._classified()
        return len({patient for _, patient in named})

    def of_class(self, k: int) -> dict[str, Figure]:
        """The same of every figure of one class."""
        mean = over_seeds(list(self.samples.values()))
        known = self._classified(k)
        found = {}
        for metric in PER_CLASS:
            sample = mean[f"class:{metric}"][:, k]
            seeds = {seed: part[f"class:{metric}"][0, k] for seed, part in self.samples.items()}
            found[metric] = self._value(metric, sample, known, seeds, exact=self._exact(metric, k))
        return found

    def classes(self) -> dict[str, ComparedClass]:
        """Figures of every class of one variant, with those of ``places``."""
        return {
            name: ComparedClass.of(found.cases, {**self.of_class(k), **found.figures})
            for k, (name, found) in enumerate(self.places().items())
        }

    def places(self) -> dict[str, ComparedClass]:
        """By class, how many cases have it, and how its heat maps point at what is marked.

        The denominator is every case of the class that is marked and explained, answered right or wrong.
        """
        keys = [f"located:{name}" for name in LOCATED]
        mean = over_seeds([{key: part[key] for key in keys} for part in self.samples.values()])
        tables = [group[0].table for group in self.entries.values()]
        return {
            name: ComparedClass.of(
                len({case for each in tables for case in _having(each, k)}),
                {measure: self._of_place(mean, measure, name, k) for measure in LOCATED},
            )
            for k, name in enumerate(tables[0].classes)
        }

    def _of_place(self, mean: Samples, measure: str, name: str, k: int) -> Figure:
        """One measure of localization of one class."""
        sample, named = mean[f"located:{measure}"][:, k], self._located(name)
        unknown = _NOT_RECORDED if LOCATED[measure] is None else _NOT_SWEPT
        lacking = (unknown if named else _UNMARKED) if math.isnan(sample[0]) else ""
        own = {seed: part[f"located:{measure}"][0, k] for seed, part in self.samples.items()}
        return self._value(measure, sample, named, own, lacking)

    def _exact(self, metric: str, k: int) -> Interval | None:
        """The exact interval of a rate of one class, where there is one training of one variant."""
        entries = [entry for group in self.entries.values() for entry in group]
        if len(entries) > 1:
            return None
        (entry,) = entries
        bounds = exact_intervals(entry.table, entry.table.decisions(entry.thresholds), self.bootstrap.level)
        return pair(bounds[metric][k]) if metric in bounds else None

    def _value(
        self,
        figure: str,
        sample: Floats,
        named: set[tuple[object, str]],
        seeds: Mapping[Seed, float],
        reason: str = "",
        *,
        exact: Interval | None = None,
    ) -> Figure:
        """A sample with its interval and the value of each seed; of a difference also its p-value."""
        replicates = sample[1:]
        value = self.bootstrap.value(
            float(sample[0]),
            replicates if len(replicates) else None,
            n=len({case for case, _ in named}),
            patients=len({patient for _, patient in named}),
            reason=reason,
            exact=exact,
        )
        name = figure.removesuffix("_calibrated")
        facts: dict[str, Any] = asdict(noted(value, name if self.kind is SeedFigure else f"change of {name}"))
        if self.kind is SeedDifference:
            facts["p"] = _p_value(sample, value.patients)
        return self.kind(**facts, **_spread(seeds))

    def _classified(self, k: int | None = None) -> set[tuple[object, str]]:
        """Cases with their patients, over all seeds; with a class, only those whose truth is known."""
        found: set[tuple[object, str]] = set()
        for group in self.entries.values():
            table = group[0].table
            known = np.ones(len(table.case_ids), dtype=bool) if k is None else ~np.isnan(table.truth[:, k])
            pairs = zip(table.case_ids, table.patient_ids, strict=True)
            found |= {pair for pair, kept in zip(pairs, known, strict=True) if kept}
        return found

    def _located(self, only: str = "") -> set[tuple[object, str]]:
        """Pairs of case and class that every entry of a group was scored on, with their patients.

        Args:
            only: a class; none means all.
        """
        found: set[tuple[object, str]] = set()
        for group in self.entries.values():
            shared = frozenset.intersection(*(entry.marked for entry in group))
            scores = [row for row in group[0].scores if only in ("", row.label)]
            rows = ((row.case_id, row.label, row.patient_id) for row in scores)
            found |= {((case, label), patient) for case, label, patient in rows if (case, label) in shared}
        return found


@dataclass(frozen=True)
class Pair:
    """Two variants on the same cases.

    Attributes:
        first, second: their labels; a difference is that of the first less that of the second.
        told: their differences.
    """

    first: str
    second: str
    told: FiguresOverSeeds[SeedDifference]

    def test(self, figure: str) -> RankTest:
        """The p-value of one figure's difference, not corrected yet."""
        sample = over_seeds(list(self.told.samples.values()))[figure]
        p = _p_value(sample, self.told.patients(figure))
        return RankTest(first=self.first, second=self.second, p=p)

    def tested(self) -> VariantPair:
        """Every figure and class; DeLong's and McNemar's tests where there is one seed.

        p-values are not corrected yet: each ``p_holm`` is None.
        """
        entries = list(self.told.entries.values())
        one, two = entries[0][:2]
        classes = one.table.classes
        single = len(entries) == 1
        whole = single and one.table.task == "multiclass"
        return VariantPair(
            first=self.first,
            second=self.second,
            seeds=tuple(self.told.entries),
            differences=self.told.figures(),
            decisions=_decisions(one, two, None) if whole else None,
            per_class={
                name: PairedClass(
                    differences=self.told.of_class(k),
                    delong=_delong(one, two, k, self.told.bootstrap.level) if single else None,
                    decisions=_decisions(one, two, k) if single else None,
                )
                for k, name in enumerate(classes)
            },
        )


def _having(table: PredictionTable, k: int) -> set[str]:
    """The cases that have a class."""
    return {case for case, truth in zip(table.case_ids, table.truth[:, k], strict=True) if truth == 1}


class Family:
    """Tests that are corrected together, by Holm's method.

    Args:
        p: of each, None where it is undefined.
    """

    def __init__(self, p: Sequence[float | None]) -> None:
        found = np.array([math.nan if each is None else each for each in p], dtype=np.float64)
        self.count = int((~np.isnan(found)).sum())
        self._corrected = iter([_number(each) for each in holm(found)])

    def take(self) -> float | None:
        """The corrected p-value of the next test, in the order in which they were given."""
        return next(self._corrected)


def _decisions(one: RunFigures, two: RunFigures, k: int | None) -> DecisionTest:
    """McNemar's test of the decisions about all classes together, or about one of them."""
    table = one.table
    known = np.ones(len(table.case_ids), dtype=bool) if k is None else ~np.isnan(table.truth[:, k])
    first, second = (
        np.asarray(entry.right.all(axis=1) if k is None else entry.right[:, k]) for entry in (one, two)
    )
    patients = [name for name, kept in zip(table.patient_ids, known, strict=True) if kept]
    return DecisionTest(**asdict(mcnemar(first[known], second[known], patients)))


def _delong(one: RunFigures, two: RunFigures, k: int, level: float) -> AurocTest:
    """DeLong's test of the AUROC of one class, for patients with several cases as well."""
    table = one.table
    first, second = (entry.table.ranks[:, k] for entry in (one, two))
    found = delong_test(first, second, table.truth[:, k], table.patient_ids, level=level)
    return AurocTest(*(_number(value) for value in found))


def _p_value(sample: Floats, patients: int) -> float | None:
    """The bootstrap p-value of a difference; None where the difference or its interval is undefined."""
    return None if math.isnan(sample[0]) else _number(bootstrap_p(sample[1:], patients))


def _spread(values: Mapping[Seed, float]) -> dict[str, Any]:
    """The value of each seed, and their standard deviation."""
    defined = [value for value in values.values() if not np.isnan(value)]
    return {
        "sd": float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
        "seeds": {str(seed): _number(value) for seed, value in values.items()},
    }


def _number(value: float) -> float | None:
    """A number for JSON; None where it is undefined."""
    return None if math.isnan(value) else float(value)
