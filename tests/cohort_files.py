"""Images and manifests written at test time, for the tests of manifest, audit and splits."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import ndimage

from foveate.data.manifest.manifest import load_manifest
from foveate.errors import ManifestRefused
from foveate.types import Case, Cohort

Row = dict[str, object]


def picture(seed: int, size: tuple[int, int] = (64, 64), smooth: float = 3.0) -> NDArray[np.uint8]:
    """A smooth random field, ``(H, W)``; two seeds give pictures that hardly correlate."""
    noise = np.random.default_rng(seed).standard_normal(size)
    field = ndimage.gaussian_filter(noise, smooth, mode="wrap")
    field = (field - field.min()) / (field.max() - field.min())
    return (20 + 215 * field).round().astype(np.uint8)


def write_image(path: Path, pixels: NDArray[np.uint8], **options: int) -> Path:
    """Write pixels in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(pixels).save(path, **options)
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write rows that all have the same keys."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def case_of(number: int, patient: str, label: str | None = None, **findings: int | None) -> Case:
    """A case without files."""
    return Case(
        f"c{number:04d}",
        patient,
        {"image": Path(f"{number}.png")},
        label=label,
        findings=findings,
        row=number + 2,
    )


def cohort_of(cases: Sequence[Case], classes: Sequence[str] = ()) -> Cohort:
    """A cohort of cases without files."""
    names = (
        tuple(cases[0].findings)
        or tuple(classes)
        or tuple(sorted({case.label for case in cases if case.label}))
    )
    task = "multilabel" if cases[0].findings else "multiclass"
    return Cohort(tuple(cases), task, names, ("image",), Path("manifest.csv"), "0" * 64)


def image_folder(folder: Path) -> Path:
    """Write a.png to f.png (each 64 wide, 48 high), and a text file that is no image."""
    for seed, name in enumerate("abcdef"):
        write_image(folder / f"{name}.png", picture(seed, (48, 64)))
    (folder / "text.png").write_text("I am no image")
    return folder


def rows(*cells: tuple[str, str, str, str]) -> list[Row]:
    """Rows of a manifest with one label per case."""
    return [dict(zip(("case_id", "patient_id", "label", "image"), cell, strict=True)) for cell in cells]


def good(count: int = 4) -> list[Row]:
    """Rows without a fault, for the images of ``image_folder``."""
    names = "abcdef"[:count]
    return rows(
        *((f"c{name}", f"p{name}", "xy"[index % 2], f"{name}.png") for index, name in enumerate(names))
    )


def changed(column: str, *values: object) -> list[Row]:
    """Good rows with other values in one column."""
    return [row | {column: value} for row, value in zip(good(len(values)), values, strict=True)]


def problems(folder: Path, content: Sequence[Row] | str | bytes, **options: object) -> tuple[str, ...]:
    """What is wrong with a manifest of these rows, or of this text."""
    path = folder / "manifest.csv"
    if isinstance(content, (str, bytes)):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    else:
        write_csv(path, content)
    with pytest.raises(ManifestRefused) as caught:
        load_manifest(path, **options)  # type: ignore[arg-type]
    assert str(path) in str(caught.value)
    return caught.value.problems
