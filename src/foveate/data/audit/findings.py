"""The checks of the audit, one function each; a check says what it found, or nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median

from foveate.data.audit.gathered import Evidence, Group
from foveate.data.audit.looks import Look
from foveate.data.audit.metadata import tells_by_kind
from foveate.evaluate.results.audit import Finding, Severity
from foveate.evaluate.sample import counted
from foveate.types import Case

SEVERITY: dict[str, Severity] = {
    "patient-in-two-splits": "stop",
    "duplicate-in-two-splits": "stop",
    "conflicting-labels": "stop",
    "refused-image": "stop",
    "exact-duplicates": "note",
    "near-duplicates": "note",
    "patients-unknown": "note",
    "read-by-rule": "note",
    "rare-class": "note",
    "one-sided-class": "note",
    "empty-image": "note",
    "constant-image": "note",
    "dark-image": "note",
    "mixed-colour": "note",
    "metadata-tells-label": "note",
    "names-tell-label": "note",
    "sizes-tell-label": "note",
    "acquisition-tells-label": "note",
    "mixed-orientation": "stop",
    "without-orientation": "note",
    "mixed-plane": "stop",
    "mixed-spacing": "note",
    "mixed-unit": "stop",
    "mixed-laterality": "note",
    "mixed-view-position": "note",
    "reader-warning": "note",
    "refused-mask": "stop",
    "full-mask": "note",
    "empty-mask": "note",
    "mask-turned": "note",
    "mask-resampled": "note",
    "mask-by-array": "note",
    "training-patients": "stop",
    "training-images": "stop",
    "training-images-unknown": "note",
}

RARE = 10
"""Fewest patients of a class from whom parts and intervals can be made."""

DARK_RANGE, DARK_SPREAD = 1 / 8, 1 / 4
"""An image is dark if it uses less than this share of its encoding, or of its view's median spread."""

_SHOWN = 3  # examples in a message


def finding(
    code: str,
    message: str,
    case_ids: Sequence[str] = (),
    groups: Sequence[tuple[str, ...]] = (),
    *,
    stop: bool | None = None,
) -> Finding:
    """A finding with the severity of its code, or, with ``stop``, as it says."""
    return Finding(
        code=code,
        severity=SEVERITY[code] if stop is None else "stop" if stop else "note",
        message=message,
        case_ids=tuple(case_ids),
        groups=tuple(groups),
    )


def patient_in_two_splits(evidence: Evidence) -> Iterator[Finding]:
    """Patients with cases in more than one part: the model is tested on people it knows."""
    patients: dict[str, list[int]] = defaultdict(list)
    for index, case in enumerate(evidence.cohort.cases):
        patients[case.patient_id].append(index)
    apart = {name: group for name, group in patients.items() if _parts(evidence, group)}
    if apart:
        examples = (f"{name} ({_parts(evidence, group)})" for name, group in apart.items())
        message = (
            f"{len(apart)} of {counted(len(patients), 'patient')} in more than one part: {some(examples)}"
        )
        yield _grouped("patient-in-two-splits", message, evidence, list(apart.values()))


def duplicate_in_two_splits(evidence: Evidence) -> Iterator[Finding]:
    """Copies of one image in more than one part: the model is tested on what it was trained on."""
    apart = [group for group in evidence.twins if _parts(evidence, group)]
    if apart:
        examples = (f"{_equals(evidence, group)} ({_parts(evidence, group)})" for group in apart)
        message = f"{counted(len(apart), 'group')} of copies in more than one part: {some(examples)}"
        yield _grouped("duplicate-in-two-splits", message, evidence, apart)


def conflicting_labels(evidence: Evidence) -> Iterator[Finding]:
    """Copies of one image with different truths: at least one label is wrong."""
    torn = [group for group in evidence.twins if _conflict(evidence.cases(group))]
    if torn:
        examples = (f"{_equals(evidence, group)} ({_conflict(evidence.cases(group))})" for group in torn)
        message = f"{counted(len(torn), 'group')} of copies with contradictory truths: {some(examples)}"
        yield _grouped("conflicting-labels", message, evidence, torn)


def duplicates(evidence: Evidence) -> Iterator[Finding]:
    """Copies, exact and near, whether or not they do harm."""
    exact = set(evidence.copies)
    kinds = {
        "exact-duplicates": ("identical pixels", evidence.copies),
        "near-duplicates": (
            "nearly the same image",
            [group for group in evidence.twins if group not in exact],
        ),
    }
    for code, (what, groups) in kinds.items():
        if groups:
            across = sum(len({case.patient_id for case in evidence.cases(group)}) > 1 for group in groups)
            involved = counted(sum(len(group) for group in groups), "case")
            examples = some(_equals(evidence, group) for group in groups)
            message = (
                f"{counted(len(groups), 'group')} of cases with {what} ({involved}), "
                f"{across} of them across patients: {examples}"
            )
            yield _grouped(code, message, evidence, groups)


def refused_images(evidence: Evidence) -> Iterator[Finding]:
    """Images that cannot be decoded although their header was fine."""
    refused = evidence.looks.refused
    if refused:
        reasons = (f"{evidence.cohort.cases[key[0]].case_id}: {error.what}" for key, error in refused.items())
        message = f"{counted(len(refused), 'image')} cannot be read: {some(reasons)}"
        yield single("refused-image", message, evidence, [index for index, _ in refused])


def unknown_patients(evidence: Evidence) -> Iterator[Finding]:
    """Every case a patient of its own: nothing is known about who is who."""
    if all(case.patient_id == case.case_id for case in evidence.cohort.cases):
        message = (
            "every case counts as a patient of its own: if some show the same person, results are too good"
        )
        yield finding("patients-unknown", message)


def read_by_rule(evidence: Evidence) -> Iterator[Finding]:
    """Cells of the manifest that were understood by a rule, and columns that look like findings."""
    reading = evidence.cohort.reading
    aside = (f"'{name}' is taken for no finding: it {reason}" for name, reason in reading.aside.items())
    if told := [*reading.notes, *aside]:
        yield finding("read-by-rule", f"the manifest: {'; '.join(told)}")


def rare_classes(evidence: Evidence) -> Iterator[Finding]:
    """Classes of too few patients for parts and intervals."""
    cohort = evidence.cohort
    patients = {
        name: {case.patient_id for case in cohort.cases if _has(case, name)} for name in cohort.classes
    }
    rare = {name: len(people) for name, people in patients.items() if len(people) < RARE}
    if rare:
        listing = ", ".join(f"{name} ({counted(count, 'patient')})" for name, count in rare.items())
        concerned = [
            index for index, case in enumerate(cohort.cases) if any(_has(case, name) for name in rare)
        ]
        message = f"fewer than {RARE} patients: {listing}"
        yield single("rare-class", message, evidence, concerned)


def one_sided_classes(evidence: Evidence) -> Iterator[Finding]:
    """Classes that all cases of a part have, or none: no curve can be drawn for them there."""
    cohort = evidence.cohort
    whole = dict.fromkeys((case.case_id for case in cohort.cases), "the cohort")
    for number, fold in enumerate(evidence.folds or [whole]):
        for part in sorted(set(fold.values())):
            inside = [case for case in cohort.cases if fold.get(case.case_id) == part]
            if missing := _one_sided(inside, cohort.classes):
                place = f"{part} of fold {number}" if len(evidence.folds) > 1 else part
                where = f"{place} ({counted(len(inside), 'case')})"
                message = f"{where} has {missing}: AUROC and AP are undefined there"
                yield finding("one-sided-class", message)


def _one_sided(cases: Sequence[Case], classes: Sequence[str]) -> str:
    """Which classes lack negatives, and which positives, among these cases."""
    truths = {name: {truth_of(case, name) for case in cases} for name in classes}
    lacks = {
        "no negative case": [name for name, known in truths.items() if 1 in known and 0 not in known],
        "no positive case": [name for name, known in truths.items() if 1 not in known],
    }
    return " and ".join(f"{what} of {', '.join(names)}" for what, names in lacks.items() if names)


def flat_images(evidence: Evidence) -> Iterator[Finding]:
    """Images of a single value."""
    flat = {key: look for key, look in evidence.looks.seen.items() if look.lowest == look.highest}
    kinds = {
        "empty-image": ("all pixels are zero", [key for key, look in flat.items() if look.highest == 0]),
        "constant-image": ("all pixels are equal", [key for key, look in flat.items() if look.highest != 0]),
    }
    for code, (what, keys) in kinds.items():
        if keys:
            cases = [index for index, _ in keys]
            message = f"{counted(len(keys), 'image')} where {what}: {some(evidence.ids(cases))}"
            yield single(code, message, evidence, cases)


def dark_images(evidence: Evidence) -> Iterator[Finding]:
    """Images that use little of their encoding, or far less than the others of their view."""
    for view in evidence.cohort.view_names:
        looks = {index: look for (index, name), look in evidence.looks.seen.items() if name == view}
        spreads = {index: look.percentiles[1] - look.percentiles[0] for index, look in looks.items()}
        usual = median(spreads.values()) if spreads else 0.0
        varied = [index for index, look in looks.items() if look.lowest < look.highest]
        dark = [
            index
            for index in varied
            if _used(looks[index]) < DARK_RANGE or spreads[index] < DARK_SPREAD * usual
        ]
        if dark:
            message = (
                f"{len(dark)} of {counted(len(looks), 'image')} ({view}) use little of the range of values, "
                f"and will look dark or flat to the model: {some(evidence.ids(dark))}; see preprocess.window"
            )
            yield single("dark-image", message, evidence, dark)


def mixed_colour(evidence: Evidence) -> Iterator[Finding]:
    """Grey and colour images in one view: if that goes with the label, it is what a model learns."""
    for view in evidence.cohort.view_names:
        colours = Counter(look.channels for (_, name), look in evidence.looks.seen.items() if name == view)
        if len(colours) > 1:
            counts = f"{colours[1]} grey and {colours[3]} colour images"
            message = f"{view}: {counts}; see whether that goes with the label"
            yield finding("mixed-colour", message)


_TELLING = {
    "metadata-tells-label": "the metadata alone tell the label: if they say how or where an image was made, "
    "a model can learn that instead of the disease",
    "names-tell-label": "the file names alone tell the label: see whether classes were collected apart",
    "sizes-tell-label": "the sizes or kinds of files alone tell the label: a model can learn that instead of "
    "the disease",
    "acquisition-tells-label": "how images lie, their units, or what was noticed in reading tell the label: "
    "a model can learn that instead of the disease",
}


def told_without_looking(evidence: Evidence) -> Iterator[Finding]:
    """Metadata, file names or sizes from which a class can be told; see ``foveate.data.audit.metadata``."""
    for code, found in tells_by_kind(evidence):
        examples = (
            f"{tell.label} with an AUROC of {value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"
            for tell in found
            if (value := tell.auroc)
        )
        columns = ", ".join(found[0].columns)
        yield finding(code, f"{_TELLING[code]} (most of all {columns}): {some(examples)}")


Check = Callable[[Evidence], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    patient_in_two_splits,
    duplicate_in_two_splits,
    conflicting_labels,
    refused_images,
    duplicates,
    unknown_patients,
    read_by_rule,
    rare_classes,
    one_sided_classes,
    flat_images,
    dark_images,
    mixed_colour,
    told_without_looking,
)


def truth_of(case: Case, name: str) -> int | None:
    """Whether a case has a class: 1, 0, or None if that is not known."""
    if case.findings:
        return case.findings.get(name)
    return None if case.label is None else int(case.label == name)


def _has(case: Case, name: str) -> bool:
    return truth_of(case, name) == 1


def _conflict(cases: Sequence[Case]) -> str:
    """The truths that contradict each other, or nothing."""
    labels = sorted({case.label for case in cases if case.label})
    if len(labels) > 1:
        return ", ".join(labels)
    findings = {name for case in cases for name in case.findings}
    return ", ".join(
        sorted(name for name in findings if {0, 1} <= {case.findings.get(name) for case in cases})
    )


def _parts(evidence: Evidence, group: Iterable[int]) -> str:
    """The parts that a group lies in, if in some fold there are several."""
    names = evidence.ids(group)
    for fold in evidence.folds:
        parts = sorted({fold[name] for name in names if name in fold})
        if len(parts) > 1:
            return ", ".join(parts)
    return ""


def _used(look: Look) -> float:
    """The share of the encoding's range that the values reach, 1 if that is unknown."""
    if look.value_range is None:
        return 1.0
    low, high = look.value_range
    return (look.percentiles[1] - low) / (high - low)


def _equals(evidence: Evidence, group: Group) -> str:
    names = evidence.ids(group)
    return " = ".join(names[:_SHOWN]) + (" = …" if len(names) > _SHOWN else "")


def some(examples: Iterable[str]) -> str:
    """The first few examples."""
    shown = list(examples)
    return "; ".join(shown[:_SHOWN]) + ("; …" if len(shown) > _SHOWN else "")


def _grouped(code: str, message: str, evidence: Evidence, groups: Sequence[Iterable[int]]) -> Finding:
    named = tuple(evidence.ids(group) for group in groups)
    return finding(code, message, [name for group in named for name in group], named)


def single(
    code: str, message: str, evidence: Evidence, cases: Iterable[int], *, stop: bool | None = None
) -> Finding:
    """A finding of single cases, by their positions; ``stop`` as for ``finding``."""
    return finding(code, message, evidence.ids(dict.fromkeys(cases)), stop=stop)
