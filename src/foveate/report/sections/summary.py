"""The head of the page: what was tested, the main figures, and what to be careful about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from foveate.evaluate.intervals import Value
from foveate.evaluate.localization.wording import main_measure
from foveate.evaluate.results.localization import Localization
from foveate.report.cautions import find_cautions
from foveate.report.files import RunFiles
from foveate.report.sections.localization import LOCALIZATION
from foveate.report.sections.one_minute import one_minute
from foveate.report.sections.provenance import date_in_words
from foveate.report.sections.results import chances, sample
from foveate.report.sections.section import within


@dataclass(frozen=True, slots=True)
class Tile:
    """One of the main figures.

    Attributes:
        name: of the figure.
        value: with its interval; None where its file is absent.
        chance: what guessing, or a random map, reaches.
        beside: what to compare it with.
        command: that makes it, if it is not there yet.
    """

    name: str
    value: Value | None
    chance: float | None
    beside: str
    command: str


def summary(files: RunFiles) -> dict[str, object]:
    """What the head of the page shows."""
    metrics, run = files.metrics, files.run
    name = run.name if run else within(files.study, "name")
    return {
        "name": str(name or files.folder.resolve().name),
        "test": files.test,
        "date": date_in_words(run.date) if run else "",
        "facts": list(_facts(files)),
        "sample": sample(metrics) if metrics else None,
        "tiles": list(_tiles(files)),
        "questions": one_minute(files),
        "cautions": find_cautions(files),
    }


def _facts(files: RunFiles) -> Iterator[tuple[str, str]]:
    metrics = files.metrics
    if metrics:
        kinds = {"multiclass": "one of {} classes per case", "multilabel": "{} findings, any number per case"}
        yield "Task", kinds[metrics.task].format(len(metrics.classes))
    if model := within(files.study, "model", "name"):
        pretrained = within(files.study, "model", "pretrained")
        yield "Model", f"{model}, {'pretrained' if pretrained else 'trained from scratch'}"
    if size := within(files.study, "preprocess", "size"):
        yield "Input", " × ".join(str(side) for side in size) + " pixels"
    if files.localization:
        yield "Heat maps", files.localization.explainer


def _tiles(files: RunFiles) -> Iterator[Tile]:
    metrics = files.metrics
    for key, name in {"auroc_macro": "AUROC, macro", "balanced_accuracy": "Balanced accuracy"}.items():
        value = metrics.metrics.figure(key) if metrics else None
        chance = chances(metrics)[key] if metrics else None
        yield Tile(name, value, chance, f"guessing: {chance:.2g}" if chance else "", "evaluate")
    if files.localization is None or files.localization.overall.methods:
        yield _pointing_tile(files.localization)


def _pointing_tile(localization: Localization | None) -> Tile:
    """The pointing game, or cells hit in volumes, beside what the controls and the grid's ceiling reach."""
    if localization is None:
        return Tile("Pointing game", None, None, "", "localize")
    methods = localization.overall.methods
    measure = main_measure(methods)
    values = {name: part.figure(measure) for name, part in methods.items()}
    nothing = Value(None, None, None, 0, 0, localization.reason or "nothing could be scored")
    words = {"random": "random map", "centre": "always the centre", "ceiling": "ceiling"}
    beside = [
        f"{word}: {found:.2f}"
        for key, word in words.items()
        if (found := (values.get(key) or nothing).value) is not None
    ]
    chance = (values.get("random") or nothing).value
    name = LOCALIZATION[measure][0]
    return Tile(name, values.get("heatmap") or nothing, chance, ", ".join(beside), "localize")
