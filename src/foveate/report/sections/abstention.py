"""What is gained when the model may say that it does not know: prediction sets, leaving out, novelty."""

from __future__ import annotations

from foveate.report.figures import drawing
from foveate.report.figures.abstention import risk_coverage_figure
from foveate.report.files import Json, RunFiles, value_of
from foveate.report.sections.results import sample
from foveate.report.sections.section import Chart, Section, SectionRow, reasons, within

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
    found = within(files.metrics, "abstention")
    if files.metrics is None or found is None:
        return Section("abstention", "When to abstain", "evaluate", None)
    content = {
        "sets": _sets(found["sets"]),
        "novelty": _novelty(found["novelty"]),
        **_selective(found["selective"]),
        "multilabel": files.metrics["task"] == "multilabel",
        **sample(files.metrics),
    }
    return Section("abstention", "When to abstain", "evaluate", content)


def _sets(found: Json) -> dict[str, object]:
    if "metrics" not in found:
        return {"reason": found["reason"]}
    target = float(found["coverage"])
    rows = [
        SectionRow(key, name, meaning, value_of(found["metrics"][key]), target if "coverage" in key else None)
        for key, (name, meaning) in SETS.items()
        if key != "patient_coverage"
        or found["metrics"][key]["value"] != found["metrics"]["coverage"]["value"]
    ]
    by_class = [
        (name, value_of(part["coverage"]), value_of(part["size"]))
        for name, part in found["per_class"].items()
    ]
    limited = [(name, "coverage", coverage) for name, coverage, _ in by_class]
    return {
        "reason": found["reason"],
        "rows": rows,
        "size": value_of(found["metrics"]["size"]),
        "target": target,
        "rule": RULES[found["score"]],
        "cases": max(found["cases"]),
        "patients": max(found["patients"]),
        "by_class": by_class,
        "limited": reasons(limited, undefined=False),
        "undefined": reasons(limited, undefined=True),
    }


def _novelty(found: Json) -> dict[str, object]:
    if "metrics" not in found:
        return {"reason": found["reason"]}
    rows = [
        SectionRow(
            key,
            name,
            meaning,
            value_of(found["metrics"][key]),
            1 - found["familiar"] if key == "flagged" else None,
        )
        for key, (name, meaning) in FLAGS.items()
    ]
    return {
        "reason": found["reason"],
        "rows": rows,
        "threshold": found["threshold"],
        "within": found.get("within"),
        "familiar": found["familiar"],
    }


def _selective(found: Json) -> dict[str, object]:
    known = {name: found[name] for name in ORDERS if "metrics" in found[name]}
    error = value_of(known["confidence"]["metrics"]["error"])
    chart = risk_coverage_figure({name: order["curve"] for name, order in known.items()}, error.value)
    return {
        "chart": Chart(drawing.svg(chart, "Share of wrong answers over the share of answers that is kept")),
        "columns": ["AURC", *KEPT.values()],
        "orders": [
            (name, ORDERS[name], [value_of(order["metrics"][key]) for key in ("aurc", *KEPT)])
            for name, order in known.items()
        ],
        "lacking": [found[name]["reason"] for name in ORDERS if name not in known],
    }
