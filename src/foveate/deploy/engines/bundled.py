"""A run or bundle, as it was trained: torch in float32, and the reference for every other engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate import __version__
from foveate.bundle.bundle import Bundle, load_bundle
from foveate.deploy.engines.engine import Answer, Engine
from foveate.deploy.engines.facts import Facts
from foveate.explain.attention import own_attention
from foveate.explain.cam import class_maps
from foveate.io.reading import read_image, read_mask
from foveate.predict import PreparedCase, as_batch, bring_back, predictions_of, read_and_prepare
from foveate.prepare.pixels import ImageReader, MaskReader
from foveate.types import Case, Heatmap

EXPLAINER = "gradcam"  # what the maps of all classes are


class Bundled(Engine[PreparedCase]):
    """A bundle through ``foveate.predict``, with the maps of all classes from the same pass.

    Args:
        source: a run folder or a bundle; or one that is loaded already.
    """

    name = "bundle"

    def __init__(self, source: Path | Bundle) -> None:
        self.bundle = source if isinstance(source, Bundle) else load_bundle(source)
        self.facts = facts_of(self.bundle)
        self.source = Path() if isinstance(source, Bundle) else source
        self.known, self.operating_points = self.bundle.images, self.bundle.operating_points

    def read(
        self, case: Case, *, image_reader: ImageReader = read_image, mask_reader: MaskReader = read_mask
    ) -> PreparedCase:
        """Read and prepare the files of a case."""
        return read_and_prepare(self.bundle, case, image_reader=image_reader, mask_reader=mask_reader)

    def predict(self, cases: Sequence[PreparedCase]) -> list[Answer]:
        """Answer cases, all in one batch."""
        if not cases:
            return []
        batch = as_batch(self.bundle, cases)
        output, maps = class_maps(self.bundle.model, batch)
        predictions = predictions_of(self.bundle, cases, output, batch)
        attention = own_attention(self.bundle.model, output, len(self.facts.preprocess.size))
        return [
            Answer(
                told,
                self.facts.decision(told.probabilities),
                _rows(maps, row, item),
                _rows(attention, row, item),
            )
            for row, (told, item) in enumerate(zip(predictions, cases, strict=True))
        ]

    def heatmaps(self, case: PreparedCase, answer: Answer, targets: Sequence[str] = ()) -> list[Heatmap]:
        """The maps of an answer in the pixels of the original images."""
        maps = {view: torch.from_numpy(values) for view, values in answer.maps.items()}
        return bring_back(self.bundle, case, maps, self.targets(answer, targets), EXPLAINER)


def _rows(values: Mapping[str, Tensor], row: int, item: PreparedCase) -> dict[str, NDArray[np.float32]]:
    """One case's maps by view, of those views that it has."""
    return {view: each[row].float().cpu().numpy() for view, each in values.items() if view in item.views}


def facts_of(bundle: Bundle) -> Facts:
    """What there is to know of a bundle, without its patients."""
    calibration, novelty = bundle.calibration, bundle.novelty
    finite = novelty is not None and novelty.threshold < float("inf")
    return Facts(
        task=bundle.task,
        classes=bundle.classes,
        views=bundle.views,
        tolerates_missing=bundle.model.tolerates_missing,
        model=bundle.model_name,
        preprocess=bundle.preprocess.config,
        thresholds=dict(bundle.thresholds),
        set_rule=bundle.set_rule.to_json() if bundle.set_rule is not None else None,
        strangest=novelty.threshold if novelty is not None and finite else None,
        familiar=bundle.familiar.to_json() if bundle.familiar is not None else None,
        explainer=EXPLAINER,
        calibrated=calibration.method if calibration is not None and calibration.fitted else "",
        weights_sha256=bundle.weights_sha256,
        version=__version__,
    )
