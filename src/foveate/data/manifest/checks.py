"""What must hold between the rows of a manifest: no repetition, no contradiction, labels written alike."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from foveate.data.manifest.columns import Columns
from foveate.data.manifest.rows import ManifestTable, Problem, closest
from foveate.data.manifest.truth import listing_in, loosely
from foveate.data.manifest.words import is_blank
from foveate.types import Case


def class_names(cases: Sequence[Case], columns: Columns) -> tuple[str, ...]:
    """The findings in their order, or the labels sorted, with numbers in them by value."""
    if not columns.single:
        return columns.findings
    return tuple(sorted({case.label for case in cases if case.label}, key=_natural))


def across_rows(
    table: ManifestTable,
    columns: Columns,
    cases: Sequence[Case],
    classes: Sequence[str],
    keys: Mapping[int, tuple[object, ...]],
    *,
    unlabelled: bool = False,
    stated: bool = False,
) -> list[Problem]:
    """Every repetition and contradiction, as ``(line, text)``.

    Args:
        table: the manifest.
        columns: the part that each column plays.
        cases: one for each of its rows.
        classes: the class names.
        keys: what each case shows, by line.
        unlabelled: whether cases may lack a label.
        stated: whether the class names were given, so that they may differ by little.
    """
    repeated = dict(_repeated_rows(table))
    once = [case for case in cases if case.row not in repeated]
    problems = [*repeated.items(), *_same_name(once), *_same_image(once, keys)]
    labelled = [case for case in cases if case.label is not None] if unlabelled else cases
    if not columns.single or not labelled:
        return problems
    if columns.exclusive:  # what is wrong with their cells is told already
        blank = {
            row.number for row in table.rows if all(is_blank(row.values[name]) for name in columns.exclusive)
        }
        labelled = [case for case in labelled if case.label is not None or case.row in blank]
    texts = {row.number: row.values[columns.label] for row in table.rows} if columns.label else {}
    return problems + list(_label_problems(labelled, classes, texts, stated=stated))


def contradiction(one: Case, other: Case) -> str:
    """How the truth of two cases differs, or nothing; unknown contradicts nothing."""
    if one.label and other.label and one.label != other.label:
        return f"'{one.label}' and '{other.label}'"
    for name, value in one.findings.items():
        against = other.findings.get(name)
        if value is not None and against is not None and value != against:
            return f"{name} {value} and {against}"
    return ""


def _repeated_rows(table: ManifestTable) -> Iterator[Problem]:
    first: dict[tuple[str, ...], int] = {}
    for row in table.rows:
        earlier = first.setdefault(tuple(row.values.values()), row.number)
        if earlier != row.number:
            yield row.number, f"repeats row {earlier}"


def _same_name(cases: Sequence[Case]) -> Iterator[Problem]:
    first: dict[str, Case] = {}
    for case in cases:
        earlier = first.setdefault(case.case_id, case)
        if earlier is not case and case.case_id:
            conflict = contradiction(earlier, case)
            says = f", with another truth: {conflict}" if conflict else ""
            yield case.row, f"the case '{case.case_id}' is already in row {earlier.row}{says}"


def _same_image(cases: Sequence[Case], keys: Mapping[int, tuple[object, ...]]) -> Iterator[Problem]:
    """Rows that show the same image under another name, with another truth."""
    seen: dict[tuple[object, ...], list[Case]] = defaultdict(list)
    for case in cases:
        if case.row not in keys:
            continue
        for earlier in seen[keys[case.row]]:
            conflict = contradiction(earlier, case)
            if conflict and earlier.case_id != case.case_id:
                yield case.row, f"shows the same image as row {earlier.row}, with another truth: {conflict}"
                break
        seen[keys[case.row]].append(case)


def _label_problems(
    cases: Sequence[Case], classes: Sequence[str], texts: Mapping[int, str], *, stated: bool
) -> Iterator[Problem]:
    labels = Counter(case.label for case in cases if case.label)
    if not labels:
        yield cases[0].row, "the label is empty in every row"
        return
    spelling: dict[str, str] = {}  # for each label however it is spelt, how it is written most often
    for label, _ in labels.most_common():
        spelling.setdefault(loosely(label), label)
    lists = {} if stated else listing_in(list(labels))
    told = set[str]()
    for case in cases:
        if case.label is None:
            yield case.row, _unlabelled(texts.get(case.row, ""), told)
        elif case.label not in classes:
            yield case.row, f"unknown label '{case.label}': {closest(case.label, classes)}"
        elif case.label in lists:
            yield case.row, _listing(case.label, lists[case.label], told)
        elif not stated and spelling[loosely(case.label)] != case.label:
            yield case.row, f"the label '{case.label}' is elsewhere written '{spelling[loosely(case.label)]}'"
    if len(labels) == 1 and len(classes) == 1:
        yield cases[0].row, f"every case has the label '{classes[0]}': there is nothing to tell apart"


def _unlabelled(text: str, told: set[str]) -> str:
    """That a case has no label; the way out is told once."""
    way = "" if "unlabelled" in told else (
        "; fill it in, or leave such cases out (`unlabelled: left-out`, foveate init --unlabelled left-out)"
    )  # fmt: skip
    told.add("unlabelled")
    if text:
        named = f"{way}; if it is a class, name all classes (foveate init --class NAME)" if way else ""
        return f"the label is '{text}', which says that it is not known, where other cases have one{named}"
    return f"the label is empty, where other cases have one{way}"


def _listing(label: str, mark: str, told: set[str]) -> str:
    """That a label names several findings; the way out is told once."""
    way = "" if "listing" in told else (
        f": if they are findings of one case, say `separator: '{mark}'` (foveate init --separator '{mark}'); "
        "if it is a class, name all classes (foveate init --class NAME)"
    )  # fmt: skip
    told.add("listing")
    return f"the label '{label}' seems to name several findings{way}"


def _natural(label: str) -> tuple[object, ...]:
    """A sort key under which 'stage 2' comes before 'stage 10'."""
    return tuple(
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", label) if part
    )
