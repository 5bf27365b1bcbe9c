"""What is gained when the model may say that it does not know: prediction sets, leaving out, novelty."""

from __future__ import annotations

from foveate.evaluate.results.parts import Unmade
from foveate.evaluate.results.probabilities import NoveltyFlags, PredictionSets, SelectiveOrders
from foveate.report.figures import drawing
from foveate.report.figures.abstention import risk_coverage_figure
from foveate.report.files import RunFiles
from foveate.report.sections.results import sample
from foveate.report.sections.section import Chart, Section, SectionRow, reasons

SETS = {
    "coverage": ("Coverage", "share of sets that hold the truth"),
    "patient_coverage": ("Coverage, patients alike", "the same, each patient counting the same"),
    "one": ("One answer", "share of sets that decide"),
    "one_right": ("Right where decided", "share of the sets with one answer that hold the truth"),
    "none": ("No answer", "share of empty sets: nothing fits"),
}
FLAGS = {
    "flagged": ("Flagged as novel", "share of the cases of this part"),
    "accuracy_novel": ("Accuracy, flagged", "of the answers on flagged cases, the share that is right"),
    "accuracy_familiar": ("Accuracy, others", "of the answers on the other cases, the share that is right"),
}
ORDERS = {"confidence": "least sure first", "novelty": "most novel first"}
KEPT = {
    "error": "Wrong, all kept",
    "accuracy_at_90": "Accuracy, 90\N{NO-BREAK SPACE}% kept",
    "accuracy_at_80": "Accuracy, 80\N{NO-BREAK SPACE}% kept",
}
RULES = {"lac": "least ambiguous sets (LAC)", "aps": "adaptive sets (APS)"}


def abstention(files: RunFiles) -> Section:
    """Sets, risk and coverage, novelty."""
    if files.metrics is None or (found := files.metrics.abstention) is None:
        return Section("abstention", "When to abstain", "evaluate", None)
    content = {
        "sets": _sets(found.sets),
        "novelty": _novelty(found.novelty),
        **_selective(found.selective),
        "multilabel": files.metrics.task == "multilabel",
        **sample(files.metrics),
    }
    return Section("abstention", "When to abstain", "evaluate", content)


def _sets(found: PredictionSets | Unmade) -> dict[str, object]:
    if isinstance(found, Unmade):
        return {"reason": found.reason}
    figures, target = found.metrics, found.coverage
    rows = [
        SectionRow(key, name, meaning, figures.figure(key), target if "coverage" in key else None)
        for key, (name, meaning) in SETS.items()
        if key != "patient_coverage" or figures.patient_coverage.value != figures.coverage.value
    ]
    by_class = [(name, part.coverage, part.size) for name, part in found.per_class.items()]
    limited = [(name, "coverage", coverage) for name, coverage, _ in by_class]
    return {
        "reason": found.reason,
        "rows": rows,
        "size": figures.size,
        "target": target,
        "rule": RULES[found.score],
        "cases": max(found.cases),
        "patients": max(found.patients),
        "by_class": by_class,
        "limited": reasons(limited, undefined=False),
        "undefined": reasons(limited, undefined=True),
    }


def _novelty(found: NoveltyFlags | Unmade) -> dict[str, object]:
    if isinstance(found, Unmade):
        return {"reason": found.reason}
    rows = [
        SectionRow(
            key,
            name,
            meaning,
            found.metrics.figure(key),
            1 - found.familiar if key == "flagged" else None,
        )
        for key, (name, meaning) in FLAGS.items()
    ]
    return {
        "reason": found.reason,
        "rows": rows,
        "threshold": found.threshold,
        "within": found.within,
        "familiar": found.familiar,
    }


def _selective(found: SelectiveOrders) -> dict[str, object]:
    orders = {"confidence": found.confidence, "novelty": found.novelty}
    known = {name: order for name, order in orders.items() if not isinstance(order, Unmade)}
    error = next(iter(known.values())).metrics.error
    chart = risk_coverage_figure({name: order.curve for name, order in known.items()}, error.value)
    return {
        "chart": Chart(drawing.svg(chart, "Share of wrong answers over the share of answers that is kept")),
        "columns": ["AURC", *KEPT.values()],
        "orders": [
            (name, ORDERS[name], [order.metrics.figure(key) for key in ("aurc", *KEPT)])
            for name, order in known.items()
        ],
        "lacking": [order.reason for order in orders.values() if isinstance(order, Unmade)],
    }
