"""What the model's answers are worth: metrics, curves, confusion."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.metrics import (
    AgreementFigures,
    ClassCurves,
    ClassFigures,
    ConfusionMatrix,
    Metrics,
)
from foveate.report.figures import drawing
from foveate.report.files import RunFiles
from foveate.report.sections.section import Chart, Section, SectionRow, reasons

# Name in the files → name on the page, and what it means in a few words.
METRICS = {
    "auroc_macro": ("AUROC, macro", "how well scores rank cases with a class above cases without it"),
    "ap_macro": ("Average precision, macro", "area under the precision–recall curve"),
    "balanced_accuracy": ("Balanced accuracy", "every class counts the same, however rare"),
    "accuracy": ("Accuracy", "share of right answers; frequent classes dominate it"),
    "recall_macro": ("Sensitivity (recall), macro", "of the cases with a class, the share that was found"),
    "precision_macro": ("PPV (precision), macro", "of the answers for a class, the share that was right"),
    "f1_macro": ("F1, macro", "balance of sensitivity and PPV"),
}
PER_CLASS = {
    "auroc": "AUROC",
    "ap": "Average precision",
    "recall": "Sensitivity",
    "specificity": "Specificity",
    "precision": "PPV",
    "npv": "NPV",
    "f1": "F1",
}


KINDS = {"bca": "bias-corrected and accelerated (BCa)", "percentile": "percentile"}
AGREEMENT = {
    "kappa": "Cohen’s kappa",
    "kappa_linear": "Kappa, linear weights",
    "kappa_quadratic": "Kappa, quadratic weights",
    "mcc": "Matthews correlation (MCC)",
}


def performance(files: RunFiles) -> Section:
    """Metrics over all classes and per class."""
    metrics = files.metrics
    if metrics is None:
        return Section("performance", "Performance", "evaluate", None)
    guessed = chances(metrics)
    overall = [
        SectionRow(key, name, meaning, metrics.metrics.figure(key), guessed.get(key))
        for key, (name, meaning) in METRICS.items()
    ]
    by_class = [
        {
            "name": name,
            "n": found.n,
            "threshold": found.threshold,
            "values": [found.figure(key) for key in PER_CLASS],
        }
        for name, found in metrics.per_class.items()
    ]
    content = {
        "overall": overall,
        "by_class": by_class,
        "columns": list(PER_CLASS.values()),
        "undefined": reasons(class_values(metrics), undefined=True),
        "limited": reasons(class_values(metrics), undefined=False),
        "thresholds": metrics.task == "multilabel",
        "delong": list(metrics.delong.per_class.items()) if metrics.delong else [],
        "assumes": metrics.delong and metrics.delong.assumes,
        **sample(metrics),
    }
    return Section("performance", "Performance", "evaluate", content)


def class_values(metrics: Metrics) -> Iterator[tuple[str, str, Value]]:
    """Every figure of every class: class, name on the page, figure."""
    for name, found in metrics.per_class.items():
        for key, words in PER_CLASS.items():
            yield name, words, found.figure(key)


def chances(metrics: Metrics) -> dict[str, float]:
    """What guessing would reach."""
    balanced = 0.5 if metrics.task == "multilabel" else 1 / len(metrics.classes)
    prevalences = [found.prevalence for found in metrics.per_class.values() if found.prevalence]
    guessed = {"auroc_macro": 0.5, "balanced_accuracy": balanced}
    return guessed | ({"ap_macro": float(np.mean(prevalences))} if prevalences else {})


def sample(metrics: Metrics) -> dict[str, object]:
    """Whom the figures are about."""
    return {
        "part": metrics.split,
        "n": metrics.n,
        "patients": metrics.patients,
        "level": f"{100 * metrics.bootstrap.level:g}\N{NO-BREAK SPACE}%",
        "replicates": metrics.bootstrap.n,
        "kind": KINDS.get(metrics.bootstrap.interval or "", ""),
    }


def curves(files: RunFiles) -> Section:
    """ROC and precision-recall curve of each class."""
    metrics = files.metrics
    if metrics is None:
        return Section("curves", "ROC and PR curves", "evaluate", None)
    drawn = [name for name in metrics.classes if metrics.curves[name].roc.fpr]
    pairs = [_curve_pair(name, metrics.curves[name], metrics.per_class[name]) for name in drawn]
    undefined = [name for name in metrics.classes if name not in drawn]
    content = {"roc": [roc for roc, _ in pairs], "pr": [pr for _, pr in pairs], "undefined": undefined}
    return Section("curves", "ROC and PR curves", "evaluate", content)


def _curve_pair(name: str, curve: ClassCurves, found: ClassFigures) -> tuple[Chart, Chart]:
    roc = drawing.svg(drawing.roc_figure(curve.roc), f"ROC curve of {name}")
    pr = drawing.svg(drawing.pr_figure(curve.pr, found.prevalence), f"Precision–recall curve of {name}")
    return Chart(roc, name, found.auroc), Chart(pr, name, found.ap)


def confusion(files: RunFiles) -> Section:
    """What was taken for what."""
    metrics = files.metrics
    if metrics is None:
        return Section("confusion", "Confusion", "evaluate", None)
    agreement = metrics.agreement or AgreementFigures(metrics={})
    content: dict[str, object] = {
        "agreement": [(AGREEMENT[name], value) for name, value in agreement.metrics.items()],
        "order": agreement.order if "kappa_linear" in agreement.metrics else None,
    }
    matrix = metrics.confusion
    if not isinstance(matrix, ConfusionMatrix):
        return Section("confusion", "Confusion", "evaluate", content | {"findings": matrix})
    charts = [
        Chart(
            drawing.svg(
                drawing.confusion_figure(matrix.labels, matrix.counts, share=share),
                f"Confusion matrix: {title}",
            ),
            title,
        )
        for share, title in ((False, "Cases"), (True, "Per cent of each true class"))
    ]
    return Section("confusion", "Confusion", "evaluate", content | {"charts": charts})
