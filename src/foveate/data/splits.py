"""Who is trained on and who is tested on: by patient, stratified, stored in ``splits.json``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from foveate.data.manifest.columns import parse_part
from foveate.data.manifest.rows import closest
from foveate.data.stratify import stratify
from foveate.errors import InputRefused, UsageError
from foveate.evaluate.results.splits import PARTS, Fold, Splits
from foveate.evaluate.table import SEEN
from foveate.study.settings import SplitConfig
from foveate.types import Cohort

_FAR_OFF = 0.05  # a share that misses its target by more than this is worth a warning


def split_cohort(
    cohort: Cohort, config: SplitConfig | None = None, *, twins: Sequence[Sequence[str]] = ()
) -> Splits:
    """Divide a cohort; the cases of a patient stay together, and each part gets its share of each class.

    The result depends on the cases and the seed, not on the order of the rows.

    Args:
        cohort: from ``load_manifest``.
        config: shares, folds and seed, or the manifest columns that already say it; a column without a
            val part gets one out of its training patients. None: the defaults.
        twins: groups of case ids that show copies of one image (``Audit.groups``); their patients stay
            together too, unless ``config.keep_twins_together`` is off.

    Raises:
        InputRefused: there are fewer patients than parts, or the column holds other words.
        UsageError: there is no such column, or a twin is not in the cohort.
    """
    config = config or SplitConfig()
    material = _Material.of(cohort, twins if config.keep_twins_together else ())
    notes: list[str] = []
    if config.columns:
        folds = [_from_column(material, config, column, notes) for column in config.columns]
    elif config.folds is not None:
        folds = _cross_validation(material, config)
    else:
        rest = 1 - config.test
        shares = {"train": rest * (1 - config.val), "val": rest * config.val, "test": config.test}
        folds = [_divide(material, np.arange(len(cohort.cases)), shares, [config.seed])]
        notes += _far_off(folds[0], shares)
    if not config.columns and any(case.split for case in cohort.cases):
        notes.append("the manifest's column split is not used; set split.column to split to use it")
    ordered = tuple({case.case_id: fold[case.case_id] for case in cohort.cases} for fold in folds)
    notes += _thin_classes(material, ordered)
    return _splits(cohort, config, ordered, notes)


def split_test(
    cohort: Cohort,
    config: SplitConfig,
    seen: Collection[str],
    share: float | None,
    *,
    twins: Sequence[Sequence[str]] = (),
) -> Splits:
    """Divide a cohort that tests a model from elsewhere: nothing is trained on.

    Args:
        cohort: from ``load_manifest``.
        config: whose seed counts.
        seen: ids of cases that the model learned from; they become the part ``seen``, with all cases of their
            patients.
        share: of the other cases that becomes the part ``val``, by patient; None takes none.
        twins: groups of case ids that show copies of one image.

    Raises:
        InputRefused: nothing is left to test, or too few patients for two parts.
    """
    patients = {case.patient_id for case in cohort.cases if case.case_id in seen}
    left = tuple(case for case in cohort.cases if case.patient_id not in patients)
    if not left:
        raise InputRefused(
            "the model learned from every case of this cohort: nothing is left to test",
            where=str(cohort.manifest),
            fix="test on other patients",
            code="nothing-to-test",
        )
    ids = {case.case_id for case in left}
    groups = [kept for group in twins if len(kept := [name for name in group if name in ids]) > 1]
    fold = {case.case_id: SEEN for case in cohort.cases}
    notes: list[str] = []
    if share is None:
        fold |= dict.fromkeys(ids, "test")
    else:
        material = _Material.of(replace(cohort, cases=left), groups)
        shares = {"val": share, "test": 1 - share}
        divided = _divide(material, np.arange(len(left)), shares, [config.seed])
        fold |= divided
        notes += _far_off(divided, shares)
    return _splits(cohort, config, (fold,), notes)


def _splits(cohort: Cohort, config: SplitConfig, folds: Sequence[Fold], notes: Sequence[str]) -> Splits:
    return Splits(
        manifest_sha256=cohort.manifest_sha256, config=config, warnings=tuple(notes), folds=tuple(folds)
    )


@dataclass(frozen=True, slots=True)
class _Material:
    """N cases as arrays, made once.

    Attributes:
        cohort: the cases.
        has: ``(N, K)``, whether a case is known to have a class.
        units: ``(N,)``, a number for each group that must not part, in the order of their names.
    """

    cohort: Cohort
    has: NDArray[np.bool_]
    units: NDArray[np.int64]

    @classmethod
    def of(cls, cohort: Cohort, twins: Sequence[Sequence[str]]) -> Self:
        """Number what must stay together: cases of one patient, and of patients with twin images."""
        units = _units(cohort, twins)
        number = {name: index for index, name in enumerate(sorted(set(units.values())))}
        has = np.zeros((len(cohort.cases), len(cohort.classes)), dtype=bool)
        for row, case in enumerate(cohort.cases):
            has[row] = cohort.target(case) == 1
        return cls(cohort, has, np.array([number[units[case.case_id]] for case in cohort.cases]))


def _units(cohort: Cohort, twins: Sequence[Sequence[str]]) -> dict[str, str]:
    """For each case, the name of the group that must not part: its patient, with those of its twins."""
    place = {case.case_id: index for index, case in enumerate(cohort.cases)}
    strangers = sorted({name for group in twins for name in group} - place.keys())
    if strangers:
        raise UsageError(
            f"the twins name a case that is not in the manifest: '{strangers[0]}'",
            where=str(cohort.manifest),
            fix="run `foveate audit` again",
        )
    first: dict[str, int] = {}
    links = [
        (place[case.case_id], first.setdefault(case.patient_id, index))
        for index, case in enumerate(cohort.cases)
    ]
    links += [(place[group[0]], place[name]) for group in twins for name in group[1:]]
    ends = np.array(links).T
    graph = coo_array((np.ones(len(links), dtype=bool), (ends[0], ends[1])), shape=(len(place), len(place)))
    _, labels = connected_components(graph, directed=False)
    names: dict[int, str] = {}
    for case_id, index in sorted(place.items()):
        names.setdefault(int(labels[index]), case_id)
    return {case_id: names[int(labels[index])] for case_id, index in place.items()}


def _divide(
    material: _Material, rows: NDArray[np.int64], shares: Mapping[str, float], seed: Sequence[int]
) -> Fold:
    """Deal the units of some cases out to parts of the given shares; parts of share 0 do not exist."""
    shares = {part: share for part, share in shares.items() if share > 0}
    names, unit, sizes = np.unique(material.units[rows], return_inverse=True, return_counts=True)
    if len(names) < len(shares):
        raise InputRefused(
            f"{len(names)} patients (twins counted together) cannot make {len(shares)} parts",
            where=str(material.cohort.manifest),
            fix="add patients, or ask for fewer parts (split.folds, split.val, split.test)",
            code="too-few-patients",
        )
    has = material.has[rows]
    classes = np.column_stack([has, ~has.any(axis=1)])  # none of the findings is a class too
    ordered = classes[np.argsort(unit, kind="stable")]
    counts = np.add.reduceat(ordered, np.cumsum(sizes) - sizes, axis=0, dtype=np.float64)
    wanted = np.array(list(shares.values()))
    part = stratify(
        counts, sizes.astype(np.float64), wanted / wanted.sum(), np.random.default_rng(list(seed))
    )
    chosen = [list(shares)[index] for index in part]
    cases = material.cohort.cases
    return {cases[row].case_id: chosen[own] for row, own in zip(rows.tolist(), unit.tolist(), strict=True)}


def _cross_validation(material: _Material, config: SplitConfig) -> list[Fold]:
    count, cases = config.folds or 0, material.cohort.cases
    shares = {str(fold): 1 / count for fold in range(count)}
    tests = _divide(material, np.arange(len(cases)), shares, [config.seed])
    folds = []
    for fold in range(count):
        rest = np.array([row for row, case in enumerate(cases) if tests[case.case_id] != str(fold)])
        shares = {"train": 1 - config.val, "val": config.val}
        inner = _divide(material, rest, shares, [config.seed, fold + 1])
        folds.append({case.case_id: inner.get(case.case_id, "test") for case in cases})
    return folds


def _from_column(material: _Material, config: SplitConfig, column: str, notes: list[str]) -> Fold:
    """The parts that a manifest column names."""
    cohort = material.cohort
    if config.folds is not None:
        raise UsageError(
            "a column holds one split, not folds",
            where="split",
            fix="give split.column (of several columns, one for each fold) or split.folds",
        )
    texts = _texts(cohort, column)
    fold = {case_id: part for case_id, text in texts.items() if (part := parse_part(text))}
    if len(fold) < len(texts):
        raise _unknown_words(cohort, column, [text for case_id, text in texts.items() if case_id not in fold])
    apart = _patients_apart(cohort, fold)
    if apart:
        notes.append(f"{apart} patients lie in more than one part of the column {column}")
    found = set(fold.values())
    if "train" not in found:
        raise InputRefused(
            f"the column {column} has no train part", where=str(cohort.manifest), code="no-train-part"
        )
    if "test" not in found:
        notes.append(f"the column {column} has no test part, so nothing is kept for testing")
    if "val" not in found and config.val > 0:
        training = np.array([row for row, case in enumerate(cohort.cases) if fold[case.case_id] == "train"])
        fold |= _divide(material, training, {"train": 1 - config.val, "val": config.val}, [config.seed])
        notes.append(
            f"the column {column} has no val part: {config.val:.0%} of its train part was drawn, by patient"
        )
    return fold


def _texts(cohort: Cohort, column: str) -> dict[str, str]:
    """What the column says of each case."""
    if column == "split" and any(case.split for case in cohort.cases):
        return {case.case_id: case.split or "" for case in cohort.cases}
    known = cohort.cases[0].metadata
    if column not in known:
        raise UsageError(
            f"the manifest has no column '{column}' to split by",
            where="split.column",
            fix=closest(column, ["split", *known]),
        )
    return {case.case_id: case.metadata[column] for case in cohort.cases}


def _unknown_words(cohort: Cohort, column: str, texts: Sequence[str]) -> InputRefused:
    often = ", ".join(
        f"'{text}' ({count})" if text else f"empty ({count})" for text, count in Counter(texts).most_common(8)
    )
    return InputRefused(
        f"the column {column} holds words that name no part: {often}",
        where=str(cohort.manifest),
        fix="use train (or training, train_val), val (or valid, validation) and test (or testing, holdout)",
        code="unknown-part",
    )


def _patients_apart(cohort: Cohort, fold: Mapping[str, str]) -> int:
    parts: dict[str, set[str]] = defaultdict(set)
    for case in cohort.cases:
        parts[case.patient_id].add(fold[case.case_id])
    return sum(len(found) > 1 for found in parts.values())


def _far_off(fold: Mapping[str, str], shares: Mapping[str, float]) -> list[str]:
    """Parts whose share of the cases misses its target, because groups are large or classes rare."""
    got = Counter(fold.values())
    return [
        f"{part} holds {got[part] / len(fold):.0%} of the cases instead of {share:.0%}: "
        "patients and their twins cannot part, and each part should have every class"
        for part, share in shares.items()
        if abs(got[part] / len(fold) - share) > _FAR_OFF
    ]


def _thin_classes(material: _Material, folds: Sequence[Mapping[str, str]]) -> list[str]:
    """One line for each class that some part has no case of."""
    cohort = material.cohort
    lacking: dict[str, dict[str, list[int]]] = defaultdict(dict)  # numbers of folds by class and part
    for part in PARTS:
        for number, fold in enumerate(folds):
            inside = np.array([fold[case.case_id] == part for case in cohort.cases])
            for column in np.flatnonzero(inside.any() & ~material.has[inside].any(axis=0)).tolist():
                lacking[cohort.classes[column]].setdefault(part, []).append(number)
    notes = []
    for column, name in enumerate(cohort.classes):
        if places := [_place(part, numbers, len(folds)) for part, numbers in lacking[name].items()]:
            people = len({cohort.cases[row].patient_id for row in np.flatnonzero(material.has[:, column])})
            notes.append(
                f"{name} ({people} patient{'s' * (people != 1)}) is in no case of {', '.join(places)}"
            )
    return notes


def _place(part: str, numbers: Sequence[int], folds: int) -> str:
    return part if folds == 1 else f"{part} (fold {' '.join(map(str, numbers))})"
