"""What an engine knows about its model, and what an exported file carries inside; importing costs no torch.

No patient is among the facts, not even hashed: an exported file is made to be given away.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputRefused
from foveate.evaluate.table import Further
from foveate.study.settings import PreprocessConfig
from foveate.types import Task

FORMAT = 1
KEY = "foveate"  # of the facts among an ONNX file's metadata
FACTS = "foveate.json"  # name of the facts among the parts of the other kinds of file
_PREPARED = "prepared:"  # how names of outputs begin that hold what the network sees


@dataclass(frozen=True, slots=True)
class Facts:
    """A model, as far as one needs to know it to use its graph.

    Attributes:
        task: multi-class or multi-label.
        classes: names of its outputs, in order.
        views: names of its inputs.
        tolerates_missing: whether a case may lack views.
        model: its entry in the ``MODELS`` table.
        preprocess: the study's choices.
        thresholds: from which raw probability a finding counts as present (multi-label).
        set_rule: which answers go into the prediction set, as ``SetRule.to_json`` has it; None without.
        familiar: what the training images plainly are like, as ``FamiliarImages.to_json`` has it; None
            without.
        strangest: novelty above which an image counts as unlike the training images; None for never.
        explainer: what made the heat maps of all classes; empty where there are none.
        calibrated: by which method; empty where nothing was fitted.
        precision: of the weights in the file, ``float32`` or ``int8``.
        weights_sha256: of the bundle that this was made from.
        version: of Foveate that made it.
        cautions: what a reader must know of the run, as ``Cautions.to_json`` has it; None without.
        passed: engines with their precision whose answers to real cases were the run's.
    """

    task: Task
    classes: tuple[str, ...]
    views: tuple[str, ...]
    tolerates_missing: bool
    model: str
    preprocess: PreprocessConfig
    thresholds: dict[str, float] = field(default_factory=dict)
    set_rule: dict[str, Any] | None = None
    strangest: float | None = None
    familiar: dict[str, Any] | None = None
    explainer: str = ""
    calibrated: str = ""
    precision: str = "float32"
    weights_sha256: str = ""
    version: str = ""
    cautions: dict[str, Any] | None = None
    passed: tuple[str, ...] = ()

    def to_text(self) -> str:
        """As JSON."""
        plain = asdict(self) | {"preprocess": self.preprocess.model_dump(mode="json"), "format": FORMAT}
        return json.dumps(plain, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str, where: str) -> Self:
        """Read what ``to_text`` wrote.

        Raises:
            InputRefused: it is empty, damaged, or of a newer format.
        """
        try:
            found = dict(json.loads(text))
            if found.pop("format") != FORMAT:
                raise ValueError("its format is not known")
            found["preprocess"] = PreprocessConfig.stored(found["preprocess"])
            names = {key: tuple(found[key]) for key in ("classes", "views", "passed")}
            return cls(**found | names)
        except (ValueError, KeyError, TypeError) as error:
            raise InputRefused(
                f"the file does not say what its model is: {error}",
                where=where,
                fix="write it with `foveate export RUN --to …` of this version",
                code="not-an-export",
            ) from error

    def decision(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """What raw probabilities ``(K,)`` call present."""
        if self.task == "multiclass":
            return np.asarray(np.arange(len(self.classes)) == probabilities.argmax())
        limits = [self.thresholds.get(name, 0.5) for name in self.classes]
        return np.asarray(probabilities >= np.array(limits))

    @property
    def further(self) -> Further:
        """What the model can tell beyond probabilities."""
        novelty, sets = self.strangest is not None, self.set_rule is not None
        return Further(bool(self.calibrated), novelty, sets, novelty or sets or self.familiar is not None)

    def input_names(self) -> list[str]:
        """Inputs of the graph in order: each view, and its range where the study names no window."""
        names = []
        for view in self.views:
            names.append(view)
            if self.preprocess.for_view(view).window is None:
                names.append(range_of(view))
        return names


def range_of(view: str) -> str:
    """Name of the graph's input for the values of a view that become 0 and 1."""
    return f"{view}:range"


def prepared_of(view: str) -> str:
    """Name of the graph's output for a view as the network sees it, after all preprocessing."""
    return f"{_PREPARED}{view}"


def is_prepared(name: str) -> bool:
    """Whether an output has such a name."""
    return name.startswith(_PREPARED)


def maps_over(view: str) -> str:
    """Name of the graph's output for the maps of all classes over a view."""
    return f"maps:{view}"


def attention_over(view: str) -> str:
    """Name of the graph's output for the model's own attention over a view."""
    return f"attention:{view}"
