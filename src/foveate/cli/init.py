"""``foveate init``: a study for a manifest, and what the manifest was taken for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from foveate.contract import Classifier, InputSpec
    from foveate.study.study import Study
    from foveate.types import Cohort

_SHOWN = 12  # classes, or columns of metadata, that are named


def init(
    manifest: Annotated[Path, typer.Argument(help="CSV that lists the cases.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Study to write.")] = Path("study.yaml"),
    patient: Annotated[
        str, typer.Option(help="Column that says which cases belong together.")
    ] = "patient_id",
    case: Annotated[str, typer.Option(help="Column that names the cases.")] = "case_id",
    label: Annotated[str | None, typer.Option(help="Column of the class (multi-class).")] = None,
    finding: Annotated[
        list[str] | None, typer.Option(help="0/1 column of a finding (multi-label); repeatable.")
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Name of a class, in the order of the scores; repeatable."),
    ] = None,
    view: Annotated[list[str] | None, typer.Option(help="Column of an image path; repeatable.")] = None,
    boxes: Annotated[Path | None, typer.Option(help="CSV of true bounding boxes.")] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(help="Word for a truth that is not known, beside NA and the like; repeatable."),
    ] = None,
    uncertain: Annotated[
        Literal["unknown", "positive", "negative"], typer.Option(help="What -1 or u says of a finding.")
    ] = "unknown",
    unlabelled: Annotated[
        Literal["refused", "left-out"], typer.Option(help="What becomes of cases without a label.")
    ] = "refused",
    one_hot: Annotated[
        bool, typer.Option("--one-hot", help="Columns of 0 and 1 exclude each other: they are one label.")
    ] = False,
    separator: Annotated[
        str | None, typer.Option(help="Between several findings in the label's column, such as '|'.")
    ] = None,
    ids: Annotated[
        Literal["checked", "normalised", "as-written"],
        typer.Option(help="Names like 017 and 17, P1 and p1: refused, one, or two."),
    ] = "checked",
    model: Annotated[
        str | None,
        typer.Option(
            help="A name from `foveate models`, or timm:<name> \\[default: a small residual network for what "
            "there is, pictures or volumes, one or several]."
        ),
    ] = None,
) -> None:
    """Write a study file for a manifest, after checking every row, and say what it was taken for.

    Example: foveate init labels.csv --patient slide_image -o study.yaml
    """
    from foveate.cli import terminal
    from foveate.data.manifest.manifest import load_manifest
    from foveate.study.settings import TableRules
    from foveate.study.starting import network_for
    from foveate.study.study import DataConfig, Study
    from foveate.study.yaml_file import validated

    given = {
        "manifest": manifest.resolve(),
        "label": label,
        "findings": finding,
        "classes": classes,
        "views": view,
        "boxes": boxes.resolve() if boxes else None,
        "patient": patient,
        "case": case,
        "missing": missing,
        "uncertain": uncertain,
        "unlabelled": unlabelled,
        "one_hot": one_hot,
        "separator": separator,
        "ids": ids,
    }
    rules = TableRules().model_dump()
    given = {key: value for key, value in given.items() if value is not None and value != rules.get(key)}
    data = validated(DataConfig, given, Path.cwd(), "foveate init", "study")
    cohort = load_manifest(
        manifest, label=label, findings=finding, classes=classes, views=view, boxes=boxes, patient=patient,
        case=case, rules=data,
    )  # fmt: skip
    study = Study.for_cohort(cohort, name=out.stem, data=given, model=model or network_for(cohort))
    note = ""
    if study.preprocess.volumes or len(cohort.view_names) > 1:
        study, note = _fitted(study, cohort)
    study.write(out)
    show_taken(cohort)
    chosen = f"{' × '.join(map(str, study.preprocess.size))}, {study.train.epochs} epochs"
    terminal.say(f"model: {study.model.name}, size {chosen}, batches of {study.train.batch_size}{note}")
    terminal.say(f"study: {out}   next: foveate run {out}")


def _fitted(study: Study, cohort: Cohort) -> tuple[Study, str]:
    """The study with batches that find room in memory, and a note on that; a network that fits is built.

    Raises:
        UsageError: the network does not take what there is.
    """
    from foveate.errors import UsageError
    from foveate.evaluate.sample import counted
    from foveate.models import build_model
    from foveate.prepare.preprocess import Preprocess
    from foveate.study.starting import network_for
    from foveate.train.tuning.memory import step_memory

    spec = Preprocess(study.preprocess).input_spec(cohort.view_names)

    def build(spec: InputSpec) -> Classifier:
        return build_model(study.model.name, len(cohort.classes), spec)

    try:
        build(spec)
    except UsageError as error:
        kind = "volume" if study.preprocess.volumes else "picture"
        raise UsageError(
            f"{error.what}; a case of this manifest is {counted(len(spec.views), kind)}",
            where=f"--model {study.model.name}",
            fix=f"leave out --model for {network_for(cohort)}, choose views (--view), or give a column slice",
        ) from error
    memory = step_memory(build, spec)
    batch = memory.largest(study.train.batch_size)
    train = study.train.model_copy(update={"batch_size": batch})
    free = "" if memory.free is None else f" of {memory.free / 1e9:.1f} GB free here"
    return study.model_copy(update={"train": train}), f" (about {memory.of(batch) / 1e9:.1f} GB{free})"


def show_taken(cohort: Cohort) -> None:
    """Print what a manifest was taken for."""
    from foveate.cli import terminal
    from foveate.evaluate.sample import are_known, cases_in_words

    ids = [item.case_id for item in cohort.cases], [item.patient_id for item in cohort.cases]
    sample = cases_in_words(len(cohort.cases), len(set(ids[1])), are_known(*ids))
    terminal.say(f"{sample}, {len(cohort.classes)} classes, {cohort.task}")
    for sentence in _columns(cohort):
        terminal.say(sentence)
    for name, reason in cohort.reading.aside.items():
        terminal.say(f"note: '{name}' is taken for no finding: it {reason}")
    for note in cohort.reading.notes:
        terminal.say(f"note: {note}")


def _columns(cohort: Cohort) -> Iterator[str]:
    """The part of each column, a line each."""
    reading = cohort.reading
    yield f"case: {reading.case or 'named after its image'}"
    yield f"patient: {reading.patient or 'every case is one'}"
    if cohort.task == "multiclass":
        counts = Counter(case.label for case in cohort.cases)
        named = [f"{name} {counts[name]:,}" for name in cohort.classes]
        yield f"label: {reading.label}: {_few(named)}" + f"; unknown {counts[None]:,}" * (None in counts)
    else:
        yield "findings (present / absent / unknown):"
        for name in cohort.classes:
            yield f"  {_counted(name, [case.findings for case in cohort.cases])}"
    views = [
        f"{name} {' × '.join(map(str, reversed(size)))}" if (size := reading.sizes.get(name)) else name
        for name in cohort.view_names
    ]
    lacking = {name: sum(name not in case.views for case in cohort.cases) for name in cohort.view_names}
    yield f"views (median size): {_few(views)}" + "".join(
        f"; {name} is missing in {count:,}" for name, count in lacking.items() if count
    )
    if reading.known:
        yield f"also used: {', '.join(reading.known)}"
    if reading.metadata:
        yield f"metadata, not learned from: {_few(reading.metadata)}"


def _counted(name: str, findings: list[Mapping[str, int | None]]) -> str:
    counts = Counter(each.get(name) for each in findings)
    return f"{name} {counts[1]:,} / {counts[0]:,} / {counts[None]:,}"


def _few(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more
