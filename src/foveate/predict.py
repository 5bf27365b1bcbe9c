"""One case, from its files to an answer and to a picture of where the answer came from. Read this first.

read (``io``) → prepare (``preprocess``) → predict (``models``) → explain (``explain``) → bring back
(``preprocess``). Cohorts take the same way: ``predict_prepared`` and ``explain_prepared`` do any number of
cases at once, and one case is a cohort of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.bundle.answers import truth_of, with_doubts
from foveate.bundle.bundle import Bundle
from foveate.bundle.familiar import ImageFacts, plain_facts
from foveate.bundle.novelty import pooled_features
from foveate.contract import ModelOutput, Views
from foveate.errors import UsageError
from foveate.explain.explainers import explain_batch
from foveate.io.codes import joined
from foveate.io.reading import read_image, read_mask
from foveate.prepare.case import prepare_case
from foveate.prepare.pixels import ImageReader, MaskReader, with_views_of
from foveate.prepare.preprocess import Prepared
from foveate.types import Case, Heatmap, Image, Prediction

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PreparedCase:
    """A case with its views ready for the model.

    Attributes:
        case: as in the manifest.
        views: what ``Preprocess.prepare`` made of each of the model's views that the case has.
        truth: ``(K,)`` 1, 0, or NaN where unknown.
        facts: plain facts of the image of each view.
        noticed: codes of what readers noticed in the images and tolerated.
    """

    case: Case
    views: Mapping[str, Prepared]
    truth: np.ndarray[tuple[int], np.dtype[np.float64]]
    facts: Mapping[str, ImageFacts] = field(default_factory=dict)
    noticed: tuple[str, ...] = ()


def read_and_prepare(
    bundle: Bundle,
    case: Case,
    *,
    image_reader: ImageReader = read_image,
    mask_reader: MaskReader = read_mask,
    plain: bool = True,
) -> PreparedCase:
    """Read the files of a case and prepare every view that the model needs and the case has.

    Args:
        bundle: whose preprocessing and views count.
        case: with a path for each view; for models that tolerate missing views, for at least one.
        image_reader, mask_reader: how files are read; who goes through the slices of a volume passes readers
            that remember it.
        plain: whether plain facts of the images are taken down, which predictions are compared by.

    Raises:
        InputRefused: a view is missing that the model needs, or its file cannot be used.
    """
    needed = with_views_of(case, bundle.views, tolerant=bundle.model.tolerates_missing)
    read: dict[Path, ImageFacts] = {}
    codes: list[tuple[str, ...]] = []

    def reader(path: Path) -> Image:
        image = image_reader(path)
        codes.append(image.warnings)
        if plain:
            read[path] = plain_facts(image, case.slice_index)
        return image

    views = prepare_case(needed, bundle.preprocess, image_reader=reader, mask_reader=mask_reader)
    facts = {view: read[path] for view, path in needed.views.items() if path in read}
    return PreparedCase(case, views, truth_of(case, bundle.task, bundle.classes), facts, joined(codes))


def predict_case(bundle: Bundle, case: Case) -> Prediction:
    """Classify one case.

    Args:
        bundle: from ``load_bundle``.
        case: with a path for each of the bundle's views.

    Returns:
        Logits and probabilities over ``bundle.classes``, and what else the bundle can tell.
    """
    return predict_prepared(bundle, [read_and_prepare(bundle, case)])[0]


def explain_case(
    bundle: Bundle, case: Case, *, explainer: str = "gradcam", targets: Sequence[str] = ()
) -> list[Heatmap]:
    """Show where one answer came from.

    Args:
        bundle: from ``load_bundle``.
        case: with a path for each of the bundle's views.
        explainer: a name in ``foveate.explain.explainers.EXPLAINERS``.
        targets: classes to explain; none means the predicted one.

    Returns:
        One raw, signed heat map per view and target, in the pixels of the original image.
    """
    prepared = read_and_prepare(bundle, case)
    if not targets:
        targets = [bundle.classes[int(predict_prepared(bundle, [prepared])[0].probabilities.argmax())]]
    return explain_prepared(bundle, [prepared], [targets], explainer=explainer)[0]


@torch.inference_mode()
def predict_prepared(bundle: Bundle, cases: Sequence[PreparedCase]) -> list[Prediction]:
    """Classify a batch of prepared cases; in float32, whatever precision the training used."""
    batch = as_batch(bundle, cases)
    return predictions_of(bundle, cases, bundle.model(batch), batch)


@torch.no_grad()
def predictions_of(
    bundle: Bundle, cases: Sequence[PreparedCase], output: ModelOutput, batch: Views
) -> list[Prediction]:
    """What the model's output on a batch says of its cases.

    Args:
        bundle: whose model it is.
        cases: N prepared cases.
        output: of the model.
        batch: that it was given, as ``as_batch`` makes it.
    """
    probabilities = bundle.probabilities(output.logits.detach()).cpu().numpy()
    scores = output.logits.detach().double().cpu().numpy()
    strange = np.full(len(cases), np.nan)
    if bundle.novelty is not None:
        strange = bundle.novelty.score(pooled_features(bundle.model, output, batch).cpu().numpy())
    raw = [
        Prediction(
            case_id=item.case.case_id,
            patient_id=item.case.patient_id,
            split=item.case.split or "",
            logits=scores[row],
            probabilities=probabilities[row],
            truth=item.truth,
            views=tuple(view for view in bundle.views if view in item.views),
            novelty=float(strange[row]),
            unlike=bundle.familiar.differences(item.facts) if bundle.familiar is not None else (),
            noticed=item.noticed,
        )
        for row, item in enumerate(cases)
    ]
    return complete(bundle, raw)


def complete(bundle: Bundle, predictions: Sequence[Prediction]) -> list[Prediction]:
    """Add to raw predictions what was fitted on validation cases: calibration, sets, when to abstain.

    Args:
        bundle: whose calibration, set rule and threshold of novelty count.
        predictions: with logits, probabilities and novelty.
    """
    if not predictions:
        return []
    calibrated: Sequence[Floats | None] = [None] * len(predictions)
    if bundle.calibration is not None and bundle.calibration.fitted:
        calibrated = list(bundle.calibration.apply(np.stack([item.logits for item in predictions])))
    raw = [replace(item, calibrated=calibrated[row]) for row, item in enumerate(predictions)]
    strangest = bundle.novelty.threshold if bundle.novelty is not None else np.inf
    return with_doubts(raw, bundle.classes, bundle.set_rule, strangest)


@torch.inference_mode()
def features_of(bundle: Bundle, cases: Sequence[PreparedCase]) -> Floats:
    """What novelty is told from, for a batch of prepared cases: ``(B, C)``, NaN where a case lacks a view."""
    batch = as_batch(bundle, cases)
    return np.asarray(pooled_features(bundle.model, bundle.model(batch), batch).cpu().numpy())


def explain_prepared(
    bundle: Bundle,
    cases: Sequence[PreparedCase],
    targets: Sequence[Sequence[str]],
    *,
    explainer: str,
    seed: int = 0,
) -> list[list[Heatmap]]:
    """Explain a batch of prepared cases, each for its own targets.

    Args:
        bundle: the model.
        cases: N prepared cases.
        targets: for each case, the class names to explain.
        explainer: a name in ``EXPLAINERS``.
        seed: for explainers that draw.

    Returns:
        For each case, one heat map per view that it has and target, in original pixels.
    """
    wanted = sorted({bundle_index(bundle, name) for names in targets for name in names})
    maps = explain_batch(bundle.model, as_batch(bundle, cases), wanted, explainer, seed=seed)
    found = []
    for row, (item, names) in enumerate(zip(cases, targets, strict=True)):
        columns = {name: wanted.index(bundle_index(bundle, name)) for name in names}
        own = {view: values[row] for view, values in maps.items()}
        found.append(bring_back(bundle, item, own, columns, explainer))
    return found


def bring_back(
    bundle: Bundle,
    item: PreparedCase,
    maps: Mapping[str, Tensor],
    columns: Mapping[str, int],
    explainer: str,
) -> list[Heatmap]:
    """Bring the maps of one case back to the pixels of its images.

    Args:
        bundle: whose preprocessing is undone.
        item: the case; a view that it lacks has no map.
        maps: by view ``(T, *space)``, as the explainer gave them.
        columns: by class name, which of the T maps is its.
        explainer: that made them.

    Returns:
        One heat map per view that the case has and class.
    """
    return [
        Heatmap(
            item.views[view].field.back(values[column].cpu().numpy()),
            name,
            explainer,
            view,
            item.case.case_id,
        )
        for view, values in maps.items()
        if view in item.views
        for name, column in columns.items()
    ]


def as_batch(bundle: Bundle, cases: Sequence[PreparedCase]) -> dict[str, Tensor]:
    """Stack prepared cases into what the model eats.

    Returns:
        Each view ``(B, 3, H, W)`` or ``(B, 1, D, H, W)``, normalized; rows of NaN where a case lacks it.
    """
    device = next(bundle.model.parameters()).device
    lacking = torch.full((1, *bundle.preprocess.config.size), torch.nan)
    return {
        view: torch.cat(
            [
                bundle.preprocess.normalize(_tensor(item, view, lacking)[None].to(device), view)
                for item in cases
            ]
        )
        for view in bundle.views
    }


def _tensor(item: PreparedCase, view: str, lacking: Tensor) -> Tensor:
    return item.views[view].tensor if view in item.views else lacking


def bundle_index(bundle: Bundle, name: str) -> int:
    """Position of a class name among the model's outputs."""
    if name not in bundle.classes:
        raise UsageError(
            f"the model knows no class '{name}'", fix=f"choose from: {', '.join(bundle.classes)}"
        )
    return bundle.classes.index(name)
