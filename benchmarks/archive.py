"""Memory and speed of an archive's prediction over its length, and what three kills leave of it.

    python benchmarks/archive.py [--kills 3] [--figure docs/archive.svg --page docs/performance.md]

``foveate predict MODEL --manifest … --stream`` is run as a user would, on small pictures that the manifest
names again and again under new names, with some torn files among them; the default model is a small untrained
network in PyTorch, the heaviest of the engines. Twice a second the resident memory (proportional: pages that
processes share are divided among them) of the command and of its workers is read. After each kill -9 the same
command is given again. At the end the table must hold every case once. How noisy the machine is, is told by a
fixed piece of work that is timed throughout.
"""

from __future__ import annotations

import argparse
import csv
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch
from PIL import Image as Picture

from foveate.bundle.bundle import Bundle, Patients, save_bundle
from foveate.deploy.engines.opening import open_engine
from foveate.models import build_model
from foveate.prepare.preprocess import Preprocess
from foveate.study.settings import PreprocessConfig
from sheet import Sheet, add_page, machine, wandered

PICTURES, TORN = 500, 5  # files, and how many of them are no pictures
MIB = 2**20


@dataclass(frozen=True)
class Sample:
    """One look at the processes.

    Attributes:
        seconds: since the first start.
        start: which of the starts, 0-based.
        cases: done and on disk.
        command, workers: bytes of memory.
        noise: seconds that the fixed work took.
    """

    seconds: float
    start: int
    cases: int
    command: int
    workers: int
    noise: float


def untrained(folder: Path) -> Path:
    """A bundle of a small network."""
    torch.manual_seed(0)
    preprocess = Preprocess(PreprocessConfig(size=(32, 32)))
    model = build_model("timm:test_resnet", 4, preprocess.input_spec(("image",))).eval()
    classes = ("a", "b", "c", "d")
    facts = ("timm:test_resnet", {}, preprocess, ("image",), "multiclass", classes, Patients.of(()))
    save_bundle(folder, Bundle(model, *facts))
    return folder


def write_archive(folder: Path, view: str, cases: int, side: int) -> Path:
    """Pictures, and a manifest that names each many times."""
    chance = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(PICTURES):
        path = folder / "images" / f"{number}.png"
        Picture.fromarray(chance.integers(0, 256, (side, side), dtype=np.uint8)).save(path)
        if number < TORN:
            path.write_bytes(path.read_bytes()[:60])
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case_id", "patient_id", view])
        for number in range(cases):
            writer.writerow([f"case{number}", f"p{number // 3}", f"images/{number % PICTURES}.png"])
    return folder / "manifest.csv"


def watched(command: Sequence[str], done: Path, shard: int, kills: Sequence[int]) -> Iterator[Sample]:
    """Run a command, kill it when so many shards are done, and give it again."""
    began = time.perf_counter()
    for start in range(len(kills) + 1):
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
            while process.poll() is None:
                shards = len(list(done.glob("*.done.json")))
                children = children_of(process.pid)
                noise = fixed_work()
                memory = resident(process.pid), sum(map(resident, children))
                yield Sample(time.perf_counter() - began, start, shards * shard, *memory, noise)
                if start < len(kills) and shards >= kills[start]:
                    process.send_signal(signal.SIGKILL)
                time.sleep(0.5)
            if start == len(kills) and process.returncode not in (0, 5):
                errors.seek(0)
                raise SystemExit(errors.read().decode())


def children_of(process: int) -> list[int]:
    """Processes that a process has started."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(each) for each in path.read_text().split()] if path.exists() else []


def resident(process: int) -> int:
    """Proportional resident memory in bytes; 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def fixed_work() -> float:
    """Seconds of one and the same matrix product."""
    values = np.ones((200, 200), dtype=np.float32)
    began = time.perf_counter()
    for _ in range(5):
        values @ values
    return time.perf_counter() - began


def show(samples: Sequence[Sample], cases: int, sheet: Sheet) -> None:
    """Memory in tenths of the archive, and what it grows by."""
    rows = []
    for low, high in pairwise(np.linspace(0, cases, 11)):
        inside = [item for item in samples if low <= item.cases < high and item.workers]
        if inside:
            both = [(item.command + item.workers) / MIB for item in inside]
            first, last = inside[0], inside[-1]
            rate = (last.cases - first.cases) / max(last.seconds - first.seconds, 1e-9)
            means = [
                np.mean([getattr(item, name) for item in inside]) / MIB for name in ("command", "workers")
            ]
            rows.append(
                [f"{low:,.0f} – {high:,.0f}", *(f"{value:.0f}" for value in (*means, max(both), rate))]
            )
    sheet.table(["cases on disk", "command, MiB", "workers, MiB", "highest of both", "cases a second"], rows)
    sheet.say(f"Growth: {growth(samples):+.2f} MiB for each 10,000 cases (least squares, by start).")
    sheet.say(wandered([item.noise for item in samples]))


def growth(samples: Sequence[Sample]) -> float:
    """MiB for each 10,000 cases; each start has a level of its own, which it has reached with two shards."""
    xs, ys = [], []
    for start in {item.start for item in samples}:
        own = [item for item in samples if item.start == start and item.workers]
        counts = sorted({item.cases for item in own})
        own = [item for item in own if item.cases > counts[min(1, len(counts) - 1)]]
        if len(own) < 2:
            continue
        x = np.array([item.cases for item in own], dtype=float)
        y = np.array([item.command + item.workers for item in own], dtype=float)
        xs.append(x - x.mean())
        ys.append(y - y.mean())
    x, y = np.concatenate(xs), np.concatenate(ys)
    return float((x @ y) / max(x @ x, 1e-9) * 10_000 / MIB)


def draw(samples: Sequence[Sample], path: Path) -> None:
    """The figure: memory over cases, one line a start."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for start in sorted({item.start for item in samples}):
        own = [item for item in samples if item.start == start and item.workers]
        axes.plot(
            [item.cases for item in own],
            [(item.command + item.workers) / MIB for item in own],
            label="first start" if start == 0 else f"after kill {start}",
        )
    axes.set(xlabel="cases predicted and on disk", ylabel="resident memory, MiB", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path)


def check(out: Path, cases: int, sheet: Sheet) -> None:
    """Every case exactly once, in the table or among the refused."""
    found = parquet.read_table(out, columns=["case_id"])["case_id"].to_pylist()
    with out.with_suffix(".refused.csv").open(newline="") as stream:
        refused = [row["case_id"] for row in csv.DictReader(stream)]
    if sorted(found + refused) != sorted(f"case{number}" for number in range(cases)):
        raise SystemExit("cases are missing or stand twice")
    sheet.say(f"{len(found):,} predicted + {len(refused):,} refused = {cases:,}, each exactly once.")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument(
        "--model", type=Path, help="a one-view run or export [default: a small untrained one]"
    )
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--shard", type=int, default=500)
    parser.add_argument("--side", type=int, default=32, help="of the pictures, pixels")
    parser.add_argument("--maps", action="store_true", help="keep the maps of all classes too")
    add_page(parser)
    parser.add_argument("--figure", type=Path, help="draw memory over cases into this file")
    return parser.parse_args()


def main() -> None:
    given, sheet = arguments(), Sheet("archive")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = given.model.absolute() if given.model else untrained(folder / "bundle")
        view = open_engine(model, given.engine).facts.views[0]
        manifest, out = write_archive(folder, view, given.cases, given.side), folder / "out.parquet"
        command = [sys.executable, "-c", "from foveate.cli.app import main; main()", "predict", str(model)]
        command += ["--manifest", str(manifest), "--stream", "--out", str(out), "--engine", given.engine]
        command += ["--workers", str(given.workers), "--shard", str(given.shard)]
        command += ["--maps", str(folder / "maps")] if given.maps else []
        shards = -(-given.cases // given.shard)
        kills = sorted(random.sample(range(1, shards), given.kills))
        told = f"killed -9 after {', '.join(map(str, kills))} of {shards} shards"
        sheet.say(f"{machine()}. {given.cases:,} cases, {told}.")
        work = out.with_name("out.parquet.work") / "work"
        samples = list(watched(command, work, given.shard, kills))
        show(samples, given.cases, sheet)
        check(out, given.cases, sheet)
        if given.figure:
            draw(samples, given.figure)
            if given.page:
                sheet.picture(given.figure, given.page, "Memory of all processes over the cases on disk")
    sheet.write(given.page)


if __name__ == "__main__":
    main()
