"""A run folder keeps its study, and what was accepted in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cohort_files import good, image_folder, write_csv
from foveate.errors import ManifestRefused, UsageError
from foveate.evaluate.results.run import RunRecord
from foveate.stations.run import Run
from foveate.study.settings import FORMER
from foveate.study.study import Study
from foveate.train.lock import run_lock


def test_what_was_accepted_in_a_run_stays_accepted_when_its_study_is_given_again(tmp_path: Path) -> None:
    choices = {"name": "small", "data": {"manifest": tmp_path / "manifest.csv"}}
    study = Study.model_validate(choices)
    Run.create(study, tmp_path / "run").allowing(["conflicting-labels"])
    assert Run.create(study, tmp_path / "run").study.audit.allow == ["conflicting-labels"]
    more = Study.model_validate(choices | {"audit": {"allow": ["refused-image"]}})
    both = ["conflicting-labels", "refused-image"]
    assert Run.create(more, tmp_path / "run").study.audit.allow == both
    assert Run.open(tmp_path / "run").study.audit.allow == both, "and it is kept in the folder"


def test_another_study_is_refused_in_the_folder_of_a_run(tmp_path: Path) -> None:
    choices = {"name": "small", "data": {"manifest": tmp_path / "manifest.csv"}}
    Run.create(Study.model_validate(choices), tmp_path / "run")
    with pytest.raises(UsageError, match="a run of a different study"):
        Run.create(Study.model_validate(choices | {"seed": 1}), tmp_path / "run")


def test_a_folder_where_nothing_was_trained_may_be_used_again(tmp_path: Path) -> None:
    folder, choices = tmp_path / "run", {"name": "small", "data": {"manifest": tmp_path / "manifest.csv"}}
    mended = Study.model_validate(choices | {"seed": 1})
    Run.create(Study.model_validate(choices), folder)
    before = (
        "audit.json",
        "splits.json",
        "run.json",
        "cohort.json",
        "images.csv",
        "plan.json",
        ".train.lock",
    )
    for name in before:
        (folder / name).write_text("{}")
    with pytest.warns(UserWarning, match="never trained; it is begun anew"):
        assert Run.create(mended, folder, anew=True).study == mended
    assert {item.name for item in folder.iterdir()} == {"study.yaml", ".train.lock"}
    assert Run.open(folder).study == mended


@pytest.mark.parametrize("there", ["checkpoints", "bundle", "training.csv", "test.json", "trials"])
def test_a_folder_where_something_was_trained_is_not(tmp_path: Path, there: str) -> None:
    folder, choices = tmp_path / "run", {"name": "small", "data": {"manifest": tmp_path / "manifest.csv"}}
    Run.create(Study.model_validate(choices), folder)
    (folder / there).mkdir()
    (folder / "splits.json").write_text("{}")
    with pytest.raises(UsageError, match="a run of a different study"):
        Run.create(Study.model_validate(choices | {"seed": 1}), folder, anew=True)
    assert (folder / "splits.json").is_file()


def test_a_folder_where_somebody_begins_to_train_is_not(tmp_path: Path) -> None:
    folder, choices = tmp_path / "run", {"name": "small", "data": {"manifest": tmp_path / "manifest.csv"}}
    Run.create(Study.model_validate(choices), folder)
    with run_lock(folder), pytest.raises(UsageError, match=r"(?i)train"):
        Run.create(Study.model_validate(choices | {"seed": 1}), folder, anew=True)


def test_the_study_says_in_which_order_the_scores_are(tmp_path: Path) -> None:
    manifest = write_csv(image_folder(tmp_path) / "manifest.csv", good())
    labels = sorted({str(row["label"]) for row in good()})
    study = Study.model_validate({"name": "order", "data": {"manifest": manifest}})
    assert Run.create(study, tmp_path / "sorted").cohort().classes == tuple(labels)
    order = [*labels[::-1], "one that nobody has"]
    data = {"manifest": manifest, "classes": order}
    given = Study.model_validate({"name": "order", "data": data})
    assert Run.create(given, tmp_path / "given").cohort().classes == tuple(order)
    few = Study.model_validate({"name": "order", "data": data | {"classes": order[:1]}})
    with pytest.raises(ManifestRefused, match="unknown label"):
        Run.create(few, tmp_path / "few").cohort()


def test_a_record_of_0_1_0_opens(tmp_path: Path) -> None:
    old = {
        "name": "lesions",
        "foveate": "0.1.0",
        "date": "2026-11-21T06:04:22+00:00",
        "command": ["foveate", "run", "study.yaml"],
        "seed": 7,
        "hashes": {"manifest": "0" * 64, "study": "1" * 64},
        "versions": {"python": "3.11.9"},
        "device": {"system": "Linux x86_64", "cores": 2},
        "stations": {"audit": {"started": "2026-11-21T06:00:00+00:00", "seconds": 3.25, "command": ["f"]}},
    }
    (tmp_path / "run.json").write_text(json.dumps(old))
    record = RunRecord.read(tmp_path)
    assert record is not None and record.format == 0 and record.seconds == 3.25 and record.allowed == ()
    assert record.hashes.manifest == "0" * 64 and record.hashes.weights is None
    assert record.to_json()["hashes"] == old["hashes"] and record.to_json()["stations"] == old["stations"]


def test_a_run_of_before_keeps_the_order_of_its_files_and_goes_on(tmp_path: Path) -> None:
    """Its study names none of the newer settings; the same study, read today, is still its own."""
    choices = {"name": "small", "data": {"manifest": tmp_path / "m.csv"}, "preprocess": {"size": [8, 16, 16]}}
    study = Study.model_validate(choices)
    assert study.preprocess.orientation == "auto"
    kept = yaml.safe_load(study.dump())
    for name in FORMER:
        del kept["preprocess"][name]
    (folder := tmp_path / "run").mkdir()
    (folder / "study.yaml").write_text(yaml.safe_dump(kept), encoding="utf-8")
    for run in (Run.open(folder), Run.create(study, folder)):
        found = run.study.preprocess.model_dump()
        assert {name: found[name] for name in FORMER} == dict(FORMER)
    assert Run.open(folder).allowing(["refused-image"]).study.preprocess.orientation == "none"
    assert Run.create(study, folder).study.audit.allow == ["refused-image"]
    other = Study.model_validate(choices | {"preprocess": {"size": [8, 16, 16], "orientation": "RAS"}})
    with pytest.raises(UsageError, match="different study"):
        Run.create(other, folder)
    fresh = Run.create(study, tmp_path / "fresh")
    assert Run.open(fresh.folder).study == study
