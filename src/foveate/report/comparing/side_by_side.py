"""Several runs side by side on one page, from what each of them has found out already.

Nothing is tested and nothing is refused: runs of other cases may stand here, and the page says so. Whether
two runs differ is for ``foveate compare`` to say, which pairs them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from foveate import __version__
from foveate.evaluate.comparing.paired import LOCATED
from foveate.evaluate.intervals import Bootstrap, Value
from foveate.evaluate.results.comparison import ComparedClass, SeedFigure
from foveate.evaluate.results.parts import ABSENT, Figures
from foveate.evaluate.results.trust import TrustCard
from foveate.files import write_atomic
from foveate.report.build import environment
from foveate.report.cautions import in_words, of_runs
from foveate.report.class_tables import ClassComparison, class_tables
from foveate.report.comparing.comparison_tables import COLUMNS
from foveate.report.comparing.tables import ComparisonTable, figure
from foveate.report.figures.comparison import variants_figure
from foveate.report.figures.drawing import svg
from foveate.report.files import RunFiles
from foveate.report.pictures.case_sheets import case_sheets
from foveate.report.published import published_by_class
from foveate.report.sections.section import Chart

_CALIBRATION = {"ece": "ECE", "brier": "Brier score", "log_loss": "Log loss"}
_LOCALIZATION = {
    "cell_hit": "Cell hit",
    "plane_pointing": "Pointing in the plane",
    "plane_iou": "Box IoU in the plane",
    "depth_error": "Depth error, slices",
    "pointing_game": "Pointing game",
    "iou": "Box IoU",
    "iobb": "Box IoBB",
    "energy_inside": "Energy inside",
}
_MAIN = "auroc_macro"
Runs = Mapping[str, RunFiles]


def write_side_by_side(folders: Mapping[str, Path], out: Path) -> Path:
    """Write one page on several runs.

    Args:
        folders: of the runs, by the names that they shall have.
        out: the page to write.

    Returns:
        Path of the page.

    Raises:
        UsageError: a folder holds no file of a run.
        InputRefused: a file of a run is damaged.
    """
    runs = {label: RunFiles.read(folder) for label, folder in folders.items()}
    page = environment().get_template("comparison.html.j2")
    write_atomic(
        out,
        page.render(
            version=__version__,
            name=" · ".join(runs),
            lead=f"{len(runs)} runs side by side, each as its own files tell. Whether they differ is for a "
            "paired comparison to say: foveate compare, with the same folders.",
            sentences=[],
            care=in_words(of_runs(runs), len(runs)),
            cautions=_cautions(runs),
            charts=list(_charts(runs)),
            forests=[],
            tables=[
                table for table in (*_figures(runs), *_by_class(runs), *evidence_tables(runs)) if table.rows
            ],
            cases=case_sheets(folders, next(iter(folders))),
            facts=[(label, _beside(run.folder / "report.html", out), "") for label, run in runs.items()],
        ),
    )
    return out


def evidence_tables(runs: Runs) -> list[ComparisonTable]:
    """What the runs' heat maps are worth, and which shortcuts their models take; without a row if unknown."""
    return [_trust(runs), _shortcuts(runs)]


def _figures(runs: Runs) -> Iterator[ComparisonTable]:
    """Main figures, calibration and localization of every run."""
    note = "Of the test part of each run, with the interval that it states, over patients."
    overall = {label: run.metrics.metrics if run.metrics else None for label, run in runs.items()}
    yield _values("Figures", note, overall, COLUMNS)
    note = "Whether probabilities mean what they say: lower is better."
    raw = {label: run.metrics.calibration if run.metrics else None for label, run in runs.items()}
    yield _values("Calibration", note, raw, _CALIBRATION)
    note = "The same of the probabilities after calibration on validation cases."
    calibrated = {label: found.calibrated if found else None for label, found in raw.items()}
    yield _values("Calibrated probabilities", note, calibrated, _CALIBRATION)
    note = "Heat maps against true masks or boxes. Its controls stand in each run's own report."
    maps = {
        label: run.localization.overall.methods.get("heatmap") if run.localization else None
        for label, run in runs.items()
    }
    named = {label: own.named() if own else None for label, own in maps.items()}
    yield _values("Localization", note, named, _LOCALIZATION)


def _by_class(runs: Runs) -> Iterator[ComparisonTable]:
    """Figures of single classes, where all evaluated runs have the same classes."""
    evaluated = {label: run for label, run in runs.items() if run.metrics}
    kinds = {(run.metrics.classes, run.metrics.task) for run in evaluated.values() if run.metrics}
    if len(kinds) != 1:
        return
    (kind,) = kinds
    classes = {label: _of_classes(run) for label, run in evaluated.items()}
    level = _level(next(iter(evaluated.values())))
    yield from class_tables(ClassComparison(kind[1], classes, published_by_class(*kind), level))


def _of_classes(run: RunFiles) -> dict[str, ComparedClass]:
    """Recall and AUROC as the run states them, and how its heat maps point."""
    stated = run.metrics.per_class if run.metrics else {}
    maps = run.localization.comparable if run.localization else {}
    unknown = dict.fromkeys(LOCATED, _dot(ABSENT))
    return {
        name: ComparedClass.of(
            own.n,
            {
                **(maps[name].figures if name in maps else unknown),
                "recall": _dot(own.recall),
                "auroc": _dot(own.auroc),
            },
        )
        for name, own in stated.items()
    }


def _level(run: RunFiles) -> float:
    """Of the intervals that a run states."""
    return run.metrics.bootstrap.level if run.metrics else Bootstrap().level


def _values(
    title: str, note: str, found: Mapping[str, Figures | Mapping[str, Value] | None], names: Mapping[str, str]
) -> ComparisonTable:
    """One row a run, one column a figure that any of them has."""
    values = {label: own.named() if isinstance(own, Figures) else own or {} for label, own in found.items()}
    shown = [
        name for name in names if any(own.get(name, ABSENT).value is not None for own in values.values())
    ]
    rows = [
        (label, *(figure(own[name]) if name in own else "–" for name in shown))
        for label, own in values.items()
    ]
    return ComparisonTable(
        title, note, ("Run", *(names[name] for name in shown)), tuple(rows) if shown else ()
    )


def _trust(runs: Runs) -> ComparisonTable:
    """The verdict on every method of every run."""
    verdicts = {label: _verdicts(run.trust) for label, run in runs.items()}
    methods = list(dict.fromkeys(method for found in verdicts.values() for method in found))
    rows = [
        (label, *(found.get(method, "not tested") for method in methods))
        for label, found in verdicts.items()
        if found
    ]
    note = "What each method's heat maps are usable for, by the rule of the trust card."
    return ComparisonTable("Trust in heat maps", note, ("Run", *methods), tuple(rows))


def _verdicts(trust: TrustCard | None) -> dict[str, str]:
    """By method, the verdict's sentence."""
    return {name: found.sentence for name, found in trust.verdicts.items()} if trust else {}


def _shortcuts(runs: Runs) -> ComparisonTable:
    """What the probes named in every run that was probed."""
    rows = []
    for label, run in runs.items():
        if run.probes is not None:
            named = [found.sentence for found in run.probes.shortcuts]
            rows.append((label, "; ".join(named) or "none found"))
    note = "What foveate probe found that decides although it should not. None found is not none there."
    return ComparisonTable("Shortcuts", note, ("Run", "Found"), tuple(rows))


def _charts(runs: Runs) -> Iterator[Chart]:
    """The main figure of every run that has it, with its interval."""
    found = {label: run.metrics.metrics.auroc_macro for label, run in runs.items() if run.metrics}
    dots = {label: _dot(value) for label, value in found.items() if value.value is not None}
    if dots:
        text = f"{COLUMNS[_MAIN]} of every run"
        yield Chart(
            svg(variants_figure(dots, COLUMNS[_MAIN]), text), f"{text}, with its interval over patients."
        )


def _dot(value: Value) -> SeedFigure:
    """A figure of one training alone."""
    return SeedFigure(**asdict(value))


def _cautions(runs: Runs) -> list[str]:
    """Whether the figures are of the same cases, and which runs lack some."""
    texts = []
    tested = {
        label: frozenset(run.predictions.part("test").case_ids)
        for label, run in runs.items()
        if run.predictions is not None
    }
    if len(set(tested.values())) > 1:
        counts = ", ".join(f"{label} {len(cases)}" for label, cases in tested.items())
        texts.append(f"these runs were not tested on the same cases ({counts}): figures are not comparable")
    texts += [f"{label} has not been evaluated" for label, run in runs.items() if run.metrics is None]
    return texts


def _beside(page: Path, out: Path) -> str:
    """Where the run's own report is, seen from this page."""
    return Path(os.path.relpath(page, out.parent)).as_posix() if page.is_file() else "no report yet"
