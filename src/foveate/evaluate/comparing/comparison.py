"""Several models on the same patients: means over seeds, paired differences with intervals, and ranks.

A *variant* is one model under the common protocol; it has one *entry* a seed. All entries of a seed were
tested on the same cases, which may differ between seeds (where the split was drawn anew). In a
cross-validation every fold of a seed counts as a seed of its own: figures are means over folds.

* Figure of a variant: the mean over its seeds; beside it the standard deviation over seeds (n - 1 in the
  denominator), which tells how much chance in training does.
* Interval: a replicate draws patients with replacement, over all seeds together, and computes the mean over
  seeds from every seed's test cases of these patients (see ``intervals``). It speaks of other patients, not
  of other seeds.
* Paired difference: the mean over seeds of (figure of the one - figure of the other at that seed), in each
  replicate from the same patients for both, over the seeds that both have. Cases that are hard for both
  cancel out, so that it is narrower than two intervals side by side would suggest.
* Localization figures average over the pairs of case and class with a truth; a paired difference takes those
  that both variants were scored on.
* p-values (``hypothesis``) belong to families, each corrected by Holm's method: the main figure over every
  pair of variants; all other figures over the reported pairs; all figures of single classes; DeLong's and
  McNemar's tests each on their own.

Undefined is NaN here and never enters an average.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from foveate.errors import UsageError
from foveate.evaluate.comparing.hypothesis import replicates_needed
from foveate.evaluate.comparing.paired import (
    FIGURES,
    LOCALIZED,
    LOCATED,
    PER_CLASS,
    Drawing,
    Key,
    RunFigures,
    Samples,
    Seed,
    minus,
    over_seeds,
)
from foveate.evaluate.comparing.pairs import Family, FiguresOverSeeds, Pair
from foveate.evaluate.comparing.ranking import indistinguishable, ranked
from foveate.evaluate.comparing.wording import sentence
from foveate.evaluate.intervals import Bootstrap, mean_of_defined
from foveate.evaluate.results.bootstrap import BootstrapFacts
from foveate.evaluate.results.comparison import (
    ComparedClass,
    ComparedVariants,
    ComparisonTests,
    CorrectedFamilies,
    PairedClass,
    RankTest,
    SeedDifference,
    SeedFigure,
    VariantPair,
    VariantRanks,
)
from foveate.evaluate.table import PredictionTable
from foveate.types import Track, quiet

#: The figure that a comparison is about, said before any is looked at.
MAIN = "auroc_macro"
MOST_REPLICATES = 10_000

Variants = Mapping[str, Mapping[Seed, RunFigures]]


def compare(
    variants: Variants,
    reference: str,
    bootstrap: Bootstrap | None = None,
    track: Track = quiet,
    *,
    every_pair: bool = False,
) -> ComparedVariants:
    """Compare variants with each other, paired.

    Args:
        variants: by label, the entry of each seed.
        reference: the label that the others are paired with.
        bootstrap: of the intervals; None takes 1,000 replicates at 95 %. Intervals are percentile ones, which
            the p-values agree with.
        track: shows progress.
        every_pair: also pair the others with each other.

    Raises:
        UsageError: the reference has no entry, or entries of one seed were tested on different cases.
    """
    if not variants.get(reference):
        raise UsageError(f"no run of the reference '{reference}' is there to compare with", where="reference")
    check_same_cases(variants)
    drawn = replace(bootstrap or Bootstrap(), method="percentile")
    whole = _ComparedRuns.of(variants, reference, drawn, track)
    pairs = whole.pairs()
    ranks = whole.ranks(pairs)
    reported, families = _corrected(
        [pair.tested() for pair in pairs if every_pair or pair.second == reference], ranks.pairs
    )
    told = {label: whole.told(label) for label, found in variants.items() if found}
    figures = {label: each.figures() for label, each in told.items()}
    return ComparedVariants(
        reference=reference,
        task=next(iter(variants[reference].values())).table.task,
        bootstrap=BootstrapFacts.of(drawn),
        tests=ComparisonTests(main=MAIN, families=families),
        seeds=tuple(whole.drawing.places),
        cases={str(seed): len(places) for seed, places in whole.drawing.places.items()},
        patients=len(set(whole.drawing.patient_ids)),
        figures=figures,
        beside={label: whole.beside(label) for label, found in variants.items() if found},
        classes={label: each.classes() for label, each in told.items()},
        differences={pair.first: pair.differences for pair in reported if pair.second == reference},
        pairs=tuple(
            pair.model_copy(update={"sentence": sentence(pair, figures, MAIN, drawn.level)})
            for pair in reported
        ),
        ranks=ranks,
    )


def located(entry: RunFigures, bootstrap: Bootstrap) -> dict[str, ComparedClass]:
    """How the heat maps of one run point at what is marked, by class: see ``FiguresOverSeeds.places``."""
    drawing = Drawing.of({0: entry.table}, bootstrap)
    samples = {0: drawing.located(entry, 0)}
    return FiguresOverSeeds({0: (entry,)}, samples, bootstrap, SeedFigure).places()


def enough_replicates(variants: Variants, level: float, *, every_pair: bool = False) -> int:
    """Replicates from which a difference can still be told after the correction, at most 10,000."""
    entries = [found for found in variants.values() if found]
    others = len(entries) - 1
    pairs = others * (others + 1) // 2 if every_pair else others
    classes = max((len(entry.table.classes) for found in entries for entry in found.values()), default=0)
    tests = pairs * max(len(FIGURES), classes * len(PER_CLASS))
    return min(MOST_REPLICATES, replicates_needed(tests, level))


def check_same_cases(variants: Variants, fix: str = "") -> None:
    """Refuse a comparison of unlike things.

    Args:
        variants: to be compared.
        fix: another way out than the usual one.

    Raises:
        UsageError: at some seed two variants differ in classes, cases, patients or truth; all are listed.
    """
    problems: list[str] = []
    first: dict[Seed, tuple[str, PredictionTable]] = {}
    several = len({seed for entries in variants.values() for seed in entries}) > 1
    for label, entries in variants.items():
        for seed, entry in entries.items():
            other, table = first.setdefault(seed, (label, entry.table))
            place = f"seed {seed}: " if several else ""
            if what := _difference(other, table, label, entry.table):
                problems.append(f"{place}{label} and {other} differ in their {what}")
    if problems:
        raise UsageError(
            "these runs were not tested on the same cases\n" + "\n".join(f"  - {line}" for line in problems),
            fix=fix or "compare runs of one manifest and one split; delete those that are of another",
            code="not-comparable",
        )


def only_shared_cases(variants: Variants) -> tuple[dict[str, dict[Seed, RunFigures]], int]:
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


def _difference(other: str, one: PredictionTable, label: str, two: PredictionTable) -> str:
    """What two tables do not have in common, and how they differ; an empty text if nothing."""
    if (one.task, one.classes) != (two.task, two.classes):
        return f"classes ({', '.join(two.classes)}; {', '.join(one.classes)})"
    own, theirs = set(two.case_ids) - set(one.case_ids), set(one.case_ids) - set(two.case_ids)
    if own or theirs:
        only = [f"{_some(cases)} only in {name}" for name, cases in ((label, own), (other, theirs)) if cases]
        return f"test cases ({'; '.join(only)})"
    pairs = zip(one.case_ids, one.patient_ids, two.patient_ids, strict=True)
    if moved := [case for case, first, second in pairs if first != second]:
        return f"patients (of {_some(moved)})"
    same = ((one.truth == two.truth) | (np.isnan(one.truth) & np.isnan(two.truth))).all(axis=1)
    turned = [case for case, agreed in zip(one.case_ids, same, strict=True) if not agreed]
    return f"true classes (of {_some(turned)})" if turned else ""


def _some(cases: Iterable[str]) -> str:
    """How many cases, and the names of the first few."""
    names = sorted(cases)
    listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} case{'s' if len(names) > 1 else ''}: {listed}"


def _corrected(
    pairs: Sequence[VariantPair], main: Sequence[RankTest]
) -> tuple[list[VariantPair], CorrectedFamilies]:
    """The pairs with corrected p-values, those of the main figure given, and how many tests a family has."""
    classes = [found for pair in pairs for found in pair.per_class.values()]
    others = Family([pair.differences[name].p for pair in pairs for name in FIGURES if name != MAIN])
    single = Family([cell.p for found in classes for cell in found.differences.values()])
    delong = Family([found.delong.p for found in classes if found.delong])
    decided = Family([pair.decisions.p for pair in pairs if pair.decisions])
    decided_of_class = Family([found.decisions.p for found in classes if found.decisions])
    known = {(test.first, test.second): test.p_holm for test in main}

    def of_class(found: PairedClass) -> PairedClass:
        cells = {name: replace(cell, p_holm=single.take()) for name, cell in found.differences.items()}
        return PairedClass(
            differences=cells,
            delong=replace(found.delong, p_holm=delong.take()) if found.delong else None,
            decisions=replace(found.decisions, p_holm=decided_of_class.take()) if found.decisions else None,
        )

    told = [
        pair.model_copy(
            update={
                "differences": {
                    name: replace(
                        pair.differences[name],
                        p_holm=known[pair.first, pair.second] if name == MAIN else others.take(),
                    )
                    for name in FIGURES
                },
                "decisions": replace(pair.decisions, p_holm=decided.take()) if pair.decisions else None,
                "per_class": {name: of_class(found) for name, found in pair.per_class.items()},
            }
        )
        for pair in pairs
    ]
    return told, CorrectedFamilies(
        main=sum(test.p is not None for test in main),
        others=others.count,
        classes=single.count,
        delong=delong.count,
        mcnemar=decided.count,
        mcnemar_classes=decided_of_class.count,
    )


@dataclass(frozen=True)
class _ComparedRuns:
    """Samples of all entries, computed once.

    Attributes:
        variants: those with an entry, the reference first.
        drawing: the cases of all seeds.
        classified: of each label and seed, the figures from its predictions.
    """

    variants: Variants
    drawing: Drawing
    classified: Mapping[tuple[str, Seed], Samples]

    @classmethod
    def of(cls, variants: Variants, reference: str, bootstrap: Bootstrap, track: Track) -> _ComparedRuns:
        """Line up the cases, and compute every entry's figures from its predictions."""
        ordered = {reference: variants[reference], **{k: v for k, v in variants.items() if v}}
        tables = {seed: entry.table for found in ordered.values() for seed, entry in found.items()}
        drawing = Drawing.of({seed: tables[seed] for seed in sorted(tables)}, bootstrap)
        entries = [(label, seed) for label, found in ordered.items() for seed in found]
        classified = {
            (label, seed): drawing.classified(ordered[label][seed], seed)
            for label, seed in track(entries, "Comparing")
        }
        return cls(ordered, drawing, classified)

    def told(self, label: str) -> FiguresOverSeeds[SeedFigure]:
        """The figures of one variant."""
        entries = self.variants[label]
        samples = {
            seed: {**self._samples(label, seed, entry.marked), **self._by_class(label, seed)}
            for seed, entry in entries.items()
        }
        groups = {seed: (entry,) for seed, entry in entries.items()}
        return FiguresOverSeeds(groups, samples, self.drawing.bootstrap, SeedFigure)

    def beside(self, label: str) -> dict[str, dict[str, SeedFigure]]:
        """What controls and ceiling of one variant score where its heat maps were scored, by method."""
        entries = self.variants[label]
        shared = set.intersection(*(set(entry.beside) for entry in entries.values()))
        found = {}
        for method in (name for name in next(iter(entries.values())).beside if name in shared):
            own = {seed: replace(entry, scores=entry.beside[method]) for seed, entry in entries.items()}
            samples = {seed: self.drawing.localized(one, seed, one.marked) for seed, one in own.items()}
            groups = {seed: (one,) for seed, one in own.items()}
            told = FiguresOverSeeds(groups, samples, self.drawing.bootstrap, SeedFigure)
            found[method] = told.figures(LOCALIZED)
        return found

    def pairs(self) -> list[Pair]:
        """Every two variants with a seed in common; the later one is the first of the pair."""
        found = []
        for second, first in combinations(self.variants, 2):
            groups, samples = {}, {}
            for seed, one in self.variants[first].items():
                if (two := self.variants[second].get(seed)) is not None:
                    keys = one.marked & two.marked
                    groups[seed] = (one, two)
                    samples[seed] = minus(self._samples(first, seed, keys), self._samples(second, seed, keys))
            if groups:
                told = FiguresOverSeeds(groups, samples, self.drawing.bootstrap, SeedDifference)
                found.append(Pair(first, second, told))
        return found

    def ranks(self, pairs: Sequence[Pair]) -> VariantRanks:
        """Mean ranks by the main figure over the replicates, and who cannot be told apart."""
        bootstrap, patients = self.drawing.bootstrap, self.drawing.patient_ids
        samples = [
            over_seeds([self.classified[label, seed] for seed in entries])[MAIN]
            for label, entries in self.variants.items()
        ]
        ranks = ranked(np.stack(samples, axis=1))
        drawn = ranks[1:] if len(ranks) > 1 else ranks
        means = {
            label: float(mean_of_defined(own)) for label, own in zip(self.variants, drawn.T, strict=True)
        }
        models = {
            label: bootstrap.value(means[label], own, n=len(patients), patients=len(set(patients)))
            for label, own in zip(self.variants, drawn.T, strict=True)
        }
        tests = [pair.test(MAIN) for pair in pairs]
        family = Family([test.p for test in tests])
        tests = [test.model_copy(update={"p_holm": family.take()}) for test in tests]
        sure = 1 - bootstrap.level
        differing = {
            frozenset((test.first, test.second))
            for test in tests
            if test.p_holm is not None and test.p_holm < sure
        }
        joined = [] if np.isnan(list(means.values())).any() else indistinguishable(means, differing)
        return VariantRanks(
            figure=MAIN, models=models, pairs=tuple(tests), indistinguishable=tuple(map(tuple, joined))
        )

    def _samples(self, label: str, seed: Seed, keys: Set[Key]) -> Samples:
        """Every figure of one entry, those of its heat maps over these pairs of case and class."""
        entry, found = self.variants[label][seed], self.classified[label, seed]
        nothing = np.full_like(found[MAIN], np.nan)
        located = self.drawing.localized(entry, seed, keys) if keys else dict.fromkeys(LOCALIZED, nothing)
        return {**found, **located}

    def _by_class(self, label: str, seed: Seed) -> Samples:
        """How the heat maps of one entry point, class by class."""
        entry = self.variants[label][seed]
        if entry.scores:
            return self.drawing.located(entry, seed)
        nothing = np.full_like(self.classified[label, seed]["class:recall"], np.nan)
        return {f"located:{name}": nothing for name in LOCATED}
