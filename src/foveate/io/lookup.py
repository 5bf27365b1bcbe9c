"""Lookup tables of DICOM: palettes of colours, plain or segmented, and the Modality LUT.

Sources: DICOM PS3.3 C.7.6.3.1.5 and C.7.6.3.1.6 (descriptor and data), C.7.9.2 (segmented data), C.11.1
(Modality LUT).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom import Dataset

from foveate.errors import InputRefused
from foveate.types import Array

_DISCRETE, _LINEAR, _INDIRECT = 0, 1, 2


def palette(dataset: Dataset, word: str, where: str) -> Array:
    """Colour table ``(N, 3)``, or ``(N, 1)`` where red, green and blue are the same; uint8 or uint16.

    Args:
        dataset: of Photometric Interpretation PALETTE COLOR.
        word: NumPy's name for 16-bit numbers in the byte order of the file.
        where: the file, for errors.

    Raises:
        InputRefused: the table is missing or incomplete.
    """
    descriptor = dataset.get("RedPaletteColorLookupTableDescriptor")
    if descriptor is None or len(descriptor) != 3:
        raise _incomplete("says nothing of its size", where)
    entries, bits = int(descriptor[0]) or 2**16, int(descriptor[2])
    columns = [_column(dataset, colour, entries, bits, word, where) for colour in ("Red", "Green", "Blue")]
    table = np.stack(columns, axis=1).astype(np.uint8 if bits <= 8 else np.uint16)
    return table[:, :1] if (table == table[:, :1]).all() else table


def modality_lut(dataset: Dataset, word: str) -> tuple[Array, int]:
    """Table ``(N,)`` of the Modality LUT Sequence, uint8 or uint16, and how many bits its values have."""
    item = dataset.ModalityLUTSequence[0]
    bits = int(item.LUTDescriptor[2])
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, word)
    return np.atleast_1d(np.asarray(data)).astype(np.uint8 if bits <= 8 else np.uint16), bits


def lookup_index(stored: Array, descriptor: Sequence[int]) -> Array:
    """Position in a lookup table; what lies outside takes its first or last entry (PS3.3 C.11.1)."""
    entries = int(descriptor[0]) or 2**16
    return np.clip(stored.astype(np.int64) - int(descriptor[1]), 0, entries - 1)


def _column(dataset: Dataset, colour: str, entries: int, bits: int, word: str, where: str) -> Array:
    """One colour of a palette, ``(entries,)``."""
    name = f"{colour}PaletteColorLookupTableData"
    if data := dataset.get(name):
        column = np.frombuffer(data, word if len(data) >= 2 * entries else np.uint8)
    elif (data := dataset.get(f"Segmented{name}")) and (bits > 8 or word == "<u2"):
        column = expand_segments(np.frombuffer(data, word if bits > 8 else np.uint8), where)
    else:
        raise _incomplete(f"has no table of {colour.lower()}", where)
    if len(column) < entries:
        raise _incomplete(f"has {len(column)} entries of {colour.lower()} and not {entries}", where)
    return column[:entries]


def expand_segments(data: Array, where: str) -> Array:
    """The table ``(N,)`` that segmented palette data stand for (PS3.3 C.7.9.2).

    A discrete segment lists its values; a linear one goes on evenly from the value before it; an indirect
    one repeats earlier segments. Of 16 bits, indirect ones are refused: the standard counts their offset in
    bytes, pydicom and GDCM in words.

    Args:
        data: ``(n,)`` whole numbers, of 8 or 16 bits.
        where: the file, for errors.
    """
    table, at = list[int](), 0
    while at + 1 < len(data):
        at = _segment(data, at, table, where)
    return np.array(table, dtype=np.int64)


def _segment(data: Array, at: int, table: list[int], where: str, *, repeated: bool = False) -> int:
    """Append the values of the segment at a place, and say where the next one starts."""
    kind, count = int(data[at]), int(data[at + 1])
    follow = data[at + 2 :].astype(np.int64)
    if kind == _DISCRETE and len(follow) >= count:
        table.extend(follow[:count].tolist())
        return at + 2 + count
    if kind == _LINEAR and table and len(follow):
        before, last = table[-1], int(follow[0])
        table.extend(round(before + (last - before) * step / count) for step in range(1, count + 1))
        return at + 3
    if kind == _INDIRECT and not repeated and data.dtype.itemsize == 1:
        place = sum(int(part) << (8 * k) for k, part in enumerate(follow[:4]))
        for _ in range(count):
            if place + 1 >= len(data):
                raise _incomplete("repeats a segment that is not there", where)
            place = _segment(data, place, table, where, repeated=True)
        return at + 6
    raise _incomplete(f"has a segment of kind {kind} that cannot be followed", where)


def _incomplete(what: str, where: str) -> InputRefused:
    return InputRefused(
        f"the palette {what}",
        where=f"{where}, tag (0028,1101) Palette Color Lookup Table",
        fix="export the image again, or convert it to RGB with a DICOM tool",
        code="palette-incomplete",
    )
