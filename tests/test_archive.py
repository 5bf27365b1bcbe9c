"""Archives: what a shard leaves, what is refused, what may be gone on with; by hand-worked answers."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image as Picture
from typer.testing import CliRunner

from foveate.cli.app import app
from foveate.deploy.archive.listing import FolderLines
from foveate.deploy.archive.maps import read_maps
from foveate.deploy.archive.streaming import Archive, Outcome, predict_archive, predict_shard
from foveate.deploy.archive.work import ArchiveJob, Done, alone
from foveate.deploy.engines.graph import Arrays
from foveate.deploy.engines.onnx_runtime import OnnxRuntime
from foveate.deploy.engines.opening import open_engine
from foveate.errors import InputRefused, MissingExtra, Partial, UsageError
from foveate.evaluate.table import read_predictions, write_predictions
from foveate.study.settings import PreprocessConfig
from foveate.types import Case
from pixel_mean import CLASSES, FACTS, SIDE, Pictures, write_model, write_pictures
from small_run import small_run

BAD = (5, 17)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 40, bad=BAD)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


def in_process(job: ArchiveJob, shards: Sequence[int]) -> Iterator[Done]:
    """Shards one after another, without another process."""
    engine = open_engine(job.model, job.engine)
    for shard in shards:
        yield predict_shard(engine, job, shard)


def predicted(archive: Archive) -> Outcome:
    return predict_archive(replace(archive, engine="onnxruntime", shard=7), in_process)


def refusals(path: Path) -> dict[str, str]:
    with path.open(newline="") as stream:
        return {row["case_id"]: row["code"] for row in csv.DictReader(stream)}


def test_every_case_is_answered_as_by_hand_in_order_or_refused(
    pictures: Pictures, model: Path, tmp_path: Path
) -> None:
    outcome = predicted(Archive(model, pictures.manifest, tmp_path / "out.csv"))
    table = read_predictions(outcome.table)
    assert list(table.case_ids) == [name for name in pictures.pixels if name not in pictures.bad]
    np.testing.assert_allclose(table.logits, [pictures.logits(name) for name in table.case_ids], atol=1e-6)
    assert (table.truth.argmax(1) == [int(name[1:]) % 2 for name in table.case_ids]).all()
    assert table.patient_ids[:3] == ("p0", "p0", "p1")
    assert refusals(outcome.refused) == dict.fromkeys(pictures.bad, "truncated-png")
    assert outcome.done == Done(6, 38, None, {"truncated-png": 2}) and outcome.plan.cases == 40
    assert {path.name for path in tmp_path.iterdir()} == {"out.csv", "out.refused.csv"}


def test_the_csv_is_what_the_predict_station_writes(pictures: Pictures, model: Path, tmp_path: Path) -> None:
    archive = Archive(model, pictures.manifest, tmp_path / "out.csv")
    outcome = predicted(archive)
    engine = open_engine(model, "onnxruntime")
    good = [number for number in range(40) if number not in BAD]
    cases = [
        Case(
            f"c{number:03d}", f"p{number // 2}", {"image": pictures.folder / "images" / f"{number:03d}.png"},
            label=CLASSES[number % 2], split="test",
        )
        for number in good
    ]  # fmt: skip
    told = [answer.prediction for answer in engine.predict([engine.read(case) for case in cases])]
    write_predictions(tmp_path / "other.csv", "multiclass", CLASSES, told)
    assert outcome.table.read_text() == (tmp_path / "other.csv").read_text()


@pytest.mark.slow
def test_an_archive_has_the_columns_and_figures_of_the_run_that_made_the_model(tmp_path: Path) -> None:
    """With what its bundle can tell: novelty, sets, and what images plainly are like."""
    run = small_run(tmp_path)
    outcome = predict_archive(
        Archive(run.folder, run.study.data.manifest, tmp_path / "out.csv", engine="bundle"), in_process
    )
    own, archived = (
        pd.read_csv(path, dtype={"abstain": str}) for path in (run.folder / "predictions.csv", outcome.table)
    )
    assert list(own.columns) == list(archived.columns)
    assert {"novelty", "set", "abstain"} <= set(own.columns)
    archived = archived.set_index("case_id", drop=False).loc[own.case_id].reset_index(drop=True)
    pd.testing.assert_frame_equal(own.drop(columns="split"), archived.drop(columns="split"), rtol=1e-4)


def test_parquet_and_a_folder_of_parts_hold_the_same_as_csv(
    pictures: Pictures, model: Path, tmp_path: Path
) -> None:
    names = ("out.csv", "out.parquet", "parts")
    text, one, parts = (predicted(Archive(model, pictures.manifest, tmp_path / name)) for name in names)
    frames = [pd.read_csv(text.table), pd.read_parquet(one.table), pd.read_parquet(parts.table)]
    frames[0]["noticed"] = ""  # nothing was, in any case, which a CSV does not tell from unknown
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0], check_dtype=False)
    assert len(list(parts.table.iterdir())) == 6
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"predictions", "refused.csv"}
    assert parts.refused.read_text() == one.refused.read_text() == text.refused.read_text()


def test_maps_come_back_to_original_pixels(pictures: Pictures, model: Path, tmp_path: Path) -> None:
    archive = Archive(model, pictures.manifest, tmp_path / "out.csv", maps=tmp_path / "maps")
    predicted(archive)
    bright, dark = read_maps(tmp_path / "maps", ["c021"])
    assert (bright.target, dark.target, bright.case_id, bright.explainer) == (*CLASSES, "c021", "gradcam")
    assert bright.values.shape == (SIDE, SIDE)
    np.testing.assert_allclose(dark.values, -bright.values)
    cells = pictures.pixels["c021"].reshape(2, 4, 2, 4).mean((1, 3)) / 255
    corners = bright.values[[[0], [-1]], [0, -1]]  # beyond the outermost cell centres a map is flat
    np.testing.assert_allclose(corners, cells, atol=1e-6)
    every = {heatmap.case_id for heatmap in read_maps(tmp_path / "maps")}
    assert every == set(pictures.pixels) - set(pictures.bad)
    with pytest.raises(UsageError, match="maps already"):
        predicted(replace(archive, out=tmp_path / "again.csv"))


def test_work_that_stopped_goes_on_and_repeats_no_finished_shard(
    pictures: Pictures, model: Path, tmp_path: Path
) -> None:
    archive = Archive(model, pictures.manifest, tmp_path / "out.csv", engine="onnxruntime", shard=7)
    whole = predict_archive(replace(archive, out=tmp_path / "whole.csv"), in_process)
    worked: list[int] = []

    def stops(job: ArchiveJob, shards: Sequence[int]) -> Iterator[Done]:
        engine = open_engine(job.model, job.engine)
        for place, shard in enumerate(shards):
            if place == 2:
                job.part(shard).write_text("torn")
                raise KeyboardInterrupt
            worked.append(shard)
            yield predict_shard(engine, job, shard)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            predict_archive(archive, stops)
        assert not archive.out.exists()
    outcome = predict_archive(archive, stops)
    assert worked == [0, 1, 2, 3, 4, 5]
    assert outcome.done == whole.done
    assert archive.out.read_text() == whole.table.read_text()
    assert outcome.refused.read_text() == whole.refused.read_text()


def test_going_on_with_something_else_is_refused(pictures: Pictures, model: Path, tmp_path: Path) -> None:
    def stops(job: ArchiveJob, shards: Sequence[int]) -> Iterator[Done]:
        raise KeyboardInterrupt
        yield

    manifest = pictures.folder / "copy.csv"
    manifest.write_bytes(pictures.manifest.read_bytes())
    archive = Archive(model, manifest, tmp_path / "out.csv", engine="onnxruntime", shard=7)
    with pytest.raises(KeyboardInterrupt):
        predict_archive(archive, stops)
    other = write_model(tmp_path / "other.onnx", replace(FACTS, weights_sha256="other"))
    for changed, what in (
        (replace(archive, model=other), "model"),
        (replace(archive, maps=tmp_path / "maps"), "maps"),
        (replace(archive, source=pictures.manifest), "source"),
    ):
        with pytest.raises(UsageError, match=f"begun with another .*{what}"):
            predict_archive(changed, in_process)
    with alone(tmp_path / "out.csv.work" / "work"), pytest.raises(UsageError, match="another process"):
        predict_archive(archive, in_process)
    manifest.write_text(manifest.read_text() + "late,p,bright,images/000.png\n")
    with pytest.raises(UsageError, match="content of the manifest"):
        predict_archive(archive, in_process)


def test_what_is_finished_is_not_replaced(pictures: Pictures, model: Path, tmp_path: Path) -> None:
    for name in ("out.csv", "parts"):
        archive = Archive(model, pictures.manifest, tmp_path / name)
        predicted(archive)
        with pytest.raises(UsageError, match="exists already"):
            predicted(archive)
    with pytest.raises(UsageError, match="no kind of table"):
        predicted(Archive(model, pictures.manifest, tmp_path / "out.xlsx"))


def test_rows_that_are_no_case_are_refused_and_the_others_predicted(
    pictures: Pictures, model: Path, tmp_path: Path
) -> None:
    rows = pictures.manifest.read_text().splitlines()
    Picture.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(pictures.folder.parent / "outside.png")
    rows += [
        "c000,p0,bright,images/001.png",  # the name of another
        ",p0,bright,images/001.png",
        "empty,p0,bright,",
        "short,p0",
        "strange,p0,purple,images/001.png",
        "gone,p0,,images/none.png",
        "away,p0,,../outside.png",
        "unlabelled,p0,,images/001.png",
        r"windows,p0,,images\001.png",
    ]
    manifest = pictures.folder / "rows.csv"
    manifest.write_text("\n".join(rows))
    outcome = predicted(Archive(model, manifest, tmp_path / "out.csv"))
    table = read_predictions(outcome.table)
    assert len(table.case_ids) == 40 and table.case_ids[-2:] == ("unlabelled", "windows")
    assert np.isnan(table.truth[-1]).all()
    found = pd.read_csv(outcome.refused)
    codes = [(row, code) for row, code in zip(found.row, found.code, strict=True) if row > 41]
    assert codes == [
        (42, "case-doubled"), (43, "bad-row"), (44, "bad-row"), (45, "bad-row"), (46, "unknown-label"),
        (47, "not-found"), (48, "outside"),
    ]  # fmt: skip
    assert outcome.plan.cases == len(table.case_ids) + len(found) == 49


def test_a_manifest_that_is_none_is_refused_at_once(model: Path, tmp_path: Path) -> None:
    for content, error, what in (
        (b"", InputRefused, "empty"),
        (b"case_id,image\n\xff,x.png\n", InputRefused, "UTF-8"),
        (b"case_id,picture\na,x.png\n", UsageError, "no column 'image'"),
        (b"case_id,image\n", InputRefused, "no case"),
    ):
        (tmp_path / "m.csv").write_bytes(content)
        with pytest.raises(error, match=what):
            predicted(Archive(model, tmp_path / "m.csv", tmp_path / "out.csv"))


def test_a_folder_is_gone_through_in_order_without_masks_and_other_files(
    pictures: Pictures, model: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "b" / "deep").mkdir(parents=True)
    (tree / ".hidden").mkdir()
    for name in ("b/2.png", "b/deep/1.png", "a.png", "a_mask.png", "lone_mask.png", ".hidden/x.png"):
        Picture.fromarray(pictures.pixels["c000"]).save(tree / name)
    (tree / "notes.txt").write_text("no image")
    (tree / "b" / "torn.png").write_bytes(b"no image")
    (tree / "b" / "loop").symlink_to(tree)
    outcome = predicted(Archive(model, tree, tmp_path / "out.csv"))
    assert read_predictions(outcome.table).case_ids == ("a.png", "lone_mask.png", "b/2.png", "b/deep/1.png")
    assert refusals(outcome.refused) == {"b/torn.png": "not-an-image"}
    assert outcome.plan.passed_over == 2
    with pytest.raises(UsageError, match="views t1, t2"):
        list(FolderLines(tree, replace(FACTS, views=("t1", "t2"))))
    volumes = replace(FACTS, preprocess=FACTS.preprocess.model_copy(update={"size": (4, 8, 8)}))
    (tree / "series").mkdir()
    for name in ("series/1.dcm", "series/2.dcm", "v.nii.gz"):
        (tree / name).touch()
    names = [line["case_id"] for line in FolderLines(tree, volumes)]
    assert "series" in names and "v.nii.gz" in names and "series/1.dcm" not in names


def test_a_case_that_the_model_cannot_answer_is_refused_alone(
    pictures: Pictures, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that fails is asked again case by case."""
    plain = OnnxRuntime.run

    def run(engine: OnnxRuntime, inputs: dict[str, NDArray[np.float32]]) -> Arrays:
        rows = inputs["image"].shape[2]
        if rows == 12:
            raise RuntimeError("bad allocation")
        found = plain(engine, inputs)
        return {name: values * np.nan for name, values in found.items()} if rows == 16 else found

    monkeypatch.setattr(OnnxRuntime, "run", run)
    tree = tmp_path / "tree"
    tree.mkdir()
    for name, times in (("a", 2), ("b", 3), ("c", 4), ("d", 2)):
        Picture.fromarray(np.tile(pictures.pixels["c000"][:4], (times, 1))).save(tree / f"{name}.png")
    outcome = predicted(Archive(model, tree, tmp_path / "out.csv"))
    assert read_predictions(outcome.table).case_ids == ("a.png", "d.png")
    assert refusals(outcome.refused) == {"b.png": "fault", "c.png": "not-finite-answer"}
    assert "bad allocation" in outcome.refused.read_text()


def test_a_bundle_marks_whom_it_learned_from_and_its_maps_come_back_as_its_own(
    pictures: Pictures, tmp_path: Path
) -> None:
    from foveate.bundle.bundle import Bundle, Patients, save_bundle
    from foveate.models import build_model
    from foveate.prepare.preprocess import Preprocess

    preprocess = Preprocess(PreprocessConfig(size=(32, 48)))
    network = build_model("timm:test_resnet", 2, preprocess.input_spec(("image",))).eval()
    facts = (
        "timm:test_resnet",
        {},
        preprocess,
        ("image",),
        "multiclass",
        CLASSES,
        Patients.of(["P-01", "p2"]),
    )
    save_bundle(tmp_path / "bundle", Bundle(network, *facts))
    archive = Archive(
        tmp_path / "bundle", pictures.manifest, tmp_path / "out.csv", tmp_path / "maps", shard=9
    )
    outcome = predict_archive(archive, in_process)
    table = read_predictions(outcome.table)
    seen = {"c002", "c003", "c004"}  # c005 is torn
    assert {name for name, split in zip(table.case_ids, table.splits, strict=True) if split == "seen"} == seen
    assert outcome.done.seen == 3 and set(table.splits) == {"seen", "test"}
    engine = open_engine(tmp_path / "bundle")
    case = engine.read(Case("c009", "p4", {"image": pictures.folder / "images" / "009.png"}))
    (answer,) = engine.predict([case])
    for ours, theirs in zip(
        read_maps(tmp_path / "maps", ["c009"]), engine.heatmaps(case, answer, CLASSES), strict=True
    ):
        assert ours.target == theirs.target and ours.values.shape == (SIDE, SIDE)
        np.testing.assert_allclose(ours.values, theirs.values, atol=1e-5)
    logits = table.logits[table.case_ids.index("c009")]
    np.testing.assert_allclose(logits, answer.prediction.logits, atol=1e-5)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_names_are_text_all_the_way(pictures: Pictures, model: Path, tmp_path: Path, suffix: str) -> None:
    """Zeros in front, 23 digits and what looks like a number or nothing come out as they went in."""
    patients = ["00017", "12345678901234567890123", "1E5", "17.0", "0", "p 1"]
    source = pictures.folder / f"names{suffix}.csv"
    rows = [f"0{n},{name},images/{n:03d}.png" for n, name in enumerate(patients)]
    source.write_text("case_id,patient_id,image\n" + "\n".join(rows) + "\n06,NA,images/006.png\n")
    outcome = predicted(Archive(model, source, tmp_path / f"out{suffix}"))
    if suffix == ".csv":
        with outcome.table.open(newline="") as stream:
            found = [(row["case_id"], row["patient_id"]) for row in csv.DictReader(stream)]
    else:
        table = pd.read_parquet(outcome.table)
        found = list(zip(table["case_id"], table["patient_id"], strict=True))
    kept = [(f"0{n}", name) for n, name in enumerate(patients) if n not in BAD]
    assert found == kept and refusals(outcome.refused) == {"05": "truncated-png", "06": "bad-row"}


def test_a_model_without_maps_or_with_crops_says_so(pictures: Pictures, tmp_path: Path) -> None:
    cropped = FACTS.preprocess.model_copy(update={"organ_crop": True})
    for facts, what in (
        (replace(FACTS, explainer=""), "no maps"),
        (replace(FACTS, preprocess=cropped), "crops"),
    ):
        model = write_model(tmp_path / f"{what}.onnx", facts)
        with pytest.raises(UsageError, match=what):
            predicted(Archive(model, pictures.manifest, tmp_path / f"{what}.csv", maps=tmp_path / what))


def test_the_command_says_what_came_of_it(pictures: Pictures, model: Path, tmp_path: Path) -> None:
    started = CliRunner()
    given = [
        "predict",
        str(model),
        "--manifest",
        str(pictures.manifest),
        "--stream",
        "--engine",
        "onnxruntime",
    ]
    done = started.invoke(app, [*given, "--out", str(tmp_path / "out.csv")])
    assert isinstance(done.exception, Partial) and done.exception.exit_code == 5
    assert "38 of 40 cases predicted by onnxruntime" in done.stdout and "truncated-png" in done.stdout
    for wrong, what in (
        (given, "where shall"),
        ([*given, "--folder", "x"], "either"),
        ([*given, "--part", "test"], "is not used where an archive is classified"),
        (["predict", str(model), "--stream"], "either"),
    ):
        with pytest.raises(UsageError, match=what):
            started.invoke(app, wrong, catch_exceptions=False)


def test_without_the_extra_parquet_and_ray_say_what_to_install(
    pictures: Pictures, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foveate.deploy.archive.ray import on_cluster

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"foveate\[scale\]"):
        predicted(Archive(model, pictures.manifest, tmp_path / "out.parquet"))
    with pytest.raises(MissingExtra, match=r"foveate\[scale\]"):
        on_cluster(1)
    assert predicted(Archive(model, pictures.manifest, tmp_path / "out.csv")).done.predicted == 38


def test_plan_and_outcome_are_plain_json(pictures: Pictures, model: Path, tmp_path: Path) -> None:
    job = ArchiveJob(model, "onnxruntime", tmp_path, pictures.folder, ".csv")
    job.finish_shard(3, Done(1, 5, None, {"not-found": 2}))
    assert json.loads(job.done(3).read_text())["refused"] == {"not-found": 2}
    assert job.outcome(3) == Done(1, 5, None, {"not-found": 2}) and job.outcome(4) is None
    assert Done(1, 5, 2, {"a": 1}) + Done(1, 1, 0, {"a": 1, "b": 3}) == Done(2, 6, 2, {"a": 2, "b": 3})
