"""A run folder keeps its study, and what was accepted in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cohort_files import good, image_folder, write_csv
from foveate.errors import ManifestRefused, UsageError
from foveate.stations.run import Run
from foveate.study.study import Study


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
