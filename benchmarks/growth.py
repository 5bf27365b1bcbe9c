"""How time and memory grow with cases, classes, image side and volume depth.

    python benchmarks/growth.py [--only WORDS …] [--seconds 60] [--page docs/performance.md]

Every size of every piece of work (``growth_work.py``) runs in a process of its own, after the smallest size
has warmed it up; sizes grow until one has taken ``--seconds``. Rounds go through all sizes, so that what
disturbs the machine for a while does not fall on one size, and the fastest of them counts. A fixed piece of
work is timed in each process: it tells how far the speed of the machine wandered.

*Exponent* is p of ``seconds = fixed + rate · sizeᵖ``, fitted to logarithms (fixed ≥ 0), with the 95 %
interval of the linearised fit. *At the end* is the slope between the two largest sizes alone. Both are of the
seconds that processors were busy, which depend less on what else runs. ``n log n`` has a slope of 1.1 at
these sizes; what grows faster is named with the reason. *MiB* is the peak of a stage above what the process
held before it; where a file is mapped, the part of it that happens to lie in memory counts as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.optimize import OptimizeWarning, curve_fit

from growth_work import WORK, Meter
from sheet import Sheet, add_page, machine, wandered

SIZES = {
    "stations by cases": (100, 1_000, 3_000, 10_000, 30_000, 100_000),
    "near-duplicates by cases": (1_000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
    "split by cases": (1_000, 10_000, 100_000, 300_000, 1_000_000),
    "evaluation by cases": (300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
    "split by classes": (10, 30, 100, 300, 1_000),
    "evaluation by classes": (3, 10, 30, 100, 300),
    "pictures by side": (64, 128, 256, 512, 1_024, 2_048),
    "volumes by depth": (8, 16, 32, 64, 128),
}
EXPECTED = {"side": 2.0}
"""Exponents of what is no list of cases: an image has side² pixels."""

REASONS = {
    "near-duplicates by cases": "all pairs are compared, as an index would miss twins (`data/similarity.py`)",
    "report by classes": "the picture of the confusion matrix has classes² cells",
    "evaluate by cases": "weights taken in the order of scores leave the cache from 100,000 cases on",
}
TOLERANCE = 0.15
"""n log n has a slope of up to 1.14 from 1,000 on."""


@dataclass(frozen=True)
class Growth:
    """The fit of one stage.

    Attributes:
        power, spread: the exponent, and half of its 95 % interval.
        end: slope between the two largest sizes.
    """

    power: float
    spread: float
    end: float


@dataclass(frozen=True)
class Point:
    """One stage at one size: the fastest of the rounds.

    Attributes:
        seconds, busy: of the clock, and of processors.
        memory: bytes beside what was there before.
    """

    size: int
    seconds: float
    busy: float
    memory: float

    def faster(self, other: Point | None) -> Point:
        """The faster of each."""
        if other is None:
            return self
        return Point(self.size, min(self.seconds, other.seconds), min(self.busy, other.busy), self.memory)


Series = dict[tuple[str, str], list[Point]]  # by work and stage


def fit_growth(sizes: Sequence[float], values: Sequence[float]) -> Growth:
    """The exponent with which values grow; NaN from fewer than four sizes."""
    x, y = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    if len(x) < 2:
        return Growth(np.nan, np.nan, np.nan)
    end = float(np.log(y[-1] / y[-2]) / np.log(x[-1] / x[-2]))
    if len(x) < 4:
        return Growth(np.nan, np.nan, end)

    def logarithm(size: np.ndarray, fixed: float, rate: float, power: float) -> np.ndarray:
        return np.asarray(np.log(fixed * y[0] + rate * y[-1] * (size / x[-1]) ** power))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # as many sizes as parameters leave no spread
        found, covariance = curve_fit(
            logarithm, x, np.log(y), (0.5, 1.0, 1.0), bounds=((0, 1e-3, 0), (1.0, 10, 4))
        )
    return Growth(float(found[2]), 1.96 * float(np.sqrt(covariance[2, 2])), end)


def verdict(work: str, stage: str, growth: Growth) -> str:
    """Whether the growth at the largest sizes is what may be expected."""
    axis = work.rpartition(" ")[2]
    most = EXPECTED.get(axis, 1.0)
    if np.isnan(growth.end):
        return "one size alone"
    if growth.end <= most + TOLERANCE:
        return "within n log n" if axis == "cases" else f"within {axis}{'²' if most == 2 else ''}"
    return REASONS.get(f"{stage} by {axis}", "above: to be explained")


def measure_all(
    names: Sequence[str], seconds: float, rounds: int, console: Console
) -> tuple[Series, list[float]]:
    """Every size of the named works, in rounds; and the seconds of the fixed work beside each."""
    points: dict[tuple[str, str], dict[int, Point]] = defaultdict(dict)
    noise: list[float] = []
    for turn in range(rounds):
        for name in names:
            for size in affordable(name, points, seconds):
                found = in_own_process(name, size, 20 * seconds)
                if found is None:
                    console.print(f"{name} {size:,}: took too long, or failed")
                    break
                noise.append(found.pop("fixed work")[0])
                for stage, figures in found.items():
                    known = points[name, stage]
                    known[size] = Point(size, *figures).faster(known.get(size))
                total = sum(figures[0] for figures in found.values())
                console.print(f"round {turn + 1}: {name} {size:,}: {total:.1f} s")
                if total > seconds:
                    break
    return {key: sorted(found.values(), key=lambda point: point.size) for key, found in points.items()}, noise


def affordable(name: str, points: Mapping[tuple[str, str], Mapping[int, Point]], seconds: float) -> list[int]:
    """The sizes of a work; in later rounds those that did not take too long in an earlier one."""
    known = [own for (work, _), own in points.items() if work == name]
    took = {size: sum(own[size].seconds for own in known if size in own) for size in SIZES[name]}
    return [size for size in SIZES[name] if not known or 0 < took[size] <= seconds]


def in_own_process(name: str, size: int, limit: float) -> dict[str, list[float]] | None:
    """Figures of each stage, as of ``Meter``; None if it took too long or failed."""
    command = [sys.executable, __file__, "--point", name, str(size)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=True)
    except subprocess.TimeoutExpired:
        return None
    except subprocess.CalledProcessError as error:
        print(error.stderr[-2000:], file=sys.stderr)
        return None
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def one_point(name: str, size: int) -> None:
    """The work of a process: warm up with the smallest size, then measure; one line of JSON."""
    meter = Meter()
    for own, place in ((Meter(), SIZES[name][0]), (meter, size)):
        with tempfile.TemporaryDirectory() as folder:
            WORK[name](place, Path(folder), own)
    with meter("fixed work"):
        values = np.random.default_rng(0).random((400, 400))
        for _ in range(20):
            values = np.sort(values @ values / 100, axis=0)
    print(json.dumps(meter.stages))


def rows_of(series: Series) -> list[list[str]]:
    """What the table shows of each stage."""
    rows = []
    for (work, stage), points in series.items():
        time_growth = fit_growth([point.size for point in points], [point.busy for point in points])
        first, last = points[0], points[-1]
        shown = f"{time_growth.power:.2f} ± {time_growth.spread:.2f}"
        rows.append(
            [
                stage,
                work.rpartition(" ")[2],
                f"{first.size:,} – {last.size:,}",
                f"{first.seconds:.2f} – {last.seconds:.2f}",
                f"{first.busy:.2f} – {last.busy:.2f}",
                f"{first.memory / 2**20:,.0f} – {last.memory / 2**20:,.0f}",
                "–" if np.isnan(time_growth.power) else shown,
                f"{time_growth.end:.2f}",
                verdict(work, stage, time_growth),
            ]
        )
    return rows


HEADER = ("stage", "grows with", "from – to", "seconds", "of processors", "MiB", "exponent", "at the end", "")


def with_earlier(path: Path, series: Series, noise: Sequence[float]) -> tuple[Series, list[float]]:
    """Points and noise with those of works that were measured before; the file then holds all of them."""
    kept = json.loads(path.read_text()) if path.is_file() else {}
    found = {
        work: {stage: own for (name, stage), own in series.items() if name == work} for work, _ in series
    }
    stages: dict[str, dict[str, list[Point]]] = {
        work: found.get(work)
        or {
            stage: [Point(**point) for point in own]
            for stage, own in kept.get("points", {}).get(work, {}).items()
        }
        for work in WORK
    }
    all_noise = [*kept.get("noise", []), *noise]
    points = {
        work: {stage: [vars(point) for point in own] for stage, own in named.items()}
        for work, named in stages.items()
    }
    path.write_text(json.dumps({"noise": all_noise, "points": points}, indent=1))
    return {(work, stage): own for work, named in stages.items() for stage, own in named.items()}, all_noise


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", help="works whose names hold one of these words")
    parser.add_argument(
        "--seconds", type=float, default=60, help="no larger size after one that took as long"
    )
    parser.add_argument("--rounds", type=int, default=2)
    add_page(parser)
    parser.add_argument(
        "--points",
        type=Path,
        help="JSON to keep every point in; works that are not measured now are taken from it",
    )
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given, sheet = arguments(), Sheet("growth")
    if given.point:
        return one_point(given.point[0], int(given.point[1]))
    names = [name for name in WORK if not given.only or any(word in name for word in given.only)]
    series, noise = measure_all(names, given.seconds, given.rounds, sheet.console)
    if given.points:
        series, noise = with_earlier(given.points, series, noise)
    if not series:
        raise SystemExit("nothing was measured")
    sheet.say(f"{machine()}; {given.rounds} rounds.")
    sheet.table(HEADER, rows_of(series))
    sheet.say(wandered(noise))
    sheet.write(given.page)


if __name__ == "__main__":
    main()
