"""What acting on the answers is worth: decision curves, and predictive values at a stated prevalence."""

from __future__ import annotations

from collections.abc import Sequence

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.probabilities import DecisionCurve
from foveate.report.figures import drawing
from foveate.report.figures.statistics import decision_figure
from foveate.report.files import RunFiles
from foveate.report.sections.section import Chart, Section, reasons

TITLE = "Decisions"


def decisions(files: RunFiles) -> Section | None:
    """Net benefit of each class, and predictive values at a stated prevalence.

    None where ``metrics.json`` is of a version that did not tell them.
    """
    if files.metrics is None:
        return Section("decisions", TITLE, "evaluate", None)
    found = files.metrics.decision_curves
    if not found:
        return None
    drawn = {name: row for name, row in found.per_class.items() if None not in row.model}
    content = {
        "probabilities": found.probabilities,
        "charts": [_chart(name, row, found.thresholds) for name, row in drawn.items()],
        "at": list(next(iter(drawn.values())).at) if drawn else [],
        "gains": [(name, [gain for _, gain in _gains(row)]) for name, row in drawn.items()],
        "limited": reasons(
            ((name, at, gain) for name, row in drawn.items() for at, gain in _gains(row)), undefined=False
        ),
        "unknown": [name for name in found.per_class if name not in drawn],
        "elsewhere": [
            (name, row.prevalence, row.observed, row.ppv, row.npv)
            for name, row in files.metrics.at_prevalence.items()
        ],
        "level": f"{100 * files.metrics.bootstrap.level:g}\N{NO-BREAK SPACE}%",
    }
    return Section("decisions", TITLE, "evaluate", content)


def _gains(row: DecisionCurve) -> list[tuple[str, Value]]:
    return [(f"from {t}", found.gain) for t, found in row.at.items()]


def _chart(name: str, row: DecisionCurve, thresholds: Sequence[float]) -> Chart:
    at = {float(t): found.model for t, found in row.at.items()}
    model, treat_all = ([value for value in line if value is not None] for line in (row.model, row.treat_all))
    drawn = decision_figure(thresholds, model, treat_all, at)
    return Chart(drawing.svg(drawn, f"Decision curve of {name}"), name)
