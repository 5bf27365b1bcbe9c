"""``metrics.json``: files of 0.1.0 open, and what they lack is told as absent."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.metrics import ConfusionMatrix, Metrics, PatientFigures
from foveate.evaluate.results.parts import ABSENT, Unmade
from foveate.evaluate.results.probabilities import PredictionSets

HALF: dict[str, Any] = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 4, "patients": 3, "reason": None}
BIN = {"low": 0.0, "high": 1.0, "confidence": 0.5, "accuracy": 0.5, "n": 4}
OLD: dict[str, Any] = {
    "task": "multiclass",
    "classes": ["a", "b"],
    "split": "test",
    "n": 4,
    "patients": 3,
    "without_truth": 1,
    "bootstrap": {"n": 100, "level": 0.9, "unit": "patient", "seed": 0},
    "metrics": {"accuracy": HALF, "auroc_macro": HALF},
    "per_class": {name: {"n": 2, "auroc": HALF, "recall": HALF, "threshold": None} for name in "ab"},
    "confusion": {"labels": ["a", "b"], "counts": [[1, 1], [1, 1]]},
    "calibration": {"ece": HALF, "brier": HALF, "bins": [BIN]},
    "curves": {
        name: {"roc": {"fpr": [0, 1], "tpr": [0, 1]}, "pr": {"recall": [1, 0], "precision": [0.5, 1]}}
        for name in "ab"
    },
    "by_views": {},
}
"""As version 0.1.0 wrote it: neither agreement nor decisions nor subgroups, and no word about patients."""


def test_a_file_of_0_1_0_opens_and_lacks_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(OLD))
    found = Metrics.read(tmp_path)
    assert found is not None and found.format == 0
    assert (found.patients_known, found.seen, found.bootstrap.interval) == (True, 0, None)
    assert found.metrics.named() == {"accuracy": Value(**HALF), "auroc_macro": Value(**HALF)}
    assert found.metrics.f1_macro == found.metrics.figure("f1_macro") == ABSENT
    assert found.per_class["a"].prevalence == 0.5 and found.thresholds == {}
    assert isinstance(found.confusion, ConfusionMatrix) and found.calibration.calibrated is None
    assert found.agreement is found.decision_curves is found.subgroups is found.abstention is None


@pytest.mark.parametrize("known", [True, False])
def test_what_could_not_be_made_is_told_from_what_was(known: bool) -> None:
    content = copy.deepcopy(OLD)
    sets = {"task": "multiclass", "score": "lac", "coverage": 0.9, "limits": [None], "cases": [4]}
    figures = ("coverage", "patient_coverage", "size", "one", "none", "one_right")
    sets |= {"patients": [3], "metrics": dict.fromkeys(figures, HALF), "per_class": {}}
    patient = {"how": "mean", "patients": 3, "left_out": 0, "most_cases": 2, "metrics": {}, "per_class": {}}
    content["per_patient"] = patient if known else {"reason": "every patient has one case"}
    content["abstention"] = {
        "sets": {**(sets if known else {}), "reason": "too few"},
        "novelty": {"reason": "no novelty"},
        "selective": {"confidence": {"reason": "none"}, "novelty": {"reason": "none"}},
    }
    found = Metrics.from_json(content)
    assert found.abstention is not None
    assert isinstance(found.abstention.sets, PredictionSets if known else Unmade)
    assert found.abstention.sets.reason == "too few"
    assert isinstance(found.per_patient, PatientFigures if known else Unmade)
    assert found.to_json()["abstention"]["sets"] == content["abstention"]["sets"]


def test_findings_are_counted_by_name_even_where_one_is_called_labels() -> None:
    counts = {"tn": 1, "fp": 2, "fn": 3, "tp": 4}
    found = Metrics.from_json(
        {**OLD, "task": "multilabel", "confusion": {"labels": counts, "counts": counts}}
    )
    assert not isinstance(found.confusion, ConfusionMatrix) and found.confusion["labels"].tp == 4
