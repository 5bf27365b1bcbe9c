"""Single files through any engine: an answer for each that can be read, and whether it was learned from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from foveate.deploy.engines.engine import Answer, Engine, Ready
from foveate.errors import InputRefused
from foveate.evaluate.table import SEEN
from foveate.types import Case, Heatmap, Prediction


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """What a model says of one file, or of one case of several.

    Attributes:
        prediction: its numbers; of the part ``seen`` if the model learned from the image.
        learned: what the model learned from, in words, or nothing.
        heatmaps: of the most probable class, if they were asked for.
    """

    prediction: Prediction
    learned: str = ""
    heatmaps: tuple[Heatmap, ...] = ()


def answer_files(
    engine: Engine[Ready], cases: Sequence[Case], refused: list[InputRefused], *, maps: bool = False
) -> Iterator[FileAnswer]:
    """Answer cases one after the other; those that cannot be used are told, and the others go on.

    Args:
        engine: from ``open_engine``.
        cases: with the files of the model's views.
        refused: gets what was wrong with the others.
        maps: draw heat maps too.
    """
    learned = _learned(engine, cases)
    for place, case in enumerate(cases):
        try:
            ready = engine.read(case)
        except InputRefused as error:
            refused.append(error)
            continue
        answer: Answer
        (answer,) = engine.predict([ready])
        told = learned.get(place, "")
        prediction = replace(answer.prediction, split=SEEN) if told else answer.prediction
        drawn = tuple(engine.heatmaps(ready, answer)) if maps else ()
        yield FileAnswer(prediction, told, drawn)


def _learned(engine: Engine[Ready], cases: Sequence[Case]) -> dict[int, str]:
    """By place, from which image the model learned that a case shows; unreadable files show none."""
    if engine.known is None:
        return {}
    from foveate.data.audit.looks import look_at_all
    from foveate.data.known import learned_names  # only where it is needed: it brings scikit-learn

    found = engine.known.recognise(look_at_all(cases), [case.patient_id for case in cases])
    names = learned_names(engine.known, engine.source)
    told: dict[int, str] = {}
    for (place, _), item in sorted(found.items(), key=lambda each: not each[1].same):
        name = names.get(item.image, "")
        which = "this very image" if item.same else "nearly the same image"
        told.setdefault(place, which + (f" ({name})" if name else ""))
    return told
