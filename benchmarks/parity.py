"""Are exported files the run? Their answers to real cases beside the run's, in every engine.

    python benchmarks/parity.py SIPaKMeD=RUN BUSI=RUN NIH=RUN [--cases 200] [--page docs/performance.md]

Each run is exported to ONNX (with the parity gate, which must let it pass), and cases of its validation and
test parts, spread evenly, are asked of the run and of the file. ``auto`` computes in bfloat16 only where the
gate passed it: what it chose is told.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foveate.bundle.bundle import load_bundle
from foveate.deploy.engines.bundled import Bundled
from foveate.deploy.engines.engine import Answer, Engine
from foveate.deploy.engines.opening import open_engine
from foveate.deploy.export.parity import compare
from foveate.stations.batches import cases_of
from foveate.stations.export import ENGINES, export_run
from foveate.stations.run import Run
from foveate.types import Case
from sheet import Sheet, add_page, machine

HEADER = ("run", "model", "engine", "cases", "largest Δp", "same decision", "map correlation", "")


def spread_over(cases: Sequence[Case], most: int) -> list[Case]:
    """At most so many, evenly from all of them."""
    places = np.linspace(0, len(cases) - 1, min(most, len(cases))).round().astype(int)
    return [cases[place] for place in places]


def answers(engine: Engine[Any], cases: Sequence[Case]) -> list[Answer]:
    """What an engine says, a few cases at a time."""
    batches = [cases[start : start + 16] for start in range(0, len(cases), 16)]
    return [answer for batch in batches for answer in engine.predict([engine.read(case) for case in batch])]


def rows_of(name: str, run: Run, most: int, folder: Path) -> list[list[str]]:
    """One row for each engine."""
    path = folder / f"{name}.onnx"
    facts = export_run(run, "onnx", path).facts
    cases = spread_over(cases_of(run, run.cohort(), ("val", "test")), most)
    reference = Bundled(load_bundle(run.path("bundle", made_by="train")))
    ours = answers(reference, cases)
    chosen = getattr(open_engine(path), "precision", "f32")
    rows = []
    for engine in ENGINES["onnx"]:
        precision = engine.partition(":")[2]
        theirs = answers(open_engine(path, engine), cases)
        found = compare(engine, precision, (reference.facts, facts), ours, theirs)
        same = f"{found.same:.1%}"
        maps = "no maps" if np.isnan(found.correlation) else f"{found.correlation:.5f}"
        verdict = "; ".join(found.problems()) or "within bounds"
        if precision == "bf16":
            verdict += f"; auto takes {chosen}"
        row = [name, reference.facts.model, engine, str(len(cases)), f"{found.probability:.1e}", same, maps]
        rows.append([*row, verdict])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--cases", type=int, default=200)
    add_page(parser)
    given, sheet = parser.parse_args(), Sheet("parity")
    sheet.say(f"{machine()}.")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for each in given.runs:
            name, _, path = each.partition("=")
            rows += rows_of(name, Run.open(Path(path)), given.cases, Path(folder))
    sheet.table(HEADER, rows)
    sheet.write(given.page)


if __name__ == "__main__":
    main()
