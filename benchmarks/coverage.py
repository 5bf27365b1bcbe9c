"""How often the intervals hold the truth: simulated cohorts whose true figures are known.

Every patient has 1 to 5 cases. The score of a case is the sum of what its class, its patient and chance add;
what the patient adds is half of the variance, so that the cases of one patient are alike. The true figures
are those of a cohort of 100,000 patients. The table tells in per cent how many of the rounds' 95 % intervals
held them, and in brackets how wide they were on average and how many rounds gave none: percentile and BCa
over patients, percentile over cases as if they were independent, and DeLong's for AUROC over patients.

    python benchmarks/coverage.py [--rounds 1000] [--patients 30 60 150]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from foveate.evaluate.agreement import Agreement
from foveate.evaluate.calibration import Calibration
from foveate.evaluate.delong import delong, delong_interval
from foveate.evaluate.discrimination import Discrimination
from foveate.evaluate.intervals import Bootstrap, Floats, Value
from foveate.evaluate.table import PredictionTable
from foveate.evaluate.utility import NetBenefit

FIGURES = ("auroc", "ap", "accuracy", "recall", "specificity", "precision", "npv", "f1")
CALIBRATED = ("ece", "brier", "log_loss")
METHODS = ("percentile", "bca", "cases", "delong")
LARGE = 100_000  # patients that the true figures come from
ALIKE = 0.5  # share of a score's variance that a patient's cases have in common


@dataclass(frozen=True)
class Settings:
    """How much is simulated."""

    rounds: int
    replicates: int
    seed: int


def cohort(draws: np.random.Generator, patients: int, prevalence: float) -> PredictionTable:
    """One finding; several cases a patient, whose scores are alike."""
    cases = draws.integers(1, 6, size=patients)
    patient = np.repeat(np.arange(patients), cases)
    truth = (draws.random(len(patient)) < prevalence).astype(np.float64)
    own = np.sqrt(ALIKE) * draws.normal(size=patients)[patient]
    logits = 1.5 * truth - 1 + own + np.sqrt(1 - ALIKE) * draws.normal(size=len(patient))
    names = tuple(f"p{number}" for number in patient)
    return PredictionTable(
        "multilabel",
        ("finding",),
        tuple(map(str, range(len(names)))),
        names,
        ("test",) * len(names),
        logits[:, None],
        expit(logits)[:, None],
        truth[:, None],
    )


def figures(table: PredictionTable, weights: Floats) -> dict[str, Floats]:
    """Every figure of one finding, each ``(B,)``."""
    decided = table.decisions()
    found = Discrimination(table, decided)(weights)
    benefit, calibration = (
        NetBenefit(table.probabilities, table.truth, [0.2])(weights),
        Calibration(table)(weights),
    )
    return {
        **{name: found[name][:, 0] for name in FIGURES},
        "kappa": Agreement(table, decided)(weights)["kappa"][:, 0],
        "net benefit": benefit["model"][:, 0],
        **{name: calibration[name] for name in CALIBRATED},
    }


def intervals(table: PredictionTable, replicates: int, seed: int) -> dict[str, dict[str, Value]]:
    """The intervals of one cohort by method and figure."""
    point = {
        name: float(values[0]) for name, values in figures(table, np.ones((1, len(table.truth)))).items()
    }
    found: dict[str, dict[str, Value]] = {}
    cases = tuple(map(str, range(len(table.truth))))
    for method, kind, units in (
        ("percentile", "percentile", table.patient_ids),
        ("bca", "bca", table.patient_ids),
        ("cases", "percentile", cases),
    ):
        bootstrap = Bootstrap(replicates, seed=seed, method=kind)
        drawn = bootstrap.replicates(lambda weights: figures(table, weights), units)
        found[method] = {
            name: bootstrap.value(value, drawn[name], n=len(cases), patients=len(set(units)))
            for name, value in point.items()
        }
    areas, covariance = delong(table.probabilities[:, 0], table.truth[:, 0], table.patient_ids)
    low, high = delong_interval(areas[0], covariance[0, 0])
    found["delong"] = {"auroc": Value(areas[0], low, high, len(cases), len(set(table.patient_ids)))}
    return found


def held(
    truth: Mapping[str, float], found: Sequence[Mapping[str, Value]], name: str
) -> tuple[float, float, int]:
    """Share of rounds whose interval held the true figure, its mean width, and the rounds without one."""
    told = [row[name] for row in found]
    bounds = np.array([(value.low, value.high) for value in told if value.low is not None], dtype=np.float64)
    if not len(bounds):
        return np.nan, np.nan, len(told)
    inside = (bounds[:, 0] <= truth[name]) & (truth[name] <= bounds[:, 1])
    return float(inside.mean()), float((bounds[:, 1] - bounds[:, 0]).mean()), len(told) - len(bounds)


def simulate(settings: Settings, patients: int, prevalence: float) -> list[tuple[str, ...]]:
    """Rows of the table for cohorts of one kind."""
    draws = np.random.default_rng(settings.seed)
    large = cohort(draws, LARGE, prevalence)
    truth = {name: float(v[0]) for name, v in figures(large, np.ones((1, len(large.truth)))).items()}
    rounds = [
        intervals(cohort(draws, patients, prevalence), settings.replicates, seed)
        for seed in range(settings.rounds)
    ]
    rows = []
    for name, value in truth.items():
        cells = []
        for method in METHODS:
            if name not in rounds[0][method]:
                cells.append("")
                continue
            share, width, without = held(truth, [found[method] for found in rounds], name)
            cells.append(f"{100 * share:.1f} ({width:.3f}{f', {without} without' if without else ''})")
        rows.append((f"{patients}", f"{prevalence:g}", name, f"{value:.3f}", *cells))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--patients", type=int, nargs="+", default=[30, 60, 150])
    parser.add_argument("--prevalence", type=float, nargs="+", default=[0.4, 0.1])
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    settings = Settings(chosen.rounds, chosen.replicates, chosen.seed)
    print("| patients | prevalence | figure | truth | " + " | ".join(METHODS) + " |")
    print("|" + "---|" * (4 + len(METHODS)))
    for patients in chosen.patients:
        for prevalence in chosen.prevalence:
            for row in simulate(settings, patients, prevalence):
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
