"""Volumes of several views, some of them missing, from the manifest to figures by sets of views."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cohort_files import write_csv
from foveate.bundle.bundle import load_bundle
from foveate.cli.app import app
from foveate.deploy.engines.files import image_cases, views_case
from foveate.deploy.engines.opening import open_engine
from foveate.deploy.engines.single import answer_files
from foveate.errors import InputRefused, Partial, UsageError
from foveate.evaluate.table import read_predictions
from foveate.predict import as_batch, explain_case, predict_case, read_and_prepare
from foveate.stations.audit import audit
from foveate.stations.evaluate import evaluate
from foveate.stations.predict import predict, predict_elsewhere, predict_without
from foveate.stations.run import Run
from foveate.stations.split import split
from foveate.stations.train import train
from foveate.study.study import Study
from tiny_volumes import SIZE, VIEWS, patterns, register, study, write_cohort


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run up to its figures."""
    folder = tmp_path_factory.mktemp("cohort")
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        write_cohort(folder)
        made = Run.create(Study.model_validate(study(folder, train={"epochs": 6})), folder / "run")
        audit(made).raise_if_stopped()
        split(made)
        train(made)
        predict(made)
        evaluate(made)
        yield made


def manifest_rows(run: Run) -> dict[str, dict[str, str]]:
    with run.study.data.manifest.open(encoding="utf-8") as stream:
        return {row["case_id"]: row for row in csv.DictReader(stream)}


def test_every_case_is_predicted_from_the_views_that_it_has(run: Run) -> None:
    rows = manifest_rows(run)
    assert {"arterial", "venous", "arterial+venous"} == set(patterns(list(rows.values())))
    table = read_predictions(run.folder / "predictions.csv")
    assert list(table.views) == patterns([rows[case] for case in table.case_ids])
    part = table.part("test")
    metrics = json.loads((run.folder / "metrics.json").read_text())
    counts = {names: found["n"] for names, found in metrics["by_views"].items()}
    assert counts == {names: part.views.count(names) for names in part.views}
    assert metrics["metrics"]["auroc_macro"]["value"] > 0.8  # the ball shows in every phase


def test_the_bundle_gives_the_same_numbers_alone(run: Run) -> None:
    bundle, cases = load_bundle(run.folder), {case.case_id: case for case in run.cohort().cases}
    assert (bundle.views, bundle.model.input_spec.dimensions) == (VIEWS, "3")
    assert bundle.preprocess.config == run.study.preprocess.model_copy(update={"orientation": "LPS"})
    table = read_predictions(run.folder / "predictions.csv")
    for row, case_id in enumerate(table.case_ids[:6]):
        alone = predict_case(bundle, cases[case_id])
        np.testing.assert_allclose(alone.logits, table.logits[row], rtol=1e-4, atol=1e-5)
        assert "+".join(alone.views) == table.views[row]


def test_missing_views_are_rows_of_nan_and_have_no_map(run: Run) -> None:
    bundle, rows = load_bundle(run.folder), manifest_rows(run)
    case = next(case for case in run.cohort().cases if not rows[case.case_id]["venous"])
    item = read_and_prepare(bundle, case)
    batch = as_batch(bundle, [item])
    assert {view: tuple(values.shape) for view, values in batch.items()} == dict.fromkeys(
        VIEWS, (1, 1, *SIZE)
    )
    assert batch["venous"].isnan().all() and batch["arterial"].isfinite().all()
    (found,) = explain_case(bundle, case)
    assert (found.view, found.values.shape) == ("arterial", (5, 18, 20))


def test_a_view_is_withheld_on_purpose(run: Run, tmp_path: Path) -> None:
    before = (run.folder / "predictions.csv").read_bytes()
    out = tmp_path / "x.csv"
    result = CliRunner().invoke(
        app, ["predict", str(run.folder), "--without", "venous", "--out", str(out)], catch_exceptions=True
    )
    rows = manifest_rows(run)
    alone = [case for case in read_predictions(run.folder / "predictions.csv").case_ids
             if not rows[case]["arterial"]]  # fmt: skip
    table = read_predictions(out)
    assert set(table.views) == {"arterial"}
    assert len(alone) > 0 and not set(alone) & set(table.case_ids)
    assert result.exception is not None and f"{len(alone)} refused" in str(result.exception)  # Partial
    assert (run.folder / "predictions.csv").read_bytes() == before
    assert CliRunner().invoke(app, ["evaluate", str(out)]).exit_code == 0
    metrics = json.loads(out.with_suffix(".metrics.json").read_text())
    assert list(metrics["by_views"]) == ["arterial"]
    bundle, cases = load_bundle(run.folder), {case.case_id: case for case in run.cohort().cases}
    both = next(case for case in table.case_ids if rows[case]["venous"])
    whole = predict_case(bundle, cases[both]).logits
    assert not np.allclose(table.logits[table.case_ids.index(both)], whole)


def test_what_cannot_be_withheld_is_said(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no view 'delayed'"):
        predict_without(run, ["delayed"], tmp_path / "x.csv")
    with pytest.raises(UsageError, match="cannot do without arterial, venous"):
        predict_without(run, VIEWS, tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()


def test_another_cohort_may_lack_a_whole_column(run: Run, tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path / "other", cases=4, missing=0, seed=9)
    with manifest.open(encoding="utf-8") as stream:
        rows = [{**row, "patient_id": f"other{number}"} for number, row in enumerate(csv.DictReader(stream))]
    for row in rows:
        del row["arterial"]
    write_csv(manifest, rows)
    table = predict_elsewhere(run, manifest, tmp_path / "other.csv")
    assert table.views == ("venous",) * 4
    named = replace(run, study=run.study.model_copy(
        update={"data": run.study.data.model_copy(update={"views": list(VIEWS)})}
    ))  # fmt: skip
    again = predict_elsewhere(named, manifest, tmp_path / "again.csv")
    np.testing.assert_array_equal(again.logits, table.logits)
    with pytest.raises(Partial, match="missing: arterial, venous"):  # and nothing is left without the other
        predict_elsewhere(run, manifest, tmp_path / "none.csv", without=["venous"])


def test_one_case_is_given_by_its_views(run: Run) -> None:
    folder = run.study.data.manifest.parent
    engine = open_engine(run.folder)
    case = views_case(engine.facts, [f"venous={folder / 'venous' / '00.nii.gz'}"])
    (answer,) = answer_files(engine, [case], [])
    assert answer.prediction.views == ("venous",)
    assert len(answer.prediction.probabilities) == len(engine.facts.classes)
    for wrong in (["late=a.nii"], ["venous"], ["venous=a", "venous=b"]):
        with pytest.raises(UsageError, match="NAME=PATH once for each of: arterial, venous"):
            views_case(engine.facts, wrong)
    with pytest.raises(UsageError, match="--view arterial=PATH"):
        image_cases(engine.facts, [folder / "venous" / "00.nii.gz"])


def fitted(folder: Path, model: str, *allow: str, **sections: Any) -> Any:
    made = Run.create(Study.model_validate(study(folder, model, **sections)), folder / "run").allowing(allow)
    audit(made).raise_if_stopped()
    split(made)
    return train(made)


def test_a_model_that_needs_every_view_lists_the_cases_that_lack_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    manifest = write_cohort(tmp_path, missing=0.2)
    lacking = []
    with manifest.open(encoding="utf-8") as stream:
        lacking = [
            row["case_id"] for row in csv.DictReader(stream) if not (row["arterial"] and row["venous"])
        ]
    whole = {"split": {"test": 0}, "augment": {"drop_views": 0}}
    with pytest.raises(InputRefused, match="lca_db10 and resnet3d10 tolerate missing views") as caught:
        fitted(tmp_path, "every_view", **whole)
    assert caught.value.code == "refused-image"
    assert all(f"case {case}: [view-missing]" in str(caught.value) for case in lacking)
    (tmp_path / "run" / "study.yaml").unlink()
    allowed = fitted(tmp_path, "every_view", "refused-image", **whole)
    assert {case.case_id for case, _ in allowed.filled.refused} == set(lacking)
    with pytest.raises(UsageError, match="cannot do without any"):
        fitted(tmp_path / "other", "every_view", data={"manifest": str(manifest)})


@pytest.mark.slow
def test_lca_db_takes_this_way(tmp_path: Path) -> None:
    """The published dual-branch network, much narrowed."""
    write_cohort(tmp_path, cases=16)
    choices = study(
        tmp_path, "lca_db10", {"width": 0.03}, preprocess={"size": [4, 64, 64]}, train={"epochs": 1}
    )
    made = Run.create(Study.model_validate(choices), tmp_path / "run")
    audit(made).raise_if_stopped()
    split(made)
    train(made)
    table = predict(made)
    assert len(set(table.views)) > 1 and np.isfinite(table.logits).all()
    bundle = load_bundle(made.folder)
    case = next(case for case in made.cohort().cases if len(case.views) == 2)
    maps = {item.view: item.values.shape for item in explain_case(bundle, case)}
    assert maps == {"arterial": (5, 18, 20), "venous": (7, 24, 16)}


def test_a_view_that_no_training_case_has_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    manifest = write_cohort(tmp_path, missing=0)
    with manifest.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    parts = ["train", "train", "val", "test"]
    for number, row in enumerate(rows):
        row["split"] = parts[number // 4 % 4]
        row["venous"] = row["venous"] if row["split"] == "test" else ""
    with manifest.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(UsageError, match="no training case has the view 'venous'"):
        fitted(tmp_path, "mean_of_views", split={"column": "split"})
