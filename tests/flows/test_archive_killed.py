"""An archive whose prediction is killed again and again: every case is in the result exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pixel_mean import Pictures, write_model, write_pictures

pytestmark = pytest.mark.slow

COUNT, SHARD, BAD = 300, 4, (5, 17, 250)
RAY = """
import sys
from pathlib import Path
import ray
import foveate.deploy.archive.ray as scaled
from foveate.deploy.archive.streaming import Archive, predict_archive
from pixel_mean import DyingOnce

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
scaled.ShardPredictor = DyingOnce
model, manifest, out, maps = map(Path, sys.argv[1:])
archive = Archive(model, manifest, out, maps, engine="onnxruntime", shard=100)
outcome = predict_archive(archive, scaled.on_cluster(2))
print(outcome.done, (out / "died").is_file())
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    made = write_pictures(tmp_path_factory.mktemp("pictures"), COUNT, bad=BAD)
    write_model(made.folder / "model.onnx")
    return made


def command(pictures: Pictures, out: Path) -> list[str]:
    run = [sys.executable, "-c", "from foveate.cli.app import main; main()", "predict"]
    run += [str(pictures.folder / "model.onnx"), "--manifest", str(pictures.manifest), "--stream"]
    run += ["--out", str(out), "--maps", str(out.with_suffix(".maps")), "--engine", "onnxruntime"]
    return [*run, "--shard", str(SHARD), "--workers", "1"]


def check(pictures: Pictures, table: Path, refused: Path) -> None:
    """Every case once: the good ones in order with their answers, the bad ones with their reason."""
    frame, gone = pd.read_parquet(table), pd.read_csv(refused)
    assert list(frame.case_id) == [name for name in pictures.pixels if name not in pictures.bad]
    assert list(gone.case_id) == list(pictures.bad) and set(gone.code) == {"truncated-png"}
    by_hand = [pictures.logits(name) for name in frame.case_id]
    np.testing.assert_allclose(frame[["logit:bright", "logit:dark"]], by_hand, atol=1e-6)


def test_killed_three_times_at_random_moments_every_case_is_there_once(
    pictures: Pictures, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    done = out.with_name("out.parquet.work") / "work"
    chance, shards = random.Random(time.time_ns()), COUNT // SHARD
    moments = sorted(chance.sample(range(1, shards - 5), 3))
    for moment in moments:
        process = subprocess.Popen(command(pictures, out), stderr=subprocess.DEVNULL, start_new_session=True)
        while len(list(done.glob("*.done.json"))) < moment:
            assert process.poll() is None, f"it ended before {moment} of {shards} shards"
            time.sleep(chance.uniform(0, 0.01))
        os.killpg(process.pid, signal.SIGKILL) if chance.random() < 0.5 else process.kill()
        process.wait()
        assert not out.exists()
        finished = {path: path.stat().st_mtime_ns for path in done.glob("*.done.json")}
    last = subprocess.run(command(pictures, out), capture_output=True, text=True, check=False)
    assert last.returncode == 5, last.stderr
    assert len(finished) >= moments[-1]
    check(pictures, out, tmp_path / "out.refused.csv")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"out.parquet", "out.refused.csv", "out.maps"}
    maps = [np.load(path)["case_id"] for path in sorted((tmp_path / "out.maps").glob("part-*.npz"))]
    assert np.concatenate(maps).tolist() == pd.read_parquet(out).case_id.tolist()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ray_gives_the_same_though_a_worker_is_killed(pictures: Pictures, tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="needs the extra scale")
    out = tmp_path / "parts"
    arguments = [
        str(pictures.folder / "model.onnx"),
        str(pictures.manifest),
        str(out),
        str(tmp_path / "maps"),
    ]
    tests = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": tests, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", RAY, *map(str, arguments)],
        env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("Done("))  # Ray prints too
    assert told.endswith(" True"), "no actor was killed"
    check(pictures, out / "predictions", out / "refused.csv")
    assert len(list((tmp_path / "maps").glob("part-*.npz"))) == COUNT // 100
