"""``foveate predict MODEL IMAGE…``: single images through any engine, without torch where it needs none."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from foveate.cli.terminal import console, new_table, say
from foveate.errors import InputRefused, Partial, UsageError
from foveate.evaluate.results.cautions import Cautions
from foveate.evaluate.sample import counted
from foveate.evaluate.table import DEFAULT_THRESHOLD
from foveate.io import codes

if TYPE_CHECKING:
    from foveate.deploy.engines.facts import Facts
    from foveate.deploy.engines.single import FileAnswer
    from foveate.evaluate.results.operating_point import OperatingPoint
    from foveate.types import Heatmap, Prediction


def predict_single(
    target: Path,
    images: Sequence[Path],
    views: Sequence[str],
    *,
    engine: str,
    maps: Path | None,
    out: Path | None,
) -> None:
    """Classify images, or one case of several views, print what is found and write it.

    Args:
        target: a run, a bundle, or an exported file.
        images: one file each; or
        views: each ``name=path`` of one case.
        engine: that runs it.
        maps: folder for the map of each image's most probable class; None leaves them out.
        out: CSV for the answers, as ``foveate.evaluate.table`` describes it; None leaves it out.

    Raises:
        InputRefused: no file could be used.
        Partial: some could not; the others are answered.
    """
    if out is not None and out.suffix != ".csv":
        raise UsageError(f"'{out}' is no CSV", where="--out", fix="call it OUT.csv")
    from foveate.deploy.engines.files import image_cases, views_case
    from foveate.deploy.engines.opening import open_engine
    from foveate.deploy.engines.single import answer_files
    from foveate.evaluate.table import write_predictions
    from foveate.prepare.orientation import in_words

    with _no_search_for_garbage():
        opened = open_engine(target, engine)
    facts, refused = opened.facts, list[InputRefused]()
    cases = [views_case(facts, views)] if views else image_cases(facts, images)
    found = []
    for answer in answer_files(opened, cases, refused, maps=maps is not None):
        show_answer(facts, opened.operating_points, answer)
        if maps is not None:
            _write(maps, answer.heatmaps)
        found.append(answer.prediction)
    if found and (brought := in_words(facts.preprocess.orientation, facts.preprocess.spacing)):
        say(f"note: {brought[0].lower()}{brought[1:]}")
    show_known_cautions(target, facts)
    if out is not None and found:
        write_predictions(
            out, facts.task, facts.classes, found, thresholds=facts.thresholds, further=facts.further
        )
        say(f"{len(found)} predictions: {out}")
    _complain(refused, len(found))


@contextmanager
def _no_search_for_garbage() -> Iterator[None]:
    """What imports make is there to stay: to look through it for garbage is a tenth of the start."""
    searched = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searched:
            gc.enable()


def _complain(refused: Sequence[InputRefused], answered: int) -> None:
    """End with the files that could not be used, if there are any."""
    if len(refused) == 1 and not answered:
        raise refused[0]
    if refused:
        listing = "\n".join(f"  - [{error.code}] {error.where}: {error.what}" for error in refused)
        if not answered:
            raise InputRefused(f"none of these files can be used:\n{listing}", fix=refused[0].fix)
        fix = "correct these files, and predict them alone"
        raise Partial(f"predicted {answered} of {answered + len(refused)} images:\n{listing}", fix=fix)


def _write(folder: Path, heatmaps: Sequence[Heatmap]) -> None:
    """One ``CASE.VIEW.CLASS.npy`` each: float32, raw and signed, in the pixels of the original image."""
    import numpy as np

    from foveate.files import replacing

    if not heatmaps:
        raise UsageError("this model has no maps of its classes", fix="leave out --maps")
    for item in heatmaps:
        name = "_".join(f"{item.case_id}.{item.view}.{item.target}".replace("/", "_").split())
        path = folder / f"{name}.npy"
        with replacing(path) as temporary:
            np.save(temporary, item.values)
        say(f"map: {path}")


_MOST_CAUTIONS = 3
DOUBTS: Mapping[str, str] = {
    "novel": "unlike the training images",
    "unlike-views": "it has fewer views than any training case",
    "unlike-colour": "grey where all training images are coloured, or coloured where they are grey",
    "unlike-kind": "a volume where all training images are pictures, or the other way round",
    "unlike-encoding": "its values have another depth or unit than those of all training images",
    "unlike-size": "far larger, smaller, higher or wider than all training images",
    "unlike-values": "its values lie far outside those of the training images",
    "unlike-look": "brightness, colour, texture or layout unlike those of the training images",
    "set-empty": "no class fits",
    "set-large": "several classes fit",
}


def show_answer(facts: Facts, points: Mapping[str, OperatingPoint], answer: FileAnswer) -> None:
    """Print a block for one image: every class with its probability, the answer, its set, and doubts.

    Args:
        facts: of the model.
        points: operating points, as far as they are known.
        answer: to the image.
    """
    item = answer.prediction
    _show_table(facts.classes, item)
    for sentence in in_words(facts, points, item):
        say(sentence)
    if item.answer_set is not None:
        say(f"set: {', '.join(map(_set_in_words, item.answer_set)) or 'empty'}")
    for code in item.noticed:
        say(f"noticed: {codes.in_words(code)} ({code})")
    doubts = [DOUBTS[name] for name in item.abstain]
    if answer.learned:
        doubts.append(f"the model learned from {answer.learned}, so this is no test of it")
    for doubt in doubts:
        say(f"beware: {doubt}")


def show_known_cautions(source: Path, facts: Facts | None = None) -> None:
    """Print the worst of what is known of a model, as its run, its bundle or its exported file tells.

    No case and no patient is named.

    Args:
        source: a run folder, a bundle, or an exported file.
        facts: of an exported file.
    """
    if source.is_dir():
        found = Cautions.read(source)
    else:
        found = Cautions.from_json(facts.cautions) if facts and facts.cautions else None
    if found is None or not found.items:
        return
    found = found.for_others()
    say(f"read with care, of this model ({counted(len(found.items), 'caution')}, the worst first):")
    for item in found.items[:_MOST_CAUTIONS]:
        say(f"- {item.sentence}")
    if (more := len(found.items) - _MOST_CAUTIONS) > 0:
        say(f"- and {more} more: see its report")


def in_words(facts: Facts, points: Mapping[str, OperatingPoint], item: Prediction) -> Iterator[str]:
    """The answer in sentences, with the threshold that it rests on.

    Args:
        facts: of the model.
        points: operating points, as far as they are known.
        item: its numbers.
    """
    scores = dict(zip(facts.classes, item.probabilities.tolist(), strict=True))
    stated = dict(zip(facts.classes, item.stated.tolist(), strict=True))
    raw = "" if item.calibrated is None else "raw "  # thresholds are for raw probabilities
    best = max(scores, key=lambda name: scores[name])
    if facts.task == "multiclass":
        yield f"answer: {best}, the most probable of {len(scores)} classes ({stated[best]:.3f})"
        if best in points:
            side = "" if scores[best] >= points[best].threshold else ", which it stays below here"
            yield f"threshold: {best} is told from the rest from {raw}{_point(points[best])}{side}"
        return
    limits = {name: facts.thresholds.get(name, DEFAULT_THRESHOLD) for name in scores}
    present = sorted((name for name in scores if scores[name] >= limits[name]), key=lambda n: -scores[n])
    if present:
        named = (
            f"{name} ({raw}{scores[name]:.3f}, called present from {limits[name]:.3f} on)" for name in present
        )
        yield f"answer: {', '.join(named)}"
    else:
        near = max(scores, key=lambda name: scores[name] - limits[name])
        yield (
            f"answer: none of {len(scores)} findings; nearest to its threshold is {near} "
            f"({raw}{scores[near]:.3f}, called present from {limits[near]:.3f} on)"
        )
    unset = [name for name in present if name not in facts.thresholds]
    if unset:
        yield f"note: no threshold was chosen for {', '.join(unset)}, so {DEFAULT_THRESHOLD} is taken"


def _point(point: OperatingPoint) -> str:
    return (
        f"{point.threshold:.3f} on (validation: sensitivity {point.sensitivity:.2f}, "
        f"specificity {point.specificity:.2f})"
    )


def _show_table(classes: Sequence[str], item: Prediction) -> None:
    """The probabilities to go by, and the raw ones, which thresholds are for, where they are others."""
    others = [] if item.calibrated is None else [item.probabilities]
    table = new_table(escape(item.case_id), "probability", *(["raw"] if others else []))
    for name, *values in zip(classes, item.stated, *others, strict=True):
        table.add_row(escape(name), *(f"{value:.3f}" for value in values))
    console.print(table)


def _set_in_words(answer: str) -> str:
    """An answer of a set; ``?`` and ``!`` are the marks of ``SetRule.texts``."""
    name, mark = answer.rstrip("?!"), answer[-1:]
    return name + {"?": " (or not)", "!": " (neither presence nor absence fits)"}.get(mark, "")
