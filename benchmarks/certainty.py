"""How certain the variants of a comparison are of their answers, and whether they may be.

    foveate compare --grid GRID.yaml --out OUT && python benchmarks/certainty.py OUT

For each variant the mean over seeds on the test cases of: accuracy, the probability stated for the class
decided for (of all, right and wrong answers; raw, before calibration), expected calibration error and log
loss. In brackets the 95 % interval from resampled patients; below, the difference of every variant to the
first one, paired by patient.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate.evaluate.probabilities.calibration import Calibration
from foveate.evaluate.table import PredictionTable, read_predictions
from sheet import Sheet

FIGURES = ("accuracy", "certainty", "of right answers", "of wrong answers", "ECE", "log loss")
REPLICATES = 2000


def figures(table: PredictionTable, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(B, 6)`` the figures above for ``(B, N)`` weights of cases."""
    stated = table.probabilities.max(axis=1)
    right = table.truth[np.arange(len(stated)), table.probabilities.argmax(axis=1)]
    calibration = Calibration(table)(weights)

    def mean(values: NDArray[np.float64], of: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return (weights @ (values * of)) / (weights @ of)

    all_cases = np.ones_like(stated)
    means = [mean(right, all_cases), *(mean(stated, of) for of in (all_cases, right, 1 - right))]
    return np.stack([*means, calibration["ece"], calibration["log_loss"]], axis=1)


def of_variant(folder: Path) -> NDArray[np.float64]:
    """``(1 + B, 6)`` the mean over a variant's seeds: of all test cases, then of resampled patients."""
    tables = [read_predictions(path).part("test") for path in sorted(folder.glob("*/predictions.csv"))]
    patients, of_case = np.unique(tables[0].patient_ids, return_inverse=True)
    if any(table.case_ids != tables[0].case_ids for table in tables):
        raise SystemExit(f"{folder}: its seeds were tested on different cases")
    draws = np.random.default_rng(0).multinomial(
        len(patients), np.full(len(patients), 1 / len(patients)), size=REPLICATES
    )
    weights = np.concatenate([np.ones((1, len(of_case))), draws[:, of_case].astype(np.float64)])
    return np.mean([figures(table, weights) for table in tables], axis=0)


def shown(values: NDArray[np.float64], sign: str = "") -> list[str]:
    """Each figure with its interval."""
    low, high = np.nanquantile(values[1:], (0.025, 0.975), axis=0)
    return [
        f"{value:{sign}.3f} [{a:{sign}.3f}, {b:{sign}.3f}]"
        for value, a, b in zip(values[0], low, high, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", type=Path, help="folder that foveate compare wrote")
    parser.add_argument("--variants", nargs="+", help="in this order; all unless given")
    given = parser.parse_args()
    folder = given.comparison / "runs"
    names = given.variants or sorted(path.name for path in folder.iterdir())
    found = {name: of_variant(folder / name) for name in names}
    first = found[names[0]]
    rows = [[name, *shown(values)] for name, values in found.items()]
    rows += [[f"{name} − {names[0]}", *shown(found[name] - first, "+")] for name in names[1:]]
    Sheet("certainty").table(["variant", *FIGURES], rows)


if __name__ == "__main__":
    main()
