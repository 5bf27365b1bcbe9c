"""What a trust card costs: ``foveate trust`` end to end, and which part takes how long.

    python benchmarks/trust.py [--cases 200] [--size 224] [--model timm:resnet18] [--threads 2]

Phantom cells are drawn, a network is trained for one epoch (how well it answers does not change the cost),
and the heat maps of the test cases are tested with the study's four default methods and three controls. Each
part is timed where it is called from; a fixed piece of work is timed before and after, so that the noise of
the machine is known. The last rows are one filling of ROAD for half of an image, and pytorch-grad-cam's.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_grad_cam.metrics import road
from rich.console import Console

from foveate.data.phantom import draw_phantom
from foveate.data.splits import split_cohort
from foveate.explain.perturbation import BlockGrid, NoisyLinearImputer
from foveate.stations.run import Run
from foveate.stations.trust import trust
from foveate.stations.trust_card import asking
from foveate.study.study import Study
from foveate.train.fit import fit
from sheet import Noise, Sheet, add_page, machine

PARTS = {
    "explain_each": "drawing maps",
    "measure_faithfulness": "deletion, insertion, ROAD, sensitivity-n",
    "likeness": "comparing maps",
    "sign_check": "signs",
}
_TEST = 0.7  # share of the cells; the rest is to train on


def trained(folder: Path, model: str, cases: int, size: int) -> Run:
    """A run with a bundle, with at least so many test cases."""
    manifest = draw_phantom(
        "cells", folder / "cells", {"patients": 2 + round(cases / _TEST / 12), "cases": 12}
    )
    study = Study.model_validate(
        {
            "name": "trust",
            "data": {"manifest": manifest},
            "split": {"test": _TEST, "val": 0.1},
            "preprocess": {"size": [size, size]},
            "model": {"name": model},
            "train": {"epochs": 1, "batch_size": 16, "lr": 1e-3},
            "trust": {"cases": cases},
        }
    )
    run = Run.create(study, folder / "run")
    cohort = run.cohort()
    splits = split_cohort(cohort, study.split)
    splits.write(run.folder / "splits.json")
    fit(study, cohort, splits, run.folder, console=Console(quiet=True))
    return run


def timed(clock: dict[str, float], name: str) -> None:
    """Let a function that the trust card calls tell how long it takes."""
    inner: Callable[..., Any] = getattr(asking, name)

    @functools.wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            clock[PARTS[name]] += time.perf_counter() - began

    setattr(asking, name, outer)


def fillings(size: int) -> tuple[float, float]:
    """Seconds to fill half of an image: ours, as one of sixteen, and pytorch-grad-cam's."""
    x = torch.rand(16, 3, size, size)
    views = {"image": x}
    grid = BlockGrid(views, 14)
    lost = torch.rand(16, grid.squares) < 0.5
    ours = NoisyLinearImputer(grid, views, {"image": torch.zeros_like(x)})
    began = time.perf_counter()
    ours(torch.arange(16), lost)
    middle = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # theirs, for NumPy 2
        road.NoisyLinearImputer(noise=0)(x[0], (~grid.pixels(lost)["image"][0, 0]).float())
    return (middle - began) / 16, time.perf_counter() - middle


def show(clock: dict[str, float], whole: float, size: int, sheet: Sheet) -> None:
    rest = {"reading, first answers, intervals": whole - sum(clock.values())}
    rows = [
        [part, f"{seconds:.1f}", f"{seconds / whole:.0%}"]
        for part, seconds in (*clock.items(), *rest.items())
    ]
    ours, theirs = fillings(size)
    rows += [
        ["trust card", f"{whole:.1f}", "100%"],
        ["one filling of ROAD", f"{ours:.3f}", ""],
        ["the same by pytorch-grad-cam", f"{theirs:.3f}", ""],
    ]
    sheet.table(["", "seconds", "share"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--model", default="timm:resnet18")
    parser.add_argument("--threads", type=int, default=2)
    add_page(parser)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    sheet, noise = Sheet("trust"), Noise()
    sheet.say(f"{machine()}.")
    clock: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        run = trained(Path(folder), chosen.model, chosen.cases, chosen.size)
        for name in PARTS:
            timed(clock, name)
        noise.measure()
        began, worked = time.perf_counter(), time.process_time()
        card = trust(run)
        whole, worked = time.perf_counter() - began, time.process_time() - worked
        noise.measure()
    sheet.say(
        f"{card.n} cases of {chosen.size} pixels, {chosen.model}, {', '.join(card.methods)}: "
        f"{whole:.0f} s, of processors {worked:.0f} s."
    )
    show(clock, whole, chosen.size, sheet)
    sheet.say(noise.words())
    sheet.write(chosen.page)


if __name__ == "__main__":
    main()
