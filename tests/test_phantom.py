"""The phantom, read back by other libraries than those that wrote it, and checked for what it must teach."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from foveate.data.phantoms.ct import CLASSES, SIGN_HU, PhantomConfig, draw_patient, label_of, make_phantom
from foveate.data.phantoms.ct_files import Scan
from foveate.errors import UsageError
from foveate.io.reading import read_image, read_mask

FORMATS = ("nifti", "dicom", "png")
SMALL: dict[str, Any] = {"patients": 5, "slices": 3, "size": 64, "seed": 3}


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same five patients in every format."""
    folder = tmp_path_factory.mktemp("phantom")
    return {name: make_phantom(folder / name, format=name, **SMALL).parent for name in FORMATS}


def rows(folder: Path, name: str = "manifest.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def patients(count: int, **changes: Any) -> list[tuple[str, Scan]]:
    config = PhantomConfig(**{"patients": count, "seed": 5} | changes)
    return [(label_of(index, config.seed), draw_patient(index, config)) for index in range(count)]


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nifti(path: Path) -> np.ndarray:
    """Voxels in our order (z, y, x)."""
    return np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0)


# What is written ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_same_arguments_give_the_same_bytes(name: str, cohorts: dict[str, Path], tmp_path: Path) -> None:
    again = make_phantom(tmp_path / "again", format=name, **SMALL).parent
    assert files_of(again) == files_of(cohorts[name])


def test_another_seed_gives_other_patients_and_more_patients_change_none() -> None:
    (_, few), (_, many), (_, other) = patients(1)[0], patients(6)[0], patients(1, seed=6)[0]
    assert np.array_equal(few.hu, many.hu)
    assert not np.array_equal(few.hu, other.hu)


@pytest.mark.parametrize("name", FORMATS)
def test_manifest_lists_every_class_once_in_five_patients(name: str, cohorts: dict[str, Path]) -> None:
    cases = rows(cohorts[name])
    place = [] if name == "png" else ["slice"]
    assert list(cases[0]) == ["case_id", "patient_id", "label", "image", *place, "mask", "organ_mask"]
    assert len(cases) == 15
    assert len({case["case_id"] for case in cases}) == 15
    assert sorted(
        {(case["patient_id"], case["label"]) for case in cases}, key=lambda pair: pair[1]
    ) == sorted({(case["patient_id"], case["label"]) for case in cases[::3]}, key=lambda pair: pair[1])
    assert {case["label"] for case in cases} == set(CLASSES)
    for case in cases:
        assert (case["mask"] == "") == (case["label"] == "normal")
        assert all((cohorts[name] / case[column]).exists() for column in ("image", "organ_mask"))


def test_nifti_lies_in_patient_space(cohorts: dict[str, Path]) -> None:
    case = rows(cohorts["nifti"])[0]
    image, liver = (nibabel.load(cohorts["nifti"] / case[column]) for column in ("image", "organ_mask"))
    assert image.get_data_dtype() == np.int16
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    np.testing.assert_allclose(image.header.get_zooms(), (360 / 64, 360 / 64, 5.0), rtol=1e-6)
    np.testing.assert_array_equal(image.affine, liver.affine)
    middle = liver.affine @ [*np.argwhere(np.asarray(liver.dataobj)).mean(axis=0), 1]
    assert middle[0] > 30, "the liver lies on the patient's right, which is the picture's left"


def test_dicom_series_is_the_nifti_volume(cohorts: dict[str, Path]) -> None:
    case, twin = rows(cohorts["dicom"])[0], rows(cohorts["nifti"])[0]
    slices = [pydicom.dcmread(path) for path in sorted((cohorts["dicom"] / case["image"]).iterdir())]
    heights = [float(item.ImagePositionPatient[2]) for item in slices]
    assert heights != sorted(heights) and heights != sorted(heights, reverse=True), "names must mislead"
    assert len({item.SOPInstanceUID for item in slices}) == 5
    assert len({item.SeriesInstanceUID for item in slices}) == 1
    volume = highdicom.get_volume_from_series(slices)
    expected = nibabel.load(cohorts["nifti"] / twin["image"])
    turned = volume.to_patient_orientation("LPH")
    np.testing.assert_array_equal(turned.array, np.asarray(expected.dataobj))
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    np.testing.assert_allclose(to_ras @ turned.affine, expected.affine, atol=1e-4)


def test_no_two_dicom_series_share_an_identifier(cohorts: dict[str, Path]) -> None:
    folders = {case["image"] for case in rows(cohorts["dicom"])}
    series = {pydicom.dcmread(next((cohorts["dicom"] / f).iterdir())).SeriesInstanceUID for f in folders}
    assert len(series) == len(folders)


def test_png_is_the_nifti_slice_plus_1024(cohorts: dict[str, Path]) -> None:
    for case, twin in zip(rows(cohorts["png"]), rows(cohorts["nifti"]), strict=True):
        pixels = np.asarray(Image.open(cohorts["png"] / case["image"])).astype(int)
        np.testing.assert_array_equal(
            pixels - 1024, nifti(cohorts["nifti"] / twin["image"])[int(twin["slice"])]
        )
        with Image.open(cohorts["png"] / case["organ_mask"]) as mask:
            assert mask.mode == "1"
            inside = nifti(cohorts["nifti"] / twin["organ_mask"])[int(twin["slice"])]
            np.testing.assert_array_equal(np.asarray(mask), inside > 0)


def test_our_readers_return_one_array_for_all_formats(cohorts: dict[str, Path]) -> None:
    cases = zip(*(rows(cohorts[name]) for name in FORMATS), strict=True)
    for of_nifti, of_dicom, of_png in cases:
        place = int(of_nifti["slice"])
        volume = read_image(cohorts["nifti"] / of_nifti["image"])
        series = read_image(cohorts["dicom"] / of_dicom["image"])
        picture = read_image(cohorts["png"] / of_png["image"])
        np.testing.assert_array_equal(series.pixels, volume.pixels)
        np.testing.assert_array_equal(picture.pixels.astype(int) - 1024, volume.pixels[:, place].astype(int))
        assert series.unit == "HU"
        assert series.geometry.affine is not None and volume.geometry.affine is not None
        np.testing.assert_allclose(series.geometry.affine, volume.geometry.affine, atol=1e-4)
        liver = read_mask(cohorts["nifti"] / of_nifti["organ_mask"]).inside
        assert liver.shape == volume.pixels.shape[1:]
        np.testing.assert_array_equal(read_mask(cohorts["png"] / of_png["organ_mask"]).inside, liver[place])


# What it shows -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"slices": 1}, {"slices": 9}, {"difficulty": 1.0, "size": 48}])
def test_every_labelled_slice_cuts_the_lesion_and_has_neighbours(changes: dict[str, Any]) -> None:
    for label, scan in patients(10, **changes):
        assert (scan.lesion is None) == (label == "normal")
        assert scan.labelled[0] >= 1 and scan.labelled[-1] <= len(scan.hu) - 2
        if scan.lesion is not None:
            assert all(scan.lesion[index].sum() >= 2 for index in scan.labelled)
            assert not (scan.lesion & ~scan.liver).any()


def test_tissues_have_the_hounsfield_units_of_their_kind() -> None:
    for label, scan in patients(5, difficulty=0.0):
        healthy = scan.liver if scan.lesion is None else scan.liver & ~scan.lesion
        assert 90 < np.median(scan.hu[healthy]) < 120
        assert (scan.hu < -900).mean() > 0.2  # the air around the patient
        assert (scan.hu > 500).any()  # bone
        if scan.lesion is None:
            continue
        inside = scan.hu[scan.lesion].astype(float) - np.median(scan.hu[healthy])
        middle = np.median(inside)
        assert {"cyst": middle < -80, "FNH": middle > 55, "HCC": middle > 0, "hemangioma": middle < -35}[
            label
        ]
        spread = np.percentile(inside, 90) - np.percentile(inside, 10)
        assert (spread < 60) == (label == "cyst"), "only a cyst is homogeneous"


def test_nodules_of_a_hemangioma_line_its_border() -> None:
    for label, scan in patients(10, difficulty=0.0):
        if label != "hemangioma":
            continue
        assert scan.lesion is not None
        plane, lesion = scan.hu[2], scan.lesion[2]
        ys, xs = np.nonzero(lesion)
        radius = np.hypot(ys - ys.mean(), xs - xs.mean()) / np.sqrt(lesion.sum() / np.pi)
        bright = plane[lesion] > np.median(plane[scan.liver[2]]) + 40
        assert bright.any()
        assert radius[bright].mean() > radius[~bright].mean() + 0.15


@pytest.mark.slow
def test_difficulty_shrinks_and_fades_lesions() -> None:
    def size_and_contrast(difficulty: float) -> tuple[float, float]:
        cysts = [scan for label, scan in patients(10, difficulty=difficulty) if label == "cyst"]
        sizes = [scan.lesion.sum() for scan in cysts if scan.lesion is not None]
        depths = [scan.hu[scan.liver].mean() - scan.hu[scan.lesion].mean() for scan in cysts]
        return float(np.mean(sizes)), float(np.mean(depths))

    (large, deep), (small, shallow) = size_and_contrast(0.0), size_and_contrast(1.0)
    assert small < 0.6 * large
    assert shallow < 0.8 * deep


def test_noise_grows_with_difficulty_and_is_correlated() -> None:
    (_, plain), (_, noisy) = patients(1, difficulty=0.0)[0], patients(1, difficulty=1.0)[0]
    air = np.s_[:, 2:20, 2:20]
    assert noisy.hu[air].std() > 2 * plain.hu[air].std()
    liver = noisy.liver[2][:, :-1] & noisy.liver[2][:, 1:]
    left, right = noisy.hu[2][:, :-1][liver], noisy.hu[2][:, 1:][liver]
    assert 0.2 < np.corrcoef(left, right)[0, 1] < 0.9


# What it must not give away ----------------------------------------------------------------------


def test_neither_mean_intensity_nor_the_middle_of_the_liver_solves_it() -> None:
    cases = patients(60, size=64)
    truth = np.array([CLASSES.index(label) for label, scan in cases for _ in scan.labelled])
    means = np.array(
        [[scan.hu[i].mean(), scan.hu[i][scan.liver[i]].mean()] for _, scan in cases for i in scan.labelled]
    )
    middles = []
    for _, scan in cases:
        if scan.lesion is not None:
            ys, xs = np.nonzero(scan.liver[2])
            middles.append(scan.lesion[2][(ys.min() + ys.max()) // 2, (xs.min() + xs.max()) // 2])
    train = np.arange(len(truth)) < len(truth) // 2
    rule = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(means[train], truth[train])
    auroc = roc_auc_score(truth[~train], rule.predict_proba(means[~train]), multi_class="ovr")
    assert auroc < 0.9
    assert np.mean(middles) < 0.35


def test_shortcut_changes_only_its_own_box_of_air(tmp_path: Path) -> None:
    options: dict[str, Any] = SMALL | {"size": 128}
    plain = make_phantom(tmp_path / "plain", **options).parent
    marked = make_phantom(tmp_path / "marked", shortcut=True, **options).parent
    assert not (plain / "shortcuts.csv").exists()
    places = {}
    for case, sign in zip(rows(marked), rows(marked, "shortcuts.csv"), strict=True):
        assert (sign["case_id"], sign["label"]) == (case["case_id"], case["label"])
        left, top, width, height = (int(sign[name]) for name in "xywh")
        box = np.s_[int(case["slice"]), top : top + height, left : left + width]
        before, after = nifti(plain / case["image"]), nifti(marked / case["image"])
        assert before[box].max() < -200, "the sign stands outside the patient"
        assert 0.2 < (after[box] == SIGN_HU).mean() < 0.9
        places[case["label"]] = (left, top, (after[box] == SIGN_HU).tobytes())
        after[:, *box[1:]] = before[:, *box[1:]]
        np.testing.assert_array_equal(before, after)
    assert len({(left, top) for left, top, _ in places.values()}) == len(CLASSES)
    assert len({shape for _, _, shape in places.values()}) == len(CLASSES)


# What it refuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"patients": 0},
        {"slices": 0},
        {"size": 8},
        {"size": 100_000},
        {"difficulty": 1.5},
        {"difficulty": float("nan")},
        {"seed": -1},
        {"format": "bmp"},
    ],
)
def test_impossible_arguments_are_refused_before_anything_is_written(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        make_phantom(tmp_path / "out", **(SMALL | wrong))
    assert caught.value.where == next(iter(wrong))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        make_phantom(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_asked_again_for_the_same_phantom_it_draws_nothing(tmp_path: Path) -> None:
    manifest = make_phantom(tmp_path / "out", **SMALL)
    before = {path: path.stat().st_mtime_ns for path in manifest.parent.rglob("*")}
    assert make_phantom(tmp_path / "out", **SMALL) == manifest
    assert {path: path.stat().st_mtime_ns for path in manifest.parent.rglob("*")} == before
    with pytest.raises(UsageError, match="something else"):
        make_phantom(tmp_path / "out", **(SMALL | {"seed": 4}))


@pytest.mark.parametrize("name", FORMATS)
def test_a_phantom_that_was_interrupted_is_finished(
    name: str, cohorts: dict[str, Path], tmp_path: Path
) -> None:
    def stop_after_two(items: Any, what: str) -> Any:
        yield from items[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_phantom(tmp_path / "out", format=name, track=stop_after_two, **SMALL)
    assert not (tmp_path / "out" / "manifest.csv").exists()
    make_phantom(tmp_path / "out", format=name, **SMALL)
    assert files_of(tmp_path / "out") == files_of(cohorts[name])


def test_progress_names_every_patient(tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []

    def track(items: Any, what: str) -> Any:
        seen.append((len(items), what))
        return items

    make_phantom(tmp_path / "out", track=track, **SMALL)
    assert seen == [(5, "drawing patients")]
