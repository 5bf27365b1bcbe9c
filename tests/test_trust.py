"""The trust card on a network whose reasons are known by hand, and beside two other models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import nn

from foveate.bundle import bundle as bundles
from foveate.bundle.bundle import Bundle, Patients, load_bundle
from foveate.contract import Classifier, InputSpec, ModelOutput, Views
from foveate.errors import UsageError
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.means import means
from foveate.evaluate.results.splits import Splits
from foveate.evaluate.verdicts import FAITHFUL, LOCALIZING, SHORTCUT
from foveate.prepare.preprocess import Preprocess
from foveate.stations.run import Run
from foveate.stations.trust import trust
from foveate.stations.trust_card import rivals
from foveate.stations.trust_card.columns import CaseFigures
from foveate.stations.trust_card.plan import TrustPlan, in_order
from foveate.study.settings import PreprocessConfig, SplitConfig
from foveate.study.study import Study
from foveate.types import Case, Cohort
from made_results import probes_that_found

SIDE = 32
SQUARE, DECOY = (slice(4, 12), slice(18, 26)), (slice(22, 30), slice(2, 10))
METHODS = ("hirescam", "integrated_gradients")


class ReadsSquare(Classifier):
    """Says "ill" in proportion to the mean of one square, by a head with a weight for every place."""

    def __init__(self, square: tuple[slice, slice] = SQUARE) -> None:
        super().__init__()
        self.input_spec = InputSpec(size=(SIDE, SIDE))
        self.num_classes, self.cam_feature = 2, {"image": "map"}
        self.look = nn.Conv2d(3, 1, 1, bias=False)
        self.head = nn.Linear(SIDE * SIDE, 2, bias=False)
        seen = torch.zeros(SIDE, SIDE)
        seen[square] = 12 / 64
        with torch.no_grad():
            self.look.weight.fill_(1 / 3)
            self.head.weight.copy_(torch.stack([-seen.flatten(), seen.flatten()]))

    def forward(self, views: Views) -> ModelOutput:
        features = self.look(views["image"])
        return ModelOutput(self.head(features.flatten(1)), {"map": features})


def bundle_of(model: Classifier, known: Sequence[str] = ()) -> Bundle:
    plain = PreprocessConfig(size=(SIDE, SIDE), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return Bundle(
        model=model.eval(),
        model_name="square",
        model_options={},
        preprocess=Preprocess(plain),
        views=("image",),
        task="multiclass",
        classes=("healthy", "ill"),
        patients=Patients.of(known),
    )


def write_cases(folder: Path, count: int = 60) -> Path:
    """Cases whose square is bright if ill and dark if healthy, with a decoy that has the sharper edges."""
    draws, rows = np.random.default_rng(5), ["case_id,patient_id,label,image,mask"]
    marked = np.zeros((SIDE, SIDE), np.uint8)
    marked[SQUARE] = 255
    Picture.fromarray(marked).save(folder / "mask.png")
    for number in range(count):
        ill = number % 2
        grey = draws.normal(127, 12, (SIDE, SIDE))
        grey[SQUARE] += 45 if ill else -45
        grey[DECOY] = draws.choice([0, 255])
        Picture.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")
        rows.append(f"{number:03d},p{number // 2:03d},{('healthy', 'ill')[ill]},{number:03d}.png,mask.png")
    (folder / "manifest.csv").write_text("\n".join(rows))
    return folder / "manifest.csv"


def run_of(folder: Path, **train: object) -> Run:
    study = Study.model_validate(
        {
            "name": "trust",
            "data": {"manifest": write_cases(folder)},
            "preprocess": {"size": (SIDE, SIDE)},
            "model": {"name": "timm:test_resnet"},
            "train": {"accelerator": "cpu", "precision": "32", "cache_gb": 0, **train},
            "evaluate": {"bootstrap": 200},
            "trust": {"methods": METHODS, "cases": 20},
        }
    )
    run = Run.create(study, folder / "run")
    cases = [case.case_id for case in run.cohort().cases]
    parts = {name: ("train", "val", "test")[min(place // 20, 2)] for place, name in enumerate(cases)}
    Splits(manifest_sha256="0" * 64, config=SplitConfig(), folds=(parts,)).write(run.folder)
    (run.folder / "bundle").mkdir()
    return run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose model reads the square that is marked."""
    monkeypatch.setattr(bundles, "load_bundle", lambda _: bundle_of(ReadsSquare()))
    return run_of(tmp_path)


def states(card: dict, name: str) -> dict[str, str]:
    found = (card["methods"] | card["controls"])[name]["conditions"]
    return {condition: each["state"] for condition, each in found.items()}


@pytest.mark.slow
def test_maps_of_a_network_that_reads_a_known_square(run: Run) -> None:
    card = trust(run).to_json()
    assert json.loads((run.folder / "trust.json").read_text()) == card
    assert (card["n"], card["patients"], card["split"]) == (20, 10, "test")
    for name in METHODS:
        found = states(card, name)
        passed = {"faithful", "randomisation", "localizing"}
        assert {condition: found[condition] for condition in passed} == dict.fromkeys(passed, "passed"), name
        assert found["second"] == found["permuted"] == found["attention"] == "not tested"
        assert card["methods"][name]["scores"]["pointing_game"]["value"] == 1.0
    for control in ("random", "centre", "edge"):
        assert states(card, control)["randomisation"] == "failed", "it never looked at the model"
    assert card["methods"]["hirescam"]["verdict"]["usable_for"] == [FAITHFUL, LOCALIZING]
    assert card["controls"]["centre"]["scores"]["pointing_game"]["value"] == 0.0
    assert card["shortcuts"] == "shortcuts were not looked for: run `foveate probe`"


@pytest.mark.slow
def test_a_network_that_reads_elsewhere_has_faithful_maps_that_do_not_localize(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "load_bundle", lambda _: bundle_of(ReadsSquare(DECOY)))
    probes_that_found("A marker decides.").write(run.folder)
    card = trust(run, methods=("hirescam",)).to_json()
    found = states(card, "hirescam")
    assert (found["faithful"], found["localizing"]) == ("passed", "failed")
    assert card["flags"] == ["A marker decides."]
    sentence = card["methods"]["hirescam"]["verdict"]["sentence"]
    assert sentence.startswith(f"usable for {FAITHFUL}; not shown to be better than ")
    assert SHORTCUT in sentence


@pytest.mark.slow
def test_two_other_models(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second model that reads the same square draws the same; one that has learned nothing does not."""
    torch.manual_seed(0)
    nothing = ReadsSquare()
    nn.init.normal_(nothing.head.weight)
    known = [case.patient_id for case in run.cohort().cases[-2:]]
    models = {"second": bundle_of(ReadsSquare(), known), "permuted": bundle_of(nothing)}
    monkeypatch.setattr(rivals, "load_bundle", lambda folder: models[Path(folder).name])
    card = trust(
        run, methods=("hirescam",), rivals={"second": tmp_path / "second", "permuted": tmp_path / "permuted"}
    ).to_json()
    found = card["methods"]["hirescam"]
    assert found["conditions"]["permuted"]["state"] == "passed"
    assert found["scores"]["second"]["value"] == pytest.approx(1.0)
    assert found["scores"]["second"]["patients"] == 9, "a patient whom the second model knows does not count"
    assert found["scores"]["permuted"]["patients"] == 10


def test_another_kind_of_model_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = bundle_of(ReadsSquare())
    changed = Bundle(**{name: getattr(other, name) for name in other.__slots__} | {"classes": ("a", "b")})
    monkeypatch.setattr(rivals, "load_bundle", lambda _: changed)
    with pytest.raises(UsageError, match="other classes"):
        trust(run, rivals={"second": tmp_path})


@pytest.mark.slow
def test_a_method_that_the_model_cannot_have_is_told(run: Run) -> None:
    card = trust(run, methods=("cam", "hirescam")).to_json()
    assert card["methods"]["cam"]["verdict"]["sentence"].startswith("not tested: ")
    assert states(card, "hirescam")["randomisation"] == "passed"
    with pytest.raises(UsageError, match="no explainer 'gradcamp'"):
        trust(run, methods=("gradcamp",))


def test_retraining_permutes_labels_within_the_parts_and_keeps_the_split(tmp_path: Path) -> None:
    run = run_of(tmp_path, epochs=1, batch_size=10)
    folders = {kind: rivals.retrain(run, kind) for kind in ("second", "permuted")}
    assert folders["second"] == run.folder / "trust" / "second"
    test = {case.patient_id for case in run.cohort().cases[40:]}
    for folder in folders.values():
        found = load_bundle(folder)
        assert "p000" in found.patients and not any(patient in found.patients for patient in test)


def test_labels_are_permuted_within_parts() -> None:
    cases = tuple(Case(str(n), str(n), {}, label="ab"[n < 6]) for n in range(20))
    cohort = Cohort(cases, "multiclass", ("a", "b"), ("image",), Path("m.csv"), "")
    parts = {str(n): "train" if n < 12 else "val" if n < 16 else "test" for n in range(20)}
    splits = Splits(manifest_sha256="", config=SplitConfig(), folds=(parts,))
    permuted = rivals.permute_labels(cohort, splits, 0, seed=1).cases
    labels = [case.label for case in permuted]
    assert sorted(labels[:12]) == sorted(case.label or "" for case in cases[:12])
    assert labels[:12] != [case.label for case in cases[:12]]
    assert labels[12:] == [case.label for case in cases[12:]]
    assert [case.case_id for case in permuted] == [case.case_id for case in cases]


def test_the_first_cases_are_of_as_many_patients_as_there_are() -> None:
    cases = [Case(f"{p}-{n}", str(p), {}) for p in range(5) for n in range(4)]
    order = in_order(cases, 12, seed=0)
    assert [len({case.patient_id for case in order[start : start + 5]}) for start in (0, 5)] == [5, 5]
    assert len(order) == 12 and order == in_order(cases, 12, seed=0) != in_order(cases, 12, seed=1)


def test_costly_methods_are_asked_of_fewer_cases() -> None:
    questions = ("cases", "faithful", "sanity")
    plan, small = TrustPlan(cases=100, faithful=64, sanity=23), TrustPlan(cases=16, faithful=16, sanity=6)
    assert [plan.asked("gradcam:early", question) for question in questions] == [100, 64, 23]
    assert [plan.asked("smoothgrad", question) for question in questions] == [32, 32, 12]
    assert [small.asked("smoothgrad", question) for question in questions] == [10, 10, 6]


def test_means_leave_out_what_is_undefined() -> None:
    columns = CaseFigures(4)
    columns.put("gradcam", "road", [0, 1, 3], np.array([1.0, 3.0, 8.0]))
    found = means({"road": columns.of("gradcam", "road")}, ["a", "a", "b", "c"], Bootstrap(500, seed=1))[
        "road"
    ]
    assert (found.value, found.n, found.patients) == (4.0, 3, 2)
    assert found.low is not None and found.high is not None and found.low >= 2.0 and found.high <= 8.0
    nothing = means({"x": columns.of("gradcam", "other")}, ["a", "a", "b", "c"], Bootstrap(100))["x"]
    assert (nothing.value, nothing.reason) == (None, "no case has a figure")
