"""Bundles: what is saved is what is used, and what is damaged is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foveate.bundle.bundle import Bundle, Patients, load_bundle, save_bundle, save_fitted
from foveate.bundle.novelty import NoveltyScore
from foveate.device import keep_freed_memory
from foveate.errors import InputRefused
from foveate.evaluate.probabilities.calibrators import Calibrator, Fit
from foveate.evaluate.probabilities.conformal import SetRule
from foveate.evaluate.results.operating_point import OperatingPoint
from foveate.models import build_model
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import PreprocessConfig
from tiny_volumes import register

OPTIONS = {"width": 0.125, "depths": [1, 1, 1, 1], "fusion": "sum"}


def make(folder: Path, seed: int = 0) -> Bundle:
    torch.manual_seed(seed)
    preprocess = Preprocess(PreprocessConfig(size=(32, 48), window=(-60, 180), mean=(0.1, 0.2, 0.3)))
    model = build_model("dadrn50", 3, preprocess.input_spec(("ct",)), options=OPTIONS).eval()
    patients = Patients.of(["anna", "bert"])
    bundle = Bundle(model, "dadrn50", OPTIONS, preprocess, ("ct",), "multilabel", ("a", "b", "c"), patients)
    save_bundle(folder, bundle)
    return bundle


def test_a_loaded_bundle_answers_like_the_saved_one(tmp_path: Path) -> None:
    saved = make(tmp_path / "run" / "bundle")
    loaded = load_bundle(tmp_path / "run")  # a run folder will do
    views = {"ct": torch.randn(2, 3, 32, 48)}
    with torch.no_grad():
        assert torch.equal(saved.model(views).logits, loaded.model(views).logits)
    assert loaded.preprocess.config == saved.preprocess.config
    assert (loaded.views, loaded.task, loaded.classes) == (("ct",), "multilabel", ("a", "b", "c"))
    assert not loaded.model.training


def test_loading_a_bundle_changes_nothing_of_the_process(tmp_path: Path) -> None:
    make(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    kept = keep_freed_memory.cache_info().currsize
    load_bundle(tmp_path)
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == before
    assert keep_freed_memory.cache_info().currsize == kept
    assert torch.equal(torch.rand(3), expected)


def test_probabilities_are_softmax_or_sigmoids(tmp_path: Path) -> None:
    bundle = make(tmp_path)
    logits = torch.tensor([[0.0, 2.0, -2.0]])
    expected = [[0.5, 0.880797077977882, 0.119202922022118]]  # 1 / (1 + exp(-z))
    torch.testing.assert_close(bundle.probabilities(logits), torch.tensor(expected, dtype=torch.float64))


def test_patients_are_recognised_but_not_readable(tmp_path: Path) -> None:
    make(tmp_path)
    facts = (tmp_path / "bundle.json").read_text()
    patients = load_bundle(tmp_path).patients
    assert "anna" in patients and "carl" not in patients
    assert "anna" not in facts
    assert Patients.of(["anna"]).hashes.isdisjoint(Patients.of(["anna"]).hashes)  # a new salt each time


def test_patients_are_recognised_however_they_are_spelt(tmp_path: Path) -> None:
    patients = Patients.of(["00017", "P-3", "8.0"])
    for known in ("00017", "17", "017", "17.0", "p3", "P 3", "P_03", "8", "08"):
        assert known in patients, known
    assert all(other not in patients for other in ("18", "1-7", "P33", "80", ""))
    assert not patients.by_spelling("00017") and patients.by_spelling("0017")
    strict = Patients.of(["00017", "17"], as_written=True)
    assert "17" in strict and "017" not in strict
    saved = replace(make(tmp_path), patients=strict)
    save_bundle(tmp_path, saved)
    assert load_bundle(tmp_path).patients == strict


def test_bundles_of_before_know_their_patients(tmp_path: Path) -> None:
    """0.1.0 kept SHA-256 of salt and id alone; the id itself and what it is the key of are still known."""
    make(tmp_path)
    path, salt = tmp_path / "bundle.json", "ab" * 16
    facts = json.loads(path.read_text())
    facts["patients"] = {"salt": salt, "hashes": [hashlib.sha256(f"{salt}:17".encode()).hexdigest()]}
    path.write_text(json.dumps(facts))
    patients = load_bundle(tmp_path).patients
    assert "17" in patients and "00017" in patients and "18" not in patients


def fitted(bundle: Bundle) -> Bundle:
    """The bundle with all that is fitted after training."""
    draws = np.random.default_rng(0)
    return replace(
        bundle,
        thresholds={"a": 0.25},
        operating_points={"a": OperatingPoint(0.25, "sensitivity", 0.9, 0.91, 0.4, 11, 30)},
        calibration=Calibrator("multilabel", "platt", (Fit({"slope": 0.7, "intercept": -1.5}, 41),) * 3),
        set_rule=SetRule("multilabel", "lac", 0.9, (0.6, 0.7, float("inf")), (41, 41, 3), (40, 40, 3)),
        novelty=NoveltyScore.fit(draws.normal(size=(30, 8))).with_threshold(
            draws.random(30), [f"p{number}" for number in range(30)]
        ),
    )


def test_what_is_fitted_later_joins_without_touching_the_weights(tmp_path: Path) -> None:
    bundle = make(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    wanted = fitted(bundle)
    save_fitted(tmp_path, wanted)
    loaded = load_bundle(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    for name in ("thresholds", "operating_points", "calibration", "set_rule", "patients"):
        assert getattr(loaded, name) == getattr(wanted, name), name
    assert loaded.novelty is not None and wanted.novelty is not None
    assert loaded.novelty.threshold == wanted.novelty.threshold
    some = np.random.default_rng(1).normal(size=(5, 8))
    np.testing.assert_array_equal(loaded.novelty.score(some), wanted.novelty.score(some))


def test_a_new_training_forgets_what_was_fitted_to_the_old_weights(tmp_path: Path) -> None:
    save_fitted(tmp_path, fitted(make(tmp_path)))
    make(tmp_path, seed=1)
    loaded = load_bundle(tmp_path)
    assert (loaded.thresholds, loaded.operating_points) == ({}, {})
    assert loaded.calibration is loaded.set_rule is loaded.novelty is None


def test_lost_arrays_of_the_novelty_score_are_refused(tmp_path: Path) -> None:
    save_fitted(tmp_path, fitted(make(tmp_path)))
    (tmp_path / "novelty.safetensors").unlink()
    with pytest.raises(InputRefused, match="novelty") as caught:
        load_bundle(tmp_path)
    assert caught.value.code == "bundle-damaged"


def test_only_open_formats_are_written(tmp_path: Path) -> None:
    make(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"bundle.json", "model.safetensors"}


def test_damage_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputRefused, match="not those that bundle"):
        load_bundle(tmp_path)
    weights.unlink()
    with pytest.raises(InputRefused, match="missing"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("content", "code"),
    [("{", "bundle-damaged"), (json.dumps({"format": 99}), "bundle-format"), (None, "no-bundle")],
)
def test_facts_that_cannot_be_used_are_refused(tmp_path: Path, content: str | None, code: str) -> None:
    if content is not None:
        (tmp_path / "bundle.json").write_text(content)
    with pytest.raises(InputRefused) as caught:
        load_bundle(tmp_path)
    assert caught.value.code == code


def test_volumes_and_settings_of_views_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    own = {"ct": {"window": [-60, 180], "intensity": "zscore"}}
    config = PreprocessConfig.model_validate({"size": [4, 16, 16], "resize": "area", "views": own})
    preprocess = Preprocess(config)
    model = build_model("mean_of_views", 2, preprocess.input_spec(("ct", "t2"))).eval()
    patients = Patients.of(["anna"])
    saved = Bundle(model, "mean_of_views", {}, preprocess, ("ct", "t2"), "multiclass", ("a", "b"), patients)
    save_bundle(tmp_path, saved)
    loaded = load_bundle(tmp_path)
    assert json.loads((tmp_path / "bundle.json").read_text())["format"] == 1
    assert loaded.preprocess.config == config and loaded.model.tolerates_missing
    assert loaded.model.input_spec == model.input_spec
    batch = {"ct": torch.rand(2, 1, 4, 16, 16), "t2": torch.full((2, 1, 4, 16, 16), torch.nan)}
    ready = [
        {view: bundle.preprocess.normalize(x, view) for view, x in batch.items()}
        for bundle in (saved, loaded)
    ]
    with torch.no_grad():
        assert torch.equal(saved.model(ready[0]).logits, loaded.model(ready[1]).logits)


def test_bundles_of_the_first_version_are_read(tmp_path: Path) -> None:
    make(tmp_path)
    facts = json.loads((tmp_path / "bundle.json").read_text())
    for name in ("resize", "mask", "intensity", "views"):
        del facts["preprocess"][name]
    for name in ("operating_points", "calibration", "conformal", "novelty"):
        del facts[name]
    (tmp_path / "bundle.json").write_text(json.dumps(facts))
    assert load_bundle(tmp_path).preprocess.config == make(tmp_path / "again").preprocess.config
