"""What every engine does: take cases, and answer with probabilities and maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from foveate.deploy.engines.facts import Facts
from foveate.errors import UsageError
from foveate.io.reading import read_image, read_mask
from foveate.prepare.pixels import ImageReader, MaskReader
from foveate.types import Case, Heatmap, Prediction

if TYPE_CHECKING:
    from foveate.data.known import KnownImages
    from foveate.evaluate.results.operating_point import OperatingPoint

Ready = TypeVar("Ready")  # a case as an engine wants it: read, and prepared where that is not in its graph
Maps = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine says of one case, all from one pass through the network.

    Attributes:
        prediction: logits, probabilities raw and calibrated, set and doubts.
        decision: ``(K,)`` what is called present: the most probable class, or findings from a threshold on.
        maps: by view ``(K, *space)``, raw signed evidence for each class, over the field that the model sees
            and at the resolution of its features; empty where the model has no such maps.
        attention: by view ``(*space)``, the model's own, likewise; empty where it has none over places.
    """

    prediction: Prediction
    decision: NDArray[np.bool_]
    maps: Maps = field(default_factory=dict)
    attention: Maps = field(default_factory=dict)


class Engine(ABC, Generic[Ready]):
    """A model that can be asked, whatever runs it.

    ``read`` is what comes before the network and may be called in threads; ``predict`` is the network.

    Attributes:
        name: of the engine, as ``open_engine`` takes it.
        facts: what model it runs.
        source: the run, bundle or file that was opened.
        known: the images that the model learned from; None where the engine cannot tell, as an exported file.
        operating_points: of each class or finding, as far as the engine knows them.
    """

    name: str
    facts: Facts
    source: Path = Path()
    known: KnownImages | None = None
    operating_points: Mapping[str, OperatingPoint] = MappingProxyType({})

    @abstractmethod
    def read(
        self, case: Case, *, image_reader: ImageReader = read_image, mask_reader: MaskReader = read_mask
    ) -> Ready:
        """Read the files of a case.

        Args:
            case: with a path for each view; for models that tolerate missing views, for at least one.
            image_reader, mask_reader: how files are read; who goes through the slices of a volume passes
                readers that remember it.

        Raises:
            InputRefused: a view is missing that the model needs, or its file cannot be used.
        """

    @abstractmethod
    def predict(self, cases: Sequence[Ready]) -> list[Answer]:
        """Answer any number of cases, of any sizes; answers come in their order."""

    @abstractmethod
    def heatmaps(self, case: Ready, answer: Answer, targets: Sequence[str] = ()) -> list[Heatmap]:
        """The maps of an answer in the pixels of the original images.

        Args:
            case: as it was given to ``predict``.
            answer: to it.
            targets: class names; none means the most probable one.

        Returns:
            One for each view that the case has and target; none where the model has no maps.

        Raises:
            UsageError: the model knows no such class.
        """

    def targets(self, answer: Answer, wanted: Sequence[str]) -> dict[str, int]:
        """Positions of the wanted classes; of the most probable one if none is named."""
        classes = self.facts.classes
        if strangers := [name for name in wanted if name not in classes]:
            raise UsageError(
                f"the model knows no class '{strangers[0]}'", fix=f"choose from: {', '.join(classes)}"
            )
        names = wanted or [classes[int(answer.prediction.probabilities.argmax())]]
        return {name: classes.index(name) for name in names}
