"""Of an external test: how its cohort differs from the one that the model comes from, and how it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.metrics import SubgroupColumn
from foveate.evaluate.shift.wording import far
from foveate.report.files import Json, RunFiles, value_of
from foveate.report.sections.results import METRICS
from foveate.report.sections.section import Section
from foveate.report.sections.subgroups import column_of

_SHOWN = 12  # columns of a kind
_CALIBRATION = {"log_loss": "log loss", "ece": "calibration error (ECE)", "brier": "Brier score"}


@dataclass(frozen=True, slots=True)
class ColumnRow:
    """A column of metadata, or a fact about images, in both cohorts.

    Attributes:
        name: of the column.
        source, new: in words.
        figure: how far they are apart.
        meaning: of the figure, in a few words.
        p: corrected; None where it is undefined.
    """

    name: str
    source: str
    new: str
    figure: Value
    meaning: str
    p: float | None


def shift(files: RunFiles) -> Section | None:
    """Performance, labels, images, metadata and novelty beside those at home; None for a run of its own."""
    if files.test is None:
        return None
    found = files.shift
    if found is None:
        return Section("shift", "External test: how this cohort differs", "test", None)
    content = {
        "test": files.test,
        "level": f"{100 * found['level']:g} %",
        "source": found["source"],
        "new": found["new"],
        "sentences": [item["sentence"] for item in found["sentences"]],
        "performance": list(_performance(found["performance"])),
        "labels": list(_labels(found["labels"])),
        "kinds": [
            _kind("Images", found["images"]),
            _kind("Other columns of the manifests", found["metadata"]),
        ],
        "novelty": _novelty(found["novelty"]),
        "wrong": None if not found["by_shift"]["wrong"] else value_of(found["by_shift"]["wrong"]),
        "groups": [
            column_of(name, SubgroupColumn.model_validate(column))
            for name, column in found["by_shift"]["groups"].items()
        ],
        "by_class": ["AUROC", "Sensitivity"],
        "reasons": _reasons(found),
        "recalibration": _recalibration(found["recalibration"]),
        "unusable": files.test["unusable"],
    }
    return Section("shift", "External test: how this cohort differs", "test", content)


def _performance(found: Json) -> Iterator[Mapping[str, Any]]:
    """A row for each figure: here, at home, and the difference."""
    for key, own in found.get("metrics", {}).items():
        yield {
            "name": METRICS[key][0] if key in METRICS else key.replace("_", " "),
            "new": value_of(own["new"]),
            "source": value_of(own["source"]),
            "difference": value_of(own["difference"]),
            "p": own["p"],
            "reweighted": own.get("reweighted"),
        }


def _labels(found: Json) -> Iterator[Mapping[str, Any]]:
    for name, own in found.get("classes", {}).items():
        yield {
            "name": name,
            "source": own["source"],
            "new": own["new"],
            "difference": value_of(own["difference"]),
            "p": own["p_holm"],
        }


def _kind(title: str, found: Json) -> Mapping[str, Any]:
    """The columns of one kind, those that differ most first."""
    columns = found.get("columns", {})
    order = sorted(columns, key=lambda name: (columns[name]["p"] is None, -_far(columns[name])))
    together = found.get("together")
    return {
        "title": title,
        "reason": found.get("reason"),
        "rows": [_column(name, columns[name]) for name in order[:_SHOWN]],
        "more": max(0, len(order) - _SHOWN),
        "together": value_of(together["auroc"]) if together else None,
        "columns": together["columns"] if together else (),
        "left_out": _by_reason(found.get("left_out", {})),
    }


def _by_reason(left_out: Mapping[str, str]) -> list[str]:
    """Names with the reason that they share, said once."""
    names: dict[str, list[str]] = {}
    for name, why in left_out.items():
        names.setdefault(why, []).append(name)
    return [f"{', '.join(own)} ({why})" for why, own in names.items()]


def _far(own: Json) -> float:
    return 0.0 if own["p"] is None else far(own)


def _column(name: str, own: Json) -> ColumnRow:
    if own["kind"] == "number":
        source, new = (_spread(own[side]) for side in ("source", "new"))
        figure, meaning = value_of(own["larger"]), "chance of a larger one here"
    else:
        most = own["values"][own["most"]]
        source, new = (f"{own['most']}: {most[side]:.0%}" for side in ("source", "new"))
        figure, meaning = value_of(own["difference"]), f"difference of {own['most']}"
    return ColumnRow(name, source, new, figure, meaning, own["p_holm"])


def _spread(values: list[float] | None) -> str:
    """Median, and quartiles in brackets."""
    return "–" if values is None else f"{values[1]:.4g} ({values[0]:.4g} to {values[2]:.4g})"


def _novelty(found: Json) -> Mapping[str, Any] | None:
    if "larger" not in found:
        return None
    return {"larger": value_of(found["larger"]), "p": found["p"]} | {
        side: _spread(found[side]) for side in ("source", "new")
    }


def _reasons(found: Json) -> dict[str, str]:
    """Why a part of the comparison is not there."""
    parts = ("performance", "labels", "novelty")
    return {name: found[name]["reason"] for name in parts if found[name].get("reason")}


def _recalibration(found: Json | None) -> Mapping[str, Any] | None:
    if not found:
        return None
    rows = [
        {"name": name, **{form: value_of(found[key][form]) for form in ("came", "fitted", "change")}}
        for key, name in _CALIBRATION.items()
    ]
    return {"cases": found["cases"], "patients": found["patients"], "rows": rows}
