"""How often the intervals of `metrics.json` hold the truth: simulated cohorts whose true figures are known.

Patients have 1 to 3 cases. The score of a case is the sum of what its class, its patient and chance add; what
the patient adds is half of the variance, so that the cases of one patient are alike. Every cohort is given to
``evaluate_predictions`` as the product does it, with one validation part for all of them; the true figures
are those of a cohort of 20,000 patients. Every value that both have is compared, whatever it is of.

Settings: two findings (present in 40 % and in 10 % of the cases) told weakly; the same with all cases of a
patient alike in truth; the same told nearly perfectly; three classes told weakly, and nearly perfectly. Means
of single maps' figures are simulated beside them: an IoU that is often 0, and paired differences.

    python benchmarks/coverage.py [--rounds 120] [--patients 7 15 30 60] [--write]
    python benchmarks/coverage.py --classes --rounds 600 --replicates 400

``--write`` puts the table into docs/statistics.md and what is short into evaluate/short_intervals.py.
``--classes`` simulates figures of classes and their averages alone, for a table of their own, in a tenth of
the time: with many more cohorts a short interval is told from the chance of the worst of many.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from foveate.evaluate import evaluate_predictions
from foveate.evaluate.classwise import Classwise
from foveate.evaluate.discrimination import NEEDS, Discrimination
from foveate.evaluate.intervals import Bootstrap, Value
from foveate.evaluate.means import DIFFERENCE, SHARE, means
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.short_intervals import SURELY
from foveate.evaluate.table import PredictionTable

Floats = NDArray[np.float64]
LARGE = 20_000  # patients that the true figures come from
ALIKE = 0.5  # share of a score's variance that a patient's cases have in common
FEWEST = 0.25  # share of the rounds that must have told an interval for its coverage to count
ROOT = Path(__file__).parents[1]
_START, _END = "<!-- {} -->", "<!-- /{} -->"


@dataclass(frozen=True)
class Setting:
    """One kind of cohort.

    Attributes:
        prevalence: of two findings, or of three classes.
        lead: what the class adds to its score, in standard deviations of it.
        multiclass: whether the classes exclude each other.
        together: whether all cases of a patient are alike in truth.
    """

    prevalence: tuple[float, ...]
    lead: float
    multiclass: bool = False
    together: bool = False


SETTINGS = {
    "weak": Setting((0.4, 0.1), 1.5),
    "together": Setting((0.4, 0.1), 1.5, together=True),
    "strong": Setting((0.4, 0.1), 4.0),
    "three": Setting((0.5, 0.3, 0.2), 1.5, multiclass=True),
    "three strong": Setting((0.5, 0.3, 0.2), 4.0, multiclass=True),
}


def cohort(setting: Setting, draws: np.random.Generator, patients: int, split: str) -> PredictionTable:
    """Cases of one part, with slightly wrong probabilities and slightly less wrong calibrated ones."""
    patient = np.repeat(np.arange(patients), draws.integers(1, 4, size=patients))
    count, classes = len(patient), len(setting.prevalence)
    truth = drawn_truth(setting, draws, patients if setting.together else count)
    truth = truth[patient] if setting.together else truth
    own = np.sqrt(ALIKE) * draws.normal(size=(patients, classes))[patient]
    logits = setting.lead * truth + own + np.sqrt(1 - ALIKE) * draws.normal(size=(count, classes))
    logits -= 0 if setting.multiclass else setting.lead / 2 + 0.3
    stated = softmax(logits, axis=1) if setting.multiclass else expit(logits)
    mended = softmax(0.8 * logits, axis=1) if setting.multiclass else expit(0.8 * logits - 0.2)
    return PredictionTable(
        "multiclass" if setting.multiclass else "multilabel",
        tuple("ABC"[:classes]),
        tuple(f"{split}{case}" for case in range(count)),
        tuple(f"{split}{person}" for person in patient),
        (split,) * count,
        logits,
        stated,
        truth,
        calibrated=mended,
        novelty=draws.normal(size=count),
    )


def drawn_truth(setting: Setting, draws: np.random.Generator, count: int) -> Floats:
    """Truth ``(count, K)``."""
    if not setting.multiclass:
        return (draws.random((count, len(setting.prevalence))) < setting.prevalence).astype(np.float64)
    chosen = draws.choice(len(setting.prevalence), size=count, p=setting.prevalence)
    return np.eye(len(setting.prevalence))[chosen]


def joined(one: PredictionTable, other: PredictionTable) -> PredictionTable:
    """Two parts as one table."""
    names = {key: getattr(one, key) + getattr(other, key) for key in ("case_ids", "patient_ids", "splits")}
    arrays = ("logits", "probabilities", "truth", "calibrated", "novelty")
    stacked = {key: np.concatenate([getattr(one, key), getattr(other, key)]) for key in arrays}
    return PredictionTable(one.task, one.classes, **names, **stacked)


def told(content: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every value in plain JSON, by its path."""
    if isinstance(content, Mapping):
        if {"value", "low", "high"} <= set(content):
            yield path, content
        else:
            for name, part in content.items():
                yield from told(part, (*path, str(name)))


def named(path: tuple[str, ...]) -> str:
    """The name by which ``short_intervals`` knows a figure of ``metrics.json``."""
    *place, name = path
    if place[0] == "delong":
        return "auroc DeLong"
    if place[:1] == ["metrics"] or "groups" in place or place[0] == "per_patient":
        source = {"f1_macro": "f1", "precision_macro": "precision", "recall_macro": "recall"}
        metric = source.get(name, name.removesuffix("_macro"))
        return f"{metric} averaged" if "metrics" in place else metric
    return f"change of {name}" if "change" in place else name


def rounds_of(
    setting: Setting, patients: int, rounds: int, replicates: int
) -> dict[str, list[tuple[bool, float]]]:
    """By figure, of each interval told whether it held the truth, and its width."""
    draws = np.random.default_rng(patients)
    validation = cohort(setting, draws, 100, "val")
    options = EvaluateOptions(prevalence={"A": 0.05}, min_group=3)
    large = joined(cohort(setting, draws, LARGE, "test"), validation)
    truth = dict(told(evaluate_predictions(large, n_boot=0, options=options).to_json()))
    found: dict[tuple[str, ...], list[tuple[bool, float]]] = {}
    for seed in range(rounds):
        table = joined(cohort(setting, draws, patients, "test"), validation)
        metrics = evaluate_predictions(table, n_boot=replicates, seed=seed, options=options)
        for path, value in told(metrics.to_json()):
            real = truth[path]["value"] if path in truth else None
            if value["low"] is not None and real is not None:
                held = value["low"] - 1e-9 <= real <= value["high"] + 1e-9
                found.setdefault(path, []).append((held, value["high"] - value["low"]))
    enough = {path: rows for path, rows in found.items() if len(rows) >= FEWEST * rounds}
    return {f"{named(path)}|{'.'.join(path)}": rows for path, rows in enough.items()}


def rounds_of_classes(
    setting: Setting, patients: int, rounds: int, replicates: int
) -> dict[str, list[tuple[bool, float]]]:
    """The same for figures of classes and their averages alone."""
    draws = np.random.default_rng(patients + 1000)
    large = cohort(setting, draws, 150_000, "test")
    truth = {path: value.value for path, value in of_classes(large, Bootstrap(0))}
    found: dict[str, list[tuple[bool, float]]] = {}
    for seed in range(rounds):
        table = cohort(setting, draws, patients, "test")
        for path, value in of_classes(table, Bootstrap(replicates, seed=seed, method="bca")):
            real = truth[path]
            if value.low is not None and value.high is not None and real is not None:
                held = value.low - 1e-9 <= real <= value.high + 1e-9
                found.setdefault(path, []).append((held, value.high - value.low))
    return {path: rows for path, rows in found.items() if len(rows) >= FEWEST * rounds}


def of_classes(table: PredictionTable, bootstrap: Bootstrap) -> Iterator[tuple[str, Value]]:
    """Figures of every class, and averaged, by name and place."""
    metrics = Discrimination(table, table.decisions())
    point = {name: own[0] for name, own in metrics(np.ones((1, len(table.case_ids)))).items()}
    told = Classwise(table, metrics, bootstrap, point, bootstrap.replicates(metrics, table.patient_ids))
    for name, own in point.items():
        yield from ((f"{name}|{k}", told.of_class(name, k)) for k in range(len(own)))
        yield f"{name} averaged|", told.average(name)


def rounds_of_maps(patients: int, rounds: int, replicates: int) -> dict[str, list[tuple[bool, float]]]:
    """The same for means of figures of single maps: hits, an IoU, and differences of both from a control."""
    draws = np.random.default_rng(patients)

    def columns(count: int) -> tuple[dict[str, Floats], list[str]]:
        patient = np.repeat(np.arange(count), draws.integers(1, 4, size=count))
        good, control = (
            draws.normal(size=count)[patient] + draws.normal(size=len(patient)) for _ in range(2)
        )
        iou = np.clip(0.25 + 0.25 * good, 0, 1)
        pointed, by_chance = (good > -1).astype(np.float64), (control > 1).astype(np.float64)
        found = {"pointing_game": pointed, "iou": iou, "difference": pointed - by_chance}
        return found | {"iou_difference": iou - np.clip(0.05 + 0.2 * control, 0, 1)}, [*map(str, patient)]

    bounds = {"pointing_game": SHARE, "iou": SHARE, "difference": DIFFERENCE, "iou_difference": DIFFERENCE}
    real = {name: float(column.mean()) for name, column in columns(200_000)[0].items()}
    found: dict[str, list[tuple[bool, float]]] = {}
    for seed in range(rounds):
        bootstrap = Bootstrap(replicates, seed=seed, method="bca")
        for name, value in means(*columns(patients), bootstrap, bounds=bounds).items():
            if value.low is not None and value.high is not None:
                held = value.low - 1e-9 <= real[name] <= value.high + 1e-9
                found.setdefault(f"{name}|maps.{name}", []).append((held, value.high - value.low))
    return found


def simulated(
    sizes: list[int], rounds: int, replicates: int, *, classes: bool = False
) -> dict[str, dict[int, list[tuple[float, float, str]]]]:
    """By figure and size, coverage in per cent, width and setting of every value of that name."""
    result: dict[str, dict[int, list[tuple[float, float, str]]]] = {}
    for size in sizes:
        of = rounds_of_classes if classes else rounds_of
        kinds = {name: of(setting, size, rounds, replicates) for name, setting in SETTINGS.items()}
        if not classes:
            kinds["maps"] = rounds_of_maps(size, rounds, replicates)
        for kind, found in kinds.items():
            for key, rows in found.items():
                name, _, path = key.partition("|")
                held, width = np.mean(rows, axis=0)
                result.setdefault(name, {}).setdefault(size, []).append(
                    (100 * float(held), float(width), f"{kind}: {path}")
                )
        print(f"{size} patients done", flush=True)
    return result


def table_of(result: Mapping[str, Mapping[int, list[tuple[float, float, str]]]], sizes: list[int]) -> str:
    """One row a figure: of each size the lowest and the middle coverage over settings and classes."""
    lines = [
        "| figure | " + " | ".join(f"{size} patients" for size in sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for name in sorted(result):
        cells = []
        for size in sizes:
            shares = [row[0] for row in result[name].get(size, [])]
            cells.append(f"{min(shares):.0f} ({np.median(shares):.0f})" if shares else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(
    result: Mapping[str, Mapping[int, list[tuple[float, float, str]]]], sizes: list[int], *, classes: bool
) -> None:
    """Put the table, and of the other figures the short intervals, where they are told from."""
    page, name = ROOT / "docs" / "statistics.md", "coverage of classes" if classes else "coverage"
    start, end = _START.format(name), _END.format(name)
    before, _, rest = page.read_text(encoding="utf-8").partition(start)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{start}\n{table_of(result, sizes)}\n{end}{after}", encoding="utf-8")
    if classes:
        return
    worst = {
        name: {size: round(min(row[0] for row in rows)) for size, rows in sorted(by_size.items())}
        for name, by_size in sorted(result.items())
    }
    short = {name: own for name, own in worst.items() if min(own.values()) < SURELY}
    module = ROOT / "src" / "foveate" / "evaluate" / "short_intervals.py"
    text = module.read_text(encoding="utf-8")
    literal = pformat(short, width=100, sort_dicts=False)
    pattern = re.compile(r"(COVERAGE: Mapping\[str, Mapping\[int, int\]\] = )\{.*?\n?\}(?=\n#:)", re.DOTALL)
    module.write_text(pattern.sub(lambda found: found[1] + literal, text), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--replicates", type=int, default=600)
    parser.add_argument("--patients", type=int, nargs="+", default=[7, 15, 30, 60])
    parser.add_argument("--all", action="store_true", help="print every value, not the worst of each figure")
    parser.add_argument("--classes", action="store_true", help="figures of classes and their averages alone")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    found = simulated(chosen.patients, chosen.rounds, chosen.replicates, classes=chosen.classes)
    result = {
        name: own
        for name, own in found.items()
        if (name.removesuffix(" averaged") in NEEDS) == chosen.classes
    }
    if chosen.all:
        for name, by_size in sorted(result.items()):
            for size, rows in by_size.items():
                for share, width, where in sorted(rows):
                    print(f"{name:28s} {size:3d} {share:5.1f} {width:.3f} {where}")
    print(table_of(result, chosen.patients))
    if chosen.write:
        write(result, chosen.patients, classes=chosen.classes)


if __name__ == "__main__":
    main()
