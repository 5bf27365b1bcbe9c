"""A timm backbone without its head: a picture becomes its last map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.contract import InputSpec
from foveate.errors import UsageError
from foveate.models.timm.backbones import OutputStride, timm_classifier
from foveate.study.pretrained import INSTALLED

_HEAD = 1000  # classes of the head that is thrown away: as many as most weights have, so that they fit


class TimmTrunk(nn.Module):
    """The layers of a timm network that make its last map; all others are left out.

    Args:
        architecture: a name of ``timm.list_models()``.
        spec: one view; its size and channels are what the network is built and tried for.
        pretrained, output_stride: as for ``timm_classifier``.

    Attributes:
        architecture: as given.
        channels: of the map.
        grid: ``(h, w)`` of the map.

    Raises:
        UsageError: as ``timm_classifier``.
    """

    def __init__(
        self,
        architecture: str,
        spec: InputSpec,
        *,
        pretrained: bool | str = False,
        output_stride: OutputStride | None = None,
    ) -> None:
        super().__init__()
        whole = timm_classifier(architecture, _HEAD, spec, pretrained=pretrained, output_stride=output_stride)
        self.net: Any = whole.net
        self.layout = whole.layout
        self.architecture = architecture
        self.net.reset_classifier(0)
        self.net.eval()
        noise = torch.randn(1, spec.channels, *spec.size, generator=torch.Generator().manual_seed(0))
        found = self(noise)
        _drop_unused(self.net, found)
        self.channels, self.grid = found.shape[1], tuple(found.shape[2:])
        self.net.train()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """The last map of a picture."""
        grid, _ = self.layout.to_map(self.net.forward_features(x))
        return grid


def load_pair(
    architectures: tuple[str, str],
    spec: InputSpec,
    *,
    pretrained: bool | str,
    jitter: float,
    output_stride: OutputStride | None = None,
) -> tuple[TimmTrunk, TimmTrunk]:
    """Build two trunks that do not start alike.

    Args:
        architectures: names of ``timm.list_models()``.
        spec: one view.
        pretrained: True, False, or a path: of weights for both if they are of one architecture, or of a
            folder with a file or folder named after each.
        jitter: if the two start from the same weights, noise of this share of each weight tensor's
            standard deviation is added to the second.
        output_stride: of both, as for ``timm_classifier``.

    Raises:
        UsageError: as ``TimmTrunk``; or the path does not say which weights are whose.
    """
    where = [weights_of(pretrained, each, alone=len(set(architectures)) == 1) for each in architectures]
    first, second = (
        TimmTrunk(each, spec, pretrained=path, output_stride=output_stride)
        for each, path in zip(architectures, where, strict=True)
    )
    set_apart(first.net, second.net, jitter)
    return first, second


def weights_of(pretrained: bool | str, architecture: str, *, alone: bool) -> bool | str:
    """Where the weights of one of several networks are.

    Args:
        pretrained: True, False, a path, or a name of ``study.pretrained``.
        architecture: which one.
        alone: all are of this architecture, so that a path may be that of its weights.

    Raises:
        UsageError: the path does not say which weights are whose.
    """
    if isinstance(pretrained, bool) or pretrained == INSTALLED:
        return pretrained
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        for found in sorted(folder.iterdir()):
            if architecture in (found.name, found.stem):
                return str(found)
    if alone:
        return pretrained
    raise UsageError(
        f"no weights of {architecture} here",
        where=f"pretrained: {pretrained}",
        fix=f"give a folder with {architecture}.safetensors, or a folder {architecture}, for each backbone",
        code="no-weights",
    )


@torch.no_grad()
def set_apart(first: nn.Module, second: nn.Module, share: float) -> None:
    """Add noise to a network whose parameters are all those of another.

    Args:
        first: left as it is; may have further parameters.
        second: to every tensor of weights (biases and norms not) noise is added.
        share: standard deviation of the noise, relative to that of the tensor.
    """
    theirs = dict(first.named_parameters())
    if not all(
        name in theirs and torch.equal(value, theirs[name]) for name, value in second.named_parameters()
    ):
        return
    for parameter in second.parameters():
        if parameter.ndim > 1:
            parameter.add_(share * parameter.std() * torch.randn_like(parameter))


def _drop_unused(net: nn.Module, result: Tensor) -> None:
    """Put nothing in place of modules that had no part in a result (a norm of the head, for instance)."""
    names, parameters = zip(*net.named_parameters(), strict=True)
    gradients = torch.autograd.grad(result.sum(), parameters, allow_unused=True)
    unused = {name for name, gradient in zip(names, gradients, strict=True) if gradient is None}
    for path, module in list(net.named_modules()):
        own = {f"{path}.{name}" for name, _ in module.named_parameters()}
        if path and own and own <= unused:
            parent, _, name = path.rpartition(".")
            setattr(net.get_submodule(parent), name, nn.Identity())
            unused -= own
    for name in unused:  # bare parameters
        net.get_parameter(name).requires_grad_(False)
