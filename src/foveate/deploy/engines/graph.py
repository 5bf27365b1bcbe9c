"""What the engines of exported files share: files become arrays, the graph's outputs become answers.

Everything that a picture goes through after its pixels are decoded happens inside the graph. Its inputs are

* per view its pixels, float32 ``(B, C, H, W)`` or ``(B, 1, D, H, W)``, turned to the common orientation, of
  any size, one size a call; C is 1 or 3, as the file has it. A view that a case lacks is all NaN.
* per view whose study names no window, ``<view>:range`` ``(B, 2)``: the values that become 0 and 1.

and its outputs ``logits``, ``probabilities``, ``decision`` ``(B, K)``, and where there are such
``calibrated`` ``(B, K)``, ``novelty`` ``(B,)``, ``maps:<view>`` ``(B, K, *space)`` and
``attention:<view>`` ``(B, *space)``; and ``prepared:<view>`` ``(B, C, *size)``, what the network sees.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foveate.bundle.answers import truth_of, with_doubts
from foveate.bundle.familiar import FamiliarImages, ImageFacts, plain_facts
from foveate.deploy.engines.engine import Answer, Engine
from foveate.deploy.engines.facts import Facts, attention_over, maps_over, range_of
from foveate.errors import InputRefused
from foveate.io.codes import joined
from foveate.io.reading import read_image, read_mask
from foveate.prepare.geometry import FieldOfView
from foveate.prepare.pixels import (
    ImageReader,
    MaskReader,
    chosen_pixels,
    field_of,
    limits,
    with_views_of,
)
from foveate.study.settings import PreprocessConfig
from foveate.types import Array, Case, Heatmap, Image, Prediction

if TYPE_CHECKING:
    from foveate.evaluate.probabilities.conformal import SetRule

AT_ONCE = 16  # cases of one size that are put to the graph together
Arrays = Mapping[str, Array]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ReadCase:
    """A case with its files decoded.

    Attributes:
        case: as in the manifest.
        pixels: by view ``(C, *space)``, as the file stores them, turned to the common orientation.
        fields: by view, where the model's field lies in the image.
        ranges: by view, the values that become 0 and 1.
        truth: ``(K,)`` 1, 0, or NaN where unknown.
        facts: plain facts of the image of each view, where there is something to compare them with.
        noticed: codes of what readers noticed in the images and tolerated.
    """

    case: Case
    pixels: Mapping[str, Array]
    fields: Mapping[str, FieldOfView]
    ranges: Mapping[str, tuple[float, float]]
    truth: Floats
    facts: Mapping[str, ImageFacts] = field(default_factory=dict)
    noticed: tuple[str, ...] = ()


class GraphEngine(Engine[ReadCase]):
    """An exported file; subclasses say how its graph is run."""

    @abstractmethod
    def run(self, inputs: dict[str, NDArray[np.float32]]) -> Arrays:
        """Run the graph: inputs by name (see ``Facts.input_names``) → outputs by name."""

    def read(
        self, case: Case, *, image_reader: ImageReader = read_image, mask_reader: MaskReader = read_mask
    ) -> ReadCase:
        """Decode the files of a case; no exported graph takes a mask."""
        return read_case(self.facts, case, image_reader)

    def predict(self, cases: Sequence[ReadCase]) -> list[Answer]:
        """Answer cases, those of one size together."""
        groups: dict[object, list[int]] = {}
        for place, item in enumerate(cases):
            key = tuple((view, pixels.shape) for view, pixels in sorted(item.pixels.items()))
            groups.setdefault(key, []).append(place)
        answers: dict[int, Answer] = {}
        for places in groups.values():
            for start in range(0, len(places), AT_ONCE):
                chosen = places[start : start + AT_ONCE]
                answers |= zip(chosen, self._answers([cases[place] for place in chosen]), strict=True)
        return [answers[place] for place in range(len(cases))]

    def heatmaps(self, case: ReadCase, answer: Answer, targets: Sequence[str] = ()) -> list[Heatmap]:
        """The maps of an answer in the pixels of the original images."""
        return [
            Heatmap(
                case.fields[view].back(values[column]), name, self.facts.explainer, view, case.case.case_id
            )
            for view, values in answer.maps.items()
            for name, column in self.targets(answer, targets).items()
        ]

    def _answers(self, cases: Sequence[ReadCase]) -> list[Answer]:
        """Answers to cases of one size."""
        found = self.run(inputs_of(self.facts, cases))
        familiar = None if self.facts.familiar is None else FamiliarImages.from_json(self.facts.familiar)
        predictions = [
            Prediction(
                case_id=item.case.case_id,
                patient_id=item.case.patient_id,
                split=item.case.split or "",
                logits=found["logits"][row].astype(np.float64),
                probabilities=found["probabilities"][row].astype(np.float64),
                truth=item.truth,
                views=tuple(view for view in self.facts.views if view in item.pixels),
                calibrated=found["calibrated"][row].astype(np.float64) if "calibrated" in found else None,
                novelty=float(found["novelty"][row]) if "novelty" in found else float("nan"),
                unlike=() if familiar is None else familiar.differences(item.facts),
                noticed=item.noticed,
            )
            for row, item in enumerate(cases)
        ]
        strangest = np.inf if self.facts.strangest is None else self.facts.strangest
        told = with_doubts(predictions, self.facts.classes, _set_rule(self.facts), strangest)
        return [
            Answer(
                told[row],
                found["decision"][row] > 0,
                _rows(found, row, item, maps_over),
                _rows(found, row, item, attention_over),
            )
            for row, item in enumerate(cases)
        ]


def read_case(facts: Facts, case: Case, image_reader: ImageReader = read_image) -> ReadCase:
    """Decode the files of a case.

    Raises:
        InputRefused: a view is missing that the model needs, or its file cannot be used.
    """
    needed = with_views_of(case, facts.views, tolerant=facts.tolerates_missing)
    images = {view: image_reader(path) for view, path in needed.views.items()}
    config = facts.preprocess
    fields = {view: field_of(image, config.for_view(view)) for view, image in images.items()}
    for view, image in images.items():
        _refuse_oblong_pixels(fields[view], image, config.for_view(view))
    pixels = {
        view: fields[view].turn.there(chosen_pixels(image, config, case.slice_index))
        for view, image in images.items()
    }
    ranges = {view: limits(image, config.for_view(view)) for view, image in images.items()}
    for view, values in ranges.items():
        if not np.isfinite(values).all():
            raise InputRefused("some pixels are not finite", where=images[view].source, code="not-finite")
    asked = images if facts.familiar is not None else {}
    plain = {view: plain_facts(image, case.slice_index) for view, image in asked.items()}
    truth, noticed = (
        truth_of(case, facts.task, facts.classes),
        joined(each.warnings for each in images.values()),
    )
    return ReadCase(case, pixels, fields, ranges, truth, plain, noticed)


def _refuse_oblong_pixels(wanted: FieldOfView, image: Image, config: PreprocessConfig) -> None:
    """Refuse an image that the graph, which pads by pixels, would show the model in another shape."""
    if wanted != field_of(image, config.model_copy(update={"aspect": "pixels"})):
        raise InputRefused(
            "its pixels are not square, and an exported file, which is not told so, pads by their number",
            where=image.source,
            fix="use the run or its bundle, which pad by millimetres, or train with aspect: pixels",
            code="pixels-not-square",
        )


def inputs_of(facts: Facts, cases: Sequence[ReadCase]) -> dict[str, NDArray[np.float32]]:
    """What the graph is given for cases of one size; a view that they lack is one grey pixel of NaN."""
    inputs: dict[str, NDArray[np.float32]] = {}
    lacking = np.full((1,) * (1 + len(facts.preprocess.size)), np.nan, dtype=np.float32)
    for view in facts.views:
        pixels = [item.pixels.get(view, lacking) for item in cases]
        inputs[view] = np.stack(pixels).astype(np.float32)
        ranges = [item.ranges.get(view, (0.0, 1.0)) for item in cases]
        inputs[range_of(view)] = np.array(ranges, dtype=np.float32)
    return {name: inputs[name] for name in facts.input_names()}


def _rows(
    found: Arrays, row: int, item: ReadCase, name: Callable[[str], str]
) -> dict[str, NDArray[np.float32]]:
    """One case's maps by view, of those views that it has."""
    return {view: found[name(view)][row] for view in item.pixels if name(view) in found}


def _set_rule(facts: Facts) -> SetRule | None:
    if facts.set_rule is None:
        return None
    from foveate.evaluate.probabilities.conformal import SetRule  # only where it is needed: it brings scipy

    return SetRule.from_json(facts.set_rule)
