"""Does anything but the pictures tell the label? Metadata, file names, and what files are like.

If a model of other patients can tell a class from these alone, then the label goes along with how, where or
when the images were made, and an image model may learn that instead of the disease.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from foveate.data.audit.gathered import Evidence
from foveate.data.images import file_facts
from foveate.data.manifest.columns import names_parts
from foveate.evaluate.comparing.hypothesis import holm
from foveate.evaluate.intervals import Bootstrap, Value
from foveate.evaluate.metadata_model import Columns, best_columns, cross_scores, encode, how_well_told
from foveate.types import Case, Cohort

TELLING = 0.7
"""AUROC, on patients that the model has not seen, from which on it is worth a note; the lower end of the
interval must reach ``SURELY`` and the p-value, corrected for the number of classes, stay below ``ALPHA``."""
SURELY, ALPHA = 0.6, 0.01
FEWEST = 30  # patients; with fewer nothing is said
MOST = 3000  # cases, drawn at random, that the models see
_REPLICATES = 500
_NUMBER = re.compile(r"\d+")
_LONGEST = 15  # digits that a double holds


@dataclass(frozen=True, slots=True)
class Tell:
    """A class that something tells.

    Attributes:
        label: the class.
        auroc: on patients that the model has not seen, with its interval.
        p: corrected.
        columns: that tell most, the first of them first.
    """

    label: str
    auroc: Value
    p: float
    columns: tuple[str, ...]


def tells(columns: Columns, cohort: Cohort, rows: Sequence[int], *, seed: int = 0) -> list[Tell]:
    """The classes that columns tell, the best told first.

    Args:
        columns: one text for each of the rows.
        cohort: the cases.
        rows: positions of the cases that are asked.
        seed: of folds, trees, bootstrap and permutations.
    """
    cases = [cohort.cases[row] for row in rows]
    patients = [case.patient_id for case in cases]
    features = encode(columns)
    if not features.columns or len(set(patients)) < FEWEST:
        return []
    truth = np.stack([cohort.target(case) for case in cases])
    scores = cross_scores(features.values, truth, patients, seed=seed)
    told = how_well_told(scores, truth, patients, cohort.classes, Bootstrap(_REPLICATES, seed=seed))
    tested = {name: p for name, p in told.p.items() if not np.isnan(p)}
    if not tested:
        return []
    corrected = holm(np.array(list(tested.values()))).tolist()
    found = [
        Tell(name, told.per_class[name], p, best_columns(features, truth, seed=seed))
        for name, p in zip(tested, corrected, strict=True)
        if p < ALPHA
        and (told.per_class[name].value or 0) >= TELLING
        and (told.per_class[name].low or 0) >= SURELY
    ]
    return sorted(found, key=lambda tell: -(tell.auroc.value or 0))


def tells_by_kind(evidence: Evidence) -> Iterator[tuple[str, list[Tell]]]:
    """What metadata, names, sizes and acquisition tell, by code of the finding, if they tell anything."""
    cohort = evidence.cohort
    known = np.flatnonzero([not np.isnan(cohort.target(case)).all() for case in cohort.cases])
    rows = np.sort(np.random.default_rng(0).permutation(known)[:MOST]).tolist()
    kinds = {
        "metadata-tells-label": metadata_columns([cohort.cases[row] for row in rows]),
        "names-tell-label": name_columns([cohort.cases[row] for row in rows]),
        "sizes-tell-label": size_columns(evidence, rows),
        "acquisition-tells-label": acquisition_columns(evidence, rows),
    }
    for code, columns in kinds.items():
        if found := tells(columns, cohort, rows):
            yield code, found


def metadata_columns(cases: Sequence[Case]) -> Columns:
    """Every column of the manifest that plays no other part; those that hold a split do."""
    names = dict.fromkeys(name for case in cases for name in case.metadata)
    columns = {name: [case.metadata.get(name, "") for case in cases] for name in names}
    return {name: texts for name, texts in columns.items() if not names_parts(texts)}


def name_columns(cases: Sequence[Case]) -> Columns:
    """Of each view's file name, without folders: pattern (digits as ``#``), length, first and last number."""
    views = dict.fromkeys(name for case in cases for name in case.views)
    found: dict[str, list[str]] = {}
    for view in views:
        stems = [case.views[view].name.partition(".")[0] if view in case.views else "" for case in cases]
        numbers = [_NUMBER.findall(stem) for stem in stems]
        found[f"{view}: pattern"] = [_NUMBER.sub("#", stem) for stem in stems]
        found[f"{view}: length"] = [str(len(stem)) for stem in stems]
        found[f"{view}: first number"] = [own[0][:_LONGEST] if own else "" for own in numbers]
        found[f"{view}: last number"] = [own[-1][:_LONGEST] if own else "" for own in numbers]
    return found


def size_columns(evidence: Evidence, rows: Sequence[int]) -> Columns:
    """Of each view: size, spacing, channels and format of the files."""
    facts: list[dict[str, str]] = []
    for row in rows:
        own: dict[str, str] = {}
        for view, path in evidence.cohort.cases[row].views.items():
            look = evidence.looks.seen.get((row, view))
            if look is not None:
                named = file_facts(path, look.shape, look.channels, look.spacing)
                own |= {f"{view}: {name}": text for name, text in named.items()}
        facts.append(own)
    names = dict.fromkeys(name for own in facts for name in own)
    return {name: [own.get(name, "") for own in facts] for name in names}


def acquisition_columns(evidence: Evidence, rows: Sequence[int]) -> Columns:
    """Of each view: how images lie, their unit, side and view position, and each code of the reader's."""
    codes = {code for look in evidence.looks.seen.values() for code in look.warnings}
    facts: list[dict[str, str]] = []
    for row in rows:
        own: dict[str, str] = {}
        for view in evidence.cohort.cases[row].views:
            if (look := evidence.looks.seen.get((row, view))) is not None:
                told = look.acquisition | {code: str(int(code in look.warnings)) for code in codes}
                own |= {f"{view}: {name}": text for name, text in told.items()}
        facts.append(own)
    names = dict.fromkeys(name for own in facts for name in own)
    return {name: [own.get(name, "") for own in facts] for name in names}
