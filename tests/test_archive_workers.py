"""Archives worked off by processes of this machine: some are killed, some die of a file, none is missed."""

from __future__ import annotations

import csv
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from foveate.deploy.archive import workers
from foveate.deploy.archive.streaming import Archive, predict_archive
from foveate.deploy.archive.work import ArchiveJob, Done
from foveate.errors import InputRefused, ManifestRefused, MissingExtra, RunFailed, UsageError
from foveate.evaluate.table import read_predictions
from pixel_mean import DEADLY, Pictures, serve_deadly, write_model, write_pictures

BAD = (5, 17)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 40, bad=BAD)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


def refusals(path: Path) -> dict[str, str]:
    with path.open(newline="") as stream:
        return {row["case_id"]: row["code"] for row in csv.DictReader(stream)}


@pytest.mark.slow
def test_a_file_that_kills_its_reader_is_found_and_refused(
    pictures: Pictures, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_serve", serve_deadly)
    archive = Archive(model, pictures.manifest, tmp_path / "out.csv", engine="onnxruntime", shard=20)
    outcome = predict_archive(archive, workers.here(1))
    deadly = f"c{DEADLY[:3]}"
    assert refusals(outcome.refused) == {deadly: "process-died"} | dict.fromkeys(
        pictures.bad, "truncated-png"
    )
    assert set(read_predictions(outcome.table).case_ids) == set(pictures.pixels) - {deadly, *pictures.bad}


def test_a_killed_worker_costs_no_case(pictures: Pictures, model: Path, tmp_path: Path) -> None:
    def killed(job: ArchiveJob, shards: Sequence[int]) -> Iterator[Done]:
        for place, done in enumerate(workers.here(2)(job, shards)):
            if place in (1, 3):
                os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
            yield done

    archive = Archive(model, pictures.manifest, tmp_path / "out.csv", engine="onnxruntime", shard=4)
    outcome = predict_archive(archive, killed)
    assert read_predictions(outcome.table).case_ids == tuple(
        name for name in pictures.pixels if name not in pictures.bad
    )
    assert outcome.done.refused == {"truncated-png": 2}
    assert not multiprocessing.active_children()


def test_a_model_that_goes_away_is_told_and_what_is_done_is_kept(
    pictures: Pictures, model: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(model.read_bytes())

    def without_model(job: ArchiveJob, shards: Sequence[int]) -> Iterator[Done]:
        moved.unlink(missing_ok=True)
        return workers.here(1)(job, shards)

    archive = Archive(moved, pictures.manifest, tmp_path / "out.csv", engine="onnxruntime", shard=7)
    with pytest.raises(RunFailed, match="no such file"):
        predict_archive(archive, without_model)
    moved.write_bytes(model.read_bytes())
    assert predict_archive(archive, workers.here(1)).done.predicted == 38


def test_errors_say_the_same_in_another_process(tmp_path: Path) -> None:
    listed = ManifestRefused("m.csv", ["row 2: a", "row 3: b"])
    for error in (UsageError("what", where="where", fix="fix", code="code"), MissingExtra("scale"), listed):
        copied = pickle.loads(pickle.dumps(error))
        assert type(copied) is type(error) and str(copied) == str(error) and vars(copied) == vars(error)
    with pytest.raises(InputRefused) as caught:
        workers.described_elsewhere(tmp_path / "none.onnx", "auto")
    assert caught.value.code == "no-such-file"


def test_working_on_an_archive_costs_no_torch() -> None:
    code = (
        "import sys, foveate.cli.archive, foveate.deploy.archive.ray, foveate.deploy.archive.workers;"
        " print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "sklearn", "pandas", "ray", "pyarrow"} & set(done.stdout.split())
