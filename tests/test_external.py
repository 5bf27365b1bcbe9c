"""``foveate test``: another cohort as a run of its own; what the model knows of it is found and set apart."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cohort_files import Row, picture, write_csv, write_image
from command_line import Ended, foveate
from foveate.bundle.bundle import load_bundle
from foveate.errors import UsageError
from foveate.evaluate.probabilities.calibrators import Calibrator
from foveate.evaluate.results.cautions import Caution
from foveate.evaluate.results.parts import Unmade
from foveate.evaluate.results.splits import Splits
from foveate.evaluate.table import read_predictions
from foveate.stations.audit import audit
from foveate.stations.cautions import note_cautions
from foveate.stations.evaluate import evaluate
from foveate.stations.predict import predict
from foveate.stations.report import report
from foveate.stations.run import Run
from foveate.stations.shift import shift
from foveate.stations.split import split as split_run
from foveate.stations.test import begin_test, cohort_name
from page import parse
from small_run import rows_of, small_run

pytestmark = pytest.mark.slow

QUICK = {
    "probe": {"cases": 12, "tiles": 4},
    "trust": {"methods": ["gradcam"], "cases": 4},
    "explain": {"limit": 6},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run whose model is tested, evaluated as runs are."""
    run = small_run(tmp_path_factory.mktemp("home"), cases=120, **QUICK)
    evaluate(run)
    return run


def learned_cases(run: Run, count: int) -> list[str]:
    parts = run.result(Splits).folds[0]
    return [name for name, part in parts.items() if part == "train"][:count]


def other_cohort(folder: Path, run: Run, strangers: int = 60) -> Path:
    """Strangers, two of them of one patient; a known patient, a known image, and a known image paler."""
    rows: list[Row] = rows_of(folder, range(500, 500 + strangers), "new")
    for number, row in enumerate(rows):
        row["scanner"] = "AB"[number % 2]
    same, paler, owner = learned_cases(run, 3)
    for name, pixels in (
        ("same", picture(int(same[1:]))),
        ("paler", (picture(int(paler[1:])) * 0.7 + 20).astype(np.uint8)),
        ("patient", np.stack([picture(901), picture(903), picture(904)], axis=-1)),
    ):
        write_image(folder / f"{name}.png", pixels)
        patient = f"p-{int(owner[1:])}" if name == "patient" else f"of {name}"
        rows.append(
            {"case_id": name, "patient_id": patient, "label": "x", "image": f"{name}.png", "scanner": "A"}
        )
    beside = rows[0] | {"case_id": "beside", "image": "beside.png", "patient_id": "of paler"}
    write_image(folder / "beside.png", picture(902))
    return write_csv(folder / "other.csv", [*rows, beside])


def read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


@pytest.fixture(scope="module")
def ended(home: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The whole test by the command line, with what the model knows set apart."""
    folder = tmp_path_factory.mktemp("tests")
    manifest = other_cohort(folder / "data", home)
    out = folder / "test"
    return out, foveate("test", home.folder, "--manifest", manifest, "--set-apart", "-o", out)


class TestWholeWay:
    def test_every_station_but_the_training_left_its_files(self, ended: tuple[Path, Ended]) -> None:
        folder, done = ended
        assert done.code == 0, done.err
        wanted = (
            "study.yaml test.json audit.json splits.json predictions.csv metrics.json heatmaps/index.csv "
        )
        wanted += "boxes.csv localization.json probes.json trust.json shift.json report.html "
        wanted += "bundle/model.safetensors home/predictions.csv home/metrics.json home/bundle.json"
        assert [name for name in wanted.split() if not (folder / name).is_file()] == []
        assert not (folder / "training.csv").exists() and "Train" not in done.out
        told = read(folder, "run.json")["stations"]
        stations_run = "audit split predict evaluate explain localize probe trust shift"
        assert set(told) == set(stations_run.split())

    def test_what_the_model_learned_from_is_set_apart_with_its_patients(
        self, ended: tuple[Path, Ended]
    ) -> None:
        folder, done = ended
        fold = Run.open(folder).result(Splits).folds[0]
        assert {name for name, part in fold.items() if part == "seen"} == {
            "same",
            "paler",
            "patient",
            "beside",
        }
        assert "set apart, so that no figure rests on them" in done.out
        table = read_predictions(folder / "predictions.csv")
        assert table.splits.count("seen") == 4 and table.splits.count("test") == 60
        metrics = read(folder, "metrics.json")
        assert (metrics["n"], metrics["seen"]) == (60, 4)
        assert read(folder, "shift.json")["seen"]["cases"] == 4

    def test_an_image_of_another_kind_is_said_to_be_one(self, ended: tuple[Path, Ended]) -> None:
        with (ended[0] / "predictions.csv").open(newline="") as stream:
            doubts = {row["case_id"]: row["abstain"].split(";") for row in csv.DictReader(stream)}
        assert "unlike-colour" in doubts["patient"]
        assert np.mean(["unlike-colour" in found for found in doubts.values()]) == 1 / len(doubts)

    def test_limits_are_those_of_the_run_that_made_the_model(
        self, ended: tuple[Path, Ended], home: Run
    ) -> None:
        folder, _ = ended
        own, there = (read(each, "metrics.json")["operating_points"] for each in (folder, home.folder))
        assert {name: own[name]["chosen"] for name in own} == {name: there[name]["chosen"] for name in there}
        for name in ("calibration", "set_rule", "novelty"):
            one, other = (getattr(load_bundle(each), name) for each in (folder, home.folder))
            assert repr(one) == repr(other)

    def test_the_report_says_that_it_is_a_test_and_of_what(self, ended: tuple[Path, Ended]) -> None:
        folder, _ = ended
        page = parse((folder / "report.html").read_text())
        text = " ".join((folder / "report.html").read_text().split())
        assert "External test of small" in text and "another cohort (other.csv)" in text
        assert "Nothing was trained here" in text and "took no part in training. Brackets" not in text
        assert 'id="shift"' in text and 'id="training"' not in text and page is not None

    def test_stations_run_again_alone(self, ended: tuple[Path, Ended]) -> None:
        folder, _ = ended
        names = ("predictions.csv", "metrics.json", "splits.json")
        before = {name: (folder / name).read_bytes() for name in names}
        for command in ("audit", "split", "predict", "evaluate", "report"):
            done = foveate(command, folder)
            assert done.code == 0, done.err
        assert {name: (folder / name).read_bytes() for name in before} == before
        one = foveate("explain", folder, "--case", "new500")
        assert one.code == 0 and "1 cases explained" in one.out

    @pytest.mark.parametrize("command", ["train", "plan", "export", "trust --retrain"])
    def test_nothing_is_trained_in_it(self, ended: tuple[Path, Ended], command: str) -> None:
        folder, _ = ended
        words = command.split()
        done = foveate(words[0], folder, *words[1:])
        assert done.code == 2 and "this is an external test of small" in done.err

    def test_a_test_of_a_test_is_refused(self, ended: tuple[Path, Ended], tmp_path: Path) -> None:
        folder, _ = ended
        manifest = Path(Run.open(folder).study.data.manifest)
        done = foveate("test", folder, "--manifest", manifest, "-o", tmp_path / "t")
        assert done.code == 2 and "this is an external test itself" in done.err


class TestRefusals:
    def test_what_the_model_learned_from_stops_the_test(self, home: Run, tmp_path: Path) -> None:
        manifest = other_cohort(tmp_path / "data", home)
        done = foveate("test", home.folder, "--manifest", manifest, "-o", tmp_path / "t")
        assert done.code == 3
        assert "training-patients" in done.err and "training-images" in done.err and "--set-apart" in done.err
        assert done.err.count("other people under the same numbers need other ids") == 1
        assert not (tmp_path / "t" / "predictions.csv").exists()

    def test_it_can_be_accepted_and_the_report_says_so(self, home: Run, tmp_path: Path) -> None:
        manifest = other_cohort(tmp_path / "data", home)
        data = home.study.data.model_copy(update={"manifest": manifest})
        run = begin_test(home.folder, data, tmp_path / "t")
        run = run.allowing(["training-patients", "training-images"])
        audit(run).raise_if_stopped()
        assert set(split_run(run).folds[0].values()) == {"test"}

    def test_a_cohort_without_truth_cannot_be_tested_on(self, home: Run, tmp_path: Path) -> None:
        rows = [{"image": row["image"]} for row in rows_of(tmp_path, range(700, 704))]
        manifest = write_csv(tmp_path / "m.csv", rows)
        done = foveate("test", home.folder, "--manifest", manifest, "-o", tmp_path / "t")
        assert done.code == 2 and "no case has a known truth" in done.err

    def test_a_folder_of_something_else_is_left_alone(self, home: Run, tmp_path: Path) -> None:
        manifest = write_csv(tmp_path / "m.csv", rows_of(tmp_path, range(700, 720)))
        done = foveate("test", home.folder, "--manifest", manifest, "-o", tmp_path)
        assert done.code == 2 and "holds something else" in done.err
        data = home.study.data.model_copy(update={"manifest": manifest})
        begun = begin_test(home.folder, data, tmp_path / "t")
        asked = ("test", home.folder, "--manifest", manifest, "-o", begun.folder, "--recalibrate", "0.3")
        write_csv(begun.folder / "predictions.csv", [{"a": 1}])  # it has got so far
        again = foveate(*asked)
        assert again.code == 2 and "already holds another test" in again.err

    def test_a_stopped_test_goes_on_when_told_how(self, home: Run, tmp_path: Path) -> None:
        data = home.study.data.model_copy(update={"manifest": other_cohort(tmp_path / "data", home)})
        stopped = begin_test(home.folder, data, tmp_path / "t")
        assert audit(stopped).stopping
        going_on = begin_test(home.folder, data, tmp_path / "t", set_apart=True)
        audit(going_on).raise_if_stopped()


class TestPieces:
    def begin(self, source: Path, home: Run, folder: Path, **options: Any) -> Run:
        rows = rows_of(folder, range(700, 780))
        (folder / str(rows[3]["image"])).unlink()
        data = home.study.data.model_copy(update={"manifest": write_csv(folder / "m.csv", rows)})
        run = begin_test(source, data, folder / "t", **options)
        audit(run)
        split_run(run)
        predict(run)
        return run

    def test_cases_without_a_usable_file_are_left_out_and_named(self, home: Run, tmp_path: Path) -> None:
        run = self.begin(home.folder, home, tmp_path)
        assert len(run.cohort().cases) == 79
        (told,) = read(run.folder, "test.json")["unusable"]
        assert "row 5" in told and "p703.png" in told

    def test_images_of_another_kind_are_a_caution(self, home: Run, tmp_path: Path) -> None:
        """Coloured pictures for a model of grey ones; those of its own kind give no such caution."""
        rows = rows_of(tmp_path, range(700, 724))
        own = {item.code for item in self.cautions_of(home, tmp_path, "own", rows)}
        for row in rows:
            number = int(str(row["case_id"])[1:])
            write_image(
                tmp_path / str(row["image"]), np.stack([picture(number + k) for k in (0, 40, 80)], -1)
            )
        (told,) = (
            item for item in self.cautions_of(home, tmp_path, "other", rows) if item.code == "unlike-images"
        )
        assert "unlike-images" not in own
        assert told.sentence.startswith(
            "24 of 24 cases are plainly unlike what the model learned from: colour in 24"
        )

    def cautions_of(self, home: Run, folder: Path, name: str, rows: list[Row]) -> tuple[Caution, ...]:
        """What a test on these rows says."""
        data = home.study.data.model_copy(update={"manifest": write_csv(folder / f"{name}.csv", rows)})
        run = begin_test(home.folder, data, folder / name)
        for station in (audit, split_run, predict, evaluate):
            station(run)
        return note_cautions(run).items

    def test_recalibration_is_fitted_on_its_part_alone_and_keeps_what_is_familiar(
        self, home: Run, tmp_path: Path
    ) -> None:
        run = self.begin(home.folder, home, tmp_path, recalibrate=0.4)
        table = read_predictions(run.folder / "predictions.csv")
        val = table.part("val")
        assert 0.3 * 79 < len(val.case_ids) < 0.5 * 79
        patients = {split: set(table.part(split).patient_ids) for split in ("val", "test")}
        assert not patients["val"] & patients["test"]
        here, there = load_bundle(run.folder), load_bundle(home.folder)
        by_hand = Calibrator.fit(val.logits, val.truth, task="multiclass", method="auto")
        assert here.calibration is not None and here.calibration.fits == by_hand.fits
        assert here.novelty is not None and there.novelty is not None
        assert here.novelty.threshold == there.novelty.threshold
        assert evaluate(run).n == len(table.part("test").case_ids)
        told = shift(run).recalibration
        assert told is not None and told.cases == len(val.case_ids)
        assert told.log_loss.change.value is not None

    def test_a_bundle_alone_can_be_tested(self, home: Run, tmp_path: Path) -> None:
        bundle = tmp_path / "handed-on"
        shutil.copytree(home.folder / "bundle", bundle)
        run = self.begin(bundle, home, tmp_path)
        metrics = evaluate(run)
        assert metrics.n == 79 and metrics.operating_points == {}
        found = shift(run)
        assert all(isinstance(part, Unmade) for part in (found.performance, found.images))
        assert "only the bundle" in found.performance.reason and "only the bundle" in found.images.reason
        report(run)

    def test_a_shift_is_of_external_tests_alone(self, home: Run) -> None:
        with pytest.raises(UsageError, match="only an external test"):
            shift(home)


@pytest.mark.parametrize(
    ("path", "name"),
    [("hospital/manifest.csv", "hospital"), ("a/other.csv", "other"), ("manifest.csv", None)],
)
def test_a_cohort_is_called_after_what_tells_it_apart(
    path: str, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cohort_name(Path(path)) == (name or tmp_path.name)
