"""Whether probabilities mean what they say, raw and calibrated, and what each operating point reaches."""

from __future__ import annotations

from collections.abc import Iterator

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.probabilities import CalibrationFigures, RawCalibration
from foveate.report.figures import drawing
from foveate.report.figures.calibration import calibration_figure, class_figure
from foveate.report.files import RunFiles
from foveate.report.sections.section import Chart, Section, reasons, within

FIGURES = {
    "ece": "Expected calibration error (ECE)",
    "ece_equal_mass": "ECE, bins of equal mass",
    "ece_classwise": "ECE, mean over the classes",
    "brier": "Brier score",
    "reliability": "of it, reliability",
    "resolution": "of it, resolution",
    "uncertainty": "of it, uncertainty",
    "log_loss": "Log loss",
}
PER_CLASS = {"ece": "ECE", "brier": "Brier score", "excess": "Excess"}
METHODS = {
    "temperature": "Temperature scaling",
    "platt": "Platt’s method",
    "isotonic": "Isotonic regression",
    "none": "None was asked for",
}
RULES = {
    "youden": "highest sensitivity + specificity",
    "f1": "highest F1",
    "sensitivity": "a sensitivity of {}",
    "specificity": "a specificity of {}",
}
POINTS = {"sensitivity": "Sensitivity", "specificity": "Specificity", "ppv": "PPV", "npv": "NPV"}


def calibration(files: RunFiles) -> Section:
    """Reliability curves and calibration figures, raw and calibrated side by side."""
    if files.metrics is None:
        return Section("calibration", "Calibration", "evaluate", None)
    raw = files.metrics.calibration
    forms: dict[str, CalibrationFigures] = {"Raw": raw}
    if raw.calibrated:
        forms["Calibrated"] = raw.calibrated
    content = {
        "charts": [
            Chart(drawing.svg(calibration_figure(found.bins), f"Calibration curve: {name}"), name)
            for name, found in forms.items()
        ],
        "rows": _rows(raw),
        "bins": [part for part in raw.bins if part.n],
        "multilabel": files.metrics.task == "multilabel",
        "calibrated": raw.calibrated is not None,
        "fitted": _fitted(files),
        "classes": [_of_class(name, forms) for name in raw.per_class],
        "columns": PER_CLASS,
        "limited": reasons(_class_values(forms), undefined=False),
    }
    return Section("calibration", "Calibration", "evaluate", content)


def operating_points(files: RunFiles) -> Section | None:
    """What thresholds from validation cases reach; left out of runs that were evaluated without them."""
    metrics = files.metrics
    if metrics is None:
        return Section("operating-points", "Operating points", "evaluate", None)
    found = metrics.operating_points
    if not found:
        return None
    rows = [
        {
            "name": name,
            "threshold": point.chosen.threshold,
            "reached": [point.chosen.sensitivity, point.chosen.specificity],
            "values": [point.figure(key) for key in POINTS],
        }
        for name, point in found.items()
    ]
    chosen = next(iter(found.values())).chosen
    values = (
        (name, words, point.figure(key)) for name, point in found.items() for key, words in POINTS.items()
    )
    noted = [f"{name}: {point.chosen.reason}" for name, point in found.items() if point.chosen.reason]
    content = {
        "rows": rows,
        "columns": list(POINTS.values()),
        "rule": RULES[chosen.rule].format(f"{chosen.target or 0:g}"),
        "decides": metrics.task == "multilabel",
        "absent": [name for name in metrics.classes if name not in found],
        "limited": [*noted, *reasons(values, undefined=False)],
    }
    return Section("operating-points", "Operating points", "evaluate", content)


def _rows(raw: RawCalibration) -> list[tuple[str, str, Value, Value | None, Value | None]]:
    """Each figure: key, name, raw, calibrated, and the paired change where there is one."""
    found = raw.named()
    calibrated = raw.calibrated.named() if raw.calibrated else {}
    changes = raw.calibrated.change.named() if raw.calibrated else {}
    return [
        (key, name, found[key], calibrated.get(key), changes.get(key))
        for key, name in FIGURES.items()
        if key in found
    ]


def _of_class(name: str, forms: dict[str, CalibrationFigures]) -> dict[str, object]:
    """Curve and figures of one class against the rest."""
    found = [form.per_class[name] for form in forms.values()]
    curve = class_figure(found[0].bins, found[1].bins if len(found) > 1 else None)
    return {
        "name": name,
        "chart": Chart(drawing.svg(curve, f"Calibration curve of {name}"), name),
        "pairs": [[part.figure(key) for part in found] for key in PER_CLASS],
    }


def _class_values(forms: dict[str, CalibrationFigures]) -> Iterator[tuple[str, str, Value]]:
    for form, found in forms.items():
        for name, part in found.per_class.items():
            for key, words in PER_CLASS.items():
                yield name, f"{words} ({form.lower()})", part.figure(key)


def _fitted(files: RunFiles) -> dict[str, object] | None:
    """How the calibration in the bundle was fitted, and what was not and why; None where nobody says."""
    found = within(files.bundle, "calibration")
    if not found:
        return None
    fits = found["fits"]
    names = (files.bundle or {}).get("classes") or [] if fits else []
    if len(fits) == 1 and found["task"] == "multiclass":
        names = ["all classes"]
    done = [fit for fit in fits if fit["parameters"]]
    shared = len(names) == 1 and found["method"] == "temperature" and done
    together = found["task"] == "multiclass" and found["method"] != "none"
    check = (fits[0].get("check") or {}) if together else {}
    advice = "calibrated" if done and len(done) == len(fits) else "some" if done else "raw"
    return {
        "method": METHODS[found["method"]],
        "temperature": done[0]["parameters"]["temperature"] if shared else None,
        "cases": max((fit["cases"] for fit in fits), default=0),
        "advice": "raw" if together and advice == "some" else advice,
        "tried": any(fit.get("check") for fit in fits),
        "share": done[0].get("share", 1.0) if check and done else None,
        "gain": check["raw"] - check["kept"] if check and done else None,
        "error": check.get("error"),
        "patients": check.get("patients"),
        "count": len(done),
        "of": len(fits),
        "lacking": [
            f"{name}: {fit['reason']}" for name, fit in zip(names, fits, strict=True) if fit["reason"]
        ],
    }
