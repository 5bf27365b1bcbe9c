"""What a fitted correction of probabilities is worth: all of it, and what `shrinking` keeps of it.

Simulated validation parts of 30 to 150 cases (patients with 1 to 3 cases each, half of what tells classes
apart shared within a patient) of models whose logits are too large or too small by a known factor, or whose
finding is said too often by a known shift. "Chosen" models are well calibrated, but the best of eight epochs
by the log loss of these very validation cases. Log loss is told on 6,000 other patients as change from the
raw probabilities: the best that the method can do, the correction that fits validation best, and what is kept
of it; in brackets the per cent of the simulated models that it made worse by more than 0.005.

Real models are those of ``benchmarks/epochs.py``, which leaves their answers in its work folder: of each
split and learning rate the epoch that the product chooses, its correction fitted on the validation part, or
on some of its patients, and tried on the patients held back.

    python benchmarks/calibrating.py [--rounds 200] [--real FOLDER] [--write]

``--write`` puts the tables into docs/statistics.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from epochs import product_epoch, put, trainings
from foveate.evaluate.probabilities.calibrators import Calibrator
from foveate.evaluate.probabilities.shrinking import fit_shrunk, log_losses
from foveate.types import Task

Floats = NDArray[np.float64]
Part = tuple[Floats, Floats, list[str]]
LARGE, EPOCHS, WORSE = 6_000, 8, 0.005
REAL_SIZES = (30, None)


@dataclass(frozen=True)
class Model:
    """A model whose miscalibration is known.

    Attributes:
        words: what it is.
        task: multi-class with three classes and temperature, or one finding and Platt's method.
        factor: of the logits.
        shift: added to the logits of the finding.
        chosen: whether it is the best of several epochs.
    """

    words: str
    task: Task
    factor: float = 1.0
    shift: float = 0.0
    chosen: bool = False

    def part(self, draws: np.random.Generator, patients: int) -> Part:
        """Logits, truth and patients of one part."""
        patient = np.repeat(np.arange(patients), draws.integers(1, 4, size=patients))
        classes = 3 if self.task == "multiclass" else 1
        own = draws.normal(size=(patients, classes))[patient]
        right = np.sqrt(2) * (own + draws.normal(size=(len(patient), classes)))
        if self.task == "multiclass":
            chance = softmax(right, axis=1).cumsum(axis=1)
            truth = np.eye(3)[(chance < draws.random((len(patient), 1))).sum(axis=1)]
        else:
            right -= 1
            truth = (draws.random(right.shape) < expit(right)).astype(np.float64)
        return self.factor * right + self.shift, truth, [f"p{number}" for number in patient]

    def validation(self, draws: np.random.Generator, patients: int) -> Part:
        """The validation part: of the epoch that it likes best, where the model was chosen by it."""
        logits, truth, names = self.part(draws, patients)
        if not self.chosen:
            return logits, truth, names
        epochs = [logits + 0.7 * draws.normal(size=logits.shape) for _ in range(EPOCHS)]
        best = min(epochs, key=lambda found: log_losses(self.stated(found), truth, self.task).mean())
        return best, truth, names

    def others(self, draws: np.random.Generator) -> Part:
        """Other patients, as the same epoch sees them."""
        logits, truth, names = self.part(draws, LARGE)
        return logits + (0.7 * draws.normal(size=logits.shape) if self.chosen else 0), truth, names

    def stated(self, logits: Floats) -> Floats:
        """Raw probabilities."""
        return np.asarray(softmax(logits, axis=1) if self.task == "multiclass" else expit(logits))


MODELS = (
    Model("logits 0.8 times too small", "multiclass", 0.8),
    Model("well calibrated", "multiclass"),
    Model("well calibrated, chosen", "multiclass", chosen=True),
    Model("logits 1.2 times too large", "multiclass", 1.2),
    Model("1.5 times", "multiclass", 1.5),
    Model("2.5 times", "multiclass", 2.5),
    Model("finding, well calibrated", "multilabel"),
    Model("finding, logits 1.3 times", "multilabel", 1.3),
    Model("finding, said too often (shift 0.5)", "multilabel", shift=0.5),
    Model("finding, shift 2", "multilabel", shift=2.0),
)


def tried(model: Model, patients: int, rounds: int) -> tuple[float, Floats]:
    """Change of log loss elsewhere: at best, and ``(rounds, 2)`` by the whole fit and by what is kept."""
    draws = np.random.default_rng(patients)
    logits, truth, names = model.others(draws)
    raw = log_losses(model.stated(logits), truth, model.task).mean()

    def change(found: Calibrator) -> float:
        stated = found.apply(logits) if found.fitted else model.stated(logits)
        return float(log_losses(stated, truth, model.task).mean() - raw)

    fits: tuple[Callable[..., Calibrator], ...] = (
        lambda logits, truth, names: Calibrator.fit(logits, truth, task=model.task),
        lambda logits, truth, names: fit_shrunk(logits, truth, names, task=model.task),
    )
    found = np.empty((rounds, len(fits)))
    for row in found:
        part = model.validation(draws, patients)
        row[:] = [change(fit(*part)) for fit in fits]
    return change(fits[0](logits, truth, names)), found


def table(rounds: int, sizes: list[int]) -> str:
    """One row a model and size."""
    lines = [
        "| model | validation cases | best | all of the fit | what is kept |",
        "|---|---|---|---|---|",
    ]
    for model in MODELS:
        for cases in sizes:
            best, found = tried(model, cases // 2, rounds)
            cells = [
                f"{column.mean():+.4f} ({100 * (column > WORSE).mean():.0f})".replace("-", "−")
                for column in found.T
            ]
            lines.append(
                f"| {model.words} | {cases} | {best:+.4f} | ".replace("-", "−") + " | ".join(cells) + " |"
            )
            print(lines[-1], flush=True)
    return "\n".join(lines)


def real_table(folder: Path) -> str:
    """One row a set and size of the validation part."""
    lines = [
        "| set | validation patients | raw log loss | all of the fit | what is kept |",
        "|---|---|---|---|---|",
    ]
    for stored in sorted(folder.glob("*.npz")):
        for size in REAL_SIZES:
            found = np.array(list(_real_changes(stored, size)))
            cells = [
                f"{column.mean():+.4f} ({100 * (column > WORSE).mean():.0f})".replace("-", "−")
                for column in found.T[1:]
            ]
            row = [stored.stem, str(size or "all"), f"{found[:, 0].mean():.3f}", *cells]
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def _real_changes(stored: Path, size: int | None) -> Iterator[tuple[float, float, float]]:
    """Of each training, log loss held back: raw, its change by the whole fit and by what is kept."""
    for training in trainings(stored):
        task: Task = "multilabel" if training.weights is None else "multiclass"
        names = np.random.default_rng(training.seed).permutation(np.unique(training.val.patients))[:size]
        rows = np.isin(training.val.patients, names)
        logits, truth = training.val.logits["mean"][:, rows], training.val.truth[rows]
        epoch = product_epoch(logits, truth, training.weights)
        val, patients = logits[epoch], [str(number) for number in training.val.patients[rows]]
        held, real = training.test.logits["mean"][epoch], training.test.truth
        raw = softmax(held, axis=1) if task == "multiclass" else expit(held)
        before = log_losses(raw, real, task).mean()
        changes = []
        for fit in (
            Calibrator.fit(val, truth, task=task),
            fit_shrunk(val, truth, patients, task=task),
        ):
            stated = fit.apply(held) if fit.fitted else raw
            stated = np.where(np.isnan(stated), raw, stated)
            changes.append(log_losses(stated, real, task).mean() - before)
        yield float(before), *map(float, changes)


def main() -> None:
    """Print, and perhaps write, the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--cases", type=int, nargs="+", default=[30, 60, 150])
    parser.add_argument("--real", type=Path, help="work folder of benchmarks/epochs.py")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    found = {"calibrating": table(chosen.rounds, chosen.cases)} if chosen.rounds else {}
    if chosen.real:
        found["calibrating real sets"] = real_table(chosen.real)
    for name, text in found.items():
        if chosen.write:
            put(Path(__file__).parents[1] / "docs" / "statistics.md", name, text)


if __name__ == "__main__":
    main()
