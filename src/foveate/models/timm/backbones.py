"""Any backbone of timm as a classifier whose last spatial map lies on the way to its logits.

The head stays timm's own. Whether the logits are one linear layer on the averaged map, so that the
analytic CAM exists, is found out by calculation and not by name. timm is imported where it is called: with
torchvision it takes longer than torch itself, and most networks of this package do without.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from foveate.contract import InputSpec, ModelOutput, Views
from foveate.errors import UsageError
from foveate.models.single_view import SingleViewClassifier
from foveate.models.weights import fetching, fitting, locate_weights, read_weights

logger = logging.getLogger(__name__)

OutputStride = Literal[8, 16, 32]
Rate = Annotated[float, Field(ge=0, lt=1)]
_OURS = "net."  # before timm's names in the bundle of a run of ours


@dataclass(frozen=True, slots=True)
class BackboneLayout:
    """How ``forward_features`` arranges its output, and the way to ``(B, C, h, w)`` and back.

    Attributes:
        channels_last: ``(B, h, w, C)``.
        tokens: ``(B, prefix + h·w, C)``, positions row by row.
        prefix: tokens ahead of the grid (class token, registers).
        grid: ``(h, w)`` of a token grid; unused otherwise.
    """

    channels_last: bool = False
    tokens: bool = False
    prefix: int = 0
    grid: tuple[int, int] = (0, 0)

    def to_map(self, features: Tensor) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B prefix C"] | None]:
        """Split features into the spatial map and, for tokens, what precedes it."""
        if self.tokens:
            patches = features[:, self.prefix :].mT
            return patches.reshape(*patches.shape[:2], *self.grid), features[:, : self.prefix]
        return features.permute(0, 3, 1, 2) if self.channels_last else features, None

    def from_map(self, grid: Float[Tensor, "B C h w"], prefix: Tensor | None) -> Tensor:
        """Arrange a map as the head expects it."""
        if prefix is not None:
            return torch.cat([prefix, grid.flatten(2).mT], dim=1)
        return grid.permute(0, 2, 3, 1) if self.channels_last else grid


class TimmClassifier(SingleViewClassifier):
    """A timm network with its own head; hands out ``last``, the map that the head works on.

    Args:
        name: for errors.
        num_classes: K.
        spec: one view.
        net: from timm, with K outputs.

    Attributes:
        map_shape: ``(C, h, w)`` of ``last``.
        averages: whether, by calculation, the logits take nothing but the average from ``last``.

    Raises:
        UsageError: the network cannot take this size, or has no spatial map on the way to its logits.
    """

    def __init__(self, name: str, num_classes: int, spec: InputSpec, net: Any) -> None:
        super().__init__(name, num_classes, spec, cam_feature="last")
        self.net = net
        net.eval()
        features = _probe(name, net, spec)
        self.layout = _layout(name, net, features.shape, spec.size)
        grid, prefix = self.layout.to_map(_noise(features.shape))  # what follows is about the head alone
        with _drawn_parameters(self.net.get_classifier()):
            _check_on_the_way(name, self, grid, prefix)
            self._has_linear_head = _logits_are_linear(self, grid, prefix)
            self.averages = _logits_see_the_average(self, grid, prefix)
        self.map_shape = tuple(grid.shape[1:])
        net.train()

    @property
    def linear_head(self) -> nn.Linear | None:
        """The last layer if, by calculation, the logits are it on the averaged map; else None."""
        head: nn.Linear | None = self.net.get_classifier() if self._has_linear_head else None
        return head

    def forward(self, views: Views) -> ModelOutput:
        """Classify ``(B, C, H, W)``."""
        grid, prefix = self.layout.to_map(self.net.forward_features(self.only_view(views)))
        return ModelOutput(self.classify(grid, prefix), features={"last": grid})

    def classify(self, grid: Float[Tensor, "B C h w"], prefix: Tensor | None) -> Float[Tensor, "B K"]:
        """Logits from the map (and prefix tokens) alone."""
        logits: Tensor = self.net.forward_head(self.layout.from_map(grid, prefix))
        return logits


def timm_classifier(
    architecture: str,
    num_classes: int,
    spec: InputSpec,
    *,
    pretrained: bool | str = False,
    global_pool: str | None = None,
    drop_rate: Rate | None = None,
    drop_path_rate: Rate | None = None,
    output_stride: OutputStride | None = None,
) -> TimmClassifier:
    """Build a classifier on a timm architecture.

    Args:
        architecture: a name of ``timm.list_models()``, with or without a tag of weights (``.a1_in1k``).
        num_classes: K.
        spec: one view; its size and channels are what the network is built for.
        pretrained: True downloads timm's weights; a path names a file or hub folder of weights in timm's
            own layout. Weights fit strictly, besides a head of another number of classes.
        global_pool: timm's name of the pooling. NOTE[DIFF]: networks that classify from a class token
            alone are built to average the patch tokens instead (after their final norm), because no heat
            map lies on the way from patches to a class token's logits.
        drop_rate: dropout ahead of the last layer.
        drop_path_rate: stochastic depth, for architectures that have it.
        output_stride: 8 or 16 exchanges late strides for dilation, for heat maps that much finer; for
            architectures that can (ResNets and others).

    Raises:
        UsageError: unknown architecture, or one that cannot do what is asked.
    """
    import timm

    if not timm.is_model(architecture.partition(".")[0]):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=5)
        raise UsageError(
            f"timm has no architecture '{architecture}'",
            fix=f"did you mean {', '.join(close)}?" if close else "see timm.list_models()",
            code="unknown-model",
        )
    arguments: dict[str, Any] = {
        "in_chans": spec.channels,
        "drop_rate": drop_rate,
        "drop_path_rate": drop_path_rate,
        "output_stride": output_stride,
        "global_pool": global_pool,
    }
    if getattr(timm.get_pretrained_cfg(architecture), "fixed_input_size", False):
        arguments["img_size"] = spec.size
    net: nn.Module = _create(architecture, num_classes, arguments)
    if global_pool is None and getattr(net, "global_pool", None) == "token":
        arguments |= _average_of_patches(net)
        try:
            net = _create(architecture, num_classes, arguments)
        except UsageError as error:
            raise _no_map(f"timm:{architecture}", "it classifies from class tokens only") from error
    if pretrained is not False:
        net = _with_weights(architecture, net, arguments, pretrained)
    return TimmClassifier(f"timm:{architecture}", num_classes, spec, net)


def _create(architecture: str, num_classes: int, arguments: dict[str, Any]) -> nn.Module:
    import timm

    try:
        net: nn.Module = timm.create_model(architecture, num_classes=num_classes, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        given = ", ".join(f"{key}={value}" for key, value in arguments.items() if value is not None)
        raise UsageError(
            f"timm cannot build it with {given}: {error}",
            where=f"timm:{architecture}",
            fix="leave out the option, or change the size under preprocess",
        ) from error
    for name, module in net.named_modules():
        if name in _classifiers(architecture):
            _start_unsure(module)
    return net


def _start_unsure(head: nn.Module) -> None:
    """Draw a last layer anew, as torch does, whose weights are far larger than its number of inputs asks for.

    NOTE[DIFF]: timm draws those of EfficientNets and their like from ±1/√K. Of 1,000 classes that is little;
    of three it makes an untrained network sure of its guesses, with a first loss of 3 to 4 in place of ln 3.
    """
    if isinstance(head, nn.Linear) and head.weight.detach().std() > 1 / math.sqrt(head.in_features):
        head.reset_parameters()


def _average_of_patches(net: nn.Module) -> dict[str, Any]:
    """Arguments that pool patch tokens, and leave the final norm ahead of the pooling as it was trained."""
    known = inspect.signature(type(net)).parameters
    return {"global_pool": "avg", **{name: False for name in ("fc_norm", "use_fc_norm") if name in known}}


def _with_weights(architecture: str, net: Any, arguments: dict[str, Any], pretrained: bool | str) -> Any:
    """Fill ``net`` from a reference network whose head has as many classes as the weights."""
    import timm

    if pretrained is True:
        with fetching(architecture):
            reference = timm.create_model(architecture, pretrained=True, **arguments)
    else:
        reference = _from_file(architecture, arguments, str(pretrained))
    if reference.num_classes == net.num_classes:
        return reference
    if pretrained is not True:
        counts = (reference.num_classes, net.num_classes)
        logger.warning("%s: its head has %d classes; ours of %d starts at random", pretrained, *counts)
    heads = tuple(f"{name}." for name in _classifiers(architecture))
    state = {key: value for key, value in reference.state_dict().items() if not key.startswith(heads)}
    state |= {key: value for key, value in net.state_dict().items() if key.startswith(heads)}
    net.load_state_dict(state, strict=True)
    return net


def _from_file(architecture: str, arguments: dict[str, Any], given: str) -> Any:
    import timm

    path = locate_weights(given, [architecture, architecture.partition(".")[0]])
    names = _classifiers(architecture)
    state = read_weights(path)
    of_a_run = all(key.startswith(_OURS) for key in state)
    state = {
        key.removeprefix(_OURS) if of_a_run else _bare(key, names): value for key, value in state.items()
    }
    heads = [state[key] for name in names if (key := f"{name}.weight") in state]
    num_classes = len(heads[0]) if heads else 0
    if of_a_run:
        net = _create(architecture, num_classes, arguments)
        with fitting(f"pretrained: {path}"):
            net.load_state_dict(state, strict=True)
        return net
    overlay = {"state_dict": state, "custom_load": False, "num_classes": num_classes}
    arguments = arguments | {"num_classes": num_classes, "pretrained_cfg_overlay": overlay}
    with fitting(f"pretrained: {path}"):
        return timm.create_model(architecture, pretrained=True, **arguments)


def _bare(key: str, heads: Sequence[str]) -> str:
    """The key of a last layer that stood behind dropout, as in the cytology comparison's code."""
    head, _, rest = key.partition(".1.")
    return f"{head}.{rest}" if head in heads and rest in ("weight", "bias") else key


def _classifiers(architecture: str) -> tuple[str, ...]:
    import timm

    names = timm.get_pretrained_cfg(architecture).classifier or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _probe(name: str, net: Any, spec: InputSpec) -> Tensor:
    """Features of one picture of noise.

    Raises:
        UsageError: the network cannot take this size, or its features are no single tensor.
    """
    try:
        with torch.no_grad():
            features = net.forward_features(_noise((1, spec.channels, *spec.size)))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise UsageError(
            f"the network cannot take pictures of {spec.size}: {error}",
            where=name,
            fix="choose a size that its patches and windows divide; most take multiples of 32",
        ) from error
    if not isinstance(features, Tensor):
        raise _no_map(name, f"its features are a {type(features).__name__} of several scales")
    return features


def _layout(name: str, net: Any, shape: torch.Size, size: tuple[int, ...]) -> BackboneLayout:
    """Read the arrangement of features off their shape.

    Raises:
        UsageError: they are no map.
    """
    if len(shape) == 4 and net.num_features in (shape[1], shape[3]):
        return BackboneLayout(channels_last=shape[1] != net.num_features)
    if len(shape) != 3:
        raise _no_map(name, f"its features have the shape {tuple(shape)}")
    prefix = getattr(net, "num_prefix_tokens", 0)
    tokens = shape[1] - prefix
    height = round(math.sqrt(tokens * size[0] / size[1]))
    grid = getattr(getattr(net, "patch_embed", None), "grid_size", None)
    if grid is None or math.prod(grid) != tokens:
        grid = (height, tokens // max(height, 1))
    if math.prod(grid) != tokens or tokens < 2:
        raise _no_map(name, f"its {shape[1]} tokens, {prefix} of them ahead of the patches, are no grid")
    return BackboneLayout(tokens=True, prefix=prefix, grid=tuple(grid))


def _check_on_the_way(name: str, model: TimmClassifier, grid: Tensor, prefix: Tensor | None) -> None:
    grid = grid.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.classify(grid, prefix).sum(), grid, allow_unused=True)
    if gradient is None or not gradient.any():
        raise _no_map(name, "its logits do not depend on its last map (they come from a class token)")


@torch.no_grad()
def _logits_are_linear(model: TimmClassifier, grid: Tensor, prefix: Tensor | None) -> bool:
    """Whether the logits are the last layer on the averaged map."""
    head = model.net.get_classifier()
    if not isinstance(head, nn.Linear) or head.in_features != grid.shape[1]:
        return False
    return torch.allclose(model.classify(grid, prefix), head(grid.mean(dim=(2, 3))), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def _logits_see_the_average(model: TimmClassifier, grid: Tensor, prefix: Tensor | None) -> bool:
    """Whether the logits stay if every position holds the average."""
    even = grid.mean(dim=(2, 3), keepdim=True).expand_as(grid)
    return torch.allclose(model.classify(grid, prefix), model.classify(even, prefix), rtol=1e-4, atol=1e-4)


@contextmanager
def _drawn_parameters(classifier: nn.Module | Sequence[nn.Module]) -> Iterator[None]:
    """Give a last layer random parameters for a while: many start at zero, which would prove nothing."""
    modules = [classifier] if isinstance(classifier, nn.Module) else list(classifier)
    parameters = [parameter for module in modules for parameter in module.parameters()]
    kept = [parameter.detach().clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(generator=generator)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def _noise(shape: Sequence[int]) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _no_map(name: str, why: str) -> UsageError:
    return UsageError(
        f"there is no spatial map on the way to the logits: {why}",
        where=name,
        fix="choose a convolutional backbone, or a transformer that averages its patches, such as "
        "timm:vit_small_patch16_224 or timm:swin_tiny_patch4_window7_224",
        code="no-spatial-map",
    )
