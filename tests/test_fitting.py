"""What the predict station fits: on validation cases alone, stored in the bundle, used for single images."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from scipy.special import softmax

from foveate.bundle.bundle import Bundle, Patients, load_bundle, save_bundle
from foveate.cli.single import show_answer
from foveate.cli.terminal import console
from foveate.deploy.engines.files import image_cases
from foveate.deploy.engines.opening import open_engine
from foveate.deploy.engines.single import answer_files
from foveate.evaluate.results.splits import Splits
from foveate.evaluate.table import read_predictions
from foveate.models import build_model
from foveate.predict import complete
from foveate.prepare.preprocess import Preprocess
from foveate.stations.evaluate import evaluate
from foveate.stations.fitting import fit_on_validation
from foveate.stations.predict import predict
from foveate.stations.run import Run
from foveate.study.sections import AbstainConfig, CalibrateConfig
from foveate.study.settings import PreprocessConfig, SplitConfig
from foveate.study.study import Study
from foveate.types import Prediction

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    torch.manual_seed(0)
    preprocess = Preprocess(PreprocessConfig(size=(32, 32)))
    options = {"width": 0.125, "depths": (1, 1, 1, 1)}
    model = build_model("drn50", 3, preprocess.input_spec(("image",)), options=options).eval()
    return Bundle(model, "drn50", options, preprocess, ("image",), "multiclass", CLASSES, Patients.of([]))


def predictions(parts: tuple[str, ...] = ("val", "test"), count: int = 60) -> list[Prediction]:
    """Overconfident predictions of so many patients in each part."""
    draws = np.random.default_rng(1)
    found = []
    for part in parts:
        for number in range(count):
            right = draws.normal(size=3)
            truth = np.eye(3)[draws.choice(3, p=softmax(right))]
            name, logits = f"{part}-{number}", right * 2.5
            found.append(Prediction(name, name, part, logits, softmax(logits), truth))
    return found


def with_test_truths_permuted(found: list[Prediction]) -> list[Prediction]:
    test = [item for item in found if item.split == "test"]
    order = np.random.default_rng(2).permutation(len(test))
    assert any((test[place].truth != item.truth).any() for place, item in zip(order, test, strict=True))
    turned = [replace(item, truth=test[place].truth) for place, item in zip(order, test, strict=True)]
    return [item for item in found if item.split != "test"] + turned


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_labels_of_test_cases_move_nothing(bundle: Bundle, method: str) -> None:
    calibrate = CalibrateConfig(method=method, threshold="sensitivity")  # type: ignore[arg-type]
    found = predictions()
    one = fit_on_validation(bundle, found, calibrate, AbstainConfig())
    other = fit_on_validation(bundle, with_test_truths_permuted(found), calibrate, AbstainConfig())
    assert one.calibration is not None and one.calibration.fitted
    assert (one.calibration, one.set_rule) == (other.calibration, other.set_rule)
    assert (one.operating_points, one.thresholds) == (other.operating_points, other.thresholds)
    moved = fit_on_validation(bundle, predictions(count=59), calibrate, AbstainConfig())
    assert moved.calibration != one.calibration, "the validation cases do move it"


def test_without_validation_cases_nothing_is_fitted(bundle: Bundle) -> None:
    same = fit_on_validation(bundle, predictions(("test",)), CalibrateConfig(), AbstainConfig())
    assert same is bundle
    (first, *_) = complete(bundle, predictions(("test",)))
    assert first.calibrated is None and first.answer_set is None and first.abstain == ()


def test_a_case_is_told_what_the_bundle_knows(bundle: Bundle) -> None:
    fitted = fit_on_validation(bundle, predictions(), CalibrateConfig(), AbstainConfig(coverage=0.6))
    assert fitted.calibration is not None and fitted.set_rule is not None
    found = complete(fitted, predictions())
    sets = fitted.set_rule.sets(np.stack([item.probabilities for item in found]))
    for item, kept in zip(found, sets, strict=True):
        np.testing.assert_allclose(item.calibrated, fitted.calibration.apply(item.logits[None])[0])
        assert item.answer_set == tuple(np.array(CLASSES)[kept])
        doubt = {0: ("set-empty",), 1: ()}.get(int(kept.sum()), ("set-large",))
        assert item.abstain == doubt
    assert {len(item.answer_set or ()) for item in found} > {1}, "some cases give cause for doubt"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Run:
    """A run with an untrained bundle: 30 training, 30 validation and 9 test pictures of two brightnesses."""
    folder = tmp_path_factory.mktemp("run")
    draws = np.random.default_rng(0)
    rows, where = [], {}
    for number in range(69):
        name = f"case{number:02d}"
        part = "train" if number < 30 else "val" if number < 60 else "test"
        values = draws.normal(60 + 40 * (number % 3), 30, (32, 32))
        Picture.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(folder / f"{name}.png")
        rows.append((name, f"p{number}", CLASSES[number % 3], f"{name}.png"))
        where[name] = part
    with (folder / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("case_id", "patient_id", "label", "image"), *rows])
    study = Study.model_validate(
        {
            "name": "fitting",
            "data": {"manifest": folder / "manifest.csv"},
            "preprocess": {"size": (32, 32)},
            "model": {"name": "drn50"},
        }
    )
    made = Run.create(study, folder / "run")
    Splits(manifest_sha256="0" * 64, config=SplitConfig(), folds=(where,)).write(made.folder)
    save_bundle(made.folder / "bundle", bundle)
    predict(made)
    return made


def test_the_station_stores_what_it_fitted(run: Run) -> None:
    loaded = load_bundle(run.folder)
    assert loaded.calibration is not None and loaded.calibration.method == "temperature"
    assert loaded.set_rule is not None and loaded.set_rule.cases == (30,)
    assert loaded.novelty is not None and loaded.novelty.cases == 30
    assert set(loaded.operating_points) == set(CLASSES) and loaded.thresholds == {}
    table = read_predictions(run.folder / "predictions.csv")
    assert set(table.splits) == {"val", "test"}, "training cases are looked at, not predicted"
    assert np.isfinite(table.novelty).all()
    val = table.part("val")
    assert (val.novelty > loaded.novelty.threshold).mean() <= 0.05


def test_a_single_image_gets_the_same_answer_as_in_the_cohort(run: Run) -> None:
    table = read_predictions(run.folder / "predictions.csv")
    images = [run.folder.parent / f"{name}.png" for name in table.case_ids[-3:]]
    engine = open_engine(run.folder)
    answers = list(answer_files(engine, image_cases(engine.facts, images), []))
    for row, item in zip(range(-3, 0), (answer.prediction for answer in answers), strict=True):
        np.testing.assert_allclose(item.probabilities, table.probabilities[row], rtol=1e-4)
        assert item.novelty == pytest.approx(table.novelty[row], rel=1e-3)


def test_noise_is_novel_and_said_to_be(run: Run, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (32, 32), dtype=np.uint8) * 255
    Picture.fromarray(noise).save(tmp_path / "noise.png")
    engine = open_engine(run.folder)
    (found,) = answer_files(engine, image_cases(engine.facts, [tmp_path / "noise.png"]), [])
    assert "novel" in found.prediction.abstain and not found.learned
    with console.capture() as printed:
        show_answer(engine.facts, engine.operating_points, found)
    assert "noise.png" in printed.get() and "unlike the training images" in printed.get()


def test_predicting_the_test_part_again_fits_nothing_anew(run: Run) -> None:
    before = (run.folder / "bundle" / "bundle.json").read_bytes()
    whole = (run.folder / "predictions.csv").read_bytes()
    table = predict(run, ("test",))
    assert (run.folder / "bundle" / "bundle.json").read_bytes() == before
    assert np.isfinite(table.novelty).all()
    predict(run)
    assert (run.folder / "predictions.csv").read_bytes() == whole, "and with validation it is all the same"


def test_rules_of_the_study_reach_the_figures(run: Run) -> None:
    calibrate = CalibrateConfig(threshold="specificity", target=0.8)
    study = run.study.model_copy(update={"calibrate": calibrate})
    metrics = evaluate(Run(run.folder, study))
    points = metrics.operating_points
    assert set(points) == set(CLASSES)
    for point in points.values():
        chosen = point.chosen
        assert (chosen.rule, chosen.target) == ("specificity", 0.8)
        assert chosen.specificity >= 0.8 or chosen.reason
