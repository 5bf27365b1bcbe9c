"""What the model's answers are worth: metrics, curves, confusion."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from foveate.evaluate.intervals import Value
from foveate.report.figures import drawing
from foveate.report.files import Json, RunFiles, value_of
from foveate.report.sections.section import Chart, Section, SectionRow, reasons, within

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
        SectionRow(key, name, meaning, value_of(metrics["metrics"].get(key)), guessed.get(key))
        for key, (name, meaning) in METRICS.items()
    ]
    by_class = [
        {
            "name": name,
            "n": found["n"],
            "threshold": found.get("threshold"),
            "values": [value_of(found.get(key)) for key in PER_CLASS],
        }
        for name, found in metrics["per_class"].items()
    ]
    content = {
        "overall": overall,
        "by_class": by_class,
        "columns": list(PER_CLASS.values()),
        "undefined": reasons(class_values(metrics), undefined=True),
        "limited": reasons(class_values(metrics), undefined=False),
        "thresholds": metrics["task"] == "multilabel",
        "delong": [
            (name, value_of(value)) for name, value in (within(metrics, "delong", "per_class") or {}).items()
        ],
        "assumes": within(metrics, "delong", "assumes"),
        **sample(metrics),
    }
    return Section("performance", "Performance", "evaluate", content)


def class_values(metrics: Json) -> Iterator[tuple[str, str, Value]]:
    """Every figure of every class: class, name on the page, figure."""
    for name, found in metrics["per_class"].items():
        for key, words in PER_CLASS.items():
            yield name, words, value_of(found.get(key))


def chances(metrics: Json) -> dict[str, float]:
    """What guessing would reach."""
    balanced = 0.5 if metrics["task"] == "multilabel" else 1 / len(metrics["classes"])
    prevalences = [part for part in (_prevalence(metrics, name) for name in metrics["classes"]) if part]
    guessed = {"auroc_macro": 0.5, "balanced_accuracy": balanced}
    return guessed | ({"ap_macro": float(np.mean(prevalences))} if prevalences else {})


def _prevalence(metrics: Json, name: str) -> float | None:
    """Share of positives among the cases of which a class is known."""
    found = metrics["per_class"][name]
    known = value_of(found.get("auroc")).n
    return found["n"] / known if known else None


def sample(metrics: Json) -> dict[str, object]:
    """Whom the figures are about."""
    level = float(within(metrics, "bootstrap", "level") or 0.95)
    return {
        "part": metrics["split"],
        "n": metrics["n"],
        "patients": metrics["patients"],
        "level": f"{100 * level:g}\N{NO-BREAK SPACE}%",
        "replicates": int(within(metrics, "bootstrap", "n") or 0),
        "kind": KINDS.get(within(metrics, "bootstrap", "interval"), ""),
    }


def curves(files: RunFiles) -> Section:
    """ROC and precision-recall curve of each class."""
    metrics = files.metrics
    if metrics is None:
        return Section("curves", "ROC and PR curves", "evaluate", None)
    pairs = [
        _curve_pair(metrics, name) for name in metrics["classes"] if metrics["curves"][name]["roc"]["fpr"]
    ]
    undefined = [name for name in metrics["classes"] if not metrics["curves"][name]["roc"]["fpr"]]
    content = {"roc": [roc for roc, _ in pairs], "pr": [pr for _, pr in pairs], "undefined": undefined}
    return Section("curves", "ROC and PR curves", "evaluate", content)


def _curve_pair(metrics: Json, name: str) -> tuple[Chart, Chart]:
    curve, found = metrics["curves"][name], metrics["per_class"][name]
    roc = drawing.svg(drawing.roc_figure(curve["roc"]), f"ROC curve of {name}")
    pr = drawing.svg(
        drawing.pr_figure(curve["pr"], _prevalence(metrics, name)), f"Precision–recall curve of {name}"
    )
    return Chart(roc, name, value_of(found.get("auroc"))), Chart(pr, name, value_of(found.get("ap")))


def confusion(files: RunFiles) -> Section:
    """What was taken for what."""
    metrics = files.metrics
    if metrics is None:
        return Section("confusion", "Confusion", "evaluate", None)
    agreement = within(metrics, "agreement", "metrics") or {}
    content: dict[str, object] = {
        "agreement": [(AGREEMENT[name], value_of(value)) for name, value in agreement.items()],
        "order": within(metrics, "agreement", "order") if "kappa_linear" in agreement else None,
    }
    if metrics["task"] == "multilabel":
        return Section("confusion", "Confusion", "evaluate", content | {"findings": metrics["confusion"]})
    labels, counts = metrics["confusion"]["labels"], metrics["confusion"]["counts"]
    charts = [
        Chart(
            drawing.svg(drawing.confusion_figure(labels, counts, share=share), f"Confusion matrix: {title}"),
            title,
        )
        for share, title in ((False, "Cases"), (True, "Per cent of each true class"))
    ]
    return Section("confusion", "Confusion", "evaluate", content | {"charts": charts})
