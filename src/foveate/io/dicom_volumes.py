"""The slices of one volume among those of a DICOM series or file that holds several, see ``chosen``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from foveate.errors import InputRefused
from foveate.io.chosen import SIGN
from foveate.io.stack import SlicePlane

_TELLING = (  # what tells the volumes of a series apart, the most telling first
    *("EchoTime", "EffectiveEchoTime", "EchoNumbers", "DiffusionBValue", "InversionTime", "FlipAngle"),
    *("TemporalPositionIdentifier", "TemporalPositionIndex", "NominalPercentageOfCardiacPhase"),
    *("TriggerTime", "AcquisitionNumber", "ImageType", "FrameType", "AcquisitionTime", "SeriesInstanceUID"),
)
_SAME_PLACE = 1e-3  # mm
_SHOWN = 4  # values of a tag that a refusal names


def picked(
    volume: str, datasets: Sequence[tuple[Dataset, int]], planes: Sequence[SlicePlane | None], where: str
) -> list[int]:
    """The slices of one volume among those of several.

    Args:
        volume: a choice, as a path names it.
        datasets: of each slice, with its frame (0 for files of one).
        planes: where each lies.
        where: the file or series, for errors.

    Returns:
        Positions in ``datasets``.

    Raises:
        InputRefused: nothing fits the choice, or it is none.
    """
    if volume.isdecimal():
        found = _nth(int(volume), datasets, planes)
    else:
        wanted = [_condition(part, where) for part in volume.split("&")]
        found = [
            place
            for place, (dataset, frame) in enumerate(datasets)
            if all(_equal(_value(dataset, frame, tag), text) for tag, text in wanted)
        ]
    if not found:
        raise InputRefused(
            f"no slice fits the choice '{SIGN}{volume}'",
            where=where,
            fix=f"choose one of: {choices(datasets, planes) or 'it holds one volume; leave the choice out'}",
            code="no-such-volume",
        )
    return found


def choices(datasets: Sequence[tuple[Dataset, int]], planes: Sequence[SlicePlane | None]) -> str:
    """In words, what may stand behind the ``#``; empty where the slices do not make whole volumes."""
    places = _places(planes)
    counts = Counter(places)
    ways = []
    if len(set(counts.values())) == 1 and (most := max(counts.values(), default=0)) > 1:
        ways.append(f"{SIGN}0 to {SIGN}{most - 1}")
    for keyword in _TELLING:
        values = [_text(_value(dataset, frame, keyword)) for dataset, frame in datasets]
        parts: dict[str, list[object]] = {}
        for text, place in zip(values, places, strict=True):
            parts.setdefault(text, []).append(place)
        whole = all(len(set(part)) == len(part) > 1 for part in parts.values())
        if len(parts) > 1 and whole and "" not in parts:
            shown = ", ".join(f"{SIGN}{keyword}={text}" for text in sorted(parts, key=_rank)[:_SHOWN])
            ways.append(shown + (f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""))
    return "; ".join(ways)


def naming_choices(
    error: InputRefused, datasets: Sequence[tuple[Dataset, int]], planes: Sequence[SlicePlane | None]
) -> InputRefused:
    """The refusal of slices in one place, with the volumes that one could choose, if they make such."""
    ways = choices(datasets, planes) if error.code == "duplicate-positions" else ""
    if not ways:
        return error
    fix = f"it holds several volumes: choose one behind its path, {ways}; or give each its own folder"
    return InputRefused(error.what, where=error.where, fix=fix, code=error.code)


def _nth(
    number: int, datasets: Sequence[tuple[Dataset, int]], planes: Sequence[SlicePlane | None]
) -> list[int]:
    """Of the slices in each place the one with this rank, by Instance Number and frame."""
    piles: dict[object, list[int]] = {}
    for position, place in enumerate(_places(planes)):
        piles.setdefault(place, []).append(position)

    def rank(position: int) -> tuple[float, int]:
        dataset, frame = datasets[position]
        return float(dataset.get("InstanceNumber") or 0), frame

    ordered = [sorted(pile, key=rank) for pile in piles.values()]
    return sorted(pile[number] for pile in ordered if number < len(pile))


def _places(planes: Sequence[SlicePlane | None]) -> list[object]:
    """Something that is the same for slices in one place."""
    return [
        None if plane is None else tuple(np.round(plane.position / _SAME_PLACE).astype(int).tolist())
        for plane in planes
    ]


def _condition(text: str, where: str) -> tuple[str, str]:
    """``TAG=value``: keyword and value."""
    keyword, sign, value = (part.strip() for part in text.partition("="))
    known = bool(keyword) and (tag_for_keyword(keyword) is not None or _tag(keyword) is not None)
    if not (sign and value and known):
        raise InputRefused(
            f"'{text}' chooses no volume",
            where=where,
            fix="write a number from 0 on, or TAG=value with a keyword of DICOM (EchoTime=2.3) or its number",
            code="no-such-volume",
        )
    return keyword, value


def _tag(text: str) -> int | None:
    digits = text.strip("()").replace(",", "")
    try:
        return int(digits, 16) if len(digits) == 8 else None
    except ValueError:
        return None


def _value(dataset: Dataset, frame: int, keyword: str) -> Any:
    """Value of an attribute of one frame: in its own functional groups, in shared ones, or at the top."""
    tag = tag_for_keyword(keyword)
    tag = _tag(keyword) if tag is None else tag
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    shared = dataset.get("SharedFunctionalGroupsSequence") or ()
    for holder in (*per_frame[frame : frame + 1], *shared[:1], dataset):
        if tag in holder:
            return holder[tag].value
        for element in holder if holder is not dataset else ():
            if element.VR == "SQ" and len(element.value) and tag in element.value[0]:
                return element.value[0][tag].value
    return None


def _text(value: Any) -> str:
    if value is None:
        return ""
    several = not isinstance(value, str) and hasattr(value, "__iter__")
    return "\\".join(map(str, value)) if several else str(value)


def _rank(text: str) -> tuple[float, str]:
    """Numbers by their size, other texts after them."""
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _equal(value: Any, text: str) -> bool:
    """Whether a value is what was written: as a number if both are some."""
    found = _text(value)
    try:
        return bool(np.isclose(float(found), float(text), rtol=1e-6, atol=0))
    except ValueError:
        return found == text
