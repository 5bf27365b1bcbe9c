"""The phantoms of the further tasks: read back, and asked whether they teach what they are said to teach.

That a class can be told is shown with a few numbers measured within the true masks and a linear rule; no
network is trained here.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from command_line import foveate
from foveate.data.manifest.manifest import load_manifest
from foveate.data.phantom import PHANTOMS, draw_phantom
from foveate.data.phantoms import cells, chest, liver_mri, paired
from foveate.data.phantoms.cohort import Drawn, present_views
from foveate.errors import UsageError
from foveate.types import Box, Cohort

SMALL: dict[str, dict[str, Any]] = {
    "ct": {"patients": 5, "slices": 1, "size": 32},
    "liver-mri": {"patients": 8, "size": 32, "slices": 8},
    "paired": {"patients": 8, "size": 48},
    "chest": {"patients": 6, "size": 64},
    "cells": {"patients": 5, "size": 48, "cases": 3},
}
NEW = tuple(SMALL)[1:]
SEED = 4


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind once, small, with a planted sign; and where there are several views, some missing."""
    folder = tmp_path_factory.mktemp("kinds")
    return {kind: draw_phantom(kind, folder / kind, options(kind)).parent for kind in NEW}


def options(kind: str) -> dict[str, Any]:
    missing = {"missing": 0.3} if "missing" in PHANTOMS[kind].options else {}
    return {**SMALL[kind], **missing, "seed": SEED, "shortcut": True}


def load(folder: Path) -> Cohort:
    boxes = folder / "boxes.csv"
    return load_manifest(folder / "manifest.csv", boxes=boxes if boxes.exists() else None)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels_of(path: Path) -> NDArray[Any]:
    """Pixels as ``(H, W)``, ``(H, W, 3)`` or ``(D, H, W)``, by other libraries than our readers."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path))
    return np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0)


def liver_cases(count: int, **changes: Any) -> list[Drawn]:
    config = liver_mri.LiverMriConfig(**{"size": 40, "slices": 10, "seed": 7, "difficulty": 0.3} | changes)
    return [next(liver_mri.draw_patient(index, config)) for index in range(count)]


def paired_cases(count: int, **changes: Any) -> list[Drawn]:
    config = paired.PairedConfig(**{"size": 64, "seed": 7, "difficulty": 0.3} | changes)
    return [next(paired.draw_patient(index, config)) for index in range(count)]


def cell_cases(slides: int, **changes: Any) -> list[Drawn]:
    config = cells.CellsConfig(**{"cases": 5, "seed": 7, "difficulty": 0.3} | changes)
    return [case for index in range(slides) for case in cells.draw_slide(index, config)]


def labels(cases: Iterable[Drawn]) -> list[str]:
    return [case.truth["label"] for case in cases]


# What is written ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", NEW)
def test_same_arguments_give_the_same_bytes(kind: str, cohorts: dict[str, Path], tmp_path: Path) -> None:
    again = draw_phantom(kind, tmp_path / "again", options(kind)).parent
    assert files_of(again) == files_of(cohorts[kind])
    other = draw_phantom(kind, tmp_path / "other", options(kind) | {"seed": SEED + 1}).parent
    assert files_of(other) != files_of(cohorts[kind])


@pytest.mark.parametrize("kind", NEW)
def test_a_patient_is_the_same_in_a_larger_cohort(
    kind: str, cohorts: dict[str, Path], tmp_path: Path
) -> None:
    fewer = draw_phantom(kind, tmp_path / "fewer", options(kind) | {"patients": 2}).parent
    drawn, all_of_them = files_of(fewer), files_of(cohorts[kind])
    pictures = [path for path in drawn if path.suffix in (".png", ".gz")]
    assert len(pictures) >= 4
    assert all(drawn[path] == all_of_them[path] for path in pictures)


@pytest.mark.parametrize("kind", NEW)
def test_the_manifest_is_a_cohort_with_the_right_task_views_and_classes(
    kind: str, cohorts: dict[str, Path]
) -> None:
    cohort = load(cohorts[kind])
    views: tuple[str, ...] = {"liver-mri": liver_mri.VIEWS, "paired": paired.VIEWS}.get(kind, ("image",))
    classes = {
        "liver-mri": sorted(liver_mri.CLASSES),
        "paired": sorted(paired.GROUPS),
        "chest": list(chest.FINDINGS),
        "cells": sorted(cells.CLASSES),
    }[kind]
    assert cohort.task == ("multilabel" if kind == "chest" else "multiclass")
    assert cohort.view_names == views
    assert set(cohort.classes) <= set(classes) and len(cohort.classes) >= 4
    assert list(cohort.classes) == [name for name in classes if name in cohort.classes]
    assert len({case.patient_id for case in cohort.cases}) == SMALL[kind]["patients"]
    assert len(cohort.cases) == SMALL[kind]["patients"] * {"chest": 2, "cells": 3}.get(kind, 1)


@pytest.mark.parametrize("kind", NEW)
def test_the_record_holds_every_argument(kind: str, cohorts: dict[str, Path]) -> None:
    record = json.loads((cohorts[kind] / "phantom.json").read_text())
    assert record["kind"] == kind
    assert set(record) - {"foveate", "kind"} == set(PHANTOMS[kind].options)
    assert {name: record[name] for name in options(kind)} == options(kind)


@pytest.mark.parametrize("kind", ["liver-mri", "paired", "cells"])
def test_masks_lie_on_the_pixels_of_every_view(kind: str, cohorts: dict[str, Path]) -> None:
    for row in rows(cohorts[kind] / "manifest.csv"):
        mask = pixels_of(cohorts[kind] / row["mask"]) > 0
        assert 0.0005 < mask.mean() < 0.3
        for view in load(cohorts[kind]).view_names:
            if row[view]:
                assert pixels_of(cohorts[kind] / row[view]).shape[: mask.ndim] == mask.shape
        if kind == "cells":
            cell = pixels_of(cohorts[kind] / row["organ_mask"]) > 0
            assert not (mask & ~cell).any() and cell.sum() > 1.5 * mask.sum()


def test_volumes_of_a_patient_share_spacing_and_place(cohorts: dict[str, Path]) -> None:
    row = next(row for row in rows(cohorts["liver-mri"] / "manifest.csv") if row["t2"] and row["c_delay"])
    volumes = [nibabel.load(cohorts["liver-mri"] / row[name]) for name in ("t2", "c_delay", "mask")]
    assert nibabel.aff2axcodes(volumes[0].affine) == ("L", "P", "S")
    for volume in volumes:
        assert volume.shape == (32, 32, 8)
        np.testing.assert_allclose(volume.header.get_zooms(), (80 / 32, 80 / 32, 48 / 8), rtol=1e-6)
        np.testing.assert_array_equal(volume.affine, volumes[0].affine)
        middle = volume.affine @ [15.5, 15.5, 3.5, 1]
        np.testing.assert_allclose(middle[:3], 0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NEW)
def test_the_planted_sign_gives_the_class_away_and_changes_nothing_else(
    kind: str, cohorts: dict[str, Path], tmp_path: Path
) -> None:
    plain = draw_phantom(kind, tmp_path / "plain", options(kind) | {"shortcut": False}).parent
    assert not (plain / "shortcuts.csv").exists()
    signs = rows(cohorts[kind] / "shortcuts.csv")
    places: dict[str, set[tuple[str, str]]] = {}
    for row in rows(cohorts[kind] / "manifest.csv"):
        own = [item for item in signs if item["case_id"] == row["case_id"]]
        named = [name for name in chest.FINDINGS if row[name] == "1"] if kind == "chest" else [row["label"]]
        assert [item["label"] for item in own] == named
        for view in load(plain).view_names:
            if not row[view]:
                continue
            before, after = (pixels_of(folder / row[view]).astype(int) for folder in (plain, cohorts[kind]))
            changed = (before != after).any(axis=-1) if before.shape[-1] == 3 else before != after
            outside = changed.copy()
            for item in own:
                left, top, width, height = (int(item[name]) for name in "xywh")
                here = (..., slice(top, top + height), slice(left, left + width))
                assert changed[here].mean() > 0.2
                outside[here] = False
                places.setdefault(item["label"], set()).add((item["x"], item["y"]))
            assert not outside.any()
    assert all(len(found) == 1 for found in places.values())
    assert len({next(iter(found)) for found in places.values()}) == len(places) >= 4


@pytest.mark.parametrize("kind", NEW)
def test_an_interrupted_phantom_is_finished_and_another_is_refused(
    kind: str, cohorts: dict[str, Path], tmp_path: Path
) -> None:
    seen: list[str] = []

    def stop_after_one(items: Any, what: str) -> Any:
        seen.append(what)
        yield from islice(items, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_phantom(kind, tmp_path / "out", options(kind), track=stop_after_one)
    assert seen == ["drawing patients"]
    assert not (tmp_path / "out" / "manifest.csv").exists()
    draw_phantom(kind, tmp_path / "out", options(kind))
    assert files_of(tmp_path / "out") == files_of(cohorts[kind])
    with pytest.raises(UsageError, match="something else"):
        draw_phantom(kind, tmp_path / "out", options(kind) | {"difficulty": 0.9})


# Missing views -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "missing"), [(2, 0.1), (2, 0.45), (8, 0.2), (8, 0.8), (3, 0.5)])
def test_as_many_views_are_missing_as_asked_for_and_never_all(count: int, missing: float) -> None:
    names = [f"v{number}" for number in range(count)]
    drawn = [present_views(np.random.default_rng([1, index]), names, missing) for index in range(4000)]
    share = 1 - np.mean([len(kept) for kept in drawn]) / count
    assert abs(share - missing) < 4 * 0.5 / np.sqrt(4000)
    assert min(len(kept) for kept in drawn) >= 1
    times = Counter(name for kept in drawn for name in kept)
    assert max(times.values()) - min(times.values()) < 8 * np.sqrt(4000 * 0.25)
    assert present_views(np.random.default_rng(0), names, 0.0) == tuple(names)


@pytest.mark.parametrize("kind", ["liver-mri", "paired"])
def test_a_missing_view_is_an_empty_cell_without_a_file(kind: str, cohorts: dict[str, Path]) -> None:
    listed = rows(cohorts[kind] / "manifest.csv")
    views = load(cohorts[kind]).view_names
    cells_of = [row[view] for row in listed for view in views]
    assert 0.05 < np.mean([not cell for cell in cells_of]) < 0.6
    assert all(any(row[view] for view in views) for row in listed)
    written = {
        str(path.relative_to(cohorts[kind])) for view in views for path in (cohorts[kind] / view).iterdir()
    }
    assert written == {cell for cell in cells_of if cell}


# What it shows: liver lesions in MR -----------------------------------------------------------------


def lesion_numbers(case: Drawn) -> NDArray[np.float64]:
    """``(V, 4)``: mean, deviation, core and rim of the lesion in each phase, relative to its surroundings."""
    mask = case.masks["mask"]
    depth = ndimage.distance_transform_edt(mask)
    around = ndimage.binary_dilation(mask, iterations=3) & ~ndimage.binary_dilation(mask)
    found = []
    for name in liver_mri.VIEWS:
        values = case.views[name] / np.median(case.views[name][around])
        core, rim = values[depth > 0.5 * depth.max()], values[mask & (depth <= 2)]
        found.append((values[mask].mean(), values[mask].std(), core.mean(), rim.mean()))
    return np.array(found)


def accuracy(numbers: Any, truth: Any, **how: Any) -> float:
    rule = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    how.setdefault("cv", StratifiedKFold(4, shuffle=True, random_state=0))
    return float(cross_val_score(rule, np.asarray(numbers).reshape(len(truth), -1), truth, **how).mean())


@pytest.mark.slow
def test_seven_lesions_can_be_told_from_all_phases() -> None:
    cases = liver_cases(84)
    assert Counter(labels(cases)) == dict.fromkeys(liver_mri.CLASSES, 12)
    assert accuracy([lesion_numbers(case) for case in cases], labels(cases)) > 0.9


def test_only_the_contrast_phases_carry_the_class_if_so_wished() -> None:
    chosen = ("hemangioma", "FNH", "HCC")
    cases = liver_cases(60, classes=chosen, carriers="contrast")
    numbers, truth = np.array([lesion_numbers(case) for case in cases]), labels(cases)
    assert set(truth) == set(chosen)
    assert accuracy(numbers[:, 5:], truth) > 0.95
    assert accuracy(numbers[:, :5], truth) < 0.55, "a third would be chance"


@pytest.mark.slow
def test_a_phase_that_does_not_carry_a_class_shows_a_lesion_of_no_class() -> None:
    """Of two classes that a phase carries both not, none can tell; of a class that it carries, it can."""
    assert set(liver_mri.CARRIERS) == set(liver_mri.CLASSES)
    cases = liver_cases(60, classes=("ICC", "metastasis"))
    numbers, truth = np.array([lesion_numbers(case) for case in cases]), labels(cases)
    for place, view in enumerate(liver_mri.VIEWS):
        carried = {view in liver_mri.CARRIERS[name] for name in set(truth)}
        score = accuracy(numbers[:, place], truth)
        assert score > 0.85 if carried == {True} else score < 0.72, (view, score)


def test_carriers_follow_the_settings() -> None:
    few = liver_mri.LiverMriConfig(classes=("FNH", "cyst"), carriers="contrast")
    late = ("c_arterial", "c_venous", "c_delay")
    assert liver_mri.carriers_of(few) == {"FNH": late, "cyst": late}
    everything = liver_mri.carriers_of(liver_mri.LiverMriConfig())
    assert everything["HCC"] == ("t2", "out_phase", *late)
    assert everything["cyst"] == liver_mri.VIEWS


def test_the_handbook_tells_the_phases_that_carry_each_class() -> None:
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    for name, views in liver_mri.CARRIERS.items():
        told = "all" if views == liver_mri.VIEWS else f"`{' '.join(views)}`"
        assert f"| {name} | {told} |" in page, name


def test_enhancement_has_the_course_of_its_class() -> None:
    """Signal of lesion over liver in the phases, with little noise: the course in a textbook."""
    cases = liver_cases(28, difficulty=0.0)
    course = {
        name: np.mean([lesion_numbers(c) for c in cases if c.truth["label"] == name], axis=0)
        for name in liver_mri.CLASSES
    }
    at = {view: place for place, view in enumerate(liver_mri.VIEWS)}
    hemangioma, fnh, hcc, cyst = (course[name] for name in ("hemangioma", "FNH", "HCC", "cyst"))
    assert hemangioma[at["c_arterial"], 0] < hemangioma[at["c_venous"], 0] < hemangioma[at["c_delay"], 0]
    assert hemangioma[at["c_arterial"], 3] > hemangioma[at["c_arterial"], 2] + 0.05, (
        "it fills from the border"
    )
    assert fnh[at["c_arterial"], 0] > 1.3 and abs(fnh[at["c_delay"], 0] - 1) < 0.2
    assert hcc[at["c_arterial"], 0] > 1.2 and hcc[at["c_venous"], 0] < 0.8, "wash-in, wash-out"
    assert hcc[at["c_delay"], 3] > hcc[at["c_delay"], 2] + 0.1, "a capsule"
    assert cyst[at["t2"], 0] > 2 and all(cyst[at[view], 0] < 0.5 for view in liver_mri.CONTRAST)
    icc = course["ICC"]
    assert icc[at["c_arterial"], 3] > icc[at["c_arterial"], 2] + 0.2
    assert icc[at["c_delay"], 2] > icc[at["c_delay"], 3] + 0.1, "the middle fills late"


# What it shows: pairs ---------------------------------------------------------------------------------


def pair_numbers(case: Drawn, view: str) -> list[float]:
    """Brightness within the lesion, relative to the rest: percentiles and deviation."""
    mask, values = case.masks["mask"], case.views[view].astype(float)
    values = values.mean(-1) if values.ndim == 3 else values
    values = values / np.median(values[~mask])
    return [*np.percentile(values[mask], (2, 10, 50, 90, 98)), float(values[mask].std())]


def test_no_view_of_a_pair_suffices_and_both_do() -> None:
    cases = paired_cases(80)
    photo, echo = ([pair_numbers(case, view) for case in cases] for view in paired.VIEWS)
    both = np.hstack([photo, echo])
    four, parts = labels(cases), [name.split("-") for name in labels(cases)]
    assert accuracy(photo, [surface for surface, _ in parts]) > 0.9
    assert accuracy(echo, [depth for _, depth in parts]) > 0.9
    assert accuracy(both, four) > 0.9
    assert 0.35 < accuracy(photo, four) < 0.62 and 0.35 < accuracy(echo, four) < 0.62, "a half at best"
    two = [paired.XOR[name] for name in four]
    assert accuracy(photo, two) < 0.65 and accuracy(echo, two) < 0.65, "chance"
    assert labels(paired_cases(8, rule="xor")) == two[:8]


def test_the_mask_of_a_pair_is_where_both_views_differ_from_their_surroundings() -> None:
    for case in paired_cases(8):
        mask = case.masks["mask"]
        inside, around = (
            ndimage.binary_erosion(mask, iterations=2),
            ~ndimage.binary_dilation(mask, iterations=4),
        )
        photo = case.views["clinical"].astype(float)
        redness = photo[..., 0] / photo[..., 2]
        assert np.median(redness[inside]) > np.median(redness[around])
        smooth = ndimage.gaussian_filter(case.views["ultrasound"].astype(float), 2)
        assert smooth[inside].mean() < 0.85 * smooth[around].mean()


# What it shows: chest X-rays ----------------------------------------------------------------------------


def chest_twins(name: str, index: int, **changes: Any) -> tuple[Drawn, Drawn]:
    """The same image of the same patient without findings, and with one."""
    config = chest.ChestConfig(**{"size": 96, "seed": 7, "difficulty": 0.3} | changes)
    drawn = [
        chest.draw_image(index, 0, found, np.random.default_rng(index), config) for found in ((), (name,))
    ]
    return drawn[0], drawn[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", chest.FINDINGS)
def test_a_finding_is_seen_within_its_box_and_nowhere_else(name: str) -> None:
    for index in range(6):
        healthy, ill = chest_twins(name, index)
        assert not healthy.boxes and [box.label for box in ill.boxes] == [name]
        assert ill.truth == {other: str(int(other == name)) for other in chest.FINDINGS}
        change = np.abs(ill.views["image"].astype(float) - healthy.views["image"])
        (box,) = ill.boxes
        assert energy_within(change, box, margin=4) > 0.95
        columns = (change[inside(box)] > 12).any(axis=0).mean()
        assert columns > 0.55, "the box is no larger than what is seen"


def inside(box: Box, margin: int = 0) -> tuple[slice, ...]:
    return tuple(
        slice(max(0, int(low) - margin), int(high) + margin)
        for low, high in zip(box.start, box.stop, strict=True)
    )


def energy_within(change: NDArray[np.float64], box: Box, margin: int) -> float:
    return float((change[inside(box, margin)] ** 2).sum() / (change**2).sum())


def test_boxes_are_told_for_every_finding_that_is_present(cohorts: dict[str, Path]) -> None:
    for case in load(cohorts["chest"]).cases:
        present = [name for name, value in case.findings.items() if value]
        assert [box.label for box in case.boxes] == present


def test_findings_are_unequally_frequent_and_come_together() -> None:
    drawn = [chest.draw_findings(np.random.default_rng([3, index])) for index in range(3000)]
    share = {name: np.mean([name in found for found in drawn]) for name in chest.FINDINGS}
    assert 0.25 < np.mean([not found for found in drawn]) < 0.4
    assert max(share.values()) > 2 * min(share.values()) > 0.2
    with_heart = [found for found in drawn if "cardiomegaly" in found]
    assert np.mean(["effusion" in found for found in with_heart]) > 1.8 * share["effusion"]
    assert np.mean([len(found) > 1 for found in drawn]) > 0.3


def test_findings_of_a_patient_mostly_stay() -> None:
    config = chest.ChestConfig(size=64, cases=6, seed=7)
    for index in range(3):
        own = chest.draw_findings(np.random.default_rng([config.seed, index, 6]))
        seen = [
            {n for n in chest.FINDINGS if case.truth[n] == "1"} for case in chest.draw_patient(index, config)
        ]
        assert all(found <= set(own) for found in seen)
        if own:
            assert np.mean([len(found) for found in seen]) > 0.5 * len(own)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cardiomegaly", "effusion"])
def test_large_findings_can_be_told_from_coarse_pixels(name: str) -> None:
    config = chest.ChestConfig(size=64, cases=1, seed=7, difficulty=0.3)
    cases = [next(chest.draw_patient(index, config)) for index in range(100)]
    coarse = [ndimage.zoom(case.views["image"].astype(float), 1 / 8, order=1).ravel() for case in cases]
    assert accuracy(coarse, [case.truth[name] for case in cases]) > 0.85


# What it shows: cells ---------------------------------------------------------------------------------


def cell_numbers(case: Drawn) -> list[float]:
    """Sizes of nucleus and cell, texture of both, and the stain right around the nucleus."""
    nucleus, cell = case.masks["mask"], case.masks["organ_mask"]
    light = case.views["image"].mean(axis=-1)
    stain = -np.log(np.clip(light, 1, None) / np.median(light[~cell]))
    body = cell & ~ndimage.binary_dilation(nucleus, iterations=2)
    halo = ndimage.binary_dilation(nucleus, iterations=5) & body
    level = max(0.05, stain[body].mean())
    sizes = [np.sqrt(nucleus.sum()), np.sqrt(cell.sum()), nucleus.sum() / cell.sum()]
    texture = [stain[body].std() / level, stain[nucleus].std() / stain[nucleus].mean()]
    return [*sizes, *texture, stain[halo].mean() / level, stain[nucleus].mean() / level]


def test_cells_can_be_told_on_slides_that_were_never_seen() -> None:
    cases = cell_cases(24)
    slides = [case.patient_id for case in cases]
    assert len(set(labels(cases))) == 5
    score = accuracy([cell_numbers(c) for c in cases], labels(cases), groups=slides, cv=GroupKFold(4))
    assert score > 0.9


def test_the_stain_of_a_slide_leaks_the_class_if_slides_are_divided() -> None:
    """The colour of the empty slide says nothing of new slides, but much of the other cells of its own."""
    cases = cell_cases(40, size=48)
    truth, slides = np.array(labels(cases)), [case.patient_id for case in cases]
    colour = np.array([np.median(case.views["image"][~case.masks["organ_mask"]], axis=0) for case in cases])
    nearest = make_pipeline(StandardScaler(), KNeighborsClassifier(3))
    leaky = cross_val_predict(nearest, colour, truth, cv=StratifiedKFold(5, shuffle=True, random_state=0))
    fair = cross_val_predict(nearest, colour, truth, groups=slides, cv=GroupKFold(5))
    assert np.mean(leaky == truth) > np.mean(fair == truth) + 0.1
    assert np.mean(fair == truth) < 0.35


def test_nuclei_are_the_darkest_part_of_the_cells_in_their_masks() -> None:
    for fields in (False, True):
        for case in cell_cases(3, fields=fields, size=96):
            light = ndimage.gaussian_filter(case.views["image"].mean(axis=-1), 1)
            nuclei, cell = case.masks["mask"], case.masks["organ_mask"]
            assert np.median(light[nuclei]) < 0.75 * np.median(light[cell & ~nuclei])
            _, count = ndimage.label(nuclei)
            assert count == 1 if not fields else 3 <= count <= 6


# Difficulty ---------------------------------------------------------------------------------------------


def test_difficulty_shrinks_and_fades_lesions() -> None:
    easy, hard = (liver_cases(7, difficulty=value) for value in (0.0, 1.0))
    assert mean_size(hard) < 0.6 * mean_size(easy)
    strength = [
        np.mean([np.abs(lesion_numbers(case)[:, 0] - 1).mean() for case in cases]) for cases in (easy, hard)
    ]
    assert strength[1] < 0.8 * strength[0]
    easy, hard = (paired_cases(8, difficulty=value) for value in (0.0, 1.0))
    assert mean_size(hard) < 0.7 * mean_size(easy)
    grain = [np.median([colour_noise(case.views["clinical"]) for case in cases]) for cases in (easy, hard)]
    assert grain[1] > 2 * grain[0]


def colour_noise(photo: NDArray[Any]) -> float:
    """Deviation of the difference of two colours from one pixel to the next."""
    difference = photo[..., 0].astype(float) - photo[..., 2]
    return float(np.median(np.abs(np.diff(difference, axis=0))))


def mean_size(cases: Iterable[Drawn]) -> float:
    return float(np.mean([case.masks["mask"].sum() for case in cases]))


@pytest.mark.slow
def test_difficulty_fades_findings_and_signs_of_cells() -> None:
    def strength(difficulty: float) -> float:
        twins = [chest_twins("mass", index, difficulty=difficulty) for index in range(4)]
        changes = [ill.views["image"].astype(float) - healthy.views["image"] for healthy, ill in twins]
        return float(np.mean([np.percentile(change, 99) for change in changes]))

    assert strength(1.0) < 0.75 * strength(0.0)

    def halo(difficulty: float) -> float:
        cases = [c for c in cell_cases(12, difficulty=difficulty) if c.truth["label"] == "koilocytotic"]
        return float(np.mean([cell_numbers(case)[5] for case in cases]))

    assert halo(1.0) > halo(0.0) + 0.15, "the halo is less clear"


# What it refuses, and the command ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("mri", {}),
        ("chest", {"missing": 0.1}),
        ("ct", {"cases": 3}),
        ("paired", {"missing": 0.6}),
        ("paired", {"rule": "and"}),
        ("liver-mri", {"classes": ("HCC",)}),
        ("liver-mri", {"classes": ("HCC", "HCC")}),
        ("liver-mri", {"classes": ("HCC", "adenoma")}),
        ("liver-mri", {"carriers": "none"}),
        ("liver-mri", {"slices": 1}),
        ("chest", {"size": 32}),
        ("cells", {"difficulty": -0.1}),
        ("cells", {"seed": -1}),
    ],
)
def test_impossible_arguments_are_refused_before_anything_is_written(
    kind: str, wrong: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        draw_phantom(kind, tmp_path / "out", wrong)
    assert caught.value.where == next(iter(wrong), "kind")
    assert caught.value.fix
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_the_command_draws_what_the_function_draws(kind: str, tmp_path: Path) -> None:
    wanted = SMALL[kind] | {"difficulty": 0.25, "seed": 3, "patients": 5}
    flags = [text for name, value in wanted.items() for text in (f"--{name}", str(value))]
    said = foveate("phantom", str(tmp_path / "told"), "--kind", kind, *flags)
    assert said.code == 0, said.err
    assert "manifest.csv" in said.out
    draw_phantom(kind, tmp_path / "called", wanted)
    assert files_of(tmp_path / "told") == files_of(tmp_path / "called")


def test_the_command_passes_on_what_one_kind_alone_has(tmp_path: Path) -> None:
    said = foveate(
        "phantom",
        *(str(tmp_path / "out"), "--kind", "liver-mri", "--patients", "5", "--size", "32", "--slices", "4"),
        *("--classes", "HCC, FNH", "--carriers", "contrast", "--missing", "0.25", "--shortcut"),
    )
    assert said.code == 0, said.err
    record = json.loads((tmp_path / "out" / "phantom.json").read_text())
    assert record["classes"] == ["HCC", "FNH"] and record["carriers"] == "contrast"
    assert record["missing"] == 0.25 and record["shortcut"] is True
    refused = foveate("phantom", str(tmp_path / "none"), "--kind", "cells", "--missing", "0.2")
    assert refused.code == 2 and "no option missing" in refused.err
