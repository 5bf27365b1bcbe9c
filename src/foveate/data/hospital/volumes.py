"""The images of one series become volumes and single images, by the rules of the reader.

| the series holds | it becomes |
|---|---|
| slices that make one volume | the volume |
| several slices in each place (time points, echoes, b-values) | a volume for each value of an attribute |
| slices of several planes, sizes or spacings (localizers) | a part for each |
| multi-frame files, mosaics | a part for each file, or for each volume in it (``volume=2``) |
| images without a place in the patient (radiographs, ultrasound) | a part for each image |
| anything else | a part with the reader's reason, which no rule takes |

Copies of one image (the same SOP Instance UID) count once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

from foveate.data.hospital.headers import Facts
from foveate.errors import InputRefused
from foveate.io.stack import SlicePlane, stack_planes

_APART = {  # attributes that tell volumes of one series apart, in the order in which they are tried
    "temporal_position": "time",
    "echo_time": "echo",
    "b_value": "b",
    "kind": "type",
    "acquisition": "acquisition",
    "trigger_time": "trigger",
    "acquisition_time": "at",
    "content_time": "at",
}
_PLANES = ("sagittal", "coronal", "axial")  # by the axis of LPS that their normal is nearest to
_OBLIQUE = 0.9  # below this direction cosine of the normal a plane is called oblique
_SAME_PLACE = 1e-3  # mm, as in stack
_ALIKE = 1e-3  # of direction cosines, and relative of spacings, as in stack
_FOUND = "MOSAIC"
Files = Sequence[tuple[str, Facts]]


@dataclass(frozen=True, slots=True)
class SeriesPart:
    """One volume or image of a series.

    Attributes:
        files: paths from the export on, in the order of the slices where they make a volume.
        facts: of the first of them.
        part: what tells it from the other parts of its series, such as ``b=800``; empty if there is only one.
        parts: how many there are.
        plane: ``axial``, ``coronal``, ``sagittal``, maybe ``oblique …``; empty if unknown.
        slices: of the volume; 1 for an image.
        spacing: mm between slices, rows and columns; of an image two numbers; empty if unknown.
        problem: why the reader would refuse it; empty if it would not.
    """

    files: tuple[str, ...]
    facts: Facts
    part: str
    parts: int
    plane: str
    slices: int
    spacing: tuple[float, ...]
    problem: str = ""

    @property
    def text(self) -> str:
        """What rules are matched with: the description of the series, and the part."""
        name = str(self.facts.get("description") or self.facts.get("protocol") or "")
        return " ".join(filter(None, (name, self.part)))


def parts_of(files: Files) -> list[SeriesPart]:
    """The volumes and images of one series.

    Args:
        files: path and facts of each image of the series.
    """
    unique = list(
        {str(facts.get("instance_uid") or path): (path, facts) for path, facts in reversed(files)}.values()
    )[::-1]
    groups = list(_groups(unique))
    named = Counter(name for name, _ in groups)
    counted: Counter[str] = Counter()
    parts = []
    for name, members in groups:
        counted[name] += 1
        label = f"{name} {counted[name]}".strip() if named[name] > 1 else name
        parts.append(_part(members, label if len(groups) > 1 else "", len(groups)))
    return parts


def _groups(files: Files) -> Iterator[tuple[str, Files]]:
    """Name and images of each part; names may repeat."""
    alone = [each for each in files if not _is_slice(each[1])]
    for path, facts in alone:
        inside = _volumes_inside(facts)
        for k in range(inside):
            name = " ".join(filter(None, (_name_alone(facts) if len(files) > 1 else "", f"volume={k}")))
            yield name, [(path, {**facts, "volume": k})]
        if not inside:
            yield _name_alone(facts), [(path, facts)]
    frames = _frames([each for each in files if _is_slice(each[1])])
    for members in frames:
        name = _plane(members[0][1]) if len(frames) > 1 else ""
        for inner, volume in _volumes(members):
            yield " ".join(filter(None, (name, inner))), volume


def _volumes_inside(facts: Facts) -> int:
    """How many volumes a multi-frame file holds that can be chosen by number; 0 for a single one."""
    frames, places = int(facts.get("frames") or 1), int(facts.get("places") or 0)
    return frames // places if places > 1 and frames > places and frames % places == 0 else 0


def _is_slice(facts: Facts) -> bool:
    """Whether an image is one slice that says where it lies."""
    placed = [len(facts.get(name, ())) for name in ("position", "orientation", "spacing")] == [3, 6, 2]
    return placed and int(facts.get("frames") or 1) == 1 and _FOUND not in str(facts.get("kind", ""))


def _name_alone(facts: Facts) -> str:
    """What tells an image from others of its series: its view, else what tells volumes apart."""
    view = " ".join(str(facts[name]) for name in ("laterality", "view_position") if name in facts)
    told = next(
        (f"{word}={facts[name]}" for name, word in _APART.items() if name in facts and name != "kind"), ""
    )
    return view or told or f"image {facts.get('instance', '')}".strip()


def _frames(files: Files) -> list[Files]:
    """Slices by what all of a volume have in common, within the tolerances of the reader."""
    found: list[tuple[list[float], object, list[tuple[str, Facts]]]] = []
    for path, facts in files:
        size = (facts.get("rows"), facts.get("columns"))
        numbers = [*facts["orientation"], *np.log(np.maximum(facts["spacing"], 1e-9)).tolist()]
        for known, same, members in found:
            if size == same and np.abs(np.subtract(known, numbers)).max() <= _ALIKE:
                members.append((path, facts))
                break
        else:
            found.append((numbers, size, [(path, facts)]))
    return [members for *_, members in found]


def _volumes(files: Files) -> Iterator[tuple[str, Files]]:
    """The volumes that slices of one plane and size make, told apart by as little as possible."""
    heights = _heights(files)
    most = max(Counter(heights).values())
    if most == 1:
        yield "", files
        return
    names = [name for name in _APART if len({str(facts.get(name)) for _, facts in files}) > 1]
    pairs: Iterator[tuple[str, ...]] = chain(combinations(names, 1), combinations(names, 2))
    for chosen in pairs:
        groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for place, (_, facts) in enumerate(files):
            groups[tuple(str(facts.get(name, "")) for name in chosen)].append(place)
        apart = all(len({heights[k] for k in members}) == len(members) for members in groups.values())
        if apart and len(groups) == most:
            for values, members in sorted(groups.items(), key=lambda each: tuple(map(_sortable, each[0]))):
                told = zip(chosen, values, strict=True)
                yield " ".join(f"{_APART[name]}={value}" for name, value in told), [files[k] for k in members]
            return
    yield f"{most} in one place", files


def _heights(files: Files) -> list[int]:
    """Which slices share a place along their normal: the number of the place, for each."""
    normal = np.cross(files[0][1]["orientation"][:3], files[0][1]["orientation"][3:])
    heights = np.array([facts["position"] for _, facts in files]) @ normal
    order = np.argsort(heights)
    numbers = np.empty(len(files), dtype=np.intp)
    numbers[order] = np.cumsum(np.diff(heights[order], prepend=heights[order[0]]) > _SAME_PLACE)
    return [int(number) for number in numbers]


def _part(files: Files, name: str, parts: int) -> SeriesPart:
    """One part, checked as the reader will check it."""
    facts = files[0][1]
    problem, slices = "", int(facts.get("places") or facts.get("frames") or 1)
    step = (facts["step"],) if "step" in facts else ()
    spacing = (*step, *facts.get("spacing", ()))
    if int(facts.get("concatenated") or 1) > 1:
        problem = f"one of {facts['concatenated']} files that hold one object together (a concatenation)"
    elif "places" in facts and facts["places"] < int(facts.get("frames") or 1) and "volume" not in facts:
        problem = f"{facts['frames']} frames lie in {facts['places']} places: several volumes in one file"
    elif len(files) > 1:
        slices = len(files)
        try:
            shape = (int(facts.get("rows") or 0), int(facts.get("columns") or 0))
            order, geometry, _ = stack_planes([_slice_plane(path, each) for path, each in files], shape, "")
        except InputRefused as refusal:
            problem = refusal.what
        else:
            files, spacing = [files[k] for k in order], geometry.spacing or ()
    paths = tuple(path for path, _ in files)
    return SeriesPart(paths, facts, name, parts, _plane(facts), slices, tuple(spacing), problem)


def _slice_plane(path: str, facts: Facts) -> SlicePlane:
    position, right, down = (
        np.array(each, dtype=np.float64)
        for each in (facts["position"], facts["orientation"][:3], facts["orientation"][3:])
    )
    return SlicePlane(path, position, right, down, (facts["spacing"][0], facts["spacing"][1]))


def _plane(facts: Mapping[str, object]) -> str:
    cosines = np.array(facts.get("orientation", ()), dtype=np.float64)
    if cosines.shape != (6,):
        return ""
    normal = np.abs(np.cross(cosines[:3], cosines[3:]))
    name = _PLANES[int(normal.argmax())]
    return name if normal.max() >= _OBLIQUE else f"oblique {name}"


def _sortable(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text
