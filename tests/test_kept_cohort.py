"""The manifest of a run is read once; what changes afterwards is noticed, named and read again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cohort_files import Row, picture, write_csv, write_image
from foveate.data.manifest import kept, manifest, paths
from foveate.data.manifest.columns import Expected
from foveate.data.manifest.kept import FILE, CohortKeeper, KeptCohort
from foveate.data.manifest.manifest import load_manifest
from foveate.errors import InputRefused, ManifestRefused
from foveate.stations.run import Run
from foveate.study.study import DataConfig, Study
from foveate.types import Cohort

CASES = 6


class Readings:
    """Counts tables that are parsed and headers that are read."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.tables: list[str] = []
        self.headers: list[str] = []
        table, header, mask = manifest.read_table, paths.probe, paths.probe_mask
        patch.setattr(manifest, "read_table", lambda path: (self.tables.append(path.name), table(path))[1])

        def noted(reader: Callable[..., Any]) -> Callable[..., Any]:
            return lambda path, **how: (self.headers.append(Path(path).name), reader(path, **how))[1]

        patch.setattr(paths, "probe", noted(header))
        patch.setattr(paths, "probe_mask", noted(mask))


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Readings:
    return Readings(monkeypatch)


def rows(count: int = CASES) -> list[Row]:
    return [
        {
            "case_id": f"{number:03d}",
            "patient_id": f"p{number // 2}",
            "label": "xy"[number % 2],
            "image": f"images/{number}.png",
            "mask": f"images/{number}_mask.png" if number % 2 else "",
            "age": f"0{number}",
        }
        for number in range(count)
    ]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = tmp_path / "cohort"
    for number in range(CASES):
        write_image(folder / "images" / f"{number}.png", picture(number, (32, 48)))
        write_image(folder / "images" / f"{number}_mask.png", picture(number, (32, 48)) // 128 * 255)
    boxes = [{"case_id": "001", "label": "y", "x": 1, "y": 2, "w": 3.5, "h": 4}]
    data = {
        "manifest": write_csv(folder / "manifest.csv", rows()),
        "boxes": write_csv(folder / "boxes.csv", boxes),
    }
    return Run.create(Study.model_validate({"name": "kept", "data": data}), tmp_path / "run")


def freshly(run: Run) -> Cohort:
    data = run.study.data
    return load_manifest(data.manifest, boxes=data.boxes)


def touch(path: Path) -> None:
    """Another time of change, whatever the clock of the file system resolves."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def test_one_reading_serves_every_station_in_this_process_and_in_the_next(
    run: Run, readings: Readings
) -> None:
    first = run.cohort()
    assert (readings.tables, len(readings.headers)) == (["manifest.csv"], CASES + CASES // 2)
    assert run.cohort() is first
    from_disk = Run.open(run.folder).cohort()
    assert len(readings.tables) == 1 and len(readings.headers) == CASES + CASES // 2
    assert repr(from_disk) == repr(first) == repr(freshly(run)), "with NaN, paths, boxes and zeros in front"
    assert from_disk.cases[1].boxes[0].start == (2.0, 1.0)


def test_a_changed_manifest_is_named_and_read_again(run: Run, readings: Readings) -> None:
    run.cohort()
    write_csv(run.study.data.manifest, rows(CASES - 1))
    for opened in (run, Run.open(run.folder)):
        write_csv(run.study.data.manifest, [*rows(len(readings.tables) + 1)])
        with pytest.warns(UserWarning, match=r"^manifest.csv was changed after .* `foveate audit"):
            found = opened.cohort()
        assert len(found.cases) == len(readings.tables)
        assert opened.cohort() is found, "and said once"
    assert repr(Run.open(run.folder).cohort()) == repr(freshly(run))


def test_changed_images_are_named_and_read_again(run: Run, readings: Readings) -> None:
    run.cohort()
    write_image(run.study.data.manifest.parent / "images/3.png", picture(9, (64, 96)))
    with pytest.raises(ManifestRefused, match="mask is 48 × 32 pixels, but its image is 96 × 64"):
        run.cohort()
    write_image(run.study.data.manifest.parent / "images/3.png", picture(9, (32, 48)))
    touch(run.study.data.manifest.parent / "images/5_mask.png")
    with pytest.warns(UserWarning, match=r"^images/3.png, images/5_mask.png were changed after"):
        run.cohort()
    for number in range(CASES):
        touch(run.study.data.manifest.parent / f"images/{number}.png")
    with pytest.warns(UserWarning, match=r"images/0.png, images/1.png, images/2.png and 3 more were changed"):
        Run.open(run.folder).cohort()


def test_changed_boxes_are_named_and_read_again(run: Run) -> None:
    run.cohort()
    assert run.study.data.boxes is not None
    write_csv(run.study.data.boxes, [{"case_id": "003", "label": "y", "x": 1, "y": 2, "w": 3, "h": 4}])
    with pytest.warns(UserWarning, match=r"boxes.csv was changed"):
        cohort = Run.open(run.folder).cohort()
    assert [len(case.boxes) for case in cohort.cases] == [0, 0, 0, 1, 0, 0]


def test_a_deleted_image_is_named_by_its_row(run: Run) -> None:
    run.cohort()
    (run.study.data.manifest.parent / "images/4.png").unlink()
    for opened in (run, Run.open(run.folder)):
        with pytest.raises(ManifestRefused, match=r"row 6: image: there is no file 'images/4.png'"):
            opened.cohort()


def test_a_deleted_manifest_is_no_cohort(run: Run) -> None:
    run.cohort()
    run.study.data.manifest.unlink()
    for opened in (run, Run.open(run.folder)):
        with pytest.raises(InputRefused, match="cannot be read: No such file"):
            opened.cohort()


def test_an_external_test_says_which_file_is_gone_or_has_come(run: Run) -> None:
    """Cases whose files cannot be used are left out of it, so that nothing else would tell."""
    expected, image = Expected("multiclass", ("x", "y")), run.study.data.manifest.parent / "images/4.png"
    data, content = replace_boxes(run.study.data), image.read_bytes()
    assert len(CohortKeeper().cohort(run.folder, data, expected).cases) == CASES
    image.unlink()
    with pytest.warns(UserWarning, match=r"^images/4.png was removed after"):
        assert len(CohortKeeper().cohort(run.folder, data, expected).cases) == CASES - 1
    image.write_bytes(content)
    with pytest.warns(UserWarning, match=r"^images/4.png was added after"):
        assert len(CohortKeeper().cohort(run.folder, data, expected).cases) == CASES


def replace_boxes(data: DataConfig) -> DataConfig:
    return data.model_copy(update={"boxes": None})


def test_another_question_or_version_or_a_damaged_file_is_read_anew_without_a_word(
    run: Run, readings: Readings
) -> None:
    run.cohort()
    study = run.study.model_copy(update={"data": replace_boxes(run.study.data)})
    assert not any(case.boxes for case in replace(run, study=study).cohort().cases)
    file = run.folder / FILE
    whole = file.read_text()
    for damaged in (whole[:-9], whole.replace('"format":1', '"format":2'), "[]", ""):
        file.write_text(damaged)
        before = len(readings.tables)
        assert repr(Run.open(run.folder).cohort()) == repr(freshly(run))
        assert len(readings.tables) == before + 2, "one of them is that of the comparison"
        assert KeptCohort.read(run.folder) is not None, "and it is mended"


def test_a_folder_that_is_no_run_or_cannot_be_written_is_left_as_it_is(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = run.folder.parent / "elsewhere"
    assert len(Run(elsewhere, run.study).cohort().cases) == CASES and not elsewhere.exists()

    def refuse(path: Path, content: object) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(kept, "write_atomic", refuse)
    assert len(run.cohort().cases) == CASES and not (run.folder / FILE).exists()


def test_a_file_inside_a_series_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(name)
    root = paths.Root.at(tmp_path)
    before = paths.file_states(root, ["series", "none"])
    assert before["none"] is None and before["series"] is not None and before["series"][0] == 2
    touch(folder / "b")
    os.utime(folder, ns=(0, 0))
    os.utime(folder / "a", ns=(0, 0))
    after = paths.file_states(root, ["series"])["series"]
    assert after is not None and after != before["series"]
    assert after[1] == (folder / "b").stat().st_mtime_ns
