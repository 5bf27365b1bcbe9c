"""Views in other orientations, spacings and origins: a run brings them together, and maps back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from cohort_files import write_csv
from foveate.bundle.bundle import load_bundle
from foveate.deploy.archive.maps import begin_maps
from foveate.deploy.engines.bundled import Bundled, facts_of
from foveate.deploy.export.pipeline import Pipeline
from foveate.errors import UsageError
from foveate.evaluate.results.run import RunRecord
from foveate.maps.heatmaps import read_case, read_index, volume_name
from foveate.report.build import write_report
from foveate.stations.audit import audit
from foveate.stations.explain import explain
from foveate.stations.predict import predict
from foveate.stations.run import Run
from foveate.stations.split import split
from foveate.stations.train import train
from foveate.study.study import Study
from oriented_phantoms import EIGHT, SPACINGS, affine_of, values_on
from tiny_volumes import VIEWS, register, study

CASES = 12


def write_cohort(folder: Path) -> None:
    """Two phases a case, each in its own orientation, spacing and origin; a bright lesion is the class."""
    draws = np.random.default_rng(0)
    rows = []
    for number in range(CASES):
        row: dict[str, object] = {"case_id": f"c{number:02d}", "patient_id": f"p{number:02d}"}
        row["label"] = "dark" if number % 2 else "bright"
        for place, view in enumerate(VIEWS):
            affine, shape = affine_of(EIGHT[(number + 3 * place) % 8], np.array(SPACINGS[place + 1]) * 2)
            affine[:3, 3] += draws.uniform(-3, 3, 3)
            lesion = (9, -8, 14) if number % 2 == 0 else (900, 0, 0)
            values = values_on(affine, shape, lesion) + draws.normal(0, 20, shape)
            path = folder / view / f"{number:02d}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), affine), path)
            row[view] = path.relative_to(folder).as_posix()
        rows.append(row)
    write_csv(folder / "manifest.csv", rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("cohort")
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        write_cohort(folder)
        chosen = {"size": [8, 16, 12], "window": [0, 1600], "align": "affine", "spacing": "auto"}
        made = Run.create(
            Study.model_validate(study(folder, preprocess=chosen, train={"epochs": 2})), folder / "run"
        )
        audit(made).raise_if_stopped()
        split(made)
        train(made)
        predict(made)
        yield made


def test_what_was_settled_travels_with_the_run(run: Run) -> None:
    config = load_bundle(run.folder).preprocess.config
    assert config.orientation == "LPS" and config.align == "affine"
    assert isinstance(config.spacing, tuple) and 5 <= config.spacing[0] <= 8 and 2 <= config.spacing[1] <= 4
    record = RunRecord.read(run.folder)
    assert record is not None
    computed = record.stations["train"].computed
    assert computed is not None and (computed.orientation, computed.spacing) == ("LPS", config.spacing)


def test_maps_lie_over_each_views_own_file(run: Run) -> None:
    explain(run)
    cases = {case.case_id: case for case in run.cohort().cases}
    entries = read_index(run.folder / "heatmaps")
    assert {entry.view for entry in entries} == set(VIEWS)
    for entry in entries:
        file = nibabel.load(cases[entry.case_id].views[entry.view])
        stored = read_case(run.folder / "heatmaps" / entry.file)
        drawn = nibabel.load(run.folder / "heatmaps" / volume_name(entry.file, entry.targets[0]))
        assert drawn.shape == file.shape
        np.testing.assert_array_equal(drawn.affine, file.affine)
        np.testing.assert_array_equal(drawn.get_fdata().T, stored.values[0])
        assert (stored.field is None) == (entry.view == VIEWS[1])  # the grid of another view has no box in it


def test_the_report_says_it_in_one_sentence(run: Run) -> None:
    page = write_report(run.folder).read_text(encoding="utf-8")
    assert "Images were brought to the orientation LPS" in page


def test_what_cannot_align_views_says_so(run: Run, tmp_path: Path) -> None:
    bundle = load_bundle(run.folder)
    with pytest.raises(UsageError, match="grid of another") as export:
        Pipeline(bundle)
    assert export.value.code == "not-exportable"
    facts = facts_of(bundle)
    assert Bundled(bundle).facts == facts
    with pytest.raises(UsageError, match="grid of another"):
        begin_maps(tmp_path / "maps", facts)
