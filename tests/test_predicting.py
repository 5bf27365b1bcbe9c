"""``foveate predict`` and ``evaluate`` as a user types them: files, other cohorts, and what is refused."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from cohort_files import Row, picture, write_csv, write_image
from command_line import foveate
from foveate.cli.single import in_words
from foveate.deploy.engines.facts import Facts
from foveate.evaluate.results.operating_point import OperatingPoint
from foveate.evaluate.results.splits import Splits
from foveate.evaluate.table import read_predictions
from foveate.stations.run import Run
from foveate.study.settings import PreprocessConfig
from foveate.types import Prediction
from small_run import rows_of, small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return small_run(tmp_path_factory.mktemp("work"))


def learned_case(run: Run) -> str:
    parts = run.result(Splits).folds[0]
    return next(name for name, part in parts.items() if part == "train")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


class TestSingleImages:
    def test_answers_are_written_and_named(self, run: Run, tmp_path: Path) -> None:
        images = [write_image(tmp_path / name, picture(900 + n)) for n, name in enumerate(("a.png", "b.png"))]
        images.append(write_image(tmp_path / "deep" / "a.png", picture(950)))
        done = foveate("predict", run.folder, *images, "-o", tmp_path / "out.csv")
        assert done.code == 0, done.err
        found = read_predictions(tmp_path / "out.csv")
        assert found.case_ids == (str(images[0]), "b.png", str(images[2]))  # two are called a.png
        best = [found.classes[row.argmax()] for row in found.probabilities]
        for name, row in zip(best, found.probabilities, strict=True):
            assert f"answer: {name}, the most probable of 3 classes ({row.max():.3f})" in done.out
        assert (
            "is told from the rest from" in done.out and f"3 predictions: {tmp_path / 'out.csv'}" in done.out
        )

    def test_another_kind_of_image_is_said_to_be_one(self, run: Run, tmp_path: Path) -> None:
        colours = np.stack([picture(900), picture(901), picture(902)], axis=-1)
        coloured = write_image(tmp_path / "coloured.png", colours)
        usual = write_image(tmp_path / "usual.png", picture(903))
        done = foveate("predict", run.folder, coloured, usual, "-o", tmp_path / "out.csv")
        assert "beware: grey where all training images are coloured, or coloured where they" in done.out
        found = {row["case_id"]: row["abstain"].split(";") for row in table(tmp_path / "out.csv")}
        assert "unlike-colour" in found["coloured.png"] and "unlike-colour" not in found["usual.png"]

    def test_one_bad_file_does_not_stop_the_rest(self, run: Run, tmp_path: Path) -> None:
        good = [write_image(tmp_path / f"{n}.png", picture(900 + n)) for n in range(2)]
        (tmp_path / "bad.png").write_bytes(good[0].read_bytes()[:100])
        (tmp_path / "text.jpg").write_text("no image")
        lost = tmp_path / "lost.png"
        mixed = [good[0], tmp_path / "bad.png", tmp_path / "text.jpg", lost, good[1]]
        done = foveate("predict", run.folder, *mixed, "-o", tmp_path / "out.csv")
        assert done.code == 5 and "predicted 2 of 5 images" in done.err
        for path in mixed[1:4]:
            assert str(path) in done.err
        assert [row["case_id"] for row in table(tmp_path / "out.csv")] == ["0.png", "1.png"]

    def test_nothing_but_bad_files_is_refused_input(self, run: Run, tmp_path: Path) -> None:
        for name in ("a.png", "b.png"):
            (tmp_path / name).write_text("no image")
        one = foveate("predict", run.folder, tmp_path / "a.png")
        both = foveate(
            "predict", run.folder, tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "o.csv"
        )
        assert one.code == both.code == 3
        assert "none of these files" in both.err and not (tmp_path / "o.csv").exists()

    def test_a_training_image_is_said_to_be_one(self, run: Run, tmp_path: Path) -> None:
        name = learned_case(run)
        source = picture(int(name[1:]))
        paths = {
            "same": write_image(tmp_path / "same.png", source),
            "paler": write_image(tmp_path / "paler.jpg", (source * 0.7 + 30).astype(np.uint8), quality=60),
            "new": write_image(tmp_path / "new.png", picture(990)),
        }
        done = foveate("predict", run.folder, *paths.values(), "-o", tmp_path / "out.csv")
        same, paler, new = done.out.split("probability")[1:]
        assert f"beware: the model learned from this very image ({name})" in same
        assert f"beware: the model learned from nearly the same image ({name})" in paler
        assert "learned from" not in new
        assert [row["split"] for row in table(tmp_path / "out.csv")] == ["seen", "seen", ""]
        alone = foveate("predict", run.folder / "bundle", paths["same"])
        assert "learned from this very image, so" in alone.out  # a bundle has no names


class TestWords:
    """The sentences of an answer, worked out by hand."""

    def facts(self, task: str, **thresholds: float) -> Facts:
        classes = ("a", "b", "c")
        return Facts(task, classes, ("image",), False, "m", PreprocessConfig(), thresholds)  # type: ignore[arg-type]

    def said(
        self, facts: Facts, *scores: float, points: dict[str, OperatingPoint] | None = None
    ) -> list[str]:
        values = np.array(scores)
        item = Prediction("case", "p", "", np.zeros(3), values, np.full(3, np.nan))
        return list(in_words(facts, points or {}, item))

    def test_one_of_several_classes(self) -> None:
        point = OperatingPoint(0.6, "youden", None, 0.875, 0.75, 8, 8)
        told = self.said(self.facts("multiclass"), 0.2, 0.5, 0.3, points={"b": point})
        assert told == [
            "answer: b, the most probable of 3 classes (0.500)",
            "threshold: b is told from the rest from 0.600 on (validation: sensitivity 0.88, specificity "
            "0.75), which it stays below here",
        ]
        assert self.said(self.facts("multiclass"), 0.2, 0.5, 0.3) == told[:1]

    def test_findings(self) -> None:
        facts = self.facts("multilabel", a=0.1, b=0.9)
        assert self.said(facts, 0.2, 0.5, 0.7) == [
            "answer: c (0.700, called present from 0.500 on), a (0.200, called present from 0.100 on)",
            "note: no threshold was chosen for c, so 0.5 is taken",
        ]
        assert self.said(facts, 0.05, 0.1, 0.3) == [
            "answer: none of 3 findings; nearest to its threshold is a (0.050, called present from 0.100 on)"
        ]


class TestOtherCohorts:
    def test_images_that_were_learned_from_are_no_part_of_the_test(self, run: Run, tmp_path: Path) -> None:
        name = learned_case(run)
        rows = rows_of(tmp_path, range(600, 640), "new")
        copy = (picture(int(name[1:])) * 0.8).astype(np.uint8)
        write_image(tmp_path / "copy.png", copy)
        rows.append({"case_id": "copy", "patient_id": "else", "label": "x", "image": "copy.png"})
        out = tmp_path / "out.csv"
        done = foveate("predict", run.folder, "--manifest", write_csv(tmp_path / "m.csv", rows), "-o", out)
        assert done.code == 0 and "beware: 1 of them show what the model learned from" in done.out
        assert {row["case_id"]: row["split"] for row in table(out)}["copy"] == "seen"
        told = foveate("evaluate", out)
        assert (
            "test: 40 cases of 40 patients" in told.out
            and "left out: 1 cases that the model learned" in told.out
        )

    def test_without_truth_there_are_predictions_and_no_figures(self, run: Run, tmp_path: Path) -> None:
        rows = [
            {"image": row["image"], "sex": "01"[n % 2]}
            for n, row in enumerate(rows_of(tmp_path, range(700, 706)))
        ]
        out = tmp_path / "out.csv"
        manifest = write_csv(tmp_path / "m.csv", rows)
        done = foveate("predict", run.folder, "--manifest", manifest, "-o", out)
        assert done.code == 0 and len(table(out)) == 6, done.err
        assert {row["true:x"] for row in table(out)} == {""}
        told = foveate("evaluate", out)
        assert told.code == 2 and "no case of the part 'test' has a known truth" in told.err

    def test_truth_may_be_known_of_some(self, run: Run, tmp_path: Path) -> None:
        rows: list[Row] = [
            row | {"label": "" if n < 5 else row["label"]}
            for n, row in enumerate(rows_of(tmp_path, range(700, 720)))
        ]
        out = tmp_path / "out.csv"
        assert (
            foveate("predict", run.folder, "--manifest", write_csv(tmp_path / "m.csv", rows), "-o", out).code
            == 0
        )
        told = foveate("evaluate", out)
        assert "test: 15 cases" in told.out and "left out: 5 cases without a known truth" in told.out

    def test_bad_files_do_not_stop_the_rest(self, run: Run, tmp_path: Path) -> None:
        rows = rows_of(tmp_path, range(700, 710))
        (tmp_path / str(rows[2]["image"])).unlink()
        (tmp_path / str(rows[4]["image"])).write_text("no image")
        out = tmp_path / "out.csv"
        done = foveate("predict", run.folder, "--manifest", write_csv(tmp_path / "m.csv", rows), "-o", out)
        assert done.code == 5 and len(table(out)) == 8
        assert "row 4" in done.err and "row 6" in done.err

    def test_a_label_that_is_none_of_the_models_is_refused(self, run: Run, tmp_path: Path) -> None:
        rows = rows_of(tmp_path, range(700, 710), classes="xyq")
        done = foveate("predict", run.folder, "--manifest", write_csv(tmp_path / "m.csv", rows))
        assert done.code == 3 and "unknown label 'q'" in done.err


class TestUnusedOptions:
    """Whatever a command would pass over is refused, with its name and where."""

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ("predict RUN IMAGE --part val", "--part is not used where single images are classified"),
            ("predict RUN IMAGE --manifest m.csv --shard 9", "--manifest, --shard are not used"),
            ("predict RUN IMAGE --without image", "--without is not used"),
            ("predict RUN IMAGE --view image=IMAGE", "images is not used where one case of views is"),
            ("predict RUN IMAGE --run other", "--run is for a study"),
            ("predict RUN IMAGE -o out.txt", "'out.txt' is no CSV"),
            ("predict RUN -o out.csv", "--out is not used where the run's own cohort is classified"),
            ("predict RUN --maps maps", "--maps is not used"),
            ("predict RUN --engine torch", "--engine is not used"),
            ("predict RUN --workers 2 --ray", "--workers, --ray are not used"),
            ("predict RUN --run other", "is the folder of a run already"),
            ("predict RUN --manifest m.csv --part test", "--part is not used where another cohort is"),
            ("predict RUN --without image --maps m", "--maps is not used where a view is withheld"),
            ("predict RUN --folder . -o o.csv --part val", "--part is not used where an archive is"),
            ("predict RUN IMAGE --folder .", "images is not used where an archive is classified"),
            ("evaluate RUN/predictions.csv --run other", "--run is not used where a CSV is evaluated"),
            ("evaluate RUN --run other", "is the folder of a run already"),
            ("audit RUN --out a.json", "--out is not used where a study is audited"),
            ("audit m.csv --bundle RUN --run other", "--run is not used where a test set is audited"),
            ("report RUN --compare --run other", "--run is not used where several runs are shown"),
            ("report RUN --out other", "are for one page with --compare"),
            ("explain RUN --run other", "is the folder of a run already"),
            ("compare RUN RUN --seeds 3", "are for studies to train"),
            ("phantom P --kind chest --slices 3", "has no option slices"),
        ],
    )
    def test_they_are_refused(self, run: Run, tmp_path: Path, arguments: str, said: str) -> None:
        image = write_image(tmp_path / "a.png", picture(1))
        places = {"IMAGE": image, "RUN": run.folder, "P": tmp_path / "P"}
        words = arguments.replace("=IMAGE", f"={image}").replace("RUN/", f"{run.folder}/").split()
        done = foveate(*(places.get(word, word) for word in words))
        assert done.code == 2 and said in done.err, done.err + done.out

    def test_what_is_used_is_not(self, run: Run, tmp_path: Path) -> None:
        copy = tmp_path / "run"
        shutil.copytree(run.folder, copy)
        assert foveate("predict", copy, "--part", "test").code == 0
        image = write_image(tmp_path / "a.png", picture(1))
        done = foveate("predict", copy, image, "--engine", "bundle", "--maps", tmp_path / "maps")
        assert done.code == 0 and len(list((tmp_path / "maps").glob("*.npy"))) == 1, done.err
