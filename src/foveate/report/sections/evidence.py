"""Single cases: where the model looked in those that it was surest of, right and wrong."""

from __future__ import annotations

from foveate.report.files import RunFiles
from foveate.report.pictures.cases import SheetMaker
from foveate.report.pictures.overlays import Legend, gradient
from foveate.report.sections.section import Section
from foveate.study.methods import caveat


def cases(files: RunFiles) -> Section:
    """Sheets of the surest right and wrong answers."""
    metrics, table = files.metrics, files.predictions
    title = "Cases"
    if files.heatmaps is None or table is None:
        return Section("cases", title, "explain" if table is not None else "predict", None)
    part = table.part(metrics.split if metrics else "test")
    if not part.case_ids:
        return Section("cases", title, "predict", None)
    sheets = SheetMaker(files, part, part.decisions(metrics.thresholds if metrics else {})).sheets()
    explained = {entry.case_id for entry in files.heatmaps} & set(part.case_ids)
    explainers = sorted({entry.explainer for entry in files.heatmaps})
    content = {
        "sheets": sheets,
        "explainers": explainers,
        "caveats": {name: text for name in explainers if (text := caveat(name))},
        "bar": gradient(Legend(-1.0, 1.0, -1.0, 1.0, empty=False)),
        "boxes": files.boxes is not None,
        "explained": len(explained),
        "n": len(part.case_ids),
        "left_out": part.classes[len(sheets) :],
    }
    return Section("cases", title, "explain", content)
