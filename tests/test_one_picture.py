"""The files that CONTRIBUTING names for following one picture to its card are those that it goes through.

What is traced are the turns of the way: the file is decoded, prepared, given to the network, explained, its
map brought back, cut into boxes, and drawn. What stands on the call stack at one of them is a file to read.
"""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

import foveate
from foveate.report.build import write_report
from foveate.stations.evaluate import evaluate
from foveate.stations.explain import explain
from foveate.stations.localize import localize
from small_run import small_run

pytestmark = pytest.mark.slow

SOURCE = Path(foveate.__file__).parent
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
TURNS = {
    "io/raster.py": "read_raster",
    "prepare/preprocess.py": "prepare",
    "models/timm/backbones.py": "forward",
    "explain/cam.py": "explain",
    "prepare/geometry.py": "back",
    "maps/localize.py": "localize_heatmap",
    "report/pictures/overlays.py": "overlay_uri",
}
NAMES = frozenset(TURNS.values())


class _Trace:
    """Collects the files on the stack whenever a turn of the way is called, in any thread."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.turns: set[str] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_name
        if event != "call" or name not in NAMES or TURNS.get(file := _inside(frame)) != name:
            return
        self.turns.add(file)
        above: FrameType | None = frame
        while above is not None:
            self.files |= {_inside(above)} - {""}
            above = above.f_back

    def __enter__(self) -> _Trace:
        threading.setprofile(self)
        sys.setprofile(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def _inside(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return path.relative_to(SOURCE).as_posix() if path.is_relative_to(SOURCE) else ""


def test_the_files_to_read_are_those_that_a_picture_goes_through(tmp_path: Path) -> None:
    run = small_run(tmp_path, cases=24, explain={"limit": 2})
    with _Trace() as trace:
        explain(run)
        localize(run)
    evaluate(run)
    with trace:
        write_report(run.folder)
    assert trace.turns == set(TURNS)
    (told,) = re.findall(r"To follow one picture.*?\n\n", CONTRIBUTING.read_text(), re.DOTALL)
    named = re.findall(r"`([a-z_/]+\.py)`", told)
    assert len(named) == len(set(named)) <= 19
    assert set(named) == trace.files
