"""Trainings in processes of their own that may be killed, and what they left."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from foveate.files import sha256_of

SIGKILL = -9


class Driver:
    """Starts trainings on the same 24 pictures; see ``training_driver``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).parent / "flows" / "training_driver.py", folder / "images"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self._answer() == "ready"

    def train(self, run: Path, **order: Any) -> list[int]:
        """Train in a process of its own; how it ended."""
        assert self._process.stdin is not None
        print(json.dumps({"run": str(run), **order}), file=self._process.stdin, flush=True)
        statuses: list[int] = json.loads(self._answer())
        return statuses

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def weights(run: Path) -> str:
    return sha256_of(run / "bundle" / "model.safetensors")


def log(run: Path) -> list[dict[str, str]]:
    """The training log without its timings."""
    with (run / "training.csv").open() as stream:
        return [
            {
                key: value
                for key, value in row.items()
                if "second" not in key and key != "waiting" and key != "waiting"
            }
            for row in csv.DictReader(stream)
        ]


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("*.pt"))


def output(run: Path) -> str:
    return (run / "output.txt").read_text()
