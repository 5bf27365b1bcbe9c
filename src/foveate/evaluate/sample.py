"""How many cases of how many patients, in words; patients of whom nothing is known are not counted."""

from __future__ import annotations

from collections.abc import Sequence


def are_known(case_ids: Sequence[str], patient_ids: Sequence[str]) -> bool:
    """Whether anything is known of who is who: not where every case is called a patient of its own.

    Args:
        case_ids, patient_ids: N each.
    """
    return any(case != patient for case, patient in zip(case_ids, patient_ids, strict=True))


def cases_in_words(cases: int, patients: int, known: bool = True, noun: str = "case") -> str:
    """Such as ``60 cases of 56 patients`` or ``154 cases (patients unknown)``.

    Args:
        cases: how many.
        patients: of how many.
        known: whether it is known who is who.
        noun: what a case is called.
    """
    told = counted(cases, noun)
    return f"{told} of {counted(patients, 'patient')}" if known else f"{told} (patients unknown)"


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is one."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
