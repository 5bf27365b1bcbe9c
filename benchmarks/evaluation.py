"""What an evaluation of the size of ChestX-ray14's test set costs, beside a plain loop over scikit-learn.

    python benchmarks/evaluation.py [--cases 25000] [--patients 5000] [--labels 14] [--replicates 2000]

Predictions are invented, with the rare labels of that data set (0.2 to 20 % present), several cases a patient
and metadata. The whole of ``evaluate_predictions`` is timed, everything that ``metrics.json`` holds, and its
peak memory is told (of the process, with all libraries). The peer draws patients with replacement and calls
``roc_auc_score`` and ``average_precision_score`` for each label; a few draws are timed and the time of all is
extrapolated from them: these two figures alone.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score

from foveate.evaluate import evaluate_predictions
from foveate.evaluate.options import EvaluateOptions
from foveate.evaluate.table import PredictionTable
from sheet import Noise, Sheet, add_page, machine

PEER_DRAWS = 5


def invented(cases: int, patients: int, labels: int, seed: int = 0) -> PredictionTable:
    """A test part and a validation part a fifth as large, of other patients."""
    draws = np.random.default_rng(seed)
    total = cases + cases // 5
    patient = np.sort(draws.integers(patients + patients // 5, size=total))
    present = np.geomspace(0.002, 0.2, labels)
    truth = (draws.random((total, labels)) < present).astype(np.float64)
    own = draws.normal(size=(patient.max() + 1, labels))[patient]
    logits = 1.5 * truth - 2.5 + 0.5 * own + draws.normal(size=truth.shape)
    return PredictionTable(
        "multilabel",
        tuple(f"finding {k}" for k in range(labels)),
        tuple(f"case {n}" for n in range(total)),
        tuple(f"patient {p}" for p in patient),
        tuple("test" if p < patients else "val" for p in patient),
        logits,
        expit(logits),
        truth,
        calibrated=expit(logits + 0.3),
        novelty=draws.normal(size=total),
    )


def ours(table: PredictionTable, replicates: int) -> tuple[float, float]:
    """Seconds of the whole evaluation, with metadata for subgroups; those of the clock, and of processors."""
    draws = np.random.default_rng(1)
    metadata = {
        name: {"sex": str(draws.choice(["F", "M"])), "age": str(draws.integers(5, 90))}
        for name in table.case_ids
    }
    started, worked = time.perf_counter(), time.process_time()
    evaluate_predictions(table, n_boot=replicates, options=EvaluateOptions(metadata=metadata))
    return time.perf_counter() - started, time.process_time() - worked


def peer(table: PredictionTable, draws_timed: int) -> tuple[float, float]:
    """Seconds that a draw of the plain loop takes, those of the clock and of processors."""
    part = table.part("test")
    names, index = np.unique(np.asarray(part.patient_ids, dtype=object), return_inverse=True)
    rows = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])
    draws = np.random.default_rng(0)
    started, worked = time.perf_counter(), time.process_time()
    for _ in range(draws_timed):
        chosen = np.concatenate([rows[p] for p in draws.integers(len(names), size=len(names))])
        for k in range(len(part.classes)):
            roc_auc_score(part.truth[chosen, k], part.probabilities[chosen, k])
            average_precision_score(part.truth[chosen, k], part.probabilities[chosen, k])
    return (time.perf_counter() - started) / draws_timed, (time.process_time() - worked) / draws_timed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=25_000)
    parser.add_argument("--patients", type=int, default=5_000)
    parser.add_argument("--labels", type=int, default=14)
    parser.add_argument("--replicates", type=int, default=2_000)
    add_page(parser)
    chosen = parser.parse_args()
    table = invented(chosen.cases, chosen.patients, chosen.labels)
    sheet, noise = Sheet("evaluation"), Noise()
    noise.measure()
    seconds, processor = ours(table, chosen.replicates)
    noise.measure()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    slow, slow_processor = (part * chosen.replicates for part in peer(table, PEER_DRAWS))
    noise.measure()
    name = f"scikit-learn loop, AUROC and AP alone (extrapolated from {PEER_DRAWS} draws)"
    rows = [
        [
            f"all of metrics.json, {chosen.replicates:,} replicates",
            f"{seconds:.1f}",
            f"{processor:.1f}",
            f"{memory:.2f}",
        ],
        [name, f"{slow:.0f}", f"{slow_processor:.0f}", ""],
    ]
    sheet.say(f"{machine()}. {chosen.cases:,} cases of {chosen.patients:,} patients, {chosen.labels} labels.")
    sheet.table(["", "seconds", "of processors", "peak memory, GB"], rows)
    sheet.say(noise.words())
    sheet.write(chosen.page)


if __name__ == "__main__":
    main()
