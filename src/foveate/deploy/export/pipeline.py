"""Everything between decoded pixels and an answer as one torch module that can be exported.

The same numbers as ``Preprocess``, ``Bundle`` and ``explain_batch`` give, in operations that ONNX Runtime,
OpenVINO and torch all have, for any batch and image size. The parity gate compares them on real cases.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveate.bundle.bundle import Bundle
from foveate.deploy.engines.facts import attention_over, maps_over, prepared_of
from foveate.deploy.export.fitted import CalibrationModule, Novelty
from foveate.deploy.export.resizing import resized
from foveate.errors import UsageError
from foveate.explain.attention import own_attention
from foveate.explain.cam import class_maps, class_maps_of, needs_no_gradients, where_given
from foveate.study.settings import PreprocessConfig

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in preprocess


class Pipeline(nn.Module):
    """Pixels of a batch → logits, probabilities, decisions, maps.

    Args:
        bundle: whose model, preprocessing, calibration and thresholds count.
        class_maps: whether to make the maps of classes, if the model names features for them.

    Attributes:
        answers: what comes after the preprocessing; ``with_backward_pass`` may stand in for it.
        explains: whether there are maps of classes.
        by_gradient: whether these take a gradient.

    Raises:
        UsageError: the preprocessing has a step that no graph can hold.
    """

    answers: nn.Module

    def __init__(self, bundle: Bundle, *, class_maps: bool = True) -> None:
        super().__init__()
        self.preprocess, self.views = bundle.preprocess, bundle.views
        self.tolerant = bundle.model.tolerates_missing
        for view in self.views:
            check_exportable(self.preprocess.settings(view), view)
        self.answers = answers = Answers(bundle, class_maps=class_maps)
        self.explains, self.by_gradient = answers.explains, bool(answers.by_gradient)

    def forward(self, inputs: Sequence[Float[Tensor, "B *shape"]]) -> dict[str, Tensor]:
        """Answer a batch.

        Args:
            inputs: in the order of ``Facts.input_names``.

        Returns:
            The outputs that ``engines.graph`` names.
        """
        found: dict[str, Tensor] = self.answers(self.prepare(inputs))
        return _blanked(found, self._unanswerable(inputs))

    def prepare(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the network sees, by view ``(B, C, *size)``."""
        batch = {}
        for view, (pixels, window) in self._given(inputs).items():
            unit = prepared(pixels, window, self.preprocess.settings(view))
            batch[view] = self.preprocess.normalize(unit, view)
        return batch

    def _given(self, inputs: Sequence[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """By view, its pixels and the values that become 0 and 1."""
        given, found = iter(inputs), {}
        for view in self.views:
            pixels, window = next(given), self.preprocess.settings(view).window
            found[view] = pixels, next(given) if window is None else pixels.new_tensor([window])
        return found

    def _unanswerable(self, inputs: Sequence[Tensor]) -> Bool[Tensor, "B"]:
        """Which cases lack a view that the model needs, or all views."""
        lacking = torch.stack([_lacking(*each) for each in self._given(inputs).values()])
        return lacking.all(dim=0) if self.tolerant else lacking.any(dim=0)


class Answers(nn.Module):
    """What the network sees → logits, probabilities, decisions, maps.

    Maps of classes are here if the forward pass alone gives them. If not, the features that they are made of
    are handed out under the names of ``feature_of``, and ``with_class_maps`` makes the maps.

    Args:
        bundle: whose model, calibration and thresholds count.
        class_maps: as for ``Pipeline``.

    Attributes:
        explains: whether there are maps of classes.
        by_gradient: by view, the feature that its maps take a gradient at; empty if none is needed.
    """

    thresholds: Tensor

    def __init__(self, bundle: Bundle, *, class_maps: bool = True) -> None:
        super().__init__()
        self.model, self.task, self.classes = bundle.model, bundle.task, bundle.classes
        self.axes = len(bundle.preprocess.config.size)
        self.explains = class_maps and set(self.model.cam_feature) == set(bundle.views)
        forward_is_enough = not self.explains or needs_no_gradients(self.model)
        self.by_gradient = {} if forward_is_enough else dict(self.model.cam_feature)
        limits = [bundle.thresholds.get(name, 0.5) for name in self.classes]
        self.register_buffer("thresholds", torch.tensor(limits))
        fitted = bundle.calibration is not None and bundle.calibration.fitted
        self.calibration = CalibrationModule(bundle.calibration) if bundle.calibration and fitted else None
        self.novelty = Novelty(bundle.novelty) if bundle.novelty is not None else None

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Answer a prepared batch: the outputs that ``engines.graph`` names, and perhaps features."""
        direct = self.explains and not self.by_gradient
        output, maps = class_maps(self.model, batch) if direct else (self.model(batch), {})
        found = self._told(output.logits.float())
        if self.novelty is not None:
            found["novelty"] = self.novelty(self.model, output, batch)
        attention = own_attention(self.model, output, self.axes)
        found |= {prepared_of(view): values for view, values in batch.items()}
        found |= {maps_over(view): values.float() for view, values in maps.items()}
        found |= {attention_over(view): values.float() for view, values in attention.items()}
        return found | {feature_of(key): output.features[key] for key in self.by_gradient.values()}

    def with_class_maps(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of ``forward`` with maps of classes in place of the features.

        Args:
            found: outputs of ``forward`` that still hang on its graph.
        """
        names = {key: feature_of(key) for key in self.by_gradient.values()}
        by_key = class_maps_of(found["logits"], {key: found[name] for key, name in names.items()})
        maps = {view: by_key[key].float() for view, key in self.by_gradient.items()}
        if self.model.tolerates_missing:
            maps = {view: where_given(values, found[prepared_of(view)]) for view, values in maps.items()}
        kept = {name: values for name, values in found.items() if name not in names.values()}
        return kept | {maps_over(view): values for view, values in maps.items()}

    def _told(self, logits: Float[Tensor, "B K"]) -> dict[str, Tensor]:
        """What follows from logits alone; a decision is 1 for what is called present, else 0."""
        multiclass = self.task == "multiclass"
        probabilities = logits.softmax(dim=1) if multiclass else logits.sigmoid()
        if multiclass:
            answer = logits.argmax(dim=1, keepdim=True)
            decision = (torch.arange(len(self.classes), device=logits.device) == answer).float()
        else:
            decision = (probabilities >= self.thresholds).float()
        found = {"logits": logits, "probabilities": probabilities, "decision": decision}
        if self.calibration is not None:
            found["calibrated"] = self.calibration(logits)
        return found


def feature_of(key: str) -> str:
    """Name of the output for a feature that maps of classes are yet to be made of."""
    return f"feature:{key}"


def prepared(
    pixels: Float[Tensor, "B C *space"],
    window: Float[Tensor, "b 2"],
    config: PreprocessConfig,
) -> Float[Tensor, "B c *size"]:
    """What ``Preprocess.prepare`` makes of an image, for a batch of one size; cases without it stay NaN.

    Args:
        pixels: as the file stores them, turned.
        window: values that become 0 and 1, for each case or for all.
        config: of the view.
    """
    axes = [1] * (pixels.ndim - 1)
    low, high = window[:, 0].view(-1, *axes), window[:, 1].view(-1, *axes)
    lacking = _lacking(pixels, window).view(-1, *axes)
    pixels = torch.where(lacking, 0.0, pixels)
    unit = ((pixels - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)).clamp(0, 1)
    seen = resized(unit, config.size, how=config.resize, keep_aspect=config.keep_aspect)
    seen = _three(seen)
    if (config.colour == "grey" or config.volumes) and not config.neighbours:
        seen = _luminance(seen)
    seen = _as_half(seen)
    return torch.where(lacking, torch.nan, seen)


def _lacking(pixels: Float[Tensor, "B C *space"], window: Float[Tensor, "b 2"]) -> Bool[Tensor, "B"]:
    """Which cases have no such view: their pixels, or the values that become 0 and 1, are not numbers."""
    return pixels.flatten(1).isnan().any(dim=1) | window.isnan().any(dim=1)


def _blanked(found: dict[str, Tensor], cases: Bool[Tensor, "B"]) -> dict[str, Tensor]:
    """NaN, and nothing decided, for cases that cannot be answered.

    Said outright: engines differ in what becomes of NaN in a network (``max`` and ``clip`` may drop it).
    """
    blank = {name: 0.0 if name == "decision" else torch.nan for name in found}
    return {
        name: torch.where(cases.view(-1, *[1] * (values.ndim - 1)), blank[name], values)
        for name, values in found.items()
    }


def check_exportable(config: PreprocessConfig, view: str) -> None:
    """Refuse what no graph can hold.

    Raises:
        UsageError: the study aligns views, fixes a spacing, crops to an organ mask, or masks by Otsu's
            threshold.
    """
    reason = ""
    if config.align != "none":
        reason = "it resamples views onto the grid of another one, which takes the geometry of both files"
    elif config.spacing is not None:
        reason = "it brings images to a spacing, which graphs are not told of theirs"
    elif config.organ_crop:
        reason = "it crops to an organ mask, which is another file and gives every image a size of its own"
    elif config.mask != "none":
        reason = f"it masks the image by '{config.mask}', a histogram that graphs have no operation for"
    if reason:
        raise UsageError(
            f"the preprocessing of view '{view}' cannot be put into a graph: {reason}",
            where="foveate export",
            fix="use the run itself, which `foveate predict` takes as well",
            code="not-exportable",
        )


def _three(values: Float[Tensor, "B C *space"]) -> Float[Tensor, "B 3 *space"]:
    """Grey repeated, colour as it is; whether C is 1 or 3 is not known while the graph is made."""
    return values.index_select(1, torch.arange(3, device=values.device).clamp(max=values.shape[1] - 1))


def _luminance(colours: Float[Tensor, "B 3 *space"]) -> Float[Tensor, "B 1 *space"]:
    """What was grey stays as it is: the weights of its three equal channels are 1 together."""
    red, green, blue = colours.unbind(dim=1)
    return (_LUMINANCE[0] * red + _LUMINANCE[1] * green + _LUMINANCE[2] * blue)[:, None]


def _as_half(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Values in [0, 1] rounded as float16 has them, to 11 significant bits (below 2**-14 too).

    Written out, because engines leave a conversion there and back away: Veltkamp's splitting (Dekker 1971,
    Numer. Math. 18:224, eq. 5.6), ``high = c - (c - x)`` with ``c = (2**13 + 1) x`` in float32.
    """
    spread = (2.0**13 + 1) * values
    return spread - (spread - values)
