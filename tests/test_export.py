"""A run becomes one file, the file answers as the run does, and one that does not is never written."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from typer.testing import CliRunner

from dicom_files import dataset, slice_tags, write_dicom
from foveate.bundle.bundle import Bundle, Patients, load_bundle, save_bundle
from foveate.cli.app import app
from foveate.deploy.engines.bundled import Bundled, facts_of
from foveate.deploy.engines.engine import Engine
from foveate.deploy.engines.facts import Facts
from foveate.deploy.engines.graph import inputs_of, read_case
from foveate.deploy.engines.opening import open_engine
from foveate.deploy.export import pipeline
from foveate.deploy.export.parity import compare
from foveate.errors import InputRefused, MissingExtra, RunFailed, UsageError
from foveate.evaluate.results.cautions import Cautions
from foveate.evaluate.results.splits import Splits
from foveate.files import write_json
from foveate.models import build_model
from foveate.predict import as_batch
from foveate.prepare.preprocess import Preprocess
from foveate.stations.audit import audit
from foveate.stations.batches import cases_of
from foveate.stations.export import ENGINES, Exported, export_run
from foveate.stations.predict import predict
from foveate.stations.run import Run
from foveate.study.settings import PreprocessConfig, SplitConfig
from foveate.study.study import Study
from foveate.types import Case

CLASSES = ("a", "b", "c")
PATIENT = "patient-whom-nobody-may-know"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with an untrained network: 26 validation pictures of three brightnesses and four sizes."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    preprocess = Preprocess(PreprocessConfig(size=(32, 32)))
    options = {"width": 0.125, "depths": (1, 1, 1, 1)}
    model = build_model("drn50", 3, preprocess.input_spec(("image",)), options=options).eval()
    where = _pictures(folder, parts=["train"] * 12 + ["val"] * 26)
    study = Study.model_validate(
        {
            "name": "export",
            "data": {"manifest": folder / "manifest.csv"},
            "preprocess": {"size": (32, 32)},
            "model": {"name": "drn50"},
        }
    )
    made = Run.create(study, folder / "run")
    Splits(manifest_sha256="0" * 64, config=SplitConfig(), folds=(where,)).write(made.folder)
    fault = f"1 of 38 patients in more than one part: {PATIENT} (train, val)"
    found = dict(code="patient-in-two-splits", severity="stop", message=fault, allowed=True)
    found |= dict(case_ids=[], groups=[])
    audited = audit(made).to_json()
    write_json(made.folder / "audit.json", audited | {"findings": [*audited["findings"], found]})
    views, patients = ("image",), Patients.of([PATIENT])
    save_bundle(
        made.folder / "bundle",
        Bundle(model, "drn50", options, preprocess, views, "multiclass", CLASSES, patients),
    )
    predict(made, ("val",))
    return made


def _pictures(folder: Path, parts: list[str]) -> dict[str, str]:
    draws = np.random.default_rng(0)
    rows = []
    for number in range(len(parts)):
        shape = [(32, 32), (40, 56, 3), (90, 61), (24, 24, 3)][number % 4]
        values = draws.normal(60 + 40 * (number % 3), 40, shape)
        Picture.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(folder / f"case{number:02d}.png")
        rows.append((f"case{number:02d}", f"p{number}", CLASSES[number % 3], f"case{number:02d}.png"))
    with (folder / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("case_id", "patient_id", "label", "image"), *rows])
    return {row[0]: part for row, part in zip(rows, parts, strict=True)}


@pytest.fixture(scope="module")
def onnx(run: Run) -> Exported:
    return export_run(run, "onnx", run.folder.parent / "model.onnx")


@pytest.fixture(scope="module")
def torch_file(run: Run) -> Exported:
    return export_run(run, "torch")


def val_cases(run: Run) -> list[Case]:
    return cases_of(run, run.cohort(), ("val",))


@pytest.mark.slow
def test_every_engine_answers_as_the_run(run: Run, onnx: Exported, torch_file: Exported) -> None:
    reference, cases = Bundled(run.folder), val_cases(run)
    ready = [reference.read(case) for case in cases]
    expected = reference.predict(ready)
    assert expected[0].prediction.calibrated is not None, "the bundle has everything that can be exported"
    for path, name in [(onnx.path, name) for name in ENGINES["onnx"][:2]] + [(torch_file.path, "torch")]:
        engine = open_engine(path, name)
        read = [engine.read(case) for case in cases]
        found = engine.predict(read)
        for one, other in zip(expected, found, strict=True):
            ours, theirs = one.prediction, other.prediction
            assert (ours.case_id, ours.split, ours.views) == (theirs.case_id, theirs.split, theirs.views)
            np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-4)
            np.testing.assert_allclose(theirs.calibrated, ours.calibrated, atol=1e-4)
            np.testing.assert_allclose(theirs.truth, ours.truth)
            assert theirs.novelty == pytest.approx(ours.novelty, rel=1e-2)
            assert one.decision.tolist() == other.decision.tolist()
            assert ours.unlike == theirs.unlike and set(ours.unlike) <= set(theirs.abstain)
        sets = [
            one.prediction.answer_set == other.prediction.answer_set
            for one, other in zip(expected, found, strict=True)
        ]
        assert np.mean(sets) > 0.9, (
            "the limit of a set is the score of some case, which may fall to either side"
        )
        for k in range(4):  # one of each size
            ours, theirs = (
                reference.heatmaps(ready[k], expected[k], "ab"),
                engine.heatmaps(read[k], found[k], "ab"),
            )
            assert [(item.target, item.explainer) for item in theirs] == [("a", "gradcam"), ("b", "gradcam")]
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(other.values, one.values, atol=1e-3 * np.abs(one.values).max())


@pytest.mark.parametrize("what", ["image", "image:range"])
def test_a_view_that_is_not_there_gets_no_answer_in_any_engine(
    run: Run, onnx: Exported, torch_file: Exported, what: str
) -> None:
    """The second of three cases lacks its only view or its range; its neighbours are answered as ever."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, 1, 40, 30)).astype(np.float32)
    whole = {"image": pixels, "image:range": np.array([[0, 255]] * 3, dtype=np.float32)}
    lacking = {name: values.copy() for name, values in whole.items()}
    lacking[what][1] = np.nan
    for path, name in [(onnx.path, name) for name in ENGINES["onnx"][:2]] + [(torch_file.path, "torch")]:
        engine: Any = open_engine(path, name)
        expected, found = (
            {key: np.array(values) for key, values in engine.run(own).items()} for own in (whole, lacking)
        )
        assert set(found) >= {"logits", "probabilities", "decision", "calibrated", "novelty", "maps:image"}
        for key, values in found.items():
            if key == "decision":
                assert not values[1].any() and expected[key].any(axis=1).all(), name
            else:
                assert np.isnan(values[1]).all() and not np.isnan(expected[key]).any(), (name, key)
            np.testing.assert_allclose(values[::2], expected[key][::2], atol=1e-4, rtol=1e-3)


def test_every_engine_says_in_what_an_image_plainly_differs(run: Run, onnx: Exported, tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 4000, (500, 40)).astype(np.uint16)
    Picture.fromarray(deep).save(tmp_path / "deep.png")
    case = Case("deep", "q", {"image": tmp_path / "deep.png"})
    for engine in (Bundled(run.folder), open_engine(onnx.path, ENGINES["onnx"][0])):
        (answer,) = engine.predict([engine.read(case)])
        assert {"unlike-encoding", "unlike-size", "unlike-values"} <= set(answer.prediction.abstain)


def test_an_image_of_oblong_pixels_is_refused_and_not_shown_in_another_shape(
    run: Run, onnx: Exported, tmp_path: Path
) -> None:
    """The run pads it by millimetres, which the file cannot: it is not told of spacings."""
    pixels = np.random.default_rng(2).integers(0, 255, (30, 40), dtype=np.uint8)
    case = Case("c", "p", {"image": tmp_path / "oblong.dcm"})
    write_dicom(case.views["image"], dataset(pixels, slice_tags((0, 0, 0), spacing=(2.0, 0.5))))
    engine = open_engine(onnx.path, "onnxruntime")
    with pytest.raises(InputRefused, match="not square"):
        engine.read(case)
    square = Case("d", "p", {"image": tmp_path / "square.dcm"})
    write_dicom(square.views["image"], dataset(pixels, slice_tags((0, 0, 0), spacing=(0.5, 0.5))))
    assert len(engine.predict([engine.read(square)])) == 1


def test_declared_padding_is_dark_in_exported_files_too(run: Run, onnx: Exported, tmp_path: Path) -> None:
    """The run and the file give one answer, and it does not depend on what the padding value is."""
    pixels = np.random.default_rng(2).integers(200, 900, (30, 40), dtype=np.int16)
    engines: list[Engine[Any]] = [Bundled(load_bundle(run.folder)), open_engine(onnx.path, "onnxruntime")]
    answers = []
    for padding in (-30000, -2000, 100):
        case = Case("c", "p", {"image": tmp_path / f"{padding}.dcm"})
        padded = np.where(np.arange(40) < 9, np.int16(padding), pixels)
        write_dicom(case.views["image"], dataset(padded, {"PixelPaddingValue": padding}))
        answers += [engine.predict([engine.read(case)])[0].prediction.logits for engine in engines]
    np.testing.assert_allclose(answers, [answers[0]] * 6, atol=1e-4)


def test_the_export_says_how_well_it_was_met(run: Run, onnx: Exported) -> None:
    assert [each.engine for each in onnx.parities][:2] == ["onnxruntime:f32", "openvino:f32"]
    for each in onnx.parities[:2]:
        assert each.cases == 26 and each.probability < 1e-4 and each.same == 1 and each.correlation > 0.999
    assert onnx.right[0] == onnx.right[1] and 0 <= onnx.right[0] <= 1
    assert "onnxruntime:f32" in open_engine(onnx.path, "onnxruntime").facts.passed
    assert "export" in (run.folder / "run.json").read_text()


def test_one_file_holds_everything_but_the_patients(run: Run, onnx: Exported, torch_file: Exported) -> None:
    bundle = load_bundle(run.folder)
    assert sorted(path.name for path in onnx.path.parent.glob("model*")) == ["model.onnx"]
    for path in (onnx.path, torch_file.path):
        content = path.read_bytes()
        if path.suffix == ".pt2":
            with zipfile.ZipFile(path) as parts:
                content += b"".join(parts.read(name) for name in parts.namelist())
        for secret in (PATIENT, bundle.patients.salt, *bundle.patients.hashes, str(run.folder.parent)):
            assert secret.encode() not in content
    facts = open_engine(onnx.path, "onnxruntime").facts
    assert facts.classes == CLASSES and facts.preprocess == bundle.preprocess.config
    assert facts.weights_sha256 == bundle.weights_sha256 and facts.calibrated == "temperature"
    assert Facts.from_text(facts.to_text(), "here") == facts


@pytest.mark.slow
def test_a_planted_mismatch_is_caught_and_nothing_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = pipeline.resized
    monkeypatch.setattr(pipeline, "resized", lambda *args, **named: plain(*args, **named).roll(1, dims=-1))
    with pytest.raises(RunFailed, match="the file is not the run: asked 26 cases") as caught:
        export_run(run, "torch", tmp_path / "model.pt2")
    assert caught.value.code == "parity-failed" and list(tmp_path.iterdir()) == []


def test_each_kind_of_mismatch_fails_the_gate(run: Run) -> None:
    engine, cases = Bundled(run.folder), val_cases(run)
    answers = engine.predict([engine.read(case) for case in cases])
    facts = engine.facts
    assert compare("same", "f32", (facts, facts), answers, answers).problems() == []

    def problem(precision: str = "f32", other: Facts = facts, **changes: Any) -> str:
        planted = [replace(answers[0], **changes), *answers[1:]]
        (found,) = compare("planted", precision, (facts, other), answers, planted).problems()
        return found

    told = answers[0].prediction
    shifted = replace(told, probabilities=told.probabilities + np.array([2e-4, -2e-4, 0]))
    assert "a probability differs by 0.0002" in problem(prediction=shifted)
    loose = [replace(answers[0], prediction=shifted), *answers[1:]]
    assert compare("loose", "bf16", (facts, facts), answers, loose).problems() == []
    assert "not a number" in problem(prediction=replace(told, calibrated=None))
    assert "3.8% of decisions" in problem(decision=~answers[0].decision)
    turned = {view: values[:, ::-1].copy() for view, values in answers[0].maps.items()}
    assert "maps correlate" in problem(maps=turned)
    assert "novelty" in problem(prediction=replace(told, novelty=told.novelty * 1.2))
    assert "thresholds differ" in problem(other=replace(facts, strangest=1.0))


def test_bfloat16_is_used_only_where_it_passed(onnx: Exported) -> None:
    pytest.importorskip("openvino")
    allowed = "openvino:bf16" in onnx.facts.passed
    engine: Any = open_engine(onnx.path)
    assert engine.name == "openvino" and engine.precision == ("bf16" if allowed else "f32")
    assert "openvino:f32" in onnx.facts.passed


def test_the_network_sees_what_training_showed_it_in_every_precision(run: Run, onnx: Exported) -> None:
    reference, names = Bundled(run.folder), ["onnxruntime", "openvino:f32", "openvino:bf16"]
    for case in val_cases(run)[:4]:  # one of each size
        expected = as_batch(reference.bundle, [reference.read(case)])["image"][0].numpy()
        found = {}
        for name in names:
            try:
                engine: Any = open_engine(onnx.path, name)
            except (MissingExtra, UsageError):  # not installed, or no bfloat16 here
                continue
            given = inputs_of(engine.facts, [read_case(engine.facts, case)])
            found[name] = engine.run(given)["prepared:image"][0]
            apart = np.abs(found[name] - expected)
            assert apart.max() < 4e-3 and apart.mean() < 2e-5  # few values round to the other side
        assert "openvino:bf16" not in found or (found["openvino:bf16"] == found["openvino:f32"]).all()


@pytest.mark.slow
def test_int8_tells_its_loss(run: Run, tmp_path: Path) -> None:
    exported = export_run(run, "openvino", tmp_path / "small.openvino", int8=True)
    assert exported.facts.precision == "int8" and exported.path.is_file()
    assert all(each.precision == "int8" and each.probability > 0 for each in exported.parities)
    assert all(0 <= share <= 1 for share in exported.right)
    found = open_engine(exported.path)
    assert found.facts.precision == "int8" and found.predict([found.read(val_cases(run)[0])])


def test_the_file_carries_the_cautions_of_the_run(run: Run, onnx: Exported) -> None:
    told = Cautions.read(run.folder)
    assert told is not None and PATIENT in told.items[0].sentence and len(told.items) > 1
    assert Cautions.read(run.folder / "bundle") == (told := told.for_others())
    fault = "1 of 38 patients in more than one part."
    assert told.items[0].sentence.endswith(f", accepted by whoever ran the study: {fault}")
    for name in ENGINES["onnx"][:2]:
        facts = open_engine(onnx.path, name).facts
        assert facts.cautions == told.to_json()
    asked = ["predict", str(onnx.path), str(run.folder.parent / "case13.png")]
    answer = CliRunner().invoke(app, asked).output
    assert "read with care, of this model" in answer and told.items[0].sentence in answer
    assert Facts.from_text(replace(facts, cautions=None).to_text(), "here").cautions is None


def test_prediction_with_an_export_needs_no_torch(run: Run, onnx: Exported, tmp_path: Path) -> None:
    image = run.folder.parent / "case00.png"
    code = (
        "import sys\nfrom foveate.cli.app import main\n"
        f"sys.argv[1:] = ['predict', {str(onnx.path)!r}, {str(image)!r}, '--maps', {str(tmp_path)!r}]\n"
        "try:\n    main()\nexcept SystemExit as ending:\n    assert ending.code in (None, 0)\n"
        "assert not {'torch', 'sklearn', 'pandas'} & set(sys.modules), 'slow to import'\nprint('quick')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stderr
    assert "case00.png" in done.stdout and "set:" in done.stdout and done.stdout.endswith("quick\n")
    (written,) = tmp_path.glob("*.npy")
    assert np.load(written).shape == (32, 32)


@pytest.mark.slow
def test_the_command_line_exports_and_predicts(run: Run, tmp_path: Path) -> None:
    cli, out = CliRunner(), tmp_path / "model.pt2"
    done = cli.invoke(app, ["export", str(run.folder), "--to", "torch", "-o", str(out)])
    assert done.exit_code == 0 and "torch:f32" in done.output and out.is_file()
    image = str(run.folder.parent / "case13.png")
    answers = [cli.invoke(app, ["predict", str(model), image]).output for model in (run.folder, out)]
    told = [[line for line in answer.splitlines() if "threshold:" not in line] for answer in answers]
    assert told[0] == told[1] and "case13.png" in answers[0], "only the run knows operating points of classes"


def test_what_cannot_be_opened_is_refused(run: Run, onnx: Exported, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no engine 'tensorrt'"):
        open_engine(onnx.path, "tensorrt")
    with pytest.raises(UsageError, match="the engine torch runs this"):
        open_engine(onnx.path, "torch")
    with pytest.raises(InputRefused, match="no such file"):
        open_engine(tmp_path / "nothing.onnx")
    for name, engines in {
        "bad.onnx": ("onnxruntime", "openvino"),
        "bad.openvino": ("openvino",),
        "bad.pt2": ("torch",),
    }.items():
        (tmp_path / name).write_bytes(b"no model")
        for engine in engines:
            with pytest.raises(InputRefused):
                open_engine(tmp_path / name, engine)
    with pytest.raises(UsageError, match=r"ends in \.onnx"):
        export_run(run, "onnx", tmp_path / "model.bin")
    with pytest.raises(UsageError, match="int8 is for onnx and openvino"):
        export_run(run, "torch", int8=True)


def test_a_model_of_others_is_none_of_ours(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "theirs.onnx")
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(InputRefused, match="does not say what its model is"):
            open_engine(tmp_path / "theirs.onnx", engine)


def test_a_missing_extra_names_the_way_out(run: Run, onnx: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("openvino", "onnxruntime", "onnx"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"foveate\[export\]"):
        open_engine(onnx.path)
    with pytest.raises(MissingExtra, match=r"foveate\[export\]"):
        export_run(run, "onnx")


def test_damaged_pictures_are_refused_by_name(onnx: Exported, tmp_path: Path) -> None:
    engine: Engine[Any] = open_engine(onnx.path, "onnxruntime")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(InputRefused, match=r"bad\.png"):
        engine.read(Case("bad", "bad", {"image": tmp_path / "bad.png"}))
    with pytest.raises(InputRefused, match="missing: image"):
        engine.read(Case("none", "none", {}))


def test_facts_hold_no_patient_and_follow_the_bundle(run: Run) -> None:
    text = facts_of(load_bundle(run.folder)).to_text()
    assert "hashes" not in text and "salt" not in text
